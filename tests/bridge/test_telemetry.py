"""Telemetry for many watchers: a slow watcher does not delay the others."""

import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

from firmware_bridge.bridge.telemetry import TelemetryFanout
from pi0_edge.protos.bridge_pb2 import Telemetry


@given(st.integers(0, 40), st.integers(1, 10))
def test_slow_watcher_keeps_the_newest_in_order(published: int, depth: int):
    fanout = TelemetryFanout(depth)
    with fanout.watch() as watcher:
        for tick in range(published):
            fanout.publish(Telemetry(tick=tick))
        seen = [message.tick for _ in range(depth) if (message := watcher.get(0.0))]
        assert watcher.get(0.0) is None
        assert seen == list(range(max(0, published - depth), published))
        assert watcher.dropped == published - len(seen)


def test_loss_is_logged_and_a_closed_watcher_is_removed(caplog: pytest.LogCaptureFixture):
    fanout = TelemetryFanout(2)
    with caplog.at_level(logging.WARNING), fanout.watch():
        for tick in range(5):
            fanout.publish(Telemetry(tick=tick))
    assert "lost 3 ticks" in caplog.text
    assert fanout.watchers == 0
