"""The joint table of a robot: what `robots/*.yaml` says, checked and rounded to what the firmware can hold.

The table is compiled into the firmware, so that no host can widen a limit. Host and firmware compare `limits_hash`,
the CRC-32 of the packed table: the number of joints (u8), setpoints and servo steps per second (u16), then for each
joint minimum, maximum, velocity, acceleration, home and resolution (f32; all little endian), its name and its unit
(each ended by a zero byte).
"""

from __future__ import annotations

import math
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from firmware_bridge.errors import ConfigError
from pi0_edge.protos.serial_link import MAX_JOINTS

CONTROL_HZ = 50
SERVO_HZ = 250
UNITS = ("rad", "m", "ratio")
_CONTROL_RATES = (10, 200)
_SERVO_RATES = (200, 1000)
_LONGEST_STOP_S = 2.0
_FINEST_CHANGE = 64 * 2.0**-24  # of the largest position; float32 resolves 2^-24 of it
_COUNT_LIMIT = 32767
_JOINT_KEYS = {"name", "unit", "position", "velocity", "acceleration", "home", "resolution"}


@dataclass(frozen=True)
class Joint:
    """One joint; every number is a float32 value in the joint's unit, unit/s or unit/s^2.

    Attributes:
        resolution: how much of the unit one count of a setpoint is.
        home: where the firmware takes the joint to be after a reset; a whole number of counts.
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
        control_hz: setpoints per second, 10 to 200.
        servo_hz: steps per second of the motion between them, 200 to 1000, a multiple of `control_hz`.
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


def load_joint_table(path: Path) -> JointTable:
    """Read the joint table of a robot.

    Raises:
        ConfigError: the file cannot be read, or a value in it is missing, unknown or out of bounds.
    """
    try:
        raw = yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"joint table {path}: cannot be read ({error})") from error
    entries = raw.get("joints") if isinstance(raw, dict) else None
    if not isinstance(entries, list) or not 1 <= len(entries) <= MAX_JOINTS:
        raise ConfigError(f"joint table {path}: expected `joints`, a list of 1 to {MAX_JOINTS} joints")
    joints = tuple(_joint(path, index, entry) for index, entry in enumerate(entries))
    control_hz, servo_hz = raw.get("control_hz", CONTROL_HZ), raw.get("servo_hz", SERVO_HZ)
    _check_rates(path, control_hz, servo_hz)
    for joint in joints:
        _check_steps(f"joint table {path} ({joint.name})", joint, servo_hz)
    if len({joint.name for joint in joints}) != len(joints):
        raise ConfigError(f"joint table {path}: two joints share a name")
    return JointTable(str(raw.get("robot", path.stem)), joints, control_hz, servo_hz)


def _check_rates(path: Path, control_hz: Any, servo_hz: Any) -> None:
    for name, value, (lowest, highest) in (
        ("control_hz", control_hz, _CONTROL_RATES),
        ("servo_hz", servo_hz, _SERVO_RATES),
    ):
        if isinstance(value, bool) or not isinstance(value, int) or not lowest <= value <= highest:
            raise ConfigError(f"joint table {path}: {name} {value!r}, expected a whole number, {lowest} to {highest}")
    if servo_hz % control_hz or 1_000_000 % servo_hz:
        raise ConfigError(
            f"joint table {path}: servo_hz {servo_hz} at control_hz {control_hz}, expected whole microseconds per "
            "servo step and whole servo steps per setpoint"
        )


def _check_steps(where: str, joint: Joint, servo_hz: int) -> None:
    finest = _FINEST_CHANGE * max(-joint.minimum, joint.maximum) * servo_hz**2
    if joint.acceleration < finest:
        raise ConfigError(
            f"{where}: float32 cannot hold steps of acceleration {joint.acceleration:g} at servo_hz {servo_hz}; "
            f"use at least {finest:.2g}, or fewer servo steps"
        )


def _joint(path: Path, index: int, entry: Any) -> Joint:
    where = f"joint table {path}, joint {index}"
    if not isinstance(entry, dict) or set(entry) != _JOINT_KEYS:
        found = sorted(entry) if isinstance(entry, dict) else entry
        raise ConfigError(f"{where}: found {found}, expected the keys {sorted(_JOINT_KEYS)}")
    name, unit, position = str(entry["name"]), str(entry["unit"]), entry["position"]
    if not (name.isascii() and name.isidentifier()) or unit not in UNITS:
        raise ConfigError(f"{where}: name {name!r}, unit {unit!r}; expected an identifier and one of {UNITS}")
    if not isinstance(position, list) or len(position) != 2:
        raise ConfigError(f"{where} ({name}): position {position!r}, expected [minimum, maximum]")
    numbers = [*position, *(entry[key] for key in ("velocity", "acceleration", "home", "resolution"))]
    joint = Joint(name, unit, *(_number(f"{where} ({name})", value) for value in numbers))
    _check(f"{where} ({name})", joint)
    return _with_home_on_grid(joint)


def _number(where: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ConfigError(f"{where}: found {value!r} where a finite number is expected")
    return float32(value)


def _check(where: str, joint: Joint) -> None:
    if not joint.minimum < joint.maximum or not joint.minimum <= joint.home <= joint.maximum:
        raise ConfigError(
            f"{where}: position [{joint.minimum:g}, {joint.maximum:g}] with home {joint.home:g}, "
            "expected minimum < maximum and home between them"
        )
    if min(joint.velocity, joint.acceleration, joint.resolution) <= 0:
        raise ConfigError(f"{where}: velocity, acceleration and resolution must be above zero")
    finest = max(-joint.minimum, joint.maximum) / _COUNT_LIMIT
    if joint.resolution < finest:
        raise ConfigError(
            f"{where}: resolution {joint.resolution:g} cannot express [{joint.minimum:g}, {joint.maximum:g}] "
            f"in 16 bits; use at least {finest:.2g}"
        )
    stop_s = joint.velocity / joint.acceleration
    if stop_s > _LONGEST_STOP_S:
        raise ConfigError(f"{where}: stopping takes {stop_s:.1f} s, at most {_LONGEST_STOP_S:g}; raise acceleration")


def _with_home_on_grid(joint: Joint) -> Joint:
    home = float32(round(joint.home / joint.resolution) * joint.resolution)
    home = min(max(home, joint.minimum), joint.maximum)
    return Joint(**{**joint.__dict__, "home": home})
