"""The bridge splices chunks of any policy: the setpoints that the real firmware executes at a border."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from motion_audit import ALOHA

from firmware_bridge.bridge.server import BridgeServer
from firmware_bridge.client import BridgeClient
from firmware_bridge.emulator.board import EmulatedBoard
from firmware_bridge.splice import LinearBlend
from pi0_edge.errors import ConfigError
from pi0_edge.protos.bridge_pb2 import ChunkReport
from pi0_edge.protos.serial_link import State, TickFlag

pytestmark = pytest.mark.real_time

STEP = 0.004
"""Between two chunks, rad: small enough for the acceleration limit, so that the firmware executes what is commanded."""


def held(offset: float) -> np.ndarray:
    chunk = np.tile(ALOHA.home, (50, 1))
    chunk[:, 0] += offset
    return chunk


def accepted(report: ChunkReport | None) -> ChunkReport:
    assert report is not None and report.outcome == ChunkReport.ACCEPTED, report
    return report


def play_two_chunks(client: BridgeClient) -> tuple[int, dict[int, float]]:
    """Tick at which the second chunk entered, and what the waist executed tick by tick."""
    assert client.arm(ALOHA.names) == State.ARMED
    executed = {}
    with client.telemetry() as ticks, client.play() as stream:
        first = next(ticks).tick
        stream.send(held(0.0), first)
        assert accepted(stream.next_report(2.0))
        second = next(itertools.islice(ticks, 15, None)).tick  # the arm runs by now
        stream.send(held(STEP), second)
        entry = accepted(stream.next_report(2.0)).first_tick
        for tick in itertools.takewhile(lambda tick: tick.tick < entry + 20, ticks):
            if tick.flags & TickFlag.EXECUTED:
                executed[tick.tick] = float(tick.executed[0]) - float(ALOHA.home[0])
    return entry, executed


@pytest.mark.parametrize("splice", ["hold-swap", "linear-blend"])
def test_a_border_is_executed_as_the_splice_policy_says(firmware_image, splice):
    with EmulatedBoard(firmware_image) as board:
        server = BridgeServer(board.port, "127.0.0.1:0", "aloha", splice=splice)
        server.start()
        try:
            with BridgeClient(server.address, "pytest") as client:
                client.wait_ready()
                entry, executed = play_two_chunks(client)
        finally:
            server.stop()
    blend = LinearBlend().ticks if splice == "linear-blend" else 0
    steps = {tick: position / STEP * (blend + 1) for tick, position in executed.items()}
    rounding = 1.01e-4 / STEP * (blend + 1)
    assert all(abs(step) < rounding for tick, step in steps.items() if tick < entry)
    # On a busy machine the first ticks of the fade may be past due when the firmware has the chunk.
    done = round(steps[entry])
    assert 1 <= done < blend + 2
    for tick, step in steps.items():
        if tick >= entry:
            assert step == pytest.approx(min(done + tick - entry, blend + 1), abs=rounding), tick


def test_the_bridge_refuses_a_splice_policy_that_needs_the_network():
    with pytest.raises(ConfigError, match="'rtc', which is not known here; expected one of hold-swap"):
        BridgeServer("/dev/ttyNONE", "127.0.0.1:0", "aloha", splice="rtc")
