"""The servos that move the joints of a robot: which bus, which ID, and how their counts are positions of a joint.

Joints and servos are two lists. Each joint has one servo that is commanded, and may have shadows: further servos on the
same axis, which execute its commands through their secondary ID (Dynamixel) and are only read. In a robot file::

    servo_bus: {protocol: dynamixel, baud: 1000000, measure_hz: 250, volts: [10.5, 14.0]}
    servos:
      - {joint: shoulder, id: 2, model: XM540-W270, zero: 2048, direction: 1}
      - {joint: shoulder, id: 3, model: XM540-W270, zero: 2048, direction: 1, shadow_of: 2}
      - {joint: gripper, id: 9, model: XM430-W350, counts: [1643, 3020]}

A joint in rad has `zero`, the counts where it is at 0, and `direction`, 1 or -1; any other joint has `counts`, those at
its two position limits. `bus` counts the buses from 0 and may be left out. `measure_hz` says how often positions are
read, `volts` between which voltages the arm may run, and `return_delay_us` how long a servo waits before it answers
(register 9 of a Dynamixel, 7 of a Feetech, in 2 us; set it to 0).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

PROTOCOLS = ("dynamixel", "feetech")
BAUDS = {
    "dynamixel": (57_600, 115_200, 1_000_000, 2_000_000, 3_000_000, 4_000_000),
    "feetech": (38_400, 57_600, 76_800, 115_200, 128_000, 250_000, 500_000, 1_000_000),
}
"""Bits per second that the servos of a protocol can be set to."""

MOST_BUSES = 2
MOST_SERVOS = 32
"""On one bus: the packets of the firmware have no room for more."""
COUNTS_PER_TURN = 4096
_HIGHEST_ID = {"dynamixel": 252, "feetech": 253}


@dataclass(frozen=True)
class ServoModel:
    """What one kind of servo is.

    Attributes:
        protocol: That it speaks.
        current_unit: Ampere of one count of its register of the present current; 0 where it has none and measures the
            load in percent instead.
        number: Model number that it answers to a ping.
    """

    protocol: str
    current_unit: float
    number: int


MODELS = {
    "XM430-W350": ServoModel("dynamixel", 2.69e-3, 1020),
    "XM540-W270": ServoModel("dynamixel", 2.69e-3, 1120),
    "XL330-M288": ServoModel("dynamixel", 1.0e-3, 1200),
    "XL430-W250": ServoModel("dynamixel", 0.0, 1060),
    "XC430-W150": ServoModel("dynamixel", 0.0, 1070),
    "STS3215": ServoModel("feetech", 6.5e-3, 777),
    "STS3250": ServoModel("feetech", 6.5e-3, 2825),
}
"""Models by name; numbers of the vendors' control tables (ROBOTIS: registers 0, 126; Feetech: registers 3, 69)."""


@dataclass(frozen=True)
class ServoBus:
    """The buses of a robot's servos, all alike.

    Attributes:
        protocol: One of `PROTOCOLS`.
        baud: Bits per second.
        measure_hz: How often the position of every servo is read.
        volts: Lowest and highest supply with which the arm may run.
        return_delay_us: How long a servo waits before it answers.
    """

    protocol: str
    baud: int
    measure_hz: int
    volts: tuple[float, float]
    return_delay_us: int = 0

    def mistakes(self) -> Iterator[str]:
        """What is wrong with it, each in words."""
        if self.protocol not in PROTOCOLS:
            yield f"protocol is {self.protocol!r}, expected one of {', '.join(PROTOCOLS)}"
        elif self.baud not in BAUDS[self.protocol]:
            yield f"baud is {self.baud!r}, expected one of {', '.join(map(str, BAUDS[self.protocol]))}"
        if not _is_whole(self.measure_hz) or self.measure_hz < 1:
            yield f"measure_hz is {self.measure_hz!r}, expected a whole number of readings per second"
        if not _is_volts(self.volts):
            yield f"volts is {self.volts!r}, expected [lowest, highest] with 0 < lowest < highest"
        if not _is_whole(self.return_delay_us) or not 0 <= self.return_delay_us <= 508:
            yield f"return_delay_us is {self.return_delay_us!r}, expected 0 to 508"


@dataclass(frozen=True)
class Servo:
    """One servo.

    Attributes:
        joint: The joint that it moves.
        id: On its bus.
        model: One of `MODELS`.
        bus: Number of its bus.
        zero: Counts where a joint in rad is at 0.
        direction: 1 where counts grow with the joint's angle, otherwise -1.
        counts: Those at the two position limits of a joint in another unit.
        shadow_of: ID of the servo whose commands it executes; it is only read.
    """

    joint: str
    id: int
    model: str
    bus: int = 0
    zero: float | None = None
    direction: int | None = None
    counts: tuple[float, float] | None = None
    shadow_of: int | None = None

    def scale(self, unit: str, position: tuple[float, float]) -> tuple[float, float]:
        """Counts at 0 and counts per unit, of a joint with this unit and these position limits."""
        if unit == "rad":
            return float(self.zero or 0.0), float(self.direction or 1) * COUNTS_PER_TURN / math.tau
        lowest, highest = self.counts or (0.0, 0.0)
        per_unit = (highest - lowest) / (position[1] - position[0])
        return lowest - per_unit * position[0], per_unit

    def mistakes(self, unit: str | None, protocol: str) -> Iterator[str]:
        """What is wrong with it on a bus with this protocol, each in words; `unit` is its joint's, None without one."""
        if unit is None:
            yield f"joint is {self.joint!r}, which the robot does not have"
        model = MODELS.get(self.model)
        if model is None or model.protocol != protocol:
            known = [name for name, kind in MODELS.items() if kind.protocol == protocol]
            yield f"model is {self.model!r}, expected one of {', '.join(known)} on a {protocol} bus"
        highest = _HIGHEST_ID.get(protocol, 252)
        for name, value, most in (("id", self.id, highest), ("bus", self.bus, MOST_BUSES - 1)):
            if not _is_whole(value) or not 0 <= value <= most:
                yield f"{name} is {value!r}, expected 0 to {most}"
        if self.shadow_of is not None and (protocol != "dynamixel" or not _is_whole(self.shadow_of)):
            yield f"shadow_of is {self.shadow_of!r}, expected the ID of a Dynamixel on the same bus"
        if unit == "rad":
            yield from self._mistakes_of_angle()
        elif unit is not None and not _is_counts(self.counts):
            yield f"counts is {self.counts!r}, expected those at both position limits, two numbers from 0 to 4095"

    def _mistakes_of_angle(self) -> Iterator[str]:
        if not _is_number(self.zero):
            yield f"zero is {self.zero!r}, expected the counts where the joint is at 0"
        if self.direction not in (1, -1):
            yield f"direction is {self.direction!r}, expected 1 or -1"
        if self.counts is not None:
            yield "gives counts, which a joint in rad does not have: it has zero and direction"


def mistakes_in_servos(bus: ServoBus | None, servos: Sequence[Servo], units: dict[str, str]) -> Iterator[str]:
    """What is wrong with the servos of a robot whose joints have these `units`, each in words."""
    if bus is None:
        if servos:
            yield "servos are listed without servo_bus"
        return
    yield from (f"servo_bus: {mistake}" for mistake in bus.mistakes())
    if not servos:
        yield "servo_bus is given, but no servos"
    for number in range(MOST_BUSES):
        if (count := sum(servo.bus == number for servo in servos)) > MOST_SERVOS:
            yield f"servos: {count} are listed on bus {number}, at most {MOST_SERVOS} fit into the firmware's packets"
    for index, servo in enumerate(servos):
        found = servo.mistakes(units.get(servo.joint), bus.protocol)
        yield from (f"servos[{index}] ({servo.joint}, ID {servo.id}): {mistake}" for mistake in found)
    yield from _contradictions(servos, units)


def _contradictions(servos: Sequence[Servo], units: dict[str, str]) -> Iterator[str]:
    places = [(servo.bus, servo.id) for servo in servos]
    for bus, number in sorted({place for place in places if places.count(place) > 1}, key=str):
        yield f"servos: ID {number} occurs {places.count((bus, number))} times on bus {bus}, expected once"
    commanded = [servo.joint for servo in servos if servo.shadow_of is None]
    for joint in units:
        if (found := commanded.count(joint)) != 1:
            yield f"servos: {found} servos are commanded for {joint}, expected 1 (others of the joint are shadows)"
    leaders = {(servo.bus, servo.id): servo.joint for servo in servos if servo.shadow_of is None}
    for servo in servos:
        if servo.shadow_of is not None and leaders.get((servo.bus, servo.shadow_of)) != servo.joint:
            yield (
                f"servos: ID {servo.id} is the shadow of ID {servo.shadow_of}, which is no commanded servo of "
                f"{servo.joint} on bus {servo.bus}"
            )


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _is_volts(volts: object) -> bool:
    pair = isinstance(volts, tuple) and len(volts) == 2 and all(map(_is_number, volts))
    return pair and 0 < volts[0] < volts[1]  # pyright: ignore[reportIndexIssue]


def _is_counts(counts: object) -> bool:
    if not isinstance(counts, tuple) or len(counts) != 2 or not all(map(_is_number, counts)):
        return False
    return counts[0] != counts[1] and all(0 <= count < COUNTS_PER_TURN for count in counts)
