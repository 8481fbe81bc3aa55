"""The joint table of a robot: the limits in its file, checked against and rounded to what the firmware can hold.

The table is compiled into the firmware, so that no host can widen a limit. Host and firmware compare `limits_hash`,
the CRC-32 of the packed table: the number of joints (u8), setpoints and servo steps per second (u16), then for each
joint minimum, maximum, velocity, acceleration, home and resolution (f32; all little endian), its name and its unit
(each ended by a zero byte).
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

from pi0_edge import robots
from pi0_edge.errors import ConfigError
from pi0_edge.robots import Robot, load_robot

CONTROL_HZ = 50
SERVO_HZ = 250
_CONTROL_RATES = (10, 200)
_SERVO_RATES = (200, 1000)
_LONGEST_STOP_S = 2.0
_FINEST_CHANGE = 64 * 2.0**-24  # of the largest position; float32 resolves 2^-24 of it
_COUNT_LIMIT = 32767


@dataclass(frozen=True)
class Joint:
    """One joint; every number is a float32 value in the joint's unit, unit/s or unit/s^2.

    Attributes:
        resolution: How much of the unit one count of a setpoint is.
        home: Where the firmware takes the joint to be after a reset; a whole number of counts.
    """

    name: str
    unit: str
    minimum: float
    maximum: float
    velocity: float
    acceleration: float
    home: float
    resolution: float

    def pack(self) -> bytes:
        """Return this joint's part of the packed table."""
        numbers = (self.minimum, self.maximum, self.velocity, self.acceleration, self.home, self.resolution)
        return struct.pack("<6f", *numbers) + f"{self.name}\0{self.unit}\0".encode("ascii")


@dataclass(frozen=True)
class JointTable:
    """All joints of one robot, in the order of its actions.

    Attributes:
        control_hz: Setpoints per second, 10 to 200.
        servo_hz: Steps per second of the motion between them, 200 to 1000, a multiple of `control_hz`.
    """

    robot: str
    joints: tuple[Joint, ...]
    control_hz: int = CONTROL_HZ
    servo_hz: int = SERVO_HZ

    @property
    def limits_hash(self) -> int:
        """CRC-32 of the packed table, as the firmware reports it in `Welcome`."""
        head = struct.pack("<BHH", len(self.joints), self.control_hz, self.servo_hz)
        return zlib.crc32(head + b"".join(joint.pack() for joint in self.joints))


def float32(value: float) -> float:
    """Return the float32 nearest to `value`."""
    return struct.unpack("<f", struct.pack("<f", value))[0]


def load_joint_table(robot: str | Path) -> JointTable:
    """The joint table of a robot, by name or by the path of its file.

    Raises:
        ConfigError: If the file is wrong, or the firmware cannot drive the robot.
    """
    return joint_table(load_robot(robot))


def joint_table(robot: Robot) -> JointTable:
    """What the firmware holds of a robot: its limits, rounded to float32.

    Raises:
        ConfigError: If its actions are not positions of limited joints, or the firmware cannot hold a value.
    """
    where = f"robot {robot.name}"
    if robot.why_not_playable is not None:
        raise ConfigError(f"{where} cannot be driven by the firmware: {robot.why_not_playable}")
    control_hz, servo_hz = _rates(where, robot)
    joints = tuple(_joint(f"{where}, {joint.name}", joint) for joint in robot.joints)
    for joint in joints:
        _check_steps(f"{where}, {joint.name}", joint, servo_hz)
    return JointTable(robot.name, joints, control_hz, servo_hz)


def why_not_in_firmware(robot: Robot) -> str | None:
    """Why the firmware cannot drive a robot, or None where it can."""
    try:
        joint_table(robot)
    except ConfigError as error:
        return str(error)
    return None


def _rates(where: str, robot: Robot) -> tuple[int, int]:
    control_hz, servo_hz = robot.control_hz, robot.servo_hz
    for name, value, (lowest, highest) in (
        ("control_hz", control_hz, _CONTROL_RATES),
        ("servo_hz", servo_hz, _SERVO_RATES),
    ):
        if value is None or value != int(value) or not lowest <= value <= highest:
            raise ConfigError(f"{where}: {name} is {value!r}, expected a whole number from {lowest} to {highest}")
    steps = int(control_hz or 0)
    if servo_hz % steps or 1_000_000 % servo_hz:
        raise ConfigError(
            f"{where}: servo_hz is {servo_hz} at control_hz {steps}, expected whole microseconds per servo step and "
            "whole servo steps per setpoint"
        )
    return steps, servo_hz


def _check_steps(where: str, joint: Joint, servo_hz: int) -> None:
    finest = _FINEST_CHANGE * max(-joint.minimum, joint.maximum) * servo_hz**2
    if joint.acceleration < finest:
        raise ConfigError(
            f"{where}: float32 cannot hold steps of acceleration {joint.acceleration:g} at servo_hz {servo_hz}; "
            f"use at least {finest:.2g}, or fewer servo steps"
        )


def _joint(where: str, joint: robots.Joint) -> Joint:
    position = joint.position or (0.0, 0.0)
    numbers = (*position, joint.velocity, joint.acceleration, joint.home, joint.resolution)
    limits = Joint(joint.name, joint.unit, *(float32(float(number or 0.0)) for number in numbers))
    finest = max(-limits.minimum, limits.maximum) / _COUNT_LIMIT
    if limits.resolution < finest:
        raise ConfigError(
            f"{where}: resolution {limits.resolution:g} cannot express [{limits.minimum:g}, {limits.maximum:g}] "
            f"in 16 bits; use at least {finest:.2g}"
        )
    stop_s = limits.velocity / limits.acceleration
    if stop_s > _LONGEST_STOP_S:
        raise ConfigError(f"{where}: stopping takes {stop_s:.1f} s, at most {_LONGEST_STOP_S:g}; raise acceleration")
    return _with_home_on_grid(limits)


def _with_home_on_grid(joint: Joint) -> Joint:
    home = float32(round(joint.home / joint.resolution) * joint.resolution)
    home = min(max(home, joint.minimum), joint.maximum)
    return Joint(**{**joint.__dict__, "home": home})
