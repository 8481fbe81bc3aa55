"""Frames of the serial link: COBS(header, payload, CRC-32) and one zero byte.

The streaming decoder accepts any bytes, in portions of any size. It never raises: a damaged or incomplete frame is
counted and dropped, and decoding restarts at the next zero byte. A frame is at most `MAX_FRAME`
bytes, shorter than one COBS block of 254, so that COBS adds exactly one byte and its code 255 never occurs.
COBS: Cheshire and Baker, "Consistent Overhead Byte Stuffing", IEEE/ACM Transactions on Networking, 1999.
"""

import zlib
from dataclasses import dataclass
from typing import NamedTuple

from pi0_edge.protos.serial_link import CRC_SIZE, HEADER_SIZE, MAX_FRAME, MAX_PAYLOAD, Header

DELIMITER = b"\0"
ENCODED_OVERHEAD = HEADER_SIZE + CRC_SIZE + 2  # header, CRC, COBS and the delimiter


class Frame(NamedTuple):
    """One intact frame."""

    type: int
    seq: int
    payload: bytes


@dataclass
class LineCounters:
    """What the decoder has seen since it was made."""

    frames: int = 0
    crc_errors: int = 0
    framing_errors: int = 0
    duplicate_frames: int = 0
    lost_frames: int = 0


def cobs_encode(data: bytes) -> bytes:
    """Removes the zero bytes of at most 253 bytes; the result is one byte longer."""
    return b"".join(bytes([len(block) + 1]) + block for block in data.split(DELIMITER))


def cobs_decode(data: bytes) -> bytes | None:
    """The bytes that `cobs_encode` was given; None where `data` cannot have come from it."""
    blocks: list[bytes] = []
    position = 0
    while position < len(data):
        end = position + data[position]
        if data[position] == 0 or end > len(data):
            return None
        blocks.append(data[position + 1 : end])
        position = end
    return DELIMITER.join(blocks) if blocks else None


def encode_frame(frame_type: int, seq: int, payload: bytes) -> bytes:
    """One frame as it crosses the wire, delimiter included.

    Raises:
        ValueError: The payload does not fit in a frame.
    """
    if len(payload) > MAX_PAYLOAD:
        raise ValueError(f"payload of {len(payload)} bytes; a frame holds at most {MAX_PAYLOAD}")
    body = Header(frame_type, seq & 0xFFFF).pack() + payload
    return cobs_encode(body + zlib.crc32(body).to_bytes(CRC_SIZE, "little")) + DELIMITER


class FrameDecoder:
    """Decodes bytes to frames and counts dropped ones. Does not check the sequence of the frames."""

    def __init__(self, counters: LineCounters | None = None) -> None:
        self.counters = counters or LineCounters()
        self._partial = b""
        self._oversized = False

    def feed(self, data: bytes) -> list[Frame]:
        """The frames that these bytes complete, in order."""
        *complete, self._partial = (self._partial + data).split(DELIMITER)
        frames = [frame for encoded in complete if (frame := self._decode(encoded)) is not None]
        if len(self._partial) > MAX_FRAME + 1:
            self._partial, self._oversized = b"", True
        return frames

    def _decode(self, encoded: bytes) -> Frame | None:
        oversized, self._oversized = self._oversized or len(encoded) > MAX_FRAME + 1, False
        if not encoded and not oversized:
            return None  # two delimiters in a row are idle line, not damage
        body = None if oversized else cobs_decode(encoded)
        if body is None or len(body) < HEADER_SIZE + CRC_SIZE:
            self.counters.framing_errors += 1
            return None
        if zlib.crc32(body[:-CRC_SIZE]) != int.from_bytes(body[-CRC_SIZE:], "little"):
            self.counters.crc_errors += 1
            return None
        self.counters.frames += 1
        header = Header.unpack(body[:HEADER_SIZE])
        return Frame(header.type, header.seq, body[HEADER_SIZE:-CRC_SIZE])


class SequenceTracker:
    """Drops repeated and overtaken frames, counts lost ones.

    A number up to `_OVERTAKEN` behind the newest is a repetition; one further back means that the sender restarted
    its numbers; the frame is accepted.
    """

    _OVERTAKEN = 32

    def __init__(self, counters: LineCounters) -> None:
        self._counters = counters
        self._expected: int | None = None

    def restart(self) -> None:
        """Accepts the next frame with any number."""
        self._expected = None

    def accepts(self, seq: int) -> bool:
        """Whether a frame of this number is new."""
        ahead = 0 if self._expected is None else (seq - self._expected) & 0xFFFF
        if ahead >= 0x10000 - self._OVERTAKEN:
            self._counters.duplicate_frames += 1
            return False
        self._counters.lost_frames += ahead if ahead < 0x8000 else 0
        self._expected = (seq + 1) & 0xFFFF
        return True
