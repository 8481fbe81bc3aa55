"""The motion limiter keeps its limits for any targets, and does not change a motion within the limits."""

from __future__ import annotations

import ctypes
import math
import struct
from collections.abc import Iterable

import pytest
from firmware_library import load_library
from hypothesis import given
from hypothesis import strategies as st

from firmware_bridge.lockstep.host_library import JointMotion, MotionLimits, MotionTarget

finite = st.floats(width=32, allow_nan=False, allow_infinity=False)
extreme = st.sampled_from([0.0, -0.0, 1e-38, -1e-38, 3.4e38, -3.4e38, math.inf, -math.inf, math.nan, 1.0, -1.0])
target = finite | extreme | st.floats(-1.25, 1.25, width=32) | st.floats(-1.0, -0.9) | st.floats(0.9, 1.0)
ratios = st.sampled_from([0.05, 0.3, 1.0, 1.6, 7.3, 40.0])  # velocity limit over change per tick


def as_float32(value: float) -> float:
    return struct.unpack("<f", struct.pack("<f", value))[0]


class Limiter:
    """One joint between -1 and 1 with a velocity limit of 0.1 per tick, watched at every tick."""

    def __init__(self, ratio: float, position: float = 0.0) -> None:
        self.library = load_library()
        self.limits = MotionLimits(-1.0, 1.0, 0.1, 0.1 / ratio)
        self.motion = JointMotion(position, 0.0)

    def track(self, goal: float, velocity: float = 0.0) -> int:
        before = self.motion.velocity
        target = MotionTarget(goal, velocity, 0.0)
        flags = self.library.motion_track(
            ctypes.byref(self.limits), ctypes.byref(self.motion), ctypes.byref(target), None
        )
        self._check(before)
        return flags

    def stop(self) -> None:
        before = self.motion.velocity
        self.library.motion_stop(ctypes.byref(self.limits), ctypes.byref(self.motion))
        self._check(before)

    def _check(self, before: float) -> None:
        assert -1.0 <= self.motion.position <= 1.0
        assert abs(self.motion.velocity) <= self.limits.max_step + 2e-7
        assert abs(self.motion.velocity - before) <= self.limits.max_change + 4e-7
        assert self._room() >= stopping_way(abs(self.motion.velocity), self.limits.max_change) - 1e-5

    def _room(self) -> float:
        """The distance to the position limit in the direction of motion."""
        ahead = self.motion.position if self.motion.velocity > 0 else -self.motion.position
        return 1.0 - ahead


def stopping_way(velocity: float, change: float) -> float:
    way = 0.0
    while (velocity := velocity - change) > 0:
        way += velocity
    return way


@given(ratio=ratios, goals=st.lists(st.tuples(target, target), min_size=1, max_size=80))
def test_no_targets_break_a_limit(ratio: float, goals: list[tuple[float, float]]) -> None:
    limiter = Limiter(ratio)
    for goal, velocity in goals:
        limiter.track(goal, velocity)


runs = st.tuples(st.sampled_from([-5.0, 5.0, -0.99, 0.99, 0.3]), st.sampled_from([0.0, 0.1, -0.1]), st.integers(1, 60))


@given(ratio=ratios, runs=st.lists(runs, max_size=8))
def test_long_runs_into_the_position_limits_stop_inside(ratio: float, runs: list[tuple[float, float, int]]) -> None:
    limiter = Limiter(ratio)
    for goal, velocity, ticks in runs:
        for _ in range(ticks):
            limiter.track(goal, velocity)


@given(ratio=ratios, goals=st.lists(target, max_size=30))
def test_stopping_comes_to_rest_and_stays(ratio: float, goals: list[float]) -> None:
    limiter = Limiter(ratio)
    for goal in goals:
        limiter.track(goal)
    for _ in range(math.ceil(ratio) + 2):
        limiter.stop()
    assert limiter.motion.velocity == 0.0
    rest = limiter.motion.position
    limiter.stop()
    assert limiter.motion.position == rest


@given(ratio=ratios, start=st.floats(-1, 1, width=32), goal=st.floats(-1, 1, width=32))
def test_a_resting_target_is_reached_exactly_and_never_passed(ratio: float, start: float, goal: float) -> None:
    limiter = Limiter(ratio, start)
    ticks = 0
    while limiter.track(goal) != 0:
        ticks += 1
        assert min(start, goal) <= limiter.motion.position <= max(start, goal)
        assert ticks < 20 + 2 * math.ceil(ratio) + 4
    assert limiter.motion.position == goal
    assert limiter.track(goal) == 0 and limiter.motion.velocity == 0.0


def motion_within_limits(ratio: float, changes: Iterable[float]) -> list[float]:
    """Positions whose velocity and its change stay within the limits and which could always stop inside."""
    limit, positions, velocity = 0.999 * 0.1 / ratio, [0.0], 0.0
    for change in changes:
        step = change * limit
        if abs(positions[-1]) + 0.1 * (ratio + 3) > 1.0:  # time to brake
            step = -math.copysign(min(abs(velocity), limit), velocity)
        velocity = min(max(velocity + step, -0.0999), 0.0999)
        positions.append(as_float32(positions[-1] + velocity))
    return positions


@given(
    ratio=st.sampled_from([0.3, 1.0, 1.6, 5.0]),
    changes=st.lists(st.floats(-1.0, 1.0), min_size=2, max_size=100),
    known_ahead=st.booleans(),
)
def test_a_motion_within_limits_is_bit_identical(ratio: float, changes: list[float], known_ahead: bool) -> None:
    limiter = Limiter(ratio)
    positions = motion_within_limits(ratio, changes)
    for before, here, after in zip(positions, positions[1:], [*positions[2:], None], strict=False):
        velocity = after - here if after is not None and known_ahead else here - before
        flags = limiter.track(here, velocity)
        assert (flags, limiter.motion.position) == (0, here)


@pytest.mark.parametrize("ratio", [0.3, 1.6, 5.0])
@pytest.mark.parametrize(("start", "goal", "speed"), [(-0.9, -0.5, 0.02), (-0.9, 0.9, -0.02), (-0.9, 0.95, -0.09)])
def test_a_moving_target_is_met_and_not_passed(ratio: float, start: float, goal: float, speed: float) -> None:
    limiter, ticks = Limiter(ratio, start), 0
    while limiter.track(goal, speed) != 0:
        assert limiter.motion.position <= goal + 1e-6
        goal, ticks = as_float32(goal + speed), ticks + 1
        assert ticks < 60
    assert limiter.motion.position == as_float32(goal)
    for _ in range(2):
        goal = as_float32(goal + speed)
        assert limiter.track(goal, speed) == 0


@given(ratio=ratios, goals=st.lists(st.tuples(target, target), min_size=1, max_size=40))
def test_a_tick_without_flags_reached_its_target(ratio: float, goals: list[tuple[float, float]]) -> None:
    limiter = Limiter(ratio)
    for goal, velocity in goals:
        if limiter.track(goal, velocity) == 0:
            assert limiter.motion.position == as_float32(goal)
