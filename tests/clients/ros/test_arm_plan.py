"""What the arm executes: when to observe, what the next chunk continues."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from pi0_edge_ros.arm_plan import ArmPlan
from pi0_edge_ros.trajectories import NANOSECONDS, DuePositions

from firmware_bridge.splice import HoldSwap, RealTimeChunking, TrainedRealTimeChunking
from pi0_edge.protos.policy_pb2 import Continuation

PERIOD = 20_000_000
START = 10 * NANOSECONDS


def chunk(observed_ns: int, first: int = 0, rows: int = 10, slope: float = 1.0) -> DuePositions:
    """Positions that grow by `slope` per second, from row `first` on."""
    due_ns = observed_ns + PERIOD * np.arange(first + 1, rows + 1)
    return DuePositions(observed_ns, due_ns, slope * (due_ns[:, None] - START) / NANOSECONDS + np.array([0.0, 5.0]))


def plan(splice: object = None) -> ArmPlan:
    return ArmPlan(splice or RealTimeChunking(), 50.0, 0.1)  # pyright: ignore[reportArgumentType]


def rows(continuation: Continuation) -> np.ndarray:
    return np.reshape(continuation.actions, (-1, 2))


def test_the_first_chunk_continues_nothing_and_is_due_at_once():
    arm = plan()
    assert arm.is_due(START)
    assert arm.observed(START, START) is None


@given(st.integers(1, 8), st.integers(0, 140))
def test_the_continuation_is_the_plan_at_the_times_of_the_new_actions(first, later_ms):
    arm = plan()
    arm.observed(START, START)
    arm.entered(chunk(START, first))
    observed_ns = START + first * PERIOD + later_ms * 1_000_000
    continued = arm.observed(observed_ns, observed_ns)
    times = np.arange(observed_ns + PERIOD, START + 10 * PERIOD + 1, PERIOD)
    if not len(times):
        assert continued is None
        return
    assert continued is not None and continued.delay == first
    expected = (times[:, None] - START) / NANOSECONDS + np.array([0.0, 5.0])
    np.testing.assert_allclose(rows(continued), expected, atol=1e-5)


def test_a_chunk_replaces_the_plan_from_its_first_action_on_and_what_was_before_stays():
    arm = plan()
    arm.observed(START, START)
    arm.entered(chunk(START))
    arm.observed(START + 4 * PERIOD, START + 4 * PERIOD)
    arm.entered(chunk(START + 4 * PERIOD, first=2, slope=-1.0))
    continued = arm.observed(START + 5 * PERIOD, START + 5 * PERIOD)
    assert continued is not None
    assert np.sign(rows(continued)[:, 0]).tolist() == [1.0, *[-1.0] * 8]
    assert arm.ends_ns == START + 14 * PERIOD


def test_a_plan_never_grows():
    arm = plan()
    for step in range(200):
        observed_ns = START + step * 4 * PERIOD
        arm.observed(observed_ns, observed_ns)
        arm.entered(chunk(observed_ns, first=2))
    assert arm._plan is not None and len(arm._plan.due_ns) < 15


def test_the_next_observation_waits_for_its_time_and_comes_earlier_where_chunks_take_long():
    arm = plan()
    arm.observed(START, START)
    arm.entered(chunk(START, first=7))
    assert arm.delay == 7
    assert not arm.is_due(START + 2 * PERIOD)
    assert arm.is_due(START + 3 * PERIOD), "the plan ends at 10 and chunks take 7"
    slow = plan()
    slow.observed(START, START)
    slow.entered(chunk(START, first=1))
    assert not slow.is_due(START + 4 * PERIOD)
    assert slow.is_due(START + 5 * PERIOD), "every 0.1 s"


def test_after_a_failure_the_next_observation_waits_for_the_pause_alone():
    arm = plan()
    arm.observed(START, START)
    arm.entered(chunk(START))
    arm.observed(START + 5 * PERIOD, START + 5 * PERIOD)
    arm.lost(START + 6 * PERIOD)
    assert not arm.is_due(START + 5 * PERIOD)
    assert arm.is_due(START + 6 * PERIOD)


def test_a_plan_that_ended_or_has_not_begun_is_not_continued():
    arm = plan()
    arm.observed(START, START)
    arm.entered(chunk(START, first=4))
    assert arm.observed(START + 10 * PERIOD, START + 10 * PERIOD) is None
    assert arm.observed(START + 2 * PERIOD, START + 2 * PERIOD) is None
    arm.stopped()
    assert arm.is_due(START) and arm.observed(START + 5 * PERIOD, START + 5 * PERIOD) is None


def test_a_policy_that_was_trained_for_it_gets_a_frozen_prefix_and_hold_swap_nothing():
    for splice, method in ((TrainedRealTimeChunking(3), Continuation.FROZEN_PREFIX), (HoldSwap(), None)):
        arm = plan(splice)
        arm.observed(START, START)
        arm.entered(chunk(START, first=5))
        continued = arm.observed(START + 5 * PERIOD, START + 5 * PERIOD)
        assert (None if continued is None else continued.method) == method
        assert continued is None or continued.delay == 3
