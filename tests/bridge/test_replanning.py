"""Replanning on the robot, tick by tick: when it observes, which setpoints are executed, and no starvation."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from firmware_bridge.replanning import ChunkScheduler, DelayWindow
from firmware_bridge.splice import HoldSwap, RealTimeChunking

HORIZON = 50


def chunk(tick: int, horizon: int = HORIZON) -> np.ndarray:
    """A chunk for the observation of `tick`: (tick at which it is due, tick of the observation)."""
    due = np.arange(tick + 1, tick + 1 + horizon)
    return np.stack([due, np.full(horizon, tick)], axis=1).astype(float)


def play(scheduler: ChunkScheduler, delays: list[int], ticks: int) -> tuple[list[int], list[np.ndarray | None]]:
    """Ticks of the observations, and what was executed at every tick."""
    observed, executed, arrives, waiting = [], [], -1, iter(delays)
    for tick in range(ticks):
        if scheduler.due(tick):
            scheduler.observe(tick)
            observed.append(tick)
            arrives = tick + next(waiting)
        if arrives == tick:
            scheduler.entered(chunk(observed[-1]), tick + 1)
            arrives = -1
        executed.append(scheduler.setpoint(tick + 1))
    return observed, executed


def test_quantile_is_the_smallest_delay_that_enough_did_not_exceed():
    window = DelayWindow(size=100)
    assert window.quantile(0.99) == 0
    for delay in range(1, 101):
        window.add(delay)
    assert [window.quantile(share) for share in (0.5, 0.99, 1.0)] == [50, 99, 100]
    for _ in range(99):  # the slow ones are forgotten
        window.add(3)
    assert window.quantile(0.99) == 3


def test_a_new_observation_every_replan_ticks_and_every_action_at_its_tick():
    observed, executed = play(ChunkScheduler(HoldSwap(), replan_ticks=25), [7] * 20, 200)
    assert observed[:4] == [0, 25, 50, 75]
    assert [setpoint is None for setpoint in executed[:8]] == [True] * 7 + [False]
    for tick, setpoint in enumerate(executed[7:], start=8):
        assert setpoint is not None and setpoint[0] == tick
        assert setpoint[1] == max(o for o in observed if o + 7 < tick)  # of the newest chunk that is there


def test_the_next_inference_starts_early_enough_for_the_slow_ones():
    """A chunk lasts until 50 ticks after its observation: with a delay of 20, waiting for 40 would be too late."""
    observed, executed = play(ChunkScheduler(HoldSwap(), replan_ticks=40), [20] * 20, 400)
    assert observed[:4] == [0, 30, 60, 90]
    assert [tick for tick, setpoint in enumerate(executed) if setpoint is None] == list(range(20))


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, 24), min_size=60, max_size=60), st.integers(1, 60))
def test_the_arm_does_not_starve_while_two_delays_fit_in_a_chunk(delays, replan_ticks):
    """Once the longest delay has been seen, nothing starves: the inference starts a p99 before the end of the plan."""
    delays = [24, *delays]
    _, executed = play(ChunkScheduler(HoldSwap(), replan_ticks), delays + [24] * 400, 400)
    assert all(setpoint is not None for setpoint in executed[24:])
    assert [setpoint[0] for setpoint in executed[24:] if setpoint is not None] == list(range(25, 401))


def test_the_continuation_is_the_plan_that_will_be_executed_with_the_expected_delay():
    scheduler = ChunkScheduler(RealTimeChunking(), replan_ticks=10)
    assert scheduler.due(0) and scheduler.observe(0) is None  # there is no plan yet
    assert not scheduler.due(5)  # one inference at a time
    scheduler.entered(chunk(0), 4)
    assert scheduler.delay == 3 and not scheduler.due(9) and scheduler.due(10)
    continuation = scheduler.observe(10)
    assert continuation is not None and continuation.delay == 3
    np.testing.assert_array_equal(np.reshape(continuation.actions, (-1, 2)), chunk(0)[10:])
    scheduler.entered(chunk(10), 18)
    assert scheduler.delay == 7
    # An observation between report and entry still finds what is executed in between.
    continuation = scheduler.observe(14)
    assert continuation is not None
    np.testing.assert_array_equal(
        np.reshape(continuation.actions, (-1, 2)), np.concatenate([chunk(0)[14:17], chunk(10)[7:]])
    )


def test_after_a_lost_chunk_the_next_inference_starts_at_once():
    scheduler = ChunkScheduler(HoldSwap(), replan_ticks=25)
    scheduler.observe(0)
    scheduler.entered(chunk(0), 3)
    scheduler.observe(25)
    scheduler.lost()
    assert scheduler.due(26)
    setpoint = scheduler.setpoint(26)
    assert setpoint is not None and setpoint[1] == 0  # the old plan goes on


def test_an_empty_plan_has_no_setpoint():
    assert ChunkScheduler(HoldSwap(), 25).setpoint(3) is None
