"""Whether the frames stay in their workspace on a motion, and where they first leave it.

The motion is known after every servo step. Between two steps a joint lies between its two positions, and where it
brakes from one of them, between that and where it comes to rest. So in an interval every joint lies in a range, and the
frames within a reach of where they are in the middle of these ranges (`Kinematics.at`). An interval is first a whole
tick; where the reach of that is too large to decide, its servo steps are looked at one by one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from firmware_bridge.bridge.workspace.boxes import Rule
from firmware_bridge.bridge.workspace.kinematics import Kinematics
from firmware_bridge.bridge.workspace.motion import Motion
from firmware_bridge.robot import RobotJoints

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

    ticks: NDArray[np.intp]
    lower: NDArray[np.float64]
    upper: NDArray[np.float64]


@dataclass(frozen=True)
class _Clearances:
    """Of one rule at the intervals, [n]: at the middle of their ranges, and how much of it the ranges may take."""

    ticks: NDArray[np.intp]
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

    def outside(self, positions: NDArray[np.float64]) -> list[str]:
        """What an arm at rest does not keep to, as text.

        Args:
            positions: [joints], units.
        """
        points = self._kinematics.at(positions[None], np.zeros_like(positions)[None]).points[0]
        depths = [(rule, -float(rule.clearance(points[None, rule.frame])[0])) for rule in self._rules]
        return [f"{rule.describe(points[rule.frame])} by {_mm(depth)}" for rule, depth in depths if depth > 0]

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
        positions, velocities = motion.positions.astype(np.float64), motion.velocities.astype(np.float64)
        rest = np.clip(positions + velocities * np.abs(velocities) / (2.0 * max_change), lower, upper)
        lowest, highest = np.minimum(positions, rest), np.maximum(positions, rest)
        self._steps = motion.servo_steps
        self._start = lowest[:1], highest[:1]
        self._lower = np.minimum(lowest[:-1], lowest[1:])  # of each servo step, with the one before
        self._upper = np.maximum(highest[:-1], highest[1:])
        self._ticks = motion.first_tick + np.arange(len(self._lower)) // self._steps

    def ticks(self) -> Intervals:
        """Where the motion begins, then each of its ticks from the last servo step of the one before, [1 + ticks]."""
        by_tick = (-1, self._steps, self._lower.shape[1])
        start_lower, start_upper = self._start
        return Intervals(
            np.concatenate([self._ticks[:1], self._ticks[:: self._steps]]),
            np.concatenate([start_lower, self._lower.reshape(by_tick).min(axis=1)]),
            np.concatenate([start_upper, self._upper.reshape(by_tick).max(axis=1)]),
        )

    def refined(self, undecided: NDArray[np.bool_]) -> Intervals:
        """The same, with each of these ticks, [1 + ticks], as its servo steps."""
        coarse = self.ticks()
        kept = ~undecided
        kept[0] = True  # where the motion begins has no steps
        steps = undecided[1:].repeat(self._steps)
        ticks = np.concatenate([coarse.ticks[kept], self._ticks[steps]])
        order = np.argsort(ticks, kind="stable")
        return Intervals(
            ticks[order],
            np.concatenate([coarse.lower[kept], self._lower[steps]])[order],
            np.concatenate([coarse.upper[kept], self._upper[steps]])[order],
        )


def _mm(metres: float) -> str:
    return f"{metres * 1e3:.0f} mm"
