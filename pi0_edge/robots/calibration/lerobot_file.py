"""LeRobot's calibration of an arm: `<calibration folder>/robots/<type>/<id>.json`, one entry for each motor.

LeRobot writes the homing offset into the servo, and counts as the servo reports them afterwards; so does the firmware.
Positions of the servo in LeRobot's units, with `v` in counts and the range `a` to `b` of the file:

    degrees        (v - (a + b) / 2) * 360 / 4095, `drive_mode` ignored
    -100 to 100    200 (v - a) / (b - a) - 100, negated with drive_mode
    0 to 100       100 (v - a) / (b - a), or 100 minus that with drive_mode (grippers)

A turn has 4096 counts; LeRobot divides by 4095, so that its degrees are 1/4096 too small for the angle.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pi0_edge.errors import ConfigError
from pi0_edge.json_files import read_json_object
from pi0_edge.robots.calibration.joint_calibration import JointCalibration
from pi0_edge.robots.description import Robot
from pi0_edge.robots.servos import COUNTS_PER_TURN

_FIELDS = ("id", "drive_mode", "homing_offset", "range_min", "range_max")
_LEROBOT_TURN = 4095


@dataclass(frozen=True)
class LeRobotMotor:
    """One entry of the file.

    Attributes:
        id: Of the servo.
        drive_mode: 1 where LeRobot turns its -100 to 100 and 0 to 100 round.
        homing_offset: What LeRobot wrote into the servo, counts; only the servo needs it.
        range_min: Lowest counts of the sweep.
        range_max: Highest counts of the sweep.
    """

    id: int
    drive_mode: int
    homing_offset: int
    range_min: int
    range_max: int

    @property
    def middle(self) -> float:
        """Counts at 0 degrees."""
        return (self.range_min + self.range_max) / 2

    def rad_of_degrees(self, degrees: float) -> float:
        """The angle of the imported joint where LeRobot says so many degrees."""
        return degrees / 360 * _LEROBOT_TURN * math.tau / COUNTS_PER_TURN

    def rad_of_percent(self, percent: float) -> float:
        """The angle of the imported joint where LeRobot's -100 to 100 says so much."""
        half_range = (self.range_max - self.range_min) / 2
        return (-1 if self.drive_mode else 1) * percent / 100 * half_range * math.tau / COUNTS_PER_TURN


def read_lerobot_file(path: Path) -> dict[str, LeRobotMotor]:
    """The motors of a calibration file of LeRobot by name.

    Raises:
        ConfigError: If it is none; the message lists every mistake.
    """
    content = read_json_object(path, ConfigError, "give LeRobot's calibration file of this arm")
    wrong = [f"{name}: {mistake}" for name, entry in content.items() if (mistake := _mistake(entry))]
    if wrong or not content:
        listed = "; ".join(wrong) or "it is empty"
        raise ConfigError(f"{path} is no calibration file of LeRobot: {listed}")
    return {name: LeRobotMotor(**{field: entry[field] for field in _FIELDS}) for name, entry in content.items()}


def calibrations_of(robot: Robot, motors: Mapping[str, LeRobotMotor]) -> list[JointCalibration]:
    """What LeRobot measured, as calibrations of the robot's joints.

    A joint in rad is at 0 where LeRobot's degrees are, and turns the same way; another joint is at its lower limit
    where LeRobot's 0 to 100 is at 0.

    Raises:
        ConfigError: If the file is of an arm with other joints or IDs.
    """
    names = [joint.name for joint in robot.joints]
    if set(motors) != set(names):
        raise ConfigError(
            f"the calibration is of {', '.join(motors)}, and the joints of {robot.name} are {', '.join(names)}; give "
            "the robot file of that arm"
        )
    commanded = {servo.joint: servo for servo in robot.servos if servo.shadow_of is None}
    other = [name for name in names if name not in commanded or commanded[name].id != motors[name].id]
    if other:
        listed = ", ".join(f"{name} has ID {motors[name].id}" for name in other)
        raise ConfigError(f"in LeRobot's file {listed}; the robot file has others: correct its `id` first")
    return [_calibration(joint.name, joint.unit, motors[joint.name]) for joint in robot.joints]


def _calibration(name: str, unit: str, motor: LeRobotMotor) -> JointCalibration:
    reached = (float(motor.range_min), float(motor.range_max))
    if unit == "rad":
        return JointCalibration(name, reached, zero=motor.middle, direction=1)
    ends = (motor.range_max, motor.range_min) if motor.drive_mode else (motor.range_min, motor.range_max)
    return JointCalibration(name, reached, counts=ends)


def _mistake(entry: object) -> str:
    if not isinstance(entry, Mapping):
        return f"{entry!r}, expected {', '.join(_FIELDS)}"
    wrong = [field for field in _FIELDS if type(entry.get(field)) is not int]
    if wrong:
        return f"{', '.join(wrong)} must be whole numbers"
    lowest, highest = entry["range_min"], entry["range_max"]
    if not 0 <= lowest < highest < COUNTS_PER_TURN:
        return f"range_min {lowest} and range_max {highest}, expected 0 to 4095, the smaller first"
    return "" if entry["drive_mode"] in (0, 1) else f"drive_mode is {entry['drive_mode']}, expected 0 or 1"
