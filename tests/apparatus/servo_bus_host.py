"""A host of an emulated servo bus, on a time that the test sets: it asks, waits and moves faults about."""

from __future__ import annotations

import json
import math
import struct
from dataclasses import dataclass

from firmware_bridge.emulator.servo_bus import dynamixel_packets, feetech_packets
from firmware_bridge.emulator.servo_bus.bus import ServoBus
from firmware_bridge.emulator.servo_bus.control import handle_command
from firmware_bridge.emulator.servo_bus.dynamixel_packets import Instruction as Dynamixel
from firmware_bridge.emulator.servo_bus.feetech_packets import Instruction as Feetech
from firmware_bridge.emulator.servo_bus.models import DYNAMIXEL
from firmware_bridge.emulator.servo_bus.packet import PacketDecoder
from firmware_bridge.emulator.servo_bus.settings import BusSettings, ServoSettings

STEP_S = 0.001
BAUD = 1_000_000
ALL = 0xFE


@dataclass(frozen=True)
class Status:
    """What one servo said."""

    id: int
    error: int
    data: bytes

    @property
    def word(self) -> int:
        """Its data as one number."""
        return int.from_bytes(self.data, "little", signed=True)


class Host:
    """The only master of one bus."""

    def __init__(self, settings: BusSettings, baud: int = BAUD) -> None:
        self.now = 100.0
        self.baud = baud
        self.settings = settings
        self.bus = ServoBus(settings, self.now)
        self.wait(0.02)

    def wait(self, seconds: float) -> None:
        """Lets the servos be alone for a while."""
        for _ in range(round(seconds / STEP_S)):
            self.now += STEP_S
            self.bus.advance(self.now)

    def send(self, data: bytes) -> bytes:
        """Sends bytes and waits for what comes back."""
        answers = self.bus.receive(self.now, data, self.baud)
        self.now = max([self.now, *(answer.due for answer in answers)])
        return b"".join(answer.data for answer in answers)

    def ask(self, number: int, instruction: int, parameters: bytes = b"") -> list[Status]:
        """Sends one instruction; returns what servos say that can be understood."""
        if self.settings.protocol == DYNAMIXEL:
            data = self.send(dynamixel_packets.packet(number, instruction, parameters))
            decoder: PacketDecoder = dynamixel_packets.Decoder()
            return [
                Status(found.id, found.parameters[0], found.parameters[1:])
                for found in decoder.feed(data)
                if found.instruction == Dynamixel.STATUS
            ]
        data = self.send(feetech_packets.packet(number, instruction, parameters))
        return [Status(said.id, said.instruction, said.parameters) for said in feetech_packets.Decoder().feed(data)]

    def read(self, number: int, address: int, size: int) -> Status:
        """One register; fails where nobody answers."""
        (said,) = self.ask(number, Dynamixel.READ, self._place(address, size))
        return said

    def write(self, number: int, address: int, size: int, value: int) -> int:
        """Writes one register; returns the error."""
        mask = (1 << 8 * size) - 1
        place = struct.pack("<H", address) if self.settings.protocol == DYNAMIXEL else bytes((address,))
        said = self.ask(number, Dynamixel.WRITE, place + (value & mask).to_bytes(size, "little"))
        return said[0].error if said else -1

    def sync_read(
        self, numbers: list[int], address: int, size: int, instruction: int = Feetech.SYNC_READ
    ) -> list[Status]:
        """The same register of several servos."""
        return self.ask(ALL, instruction, self._place(address, size) + bytes(numbers))

    def sync_write(self, address: int, size: int, values: dict[int, int]) -> None:
        """The same register of several servos, each with a value of its own."""
        mask = (1 << 8 * size) - 1
        lines = (bytes((number,)) + (value & mask).to_bytes(size, "little") for number, value in values.items())
        assert self.ask(ALL, Dynamixel.SYNC_WRITE, self._place(address, size) + b"".join(lines)) == []

    def command(self, name: str, **arguments: object) -> dict[str, object]:
        """A command of the control."""
        line = json.dumps({"command": name, "bus": self.settings.name, **arguments}).encode()
        answer = json.loads(handle_command(line, {self.settings.name: self.bus}, self.now))
        assert "error" not in answer, answer
        return answer

    def _place(self, address: int, size: int) -> bytes:
        return struct.pack("<HH" if self.settings.protocol == DYNAMIXEL else "BB", address, size)


def one_servo(model: str, number: int = 1, **settings: object) -> Host:
    """A bus with one servo."""
    servo = ServoSettings(number, model, **settings)  # pyright: ignore[reportArgumentType]
    return Host(BusSettings("bus", (servo,)))


def radians(counts: float) -> float:
    """Of the output shaft."""
    return counts * 2.0 * math.pi / 4096.0
