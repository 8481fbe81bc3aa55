"""The joint table of a robot: the limits in its file, checked against and rounded to what the firmware can hold.

The table is compiled into the firmware, so that no host can widen a limit. Host and firmware compare `limits_hash`,
the CRC-32 of the packed table, all little endian: the number of joints (u8), setpoints and servo steps per second
(u16); for each joint minimum, maximum, velocity, acceleration, home, resolution and its guards (f32), its name and its
unit (each ended by a zero byte); the number of servos (u8), and for each its bus, ID, joint and whether it is a shadow
(u8), counts at 0, counts per unit and ampere per count (f32); of the buses the bits per second (u32), their number and
the servo steps between two readings (u8), lowest and highest volts (f32).
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass, fields
from pathlib import Path

from pi0_edge import robots
from pi0_edge.errors import ConfigError
from pi0_edge.robots import MODELS, Robot, load_robot

CONTROL_HZ = 50
SERVO_HZ = 250
_CONTROL_RATES = (10, 200)
_SERVO_RATES = (200, 1000)
_LONGEST_STOP_S = 2.0
_FINEST_CHANGE = 64 * 2.0**-24  # of the largest position; float32 resolves 2^-24 of it
_COUNT_LIMIT = 32767
_BUSIEST = 0.7  # part of a servo step that packets may take: the rest is for the longest servo interrupt of a Pico


@dataclass(frozen=True)
class Joint:
    """One joint; every number is a float32 value in the joint's unit, unit/s or unit/s^2.

    Attributes:
        resolution: How much of the unit one count of a setpoint is.
        home: Where the firmware takes a joint without encoder to be after a reset; a whole number of counts.
        following_error: Largest distance from the commanded position; 0 is no guard.
        current: Largest current, A; 0 is no guard.
        temperature: Highest temperature, degrees Celsius; 0 is no guard.
    """

    name: str
    unit: str
    minimum: float
    maximum: float
    velocity: float
    acceleration: float
    home: float
    resolution: float
    following_error: float = 0.0
    current: float = 0.0
    temperature: float = 0.0

    @property
    def numbers(self) -> dict[str, float]:
        """Its numbers by name, in the order of the packed table."""
        return {field.name: getattr(self, field.name) for field in fields(self) if field.name not in ("name", "unit")}

    def pack(self) -> bytes:
        """Return this joint's part of the packed table."""
        return struct.pack("<9f", *self.numbers.values()) + f"{self.name}\0{self.unit}\0".encode("ascii")


@dataclass(frozen=True)
class Servo:
    """One servo; every number with a fraction is a float32 value.

    Attributes:
        joint: Index of the joint that it moves.
        is_shadow: Whether it executes the commands to another servo, and is only read.
        zero: Counts where the joint is at 0.
        per_unit: Counts per unit of the joint.
        current_unit: Ampere of one count of its current; 0 where it does not measure it.
    """

    bus: int
    id: int
    joint: int
    is_shadow: bool
    zero: float
    per_unit: float
    current_unit: float

    def pack(self) -> bytes:
        """Return this servo's part of the packed table."""
        numbers = (self.zero, self.per_unit, self.current_unit)
        return struct.pack("<4B3f", self.bus, self.id, self.joint, self.is_shadow, *numbers)


@dataclass(frozen=True)
class ServoBus:
    """The buses of the servos, all alike.

    Attributes:
        protocol: Which back end drives them: the firmware is built with `ACTUATORS=` this.
        baud: Bits per second.
        buses: How many there are.
        measure_steps: Servo steps between two readings.
        lowest_volts: Lowest supply; 0 is no guard.
        highest_volts: Highest supply.
    """

    protocol: str = "simulated"
    baud: int = 0
    buses: int = 0
    measure_steps: int = 0
    lowest_volts: float = 0.0
    highest_volts: float = 0.0

    def pack(self) -> bytes:
        """Return the buses' part of the packed table; the protocol is the choice of another program, not a number."""
        numbers = (self.lowest_volts, self.highest_volts)
        return struct.pack("<I2B2f", self.baud, self.buses, self.measure_steps, *numbers)


@dataclass(frozen=True)
class JointTable:
    """All joints of one robot, in the order of its actions.

    Attributes:
        control_hz: Setpoints per second, 10 to 200.
        servo_hz: Steps per second of the motion between them, 200 to 1000, a multiple of `control_hz`.
        servos: What moves the joints, by bus and ID; empty where the robot file lists none.
        bus: Their buses.
    """

    robot: str
    joints: tuple[Joint, ...]
    control_hz: int = CONTROL_HZ
    servo_hz: int = SERVO_HZ
    servos: tuple[Servo, ...] = ()
    bus: ServoBus = ServoBus()

    @property
    def limits_hash(self) -> int:
        """CRC-32 of the packed table, as the firmware reports it in `Welcome`."""
        head = struct.pack("<BHH", len(self.joints), self.control_hz, self.servo_hz)
        joints = b"".join(joint.pack() for joint in self.joints)
        servos = b"".join(servo.pack() for servo in self.servos)
        return zlib.crc32(head + joints + struct.pack("<B", len(self.servos)) + servos + self.bus.pack())


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
    servos = tuple(_servo(robot, servo) for servo in sorted(robot.servos, key=lambda servo: (servo.bus, servo.id)))
    return JointTable(robot.name, joints, control_hz, servo_hz, servos, _bus(where, robot))


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
    guards = (joint.following_error, joint.current, joint.temperature)
    numbers = (*position, joint.velocity, joint.acceleration, joint.home, joint.resolution, *guards)
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


def _servo(robot: Robot, servo: robots.Servo) -> Servo:
    names = [joint.name for joint in robot.joints]
    index = names.index(servo.joint)
    joint = robot.joints[index]
    zero, per_unit = servo.scale(joint.unit, joint.position or (0.0, 1.0))
    unit = MODELS[servo.model].current_unit
    shadow = servo.shadow_of is not None
    return Servo(servo.bus, servo.id, index, shadow, float32(zero), float32(per_unit), float32(unit))


def _bus(where: str, robot: Robot) -> ServoBus:
    bus = robot.servo_bus
    if bus is None:
        return ServoBus()
    if robot.servo_hz % bus.measure_hz:
        raise ConfigError(
            f"{where}: measure_hz is {bus.measure_hz} at servo_hz {robot.servo_hz}, expected a divisor of it"
        )
    for number in range(1 + max(servo.bus for servo in robot.servos)):
        servos = sum(servo.bus == number for servo in robot.servos)
        busy_s, step_s = busy_time_s(bus, servos), 1.0 / robot.servo_hz
        if busy_s > _BUSIEST * step_s:
            raise ConfigError(
                f"{where}: one servo step of {1e3 * step_s:g} ms leaves room for {1e3 * _BUSIEST * step_s:.2f} ms on a "
                f"bus, and goals and positions of {servos} servos take {1e3 * busy_s:.2f} ms at {bus.baud} baud with a "
                f"return delay of {bus.return_delay_us} us; raise baud, lower servo_hz, or use a second bus"
            )
    lowest, highest = map(float32, bus.volts)
    buses = 1 + max(servo.bus for servo in robot.servos)
    return ServoBus(bus.protocol, bus.baud, buses, robot.servo_hz // bus.measure_hz, lowest, highest)


def busy_time_s(bus: robots.ServoBus, servos: int) -> float:
    """How long goals and one reading of so many servos take on a bus: ten bits a byte, and the servos' return delays.

    The bytes are those of the back ends: sync write, sync read and one status packet per servo, with 10 bytes of data
    from a Dynamixel and 15 from a Feetech.
    """
    goal, write, read, status = (5, 14, 14, 21) if bus.protocol == "dynamixel" else (3, 8, 8, 21)
    size = write + goal * servos + read + servos + status * servos
    return 10.0 * size / bus.baud + 1e-6 * bus.return_delay_us * servos
