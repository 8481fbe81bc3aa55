"""What buses there are and which servos are on them; read from a JSON or YAML document, or built in Python."""

import dataclasses
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from firmware_bridge.emulator.servo_bus.models import COUNTS, DYNAMIXEL, FEETECH, MODELS, PROTOCOLS, ServoModel
from pi0_edge.errors import ConfigError

HIGHEST_ID = {DYNAMIXEL: 252, FEETECH: 253}
FULLEST_BUS_VOLTS = 60.0
PTY, SERVER, CLIENT = "pty", "server", "client"
CONNECTIONS = (PTY, SERVER, CLIENT)


@dataclass(frozen=True)
class ServoSettings:
    """One servo as it is when the power comes on.

    Positions are counts as the servo reports them, after drive mode and homing offset.

    Attributes:
        id: Its address on the bus.
        model: A name of `models.MODELS`.
        secondary_id: Dynamixel: executes what is written to this ID too, and turns the same joint as the servo that has
            it.
        position: Where it stands at the start.
        baud: Bits per second.
        return_delay_us: Time between an instruction and its answer. The factory's value is 500 for Dynamixel; arms are
            set up with 0.
        firmware: Dynamixel: version; Feetech: minor version of 3.x. The model's where None.
        drive_mode: Dynamixel: 1 is reverse, 4 a profile by time.
        operating_mode: 3 position, 4 several turns, 5 position with limited current; Feetech 0.
        homing_offset: In counts.
        lowest: Lower limit of goals.
        highest: Upper limit of goals.
        current_limit: In units of the register; the model's where None.
        inertia: Of what it moves, in kg·m²; the model's where None. Of servos on one joint the largest counts.
        gravity_torque: Of the load when it is level, in N·m; positive pulls towards smaller counts.
        level_position: Where the load is level.
        backlash: In counts; the model's where None.
    """

    id: int
    model: str
    secondary_id: int | None = None
    position: int = COUNTS // 2
    baud: int = 1_000_000
    return_delay_us: int = 0
    firmware: int | None = None
    drive_mode: int = 0
    operating_mode: int | None = None
    homing_offset: int = 0
    lowest: int = 0
    highest: int = COUNTS - 1
    current_limit: int | None = None
    inertia: float | None = None
    gravity_torque: float = 0.0
    level_position: int = COUNTS // 2
    backlash: float | None = None

    @property
    def servo_model(self) -> ServoModel:
        """What is known of the model."""
        return MODELS[self.model]

    def mistakes(self) -> list[str]:
        """Everything that is not possible."""
        if self.model not in MODELS:
            return [f"servo {self.id}: model {self.model!r} is not known; known are {', '.join(sorted(MODELS))}"]
        found = []
        highest = HIGHEST_ID[self.servo_model.protocol]
        for name, number in (("id", self.id), ("secondary_id", self.secondary_id)):
            if number is not None and not 0 <= number <= highest:
                found.append(f"servo {self.id}: {name} is {number}, expected 0 to {highest}")
        if self.secondary_id is not None and self.servo_model.protocol != DYNAMIXEL:
            found.append(f"servo {self.id}: only Dynamixel servos have a secondary_id")
        if self.baud <= 0:
            found.append(f"servo {self.id}: baud is {self.baud}, expected a positive number")
        if not 0 <= self.return_delay_us <= 508 or self.return_delay_us % 2:
            found.append(f"servo {self.id}: return_delay_us is {self.return_delay_us}, expected an even 0 to 508")
        if self.lowest > self.highest:
            found.append(f"servo {self.id}: lowest {self.lowest} is above highest {self.highest}")
        for name in ("inertia", "backlash"):
            value = getattr(self, name)
            if value is not None and not value >= (0.0 if name == "backlash" else 1e-6):
                found.append(f"servo {self.id}: {name} is {value}, expected a positive number")
        modes = (3, 4, 5) if self.servo_model.protocol == DYNAMIXEL else (0,)
        if self.operating_mode not in (None, *modes):
            found.append(f"servo {self.id}: operating_mode is {self.operating_mode}; emulated are {modes}")
        return found


@dataclass(frozen=True)
class BusSettings:
    """One bus: its servos, how the other end is connected, and its supply.

    Attributes:
        name: How the control names it.
        servos: In any order; all of one protocol.
        connection: `pty`: a pseudo-terminal, whose path the process says; `server` or `client`: a UNIX socket.
        socket: Path of that socket.
        baud: Bits per second of the other end of a socket; a pseudo-terminal has a speed of its own.
        echo: Whether the other end receives its own bytes, as on a single wire.
        volts: Of the supply without load; the nominal voltage of the first servo where None.
        supply_ohms: Of the supply and its wires. 5 A pull the voltage down by 0.5 V with the default, which is chosen.
        seed: Of the injected faults.
    """

    name: str
    servos: tuple[ServoSettings, ...]
    connection: str = PTY
    socket: str | None = None
    baud: int = 1_000_000
    echo: bool = False
    volts: float | None = None
    supply_ohms: float = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        if found := self._mistakes():
            raise ConfigError(f"servo bus {self.name!r}: {'; '.join(found)}")

    @property
    def protocol(self) -> str:
        """`dynamixel` or `feetech`."""
        return self.servos[0].servo_model.protocol

    @property
    def open_volts(self) -> float:
        """Of the supply without load."""
        return self.servos[0].servo_model.volts if self.volts is None else self.volts

    def _mistakes(self) -> list[str]:
        if not self.servos:
            return ["it has no servos"]
        if found := [mistake for servo in self.servos for mistake in servo.mistakes()]:
            return found
        ids = [servo.id for servo in self.servos]
        if doubled := sorted({number for number in ids if ids.count(number) > 1}):
            found.append(f"IDs {doubled} occur twice; to emulate that, inject the fault duplicate_id")
        if len({servo.servo_model.protocol for servo in self.servos}) > 1:
            found.append(f"its servos speak several protocols; a bus has one of {', '.join(PROTOCOLS)}")
        chained = [servo.id for servo in self.servos if servo.secondary_id is not None and self._shadows(servo)]
        if chained:
            found.append(f"servos {chained} are shadows of shadows")
        if self.connection not in CONNECTIONS:
            found.append(f"connection is {self.connection!r}, expected one of {', '.join(CONNECTIONS)}")
        elif (self.connection == PTY) != (self.socket is None):
            found.append(f"connection {self.connection} with socket {self.socket!r}; only a socket has a path")
        if not 0.0 <= self.open_volts <= FULLEST_BUS_VOLTS or not self.supply_ohms >= 0.0:
            found.append(f"supply of {self.open_volts} V and {self.supply_ohms} ohm")
        return found

    def _shadows(self, servo: ServoSettings) -> bool:
        return any(other.id == servo.secondary_id and other.secondary_id is not None for other in self.servos)


@dataclass(frozen=True)
class ListedServo:
    """One line of a plain list of servos.

    Attributes:
        bus: Name of its bus.
        id: Its address.
        secondary_id: Of a shadow: the ID of the servo that it follows.
        position: Where it stands at the start, in counts as it reports them.
        protocol: `dynamixel` or `feetech`.
        model: A name of `models.MODELS`.
    """

    bus: str
    id: int
    secondary_id: int | None
    position: int
    protocol: str
    model: str


def buses_of(servos: Iterable[ListedServo], baud: int = 1_000_000) -> list[BusSettings]:
    """The buses of a plain list of servos, in the order in which they occur, each on a pseudo-terminal.

    `dataclasses.replace` gives one of them another connection.

    Args:
        servos: Of all buses.
        baud: Bits per second of all servos, and of the other end where that is a socket.

    Raises:
        ConfigError: A model that is not known or speaks another protocol, or whatever `BusSettings` refuses.
    """
    found: dict[str, list[ServoSettings]] = {}
    for servo in servos:
        model = MODELS.get(servo.model)
        if model is not None and model.protocol != servo.protocol:
            raise ConfigError(
                f"servo {servo.id} of bus {servo.bus!r}: {servo.model} speaks {model.protocol}, not {servo.protocol}"
            )
        one = ServoSettings(servo.id, servo.model, secondary_id=servo.secondary_id, position=servo.position, baud=baud)
        found.setdefault(servo.bus, []).append(one)
    return [BusSettings(name, tuple(members), baud=baud) for name, members in found.items()]


def load_buses(path: Path) -> list[BusSettings]:
    """Reads the buses of a JSON or YAML document: `buses`, a list with the fields of `BusSettings`.

    Raises:
        ConfigError: The document cannot be read or something in it is not possible.
    """
    try:
        text = path.read_text()
        content = json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise ConfigError(f"the servo buses {path} cannot be read: {error}") from error
    if not isinstance(content, Mapping) or not isinstance(content.get("buses"), list):
        raise ConfigError(f"the servo buses {path} need a list `buses`")
    return parse_buses(content["buses"])


def parse_buses(buses: Iterable[Mapping[str, Any]]) -> list[BusSettings]:
    """Buses from mappings with the fields of `BusSettings`.

    Raises:
        ConfigError: A field is not known, missing or not possible, or two buses have one name.
    """
    parsed = []
    for bus in buses:
        fields = dict(_checked(bus, BusSettings, "a servo bus"))
        origin = f"a servo of bus {fields['name']!r}"
        fields["servos"] = tuple(ServoSettings(**_checked(servo, ServoSettings, origin)) for servo in fields["servos"])
        parsed.append(BusSettings(**fields))
    names = [bus.name for bus in parsed]
    if len(set(names)) < len(names):
        raise ConfigError(f"servo buses need different names; found {names}")
    return parsed


def _checked(given: object, kind: type[Any], origin: str) -> Mapping[str, Any]:
    if not isinstance(given, Mapping):
        raise ConfigError(f"{origin} is {given!r}, expected a mapping")
    known = {item.name: item for item in dataclasses.fields(kind)}
    if unknown := sorted(set(given) - set(known)):
        raise ConfigError(f"{origin} has no {', '.join(unknown)}; it has {', '.join(known)}")
    for name, item in known.items():
        if name not in given and item.default is dataclasses.MISSING:
            raise ConfigError(f"{origin} needs {name}")
        if name in given and not _fits(given[name], item.type):
            expected = str(item.type).removeprefix("<class '").removesuffix("'>")
            raise ConfigError(f"{origin}: {name} is {given[name]!r}, expected {expected}")
    return given


def _fits(value: object, kind: Any) -> bool:
    """Whether a value of a document can be a field: of its type, or a whole number where a float is expected."""
    if kind == tuple[ServoSettings, ...]:
        return isinstance(value, list | tuple)
    if isinstance(value, bool):
        return kind is bool
    return isinstance(value, kind) or (isinstance(value, int) and kind in (float, float | None))
