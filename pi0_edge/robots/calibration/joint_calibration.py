"""The calibration of a joint in counts of its servo, and what a robot becomes by it.

A joint in rad is at `(counts - zero) * direction * 2 pi / 4096`; a joint in another unit has the counts at its two
position limits. The new position limits of a joint in rad end `MARGIN_RAD` inside of what it reached by hand, so that
the arm never drives into its stops, and are never wider than before unless asked for.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from pi0_edge.errors import ConfigError
from pi0_edge.robots.description import Joint, Robot
from pi0_edge.robots.servos import COUNTS_PER_TURN, Servo

MARGIN_RAD = math.radians(1.0)
"""Between a new position limit and the end of what the joint reached; about ten times the resolution of a servo."""

LEAST_SHARE = 0.7
"""A joint has to reach so much of the range between the limits of its file, unless a smaller range is accepted."""

_STEP = 1e-4  # limits are rounded inwards to this


@dataclass(frozen=True)
class JointCalibration:
    """What was measured of one joint; every number in counts.

    Attributes:
        joint: Its name.
        reached: Lowest and highest counts of its range.
        zero: Where a joint in rad is at 0.
        direction: 1 where counts grow with the angle, otherwise -1; of a joint in rad.
        counts: Those at the two position limits of a joint in another unit.
    """

    joint: str
    reached: tuple[float, float]
    zero: float | None = None
    direction: int | None = None
    counts: tuple[float, float] | None = None

    @property
    def reached_rad(self) -> tuple[float, float]:
        """The lowest and the highest angle that a joint in rad reached."""
        unit = (self.direction or 1) * math.tau / COUNTS_PER_TURN
        ends = [(count - (self.zero or 0.0)) * unit for count in self.reached]
        return min(ends), max(ends)


@dataclass(frozen=True)
class CalibratedRobot:
    """A robot after calibration.

    Attributes:
        robot: With the new zeros, directions, counts and limits.
        notes: What else had to change, in words.
    """

    robot: Robot
    notes: tuple[str, ...]


def calibrated(
    robot: Robot,
    found: Sequence[JointCalibration],
    name: str,
    *,
    widen: bool = False,
    accept_range: Sequence[str] = (),
) -> CalibratedRobot:
    """The robot with what was measured.

    Args:
        robot: As its file describes it.
        found: One for each joint.
        name: Of the calibrated robot.
        widen: Lets limits become wider than those of the file.
        accept_range: Joints whose range may be smaller than `LEAST_SHARE` of that in the file.

    Raises:
        ConfigError: If a range does not fit the file; the message lists every joint.
    """
    of_joint = {calibration.joint: calibration for calibration in found}
    joints, notes, wrong = [], [], []
    for joint in robot.joints:
        try:
            limited = _limited(joint, of_joint[joint.name], widen, joint.name in accept_range)
        except ConfigError as error:
            wrong.append(str(error))
            continue
        joints.append(limited)
        if limited.home != joint.home:
            notes.append(f"{joint.name}: home was {joint.home:g}, outside of what it reached, and is {limited.home:g}")
    if wrong:
        raise ConfigError("\n".join(wrong))
    servos = tuple(_with_counts(servo, of_joint[servo.joint]) for servo in robot.servos)
    return CalibratedRobot(replace(robot, name=name, joints=tuple(joints), servos=servos), tuple(notes))


def _limited(joint: Joint, found: JointCalibration, widen: bool, accept_range: bool) -> Joint:
    if found.counts is not None or joint.position is None:
        return joint
    lowest, highest = joint.position
    reached_low, reached_high = found.reached_rad
    inner = (math.ceil((reached_low + MARGIN_RAD) / _STEP), math.floor((reached_high - MARGIN_RAD) / _STEP))
    low, high = (round(step * _STEP, 4) for step in inner)
    if not widen:
        low, high = max(low, lowest), min(high, highest)
    if high - low < LEAST_SHARE * (highest - lowest) and not accept_range:
        raise ConfigError(
            f"{joint.name} reached {reached_low:.3f} to {reached_high:.3f} rad from its zero, the file has "
            f"{lowest:g} to {highest:g}: that is less than {100 * LEAST_SHARE:g} % of it. Move it to both ends of its "
            "range; if both ends are off by the same angle, the zero pose was another; if the joint is limited so, "
            f"accept it with --accept-range {joint.name}"
        )
    if not low < high:
        raise ConfigError(f"{joint.name} reached {reached_low:.3f} to {reached_high:.3f} rad, nothing of its limits")
    home = min(max(joint.home or 0.0, low), high)
    return replace(joint, position=(low, high), home=home)


def _with_counts(servo: Servo, found: JointCalibration) -> Servo:
    """A shadow gets what its joint's commanded servo got: it executes the same goals."""
    return replace(servo, zero=found.zero, direction=found.direction, counts=found.counts)
