"""The firmware's motion limiter for one joint: `core/motion_limiter.c` function by function, in its float32 arithmetic.

Positions are in the joint's unit, velocities in units per servo step, changes of velocity in units per servo step
squared. The tests compare it with the compiled core, bit for bit.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

_FARTHEST = np.float32(1.6e7)  # in units of the change
_PLANNED = np.float32(0.9995)
_MOST_SLOWING = np.float32(0.9)
_ZERO = np.float32(0.0)


class Target(NamedTuple):
    """Where a joint should be after a step, its velocity there, and the change of that velocity per step."""

    position: np.float32
    velocity: np.float32
    change: np.float32 = _ZERO


@dataclass(frozen=True)
class JointLimits:
    """What one joint may do: positions, largest velocity per step, largest change of velocity per step."""

    minimum: np.float32
    maximum: np.float32
    max_step: np.float32
    max_change: np.float32

    def track(self, position: np.float32, velocity: np.float32, target: Target, corner: Target | None) -> np.float32:
        """The position after one step towards a target, as `motion_track` computes it.

        Args:
            position: Where the joint is.
            velocity: Its last step.
            target: Where it should be after this step.
            corner: The line that the plan turns into at the next setpoint; the joint does not overshoot it.
        """
        aim = self._within(target)
        gap = aim.position - position
        step = gap
        if abs(gap - aim.velocity) > self.max_change:
            step = self._approach(aim.position - position - aim.velocity, aim)
        if corner is not None:
            step = self._stop_ahead_of(position, self._within(corner), step)
        limited = self._limit_step(position, velocity, step)
        if limited == gap:
            return aim.position
        return _clamp(position + limited, self.minimum, self.maximum)

    def _within(self, target: Target) -> Target:
        inside = _clamp(target.position, self.minimum, self.maximum)
        if inside != target.position:
            return Target(inside, _ZERO)
        return Target(inside, _clamp(target.velocity, -self.max_step, self.max_step), target.change)

    def _approach(self, gap: np.float32, aim: Target) -> np.float32:
        slowing = aim.change if gap < 0.0 else -aim.change
        left = self.max_change - _clamp(slowing, _ZERO, _MOST_SLOWING * self.max_change)
        closing = stoppable_velocity(abs(gap), left)
        return aim.velocity + (-closing if gap < 0.0 else closing)

    def _stop_ahead_of(self, position: np.float32, corner: Target, step: np.float32) -> np.float32:
        closing = step - corner.velocity
        gap = corner.position - position - corner.velocity
        if (closing < 0.0) != (gap < 0.0) or abs(closing) <= self.max_change:
            return step
        most = stoppable_velocity(abs(gap), self.max_change)
        return corner.velocity + _clamp(closing, -most, most)

    def _limit_step(self, position: np.float32, velocity: np.float32, step: np.float32) -> np.float32:
        step = _clamp(step, -self.max_step, self.max_step)
        step = _clamp(step, velocity - self.max_change, velocity + self.max_change)
        room = stoppable_velocity(position - self.minimum if step < 0.0 else self.maximum - position, self.max_change)
        return _clamp(step, -room, room)


def stoppable_velocity(distance: np.float32, change: np.float32) -> np.float32:
    """The largest velocity from which a joint can stop within `distance`, losing `change` per step."""
    planned = _PLANNED * change
    way = _clamp(distance / planned, _ZERO, _FARTHEST)
    steps = (math.isqrt(8 * int(way) + 1) - 1) // 2  # the largest m with m (m + 1) / 2 <= way
    return planned * ((way + np.float32(steps * (steps + 1) // 2)) / np.float32(steps + 1))


def _clamp(value: np.float32, low: np.float32, high: np.float32) -> np.float32:
    return min(max(value, low), high)
