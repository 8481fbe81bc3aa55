"""Packets of Dynamixel protocol 2.0: checksum, encoding, and a decoder of instructions.

    FF FF FD 00 | id | length (2) | instruction | parameters | CRC-16 (2)

Little endian; the length counts from the instruction to the CRC. The CRC (polynomial 8005h, from 0, most significant
bit first) covers everything before it. Where FF FF FD occurs from the instruction on, another FD follows it.
"""

import struct
from array import array
from enum import IntEnum

from firmware_bridge.emulator.servo_bus.packet import Packet, PacketDecoder

HEADER = b"\xff\xff\xfd\x00"
BROADCAST = 0xFE
LONGEST = 1024
"""Bytes of a packet that a servo takes; what claims to be longer is no packet."""

_BEFORE_LENGTH_COUNTS = 7
_SHORTEST_LENGTH = 3
_PLAIN, _STUFFED = b"\xff\xff\xfd", b"\xff\xff\xfd\xfd"


class Instruction(IntEnum):
    """What a host can ask for."""

    PING = 0x01
    READ = 0x02
    WRITE = 0x03
    REG_WRITE = 0x04
    ACTION = 0x05
    REBOOT = 0x08
    STATUS = 0x55
    SYNC_READ = 0x82
    SYNC_WRITE = 0x83
    FAST_SYNC_READ = 0x8A


class ErrorNumber(IntEnum):
    """Why a servo refuses."""

    NONE = 0
    RESULT = 1
    INSTRUCTION = 2
    CRC = 3
    RANGE = 4
    LENGTH = 5
    LIMIT = 6
    ACCESS = 7


ALERT = 0x80
"""Bit of a status: the servo has a hardware error."""


def _crc_of_byte(byte: int) -> int:
    remainder = byte << 8
    for _ in range(8):
        remainder = (remainder << 1) ^ (0x18005 if remainder & 0x8000 else 0)
    return remainder


_CRC_OF_BYTE = array("H", map(_crc_of_byte, range(256)))
_CRC_OF_WORD = array(
    "H",
    [
        ((crc & 0xFF) << 8) ^ _CRC_OF_BYTE[(crc >> 8) ^ low]
        for crc in (_CRC_OF_BYTE[high] for high in range(256))
        for low in range(256)
    ],
)


def crc16(data: bytes | bytearray, crc: int = 0) -> int:
    """The CRC of some bytes, continued from the one of the bytes before them; two bytes at a time."""
    even = len(data) & ~1
    for word in struct.unpack_from(f">{even // 2}H", data):
        crc = _CRC_OF_WORD[crc ^ word]
    if len(data) > even:
        crc = ((crc & 0xFF) << 8) ^ _CRC_OF_BYTE[(crc >> 8) ^ data[even]]
    return crc


def packet(number: int, instruction: int, parameters: bytes) -> bytes:
    """A whole packet."""
    body = bytes((instruction,)) + parameters
    if _PLAIN in body:
        body = body.replace(_PLAIN, _STUFFED)
    start = HEADER + struct.pack("<BH", number, len(body) + 2) + body
    return start + struct.pack("<H", crc16(start))


def status(number: int, error: int, data: bytes = b"") -> bytes:
    """The answer of a servo."""
    return packet(number, Instruction.STATUS, bytes((error,)) + data)


LENGTH_LIMIT = 0xFFFF
"""Largest number in the length field of a packet."""


def fast_status_length(servos: int, size: int) -> int:
    """What stands in the length field of the answer of so many servos with so many bytes each."""
    return 1 + servos * (size + 4)


def fast_status(parts: list[tuple[int, int, bytes]]) -> list[bytes]:
    """The answer to a fast sync read, in the pieces that the servos send one after the other; never stuffed.

    Args:
        parts: ID, error and data of each servo; data of the same size.
    """
    length = fast_status_length(len(parts), len(parts[0][2]) if parts else 0)
    lead = HEADER + struct.pack("<BHB", BROADCAST, length, Instruction.STATUS)
    pieces, crc = [], 0
    for number, error, data in parts:
        piece = lead + bytes((error, number)) + data
        crc = crc16(piece, crc)
        end = struct.pack("<H", crc)
        crc = crc16(end, crc)  # the next CRC covers this one too
        pieces.append(piece + end)
        lead = b""
    return pieces


class Decoder(PacketDecoder):
    """Finds instructions."""

    def feed(self, data: bytes) -> list[Packet]:
        """The packets that these bytes complete."""
        waiting = self._bytes
        waiting += data
        found = []
        while True:
            at = waiting.find(HEADER)
            if at < 0:
                del waiting[: len(waiting) - _started_header(waiting)]
                return found
            del waiting[:at]
            if len(waiting) < _BEFORE_LENGTH_COUNTS:
                return found
            length = waiting[5] | waiting[6] << 8
            end = _BEFORE_LENGTH_COUNTS + length
            if length < _SHORTEST_LENGTH or end > LONGEST:
                self.bad += 1
                del waiting[: len(HEADER)]
                continue
            if len(waiting) < end:
                return found
            whole = bytes(waiting[: end - 2])
            if crc16(whole) != waiting[end - 2] | waiting[end - 1] << 8:
                self.bad += 1
                del waiting[: len(HEADER)]
                continue
            parameters = whole[8:]
            if _STUFFED in whole:
                parameters = whole[7:].replace(_STUFFED, _PLAIN)[1:]
            found.append(Packet(whole[4], whole[7], parameters, end))
            del waiting[:end]


def _started_header(waiting: bytearray) -> int:
    """How many bytes at the end may be the start of a header."""
    for size in (3, 2, 1):
        if waiting.endswith(HEADER[:size]):
            return size
    return 0
