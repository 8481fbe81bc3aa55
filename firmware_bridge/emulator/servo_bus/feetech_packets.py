"""Packets of Feetech STS servos: encoding, and a decoder of instructions.

    FF FF | id | length | instruction or error | parameters | checksum

The length counts from the instruction to the checksum, which is the inverted sum of everything from the ID on. Nothing
is stuffed: FF FF may occur within a packet, so that only ID, length and checksum together make one. Words are little
endian. Signed words have a magnitude and a sign bit, whose place differs from register to register.
"""

from enum import IntEnum

from firmware_bridge.emulator.servo_bus.packet import Packet, PacketDecoder

HEADER = b"\xff\xff"
BROADCAST = 0xFE
LONGEST = 250
"""Largest length byte that a servo takes."""

_SHORTEST_LENGTH = 2


class Instruction(IntEnum):
    """What a host can ask for."""

    PING = 0x01
    READ = 0x02
    WRITE = 0x03
    REG_WRITE = 0x04
    ACTION = 0x05
    REBOOT = 0x08
    CALIBRATE_OFFSET = 0x0B
    SYNC_READ = 0x82
    SYNC_WRITE = 0x83


class ErrorBit(IntEnum):
    """Bits of the error byte, which is register 65 too."""

    VOLTAGE = 0x01
    ENCODER = 0x02
    TEMPERATURE = 0x04
    CURRENT = 0x08
    OVERLOAD = 0x20


def checksum(data: bytes) -> int:
    """Of everything between header and checksum."""
    return ~sum(data) & 0xFF


def packet(number: int, instruction: int, parameters: bytes = b"") -> bytes:
    """A whole packet; an answer has the error in place of the instruction."""
    body = bytes((number, len(parameters) + 2, instruction)) + parameters
    return HEADER + body + bytes((checksum(body),))


def to_signed(word: int, sign_bit: int) -> int:
    """The number that a word with this sign bit holds."""
    magnitude = word & ((1 << sign_bit) - 1)
    return -magnitude if word >> sign_bit & 1 else magnitude


def from_signed(number: int, sign_bit: int) -> int:
    """The word with this sign bit that holds a number, or the nearest that it can."""
    magnitude = min(abs(number), (1 << sign_bit) - 1)
    return magnitude | (1 << sign_bit if number < 0 else 0)


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
                del waiting[: len(waiting) - waiting.endswith(HEADER[:1])]
                return found
            del waiting[:at]
            if len(waiting) < 4:
                return found
            number, length = waiting[2], waiting[3]
            if number == 0xFF:  # the header begins one byte later
                del waiting[0]
                continue
            if not _SHORTEST_LENGTH <= length <= LONGEST:
                self.bad += 1
                del waiting[:2]
                continue
            end = 4 + length
            if len(waiting) < end:
                return found
            if checksum(bytes(waiting[2 : end - 1])) != waiting[end - 1]:
                self.bad += 1
                del waiting[0]
                continue
            found.append(Packet(number, waiting[4], bytes(waiting[5 : end - 1]), end))
            del waiting[:end]
