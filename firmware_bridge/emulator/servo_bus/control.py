"""Commands to running servo buses: one JSON object per line over a UNIX socket, each answered by one line.

`{"command": NAME, ...}` with the names and arguments of the methods of `ServoBusControl`. The answer is the state of
all buses for `state`, an empty object for everything else, or `error`.
"""

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from firmware_bridge.emulator.control_socket import request
from firmware_bridge.emulator.servo_bus.bus import ServoBus
from firmware_bridge.emulator.servo_bus.servo import Servo
from pi0_edge.errors import ConfigError


def handle_command(line: bytes, buses: Mapping[str, ServoBus], now: float) -> bytes:
    """Carries out one command; returns the line that answers it."""
    try:
        answer = _carry_out(json.loads(line), buses, now)
    except (ValueError, TypeError, AttributeError, KeyError, ConfigError) as error:
        said = f"it needs {error}" if isinstance(error, KeyError) else str(error)
        return json.dumps({"error": said}).encode() + b"\n"
    return json.dumps(answer).encode() + b"\n"


def _carry_out(command: dict[str, Any], buses: Mapping[str, ServoBus], now: float) -> dict[str, Any]:
    for bus in buses.values():
        bus.advance(now)
    name = command["command"]
    if name == "state":
        return {name: bus.state() for name, bus in buses.items()}
    if name not in _ON_A_BUS and name not in _ON_A_SERVO:
        raise ConfigError(f"command {name!r} is not known; known are {', '.join(('state', *_ON_A_BUS, *_ON_A_SERVO))}")
    if command["bus"] not in buses:
        raise ConfigError(f"bus {command['bus']!r} is not known; known are {', '.join(buses)}")
    bus = buses[command["bus"]]
    if name in _ON_A_BUS:
        _ON_A_BUS[name](bus, command, now)
    else:
        servo = bus.servo(int(command["servo"]))
        _ON_A_SERVO[name](servo, command)
        servo.joint.wake()
    return {}


def _rates(command: Mapping[str, Any], bus: ServoBus) -> dict[int, float]:
    rate = float(command["rate"])
    if not 0.0 <= rate <= 1.0:
        raise ConfigError(f"rate is {rate}, expected a probability from 0 to 1")
    chosen = bus.servos if command.get("servo") is None else [bus.servo(int(command["servo"])).settings.id]
    return {bus.servos[number].id: rate for number in chosen}


def _set_rates(rates: dict[int, float], bus: ServoBus, command: Mapping[str, Any]) -> None:
    rates.update(_rates(command, bus))
    for number in [number for number, rate in rates.items() if rate == 0.0]:
        del rates[number]


def _drop_replies(bus: ServoBus, command: Mapping[str, Any], now: float) -> None:
    _set_rates(bus.faults.drop_rates, bus, command)


def _corrupt_replies(bus: ServoBus, command: Mapping[str, Any], now: float) -> None:
    _set_rates(bus.faults.corrupt_rates, bus, command)


def _duplicate_id(bus: ServoBus, command: Mapping[str, Any], now: float) -> None:
    number = bus.servo(int(command["servo"])).id
    (bus.faults.doubled.add if command["present"] else bus.faults.doubled.discard)(number)


def _supply(bus: ServoBus, command: Mapping[str, Any], now: float) -> None:
    seconds = command.get("seconds")
    bus.supply.force(_finite(command, "volts"), math.inf if seconds is None else now + float(seconds))


def _connect(servo: Servo, command: Mapping[str, Any]) -> None:
    servo.connected = bool(command["connected"])


def _obstacle(servo: Servo, command: Mapping[str, Any]) -> None:
    joint = servo.joint
    joint.lowest, joint.highest = -math.inf, math.inf
    if command.get("counts") is not None:
        place = servo.joint_position(_finite(command, "counts"))
        if place >= joint.output:
            joint.highest = place
        else:
            joint.lowest = place


def _temperature(servo: Servo, command: Mapping[str, Any]) -> None:
    servo.temperature = _finite(command, "celsius")


def _overload(servo: Servo, command: Mapping[str, Any]) -> None:
    servo.trip_overload()


def _lose_torque(servo: Servo, command: Mapping[str, Any]) -> None:
    servo.set_torque(False)


def _push(servo: Servo, command: Mapping[str, Any]) -> None:
    servo.joint.load = replace(servo.joint.load, push=_finite(command, "torque"))


def _move_by_hand(servo: Servo, command: Mapping[str, Any]) -> None:
    if any(motor.torque_on for motor in servo.joint.motors):
        raise ConfigError(f"servo {servo.id} holds its joint; switch its torque off before you move it by hand")
    servo.joint.place(servo.joint_position(_finite(command, "counts")))


def _finite(command: Mapping[str, Any], name: str) -> float:
    value = float(command[name])
    if not math.isfinite(value):
        raise ConfigError(f"{name} is {value}, expected a finite number")
    return value


_ON_A_BUS: dict[str, Callable[[ServoBus, Mapping[str, Any], float], None]] = {
    "drop_replies": _drop_replies,
    "corrupt_replies": _corrupt_replies,
    "duplicate_id": _duplicate_id,
    "supply": _supply,
}
_ON_A_SERVO: dict[str, Callable[[Servo, Mapping[str, Any]], None]] = {
    "connect": _connect,
    "obstacle": _obstacle,
    "temperature": _temperature,
    "overload": _overload,
    "lose_torque": _lose_torque,
    "push": _push,
    "move_by_hand": _move_by_hand,
}


class ServoBusControl:
    """Injects faults into running servo buses and asks for their state.

    Servos are named by their bus and the ID that they had at the start; positions are counts as the servo reports them.
    Every method raises `EmulatorError` where the process refuses the command or is gone.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def state(self) -> dict[str, Any]:
        """By bus: `volts`, `amperes`, `counters` and `servos`, by ID as text; see `ServoBus.state`."""
        return self._command("state")

    def drop_replies(self, bus: str, rate: float, servo: int | None = None) -> None:
        """Loses replies with a probability, of one servo or of all; 0 ends it."""
        self._command("drop_replies", bus=bus, rate=rate, servo=servo)

    def corrupt_replies(self, bus: str, rate: float, servo: int | None = None) -> None:
        """Flips one bit of a reply with a probability, of one servo or of all; 0 ends it."""
        self._command("corrupt_replies", bus=bus, rate=rate, servo=servo)

    def duplicate_id(self, bus: str, servo: int, present: bool = True) -> None:
        """A second servo has the same ID: both answer at once, and what arrives is neither's answer."""
        self._command("duplicate_id", bus=bus, servo=servo, present=present)

    def supply(self, bus: str, volts: float, seconds: float | None = None) -> None:
        """Changes the voltage of the supply, for some seconds or until the next call.

        Below 0.6 of its lower voltage limit a servo loses power, and starts anew when the voltage is back.
        """
        self._command("supply", bus=bus, volts=volts, seconds=seconds)

    def connect(self, bus: str, servo: int, connected: bool) -> None:
        """Pulls the plug of one servo, or puts it in: without it the servo hears nothing, says nothing, and holds."""
        self._command("connect", bus=bus, servo=servo, connected=connected)

    def obstacle(self, bus: str, servo: int, counts: float | None) -> None:
        """The joint cannot pass a position, seen from where it is; None takes the obstacle away."""
        self._command("obstacle", bus=bus, servo=servo, counts=counts)

    def temperature(self, bus: str, servo: int, celsius: float) -> None:
        """Makes a servo so hot; it cools from there."""
        self._command("temperature", bus=bus, servo=servo, celsius=celsius)

    def overload(self, bus: str, servo: int) -> None:
        """What an overload of long duration does: Dynamixel shuts down, Feetech falls to its protective torque."""
        self._command("overload", bus=bus, servo=servo)

    def lose_torque(self, bus: str, servo: int) -> None:
        """Switches the torque of a servo off without a word."""
        self._command("lose_torque", bus=bus, servo=servo)

    def push(self, bus: str, servo: int, torque: float) -> None:
        """Pulls at a joint with so many N·m, positive towards larger counts; 0 ends it."""
        self._command("push", bus=bus, servo=servo, torque=torque)

    def move_by_hand(self, bus: str, servo: int, counts: float) -> None:
        """Puts a joint without torque somewhere."""
        self._command("move_by_hand", bus=bus, servo=servo, counts=counts)

    def _command(self, name: str, **arguments: Any) -> dict[str, Any]:
        return request(self._path, {"command": name, **arguments}, "the servo buses")
