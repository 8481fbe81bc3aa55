"""Splice policies: the setpoints around the border between two chunks, and the continuation sent to the policy."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from firmware_bridge.splice import (
    CHUNK_SPLICES,
    NOTHING,
    HoldSwap,
    LinearBlend,
    Plan,
    RealTimeChunking,
    TemporalEnsemble,
    TrainedRealTimeChunking,
    chunk_splice,
    client_splice,
)
from pi0_edge.errors import ConfigError
from pi0_edge.protos.policy_pb2 import Continuation

ALL = [HoldSwap, LinearBlend, TemporalEnsemble, RealTimeChunking, lambda: TrainedRealTimeChunking(5)]
values = st.floats(-3, 3, width=32)
chunks = st.integers(1, 50).flatmap(lambda ticks: hnp.arrays(np.float64, (ticks, 2), elements=values))


def ramp(first_tick: int, ticks: int = 50, offset: float = 0.0) -> Plan:
    """A plan whose setpoint is a hundredth of its tick, plus an offset."""
    return Plan(first_tick, offset + np.repeat(np.arange(first_tick, first_tick + ticks)[:, None] / 100, 2, 1))


@settings(deadline=None)
@given(chunks, chunks, st.integers(0, 60), st.integers(0, 49))
def test_every_splice_changes_only_future_setpoints_and_stays_between_both_plans(old, new, late, into):
    plan, chunk = Plan(100, old), Plan(100 + late, new)
    tick = chunk.first_tick + min(into, len(new) - 1)
    low, high = np.minimum(old.min(), new.min()), np.maximum(old.max(), new.max())
    for make in ALL:
        entered = make().enter(plan, chunk, tick)
        assert (entered.first_tick, entered.setpoints.shape) == (chunk.first_tick, new.shape)
        past = tick - chunk.first_tick
        np.testing.assert_array_equal(entered.setpoints[:past], new[:past])
        assert (entered.setpoints >= low - 1e-12).all() and (entered.setpoints <= high + 1e-12).all()


@pytest.mark.parametrize("make", ALL)
def test_after_a_stop_a_chunk_enters_unchanged(make):
    splice, chunk = make(), ramp(10)
    splice.enter(NOTHING, ramp(0), 3)
    assert np.array_equal(splice.enter(NOTHING, chunk, 15).setpoints, chunk.setpoints)


def test_the_linear_blend_rises_in_equal_steps_and_then_is_the_new_chunk():
    old, new = ramp(100), ramp(120, offset=1.1)
    entered = LinearBlend(ticks=10).enter(old, new, 125)
    above = (entered.since(125).setpoints - old.since(125).setpoints[:1])[:, 0]
    expected = ramp(125).setpoints[:12, 0] - ramp(125).setpoints[0, 0] + np.minimum(np.arange(1, 13) * 0.1, 1.1)
    np.testing.assert_allclose(above[:12], expected, atol=1e-12)


def test_the_linear_blend_is_shorter_where_the_old_plan_ends():
    old, new = ramp(100, ticks=27), ramp(120, offset=1.0)
    entered = LinearBlend(ticks=10).enter(old, new, 125)
    np.testing.assert_allclose(entered.since(127).setpoints, new.since(127).setpoints)
    np.testing.assert_allclose(entered.since(125).setpoints[0] - ramp(125).setpoints[0], 1 / 3)


def test_the_temporal_ensemble_follows_the_formula_of_act():
    """Chunks of 8 at every tick, as ACT makes them, against its formula over the whole table of predictions."""
    rng, m, horizon = np.random.default_rng(0), 0.1, 8
    splice, plan = TemporalEnsemble(m), NOTHING
    predictions = {tick: rng.normal(size=(horizon, 2)) for tick in range(20)}
    for tick, predicted in predictions.items():
        chunk = splice.enter(plan, Plan(tick, predicted), tick)
        plan = chunk.since(tick)
        made = [start for start in range(20) if start <= tick < start + horizon]
        weights = np.exp(-m * np.arange(len(made)))
        expected = np.average([predictions[start][tick - start] for start in made], axis=0, weights=weights)
        np.testing.assert_allclose(plan.setpoints[0], expected, atol=1e-12)


def test_the_continuation_of_rtc_contains_the_rest_of_the_plan():
    continuation = RealTimeChunking(overlap=20, max_weight=7.0).continuation(ramp(100), observed_tick=124, delay=6)
    assert continuation is not None
    np.testing.assert_allclose(np.reshape(continuation.actions, (-1, 2)), ramp(125, ticks=25).setpoints, rtol=1e-6)
    assert (continuation.method, continuation.schedule, continuation.delay) == (
        Continuation.GUIDED,
        Continuation.EXP,
        6,
    )
    assert (continuation.delay, continuation.overlap, continuation.max_weight) == (6, 20, 7.0)


def test_a_frozen_prefix_is_never_longer_than_in_training():
    splice = TrainedRealTimeChunking(trained_delay=5)
    delays = [splice.continuation(ramp(100), 110, delay) for delay in (3, 9)]
    assert [continuation.delay for continuation in delays if continuation is not None] == [3, 5]


@pytest.mark.parametrize("make", ALL)
@pytest.mark.parametrize("plan", [NOTHING, ramp(100, ticks=10), ramp(140)])
def test_there_is_no_continuation_without_a_plan_for_the_next_tick(make, plan):
    assert make().continuation(plan, 120, 4) is None


@settings(deadline=None)
@given(st.integers(1, 30), st.integers(-5, 40), st.integers(0, 30))
def test_plans_join_where_the_later_one_begins(ticks, gap, later_ticks):
    plan, later = ramp(100, ticks), ramp(100 + gap, later_ticks, offset=1.0)
    joined = plan.followed_by(later)
    assert joined.last_tick == later.last_tick
    np.testing.assert_array_equal(joined.since(later.first_tick).setpoints, later.setpoints)
    kept = later.first_tick - joined.first_tick
    np.testing.assert_array_equal(joined.setpoints[:kept], plan.setpoints[:kept])
    assert kept == (gap if 0 < gap <= ticks else 0)


def test_splice_policies_are_found_by_name():
    assert [chunk_splice(name).name for name in CHUNK_SPLICES] == ["hold-swap", "linear-blend", "temporal-ensemble"]
    assert client_splice("rtc", 0) == RealTimeChunking()
    assert client_splice("trained-rtc", 8) == TrainedRealTimeChunking(8)
    for name, trained in (("trained-rtc", 0), ("linear-blend", 8)):
        with pytest.raises(ConfigError, match=name):
            client_splice(name, trained)
