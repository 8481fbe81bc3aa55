"""What the host says to servos that it only reads, and what they answer, in both vendors' formats.

Dynamixel protocol 2.0 (ROBOTIS e-manual)::

    FF FF FD 00 | id | length (2) | instruction | parameters | CRC-16 (2)

Feetech STS (Feetech's protocol manual)::

    FF FF | id | length | instruction or error | parameters | inverted sum

Little endian. An answer of a Dynamixel has instruction 55h and its error as first parameter.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import NamedTuple, Protocol

_BROADCAST = 0xFE
_WRITE, _SYNC_READ, _STATUS = 0x03, 0x82, 0x55


class Answer(NamedTuple):
    """What one servo said.

    Attributes:
        id: Of the servo.
        data: The registers that were asked for; empty after a write.
    """

    id: int
    data: bytes


class ServoPackets(Protocol):
    """The packets of one vendor."""

    def torque_off(self, number: int) -> bytes:
        """Takes the torque off a servo, which answers without data."""
        ...

    def ask_positions(self, numbers: Sequence[int]) -> bytes:
        """Asks several servos for their positions, one answer each."""
        ...

    def position(self, answer: Answer) -> int | None:
        """Counts in an answer; None where it holds no position."""
        ...

    def answers(self, waiting: bytearray) -> list[Answer]:
        """Takes all whole answers out of what has arrived; what is no answer is dropped."""
        ...


class DynamixelPackets:
    """Dynamixel X: register 64 is the torque, 132 the position (4 bytes)."""

    _HEADER = b"\xff\xff\xfd\x00"
    _PLAIN, _STUFFED = b"\xff\xff\xfd", b"\xff\xff\xfd\xfd"

    def torque_off(self, number: int) -> bytes:
        """See `ServoPackets`."""
        return self._packet(number, _WRITE, struct.pack("<HB", 64, 0))

    def ask_positions(self, numbers: Sequence[int]) -> bytes:
        """See `ServoPackets`."""
        return self._packet(_BROADCAST, _SYNC_READ, struct.pack("<HH", 132, 4) + bytes(numbers))

    def position(self, answer: Answer) -> int | None:
        """See `ServoPackets`."""
        return int.from_bytes(answer.data, "little", signed=True) if len(answer.data) == 4 else None

    def answers(self, waiting: bytearray) -> list[Answer]:
        """See `ServoPackets`."""
        found = []
        while (at := waiting.find(self._HEADER)) >= 0:
            del waiting[:at]
            if len(waiting) < 7:
                break
            end = 7 + int.from_bytes(waiting[5:7], "little")
            if not 11 <= end <= 256:
                del waiting[:4]
                continue
            if len(waiting) < end:
                break
            whole = bytes(waiting[:end])
            if _crc16(whole[:-2]) != int.from_bytes(whole[-2:], "little"):
                del waiting[:4]
                continue
            del waiting[:end]
            if whole[7] == _STATUS:
                body = whole[7:-2].replace(self._STUFFED, self._PLAIN)
                found.append(Answer(whole[4], body[2:]))
        return found

    def _packet(self, number: int, instruction: int, parameters: bytes) -> bytes:
        body = (bytes((instruction,)) + parameters).replace(self._PLAIN, self._STUFFED)
        start = self._HEADER + struct.pack("<BH", number, len(body) + 2) + body
        return start + struct.pack("<H", _crc16(start))


class FeetechPackets:
    """Feetech STS: register 40 is the torque, 56 the position (2 bytes, bit 15 is the sign)."""

    _HEADER = b"\xff\xff"

    def torque_off(self, number: int) -> bytes:
        """See `ServoPackets`."""
        return self._packet(number, _WRITE, bytes((40, 0)))

    def ask_positions(self, numbers: Sequence[int]) -> bytes:
        """See `ServoPackets`."""
        return self._packet(_BROADCAST, _SYNC_READ, bytes((56, 2, *numbers)))

    def position(self, answer: Answer) -> int | None:
        """See `ServoPackets`."""
        if len(answer.data) != 2:
            return None
        word = int.from_bytes(answer.data, "little")
        return -(word & 0x7FFF) if word & 0x8000 else word

    def answers(self, waiting: bytearray) -> list[Answer]:
        """See `ServoPackets`."""
        found = []
        while (at := waiting.find(self._HEADER)) >= 0:
            del waiting[:at]
            if len(waiting) < 4:
                break
            end = 4 + waiting[3]
            if waiting[2] == 0xFF or end < 6:
                del waiting[0]
                continue
            if len(waiting) < end:
                break
            whole = bytes(waiting[:end])
            if ~sum(whole[2:-1]) & 0xFF != whole[-1]:
                del waiting[0]
                continue
            del waiting[:end]
            found.append(Answer(whole[2], whole[5:-1]))
        return found

    def _packet(self, number: int, instruction: int, parameters: bytes) -> bytes:
        body = bytes((number, len(parameters) + 2, instruction)) + parameters
        return self._HEADER + body + bytes((~sum(body) & 0xFF,))


PACKETS: dict[str, type[DynamixelPackets] | type[FeetechPackets]] = {
    "dynamixel": DynamixelPackets,
    "feetech": FeetechPackets,
}
"""By the protocol of a robot file."""


def _crc16(data: bytes) -> int:
    """Polynomial 8005h from 0, most significant bit first."""
    crc = 0
    for byte in data:
        crc ^= byte << 8
        for _ in range(8):
            crc = (crc << 1 ^ 0x8005 if crc & 0x8000 else crc << 1) & 0xFFFF
    return crc
