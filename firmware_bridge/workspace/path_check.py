"""Whether the frames stay in their workspace on a motion, and where they first leave it.

The motion is known after every servo step. Between two steps a joint lies between its two positions, and where it brakes
from one of them, between that and where it comes to rest. So in an interval every joint lies in a range, and the frames
within a reach of where they are in the middle of these ranges (`Kinematics.at`). An interval is first a whole tick; where
the reach of that is too large to decide, its servo steps are looked at one by one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from firmware_bridge.robot import RobotJoints
from firmware_bridge.workspace.boxes import Rule
from firmware_bridge.workspace.kinematics import Kinematics
from firmware_bridge.workspace.motion import Motion

TOLERANCE = 1e-3
"""Metres: an arm that is outside may go so much farther out on its way in, and must end so much nearer."""


class Excursion(NamedTuple):
    """Where a motion first leaves the workspace.

    Attributes:
        tick: The tick of it.
        what: The frame, the box and its face, and by how much, as text.
        depth: Largest distance beyond what is allowed, metres.
    """

    tick: int
    what: str
    depth: float


class Intervals(NamedTuple):
    """Ranges of the joints, in the order of time: the tick of each [n], lower and upper ends [n, joints]."""

    ticks: NDArray[np.int64]
    lower: NDArray[np.float64]
    upper: NDArray[np.float64]


@dataclass(frozen=True)
class _Clearances:
    """Of one rule at the intervals, [n]: at the middle of their ranges, and how much of it the ranges may take."""

    ticks: NDArray[np.int64]
    points: NDArray[np.float64]
    middle: NDArray[np.float64]
    reach: NDArray[np.float64]

    @property
    def kept(self) -> NDArray[np.bool_]:
        return self.middle >= self.reach


class PathCheck:
    """Checks motions of one robot."""

    def __init__(self, kinematics: Kinematics, rules: tuple[Rule, ...], robot: RobotJoints) -> None:
        """Takes the frames and what they must keep to."""
        self._kinematics = kinematics
        self._rules = rules
        self._lower, self._upper = robot.lower, robot.upper
        self._max_change = robot.acceleration / robot.servo_hz**2

    def excursion(self, motion: Motion) -> Excursion | None:
        """Where a motion first leaves the workspace; None where it stays inside, or leads back into it.

        A frame that is outside at first must come nearer, and once it is inside it must stay there.

        Args:
            motion: Its row 0 is where the arm is.
        """
        ranges = Ranges(motion, self._lower, self._upper, self._max_change)
        coarse = self._clearances(ranges.ticks())
        if all(of_rule.kept.all() for of_rule in coarse):
            return None
        undecided = ~np.all([of_rule.kept for of_rule in coarse], axis=0)
        fine = self._clearances(ranges.refined(undecided))
        found = [self._judge(rule, of_rule) for rule, of_rule in zip(self._rules, fine, strict=True)]
        return min((excursion for excursion in found if excursion), key=lambda excursion: excursion.tick, default=None)

    def _clearances(self, intervals: Intervals) -> list[_Clearances]:
        middle, half = 0.5 * (intervals.lower + intervals.upper), 0.5 * (intervals.upper - intervals.lower)
        frames = self._kinematics.at(middle, half)
        found = []
        for rule in self._rules:
            points = frames.points[:, rule.frame]
            found.append(_Clearances(intervals.ticks, points, rule.clearance(points), frames.reach[:, rule.frame]))
        return found

    def _judge(self, rule: Rule, found: _Clearances) -> Excursion | None:
        kept = found.kept
        if kept[0]:
            return self._leaving(rule, found, ~kept)
        start = found.middle[0] - found.reach[0]
        inside = int(kept.argmax()) if kept.any() else len(kept)
        outward = found.middle < start - TOLERANCE
        outward[inside:] = False
        if outward.any():
            index = int(outward.argmax())
            depth = float((start - found.middle[outward]).max())
            what = f"{rule.describe(found.points[index])}, where it is already, and goes {_mm(depth)} farther"
            return Excursion(int(found.ticks[index]), what, depth)
        if inside == len(kept) and found.middle[-1] < start + TOLERANCE:
            depth = -float(found.middle[-1])
            what = f"{rule.describe(found.points[-1])} by {_mm(depth)} already, and is not led back"
            return Excursion(int(found.ticks[-1]), what, depth)
        left = ~kept
        left[:inside] = False
        return self._leaving(rule, found, left)

    @staticmethod
    def _leaving(rule: Rule, found: _Clearances, left: NDArray[np.bool_]) -> Excursion | None:
        if not left.any():
            return None
        index = int(left.argmax())
        depth = float((found.reach - found.middle)[left].max())
        return Excursion(int(found.ticks[index]), f"{rule.describe(found.points[index])} by up to {_mm(depth)}", depth)


class Ranges:
    """What the joints may pass on a motion, and where they would come to rest if they braked on it.

    A joint that brakes from velocity v, in units per step, comes to rest within v² / (2 · max_change).
    """

    def __init__(
        self,
        motion: Motion,
        lower: NDArray[np.float64],
        upper: NDArray[np.float64],
        max_change: NDArray[np.float64],
    ) -> None:
        self._motion = motion
        self._steps = motion.servo_steps
        positions, velocities = motion.positions.astype(np.float64), motion.velocities.astype(np.float64)
        rest = np.clip(positions + velocities * np.abs(velocities) / (2.0 * max_change), lower, upper)
        self._lower, self._upper = np.minimum(positions, rest), np.maximum(positions, rest)

    def ticks(self) -> Intervals:
        """Where the motion begins, then each of its ticks from the last servo step of the one before, [1 + ticks]."""
        first, count = self._motion.first_tick, (len(self._lower) - 1) // self._steps
        lower = np.minimum(self._by_tick(self._lower).min(axis=1), self._lower[self._steps :: self._steps])
        upper = np.maximum(self._by_tick(self._upper).max(axis=1), self._upper[self._steps :: self._steps])
        return Intervals(
            np.concatenate([[first], np.arange(first, first + count)]),
            np.concatenate([self._lower[:1], lower]),
            np.concatenate([self._upper[:1], upper]),
        )

    def refined(self, undecided: NDArray[np.bool_]) -> Intervals:
        """The same, with each of these ticks as its servo steps."""
        ticks = self.ticks()
        lower = np.minimum(self._lower[:-1], self._lower[1:])
        upper = np.maximum(self._upper[:-1], self._upper[1:])
        parts = [Intervals(*(column[:1] for column in ticks))]
        for index in range(1, len(ticks.ticks)):
            steps = slice((index - 1) * self._steps, index * self._steps)
            if undecided[index]:
                parts.append(Intervals(ticks.ticks[index].repeat(self._steps), lower[steps], upper[steps]))
            else:
                parts.append(Intervals(*(column[index : index + 1] for column in ticks)))
        return Intervals(*(np.concatenate(column) for column in zip(*parts, strict=True)))

    def _by_tick(self, rows: NDArray[np.float64]) -> NDArray[np.float64]:
        return rows[:-1].reshape(-1, self._steps, rows.shape[1])


def _mm(metres: float) -> str:
    return f"{metres * 1e3:.0f} mm"
