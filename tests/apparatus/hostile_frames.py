"""Handshakes and frames that break the rules of the websocket (RFC 6455), written by hand; the same for a seed."""

from __future__ import annotations

import random
import struct
from collections.abc import Iterator
from dataclasses import dataclass

from openpi_messages import hostile

KEY = b"dGhlIHNhbXBsZSBub25jZQ=="
_LINES = {
    b"Host": b"127.0.0.1",
    b"Upgrade": b"websocket",
    b"Connection": b"Upgrade",
    b"Sec-WebSocket-Key": KEY,
    b"Sec-WebSocket-Version": b"13",
}
CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10


@dataclass(frozen=True)
class Talk:
    """What one connection sends.

    Attributes:
        handshake: Its bytes.
        frames: What follows where the handshake was answered with 101; empty where it has to be refused.
        refused: Whether the server has to end it by itself.
        leaves: Whether the client sends no more afterwards, in the middle of something or not.
    """

    handshake: bytes
    frames: bytes
    refused: bool
    leaves: bool = False


def handshake(changes: dict[bytes, bytes | None] | None = None, first: bytes = b"GET / HTTP/1.1") -> bytes:
    """A right handshake with some lines changed; None leaves a line out."""
    lines = {**_LINES, **(changes or {})}
    written = [name + b": " + value for name, value in lines.items() if value is not None]
    return b"\r\n".join([first, *written, b"", b""])


def frame(code: int, payload: bytes, *, last: bool = True, mask: bool = True, bits: int = 0, length: int = -1) -> bytes:
    """A frame.

    Args:
        code: Opcode.
        payload: Unmasked.
        last: Whether FIN is set.
        mask: Whether it is masked, as every frame of a client must be.
        bits: The three reserved bits.
        length: That its header says; of the payload where negative.
    """
    size = len(payload) if length < 0 else length
    head = bytes([last << 7 | bits << 4 | code])
    masked = mask << 7
    if size < 126:
        head += bytes([masked | size])
    elif size < 2**16:
        head += bytes([masked | 126]) + struct.pack(">H", size)
    else:
        head += bytes([masked | 127]) + struct.pack(">Q", size)
    if not mask:
        return head + payload
    key = b"\x12\x34\x56\x78"
    whole = (key * (len(payload) // 4 + 1))[: len(payload)]
    masked_payload = int.from_bytes(payload, "big") ^ int.from_bytes(whole, "big")
    return head + key + masked_payload.to_bytes(len(payload), "big")


def broken_handshake(rng: random.Random) -> bytes:
    """One that has to be refused."""
    return rng.choice(
        [
            lambda: handshake({b"Origin": b"http://evil.example"}),
            lambda: handshake({b"Origin": b"null"}),
            lambda: handshake({b"Upgrade": rng.choice([None, b"h2c", b"websockets"])}),
            lambda: handshake({b"Connection": rng.choice([None, b"close", b"keep-alive"])}),
            lambda: handshake({b"Sec-WebSocket-Key": rng.choice([None, b"", b"short", b"!" * 24, KEY + b"AAAA"])}),
            lambda: handshake({b"Sec-WebSocket-Version": rng.choice([None, b"12", b"-1", b"x", b"9" * 5000])}),
            lambda: handshake({b"X-Long": b"a" * rng.choice([9000, 100_000])}),
            lambda: handshake({b"X-%d" % number: b"1" for number in range(500)}),
            lambda: handshake(first=rng.choice([b"POST / HTTP/1.1", b"GET / HTTP/9.9", b"GET /", b"", b"GET"])),
            lambda: handshake(first=b"GET /" + b"a" * 20_000 + b" HTTP/1.1"),
            lambda: handshake({b"Content-Length": b"100000"}),
            lambda: handshake({b"Transfer-Encoding": b"chunked"}),
            lambda: handshake({b"No colon": None}).replace(b"Host: ", b"Host "),
            lambda: handshake().replace(b"\r\n\r\n", b"\r\n \x00folded\r\n\r\n"),
            lambda: b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + rng.randbytes(200) + b"\r\n\r\n",
            lambda: b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            lambda: rng.randbytes(100) + b"\r\n\r\n",
            lambda: b"\r\n\r\n",
        ]
    )()


def broken_frames(rng: random.Random, message: bytes) -> bytes:
    """Frames that have to end the connection with a close code."""
    return rng.choice(
        [
            lambda: frame(BINARY, message[:2000], mask=False),
            lambda: frame(BINARY, b"abc", bits=rng.randrange(1, 8)),
            lambda: frame(rng.choice([3, 4, 5, 6, 7, 11, 12, 15]), b"abc"),
            lambda: frame(PING, b"a" * 126),
            lambda: frame(rng.choice([PING, PONG, CLOSE]), b"", last=False),
            lambda: frame(CONTINUATION, b"abc"),
            lambda: frame(BINARY, b"abc", last=False) + frame(BINARY, b"abc"),
            lambda: frame(BINARY, b"abc", length=rng.choice([2**63, 2**64 - 1, 2**62, (32 << 20) + 1])),
            lambda: frame(TEXT, b"\xff\xfe"),
            lambda: frame(TEXT, rng.choice([b"", b"{}", b"reset", b"a" * 1900])),
            lambda: frame(CLOSE, struct.pack(">H", rng.choice([0, 999, 1005, 1006, 2999, 65535]))),
            lambda: frame(CLOSE, rng.choice([b"a", b"\x03\xe8\xff\xfe"])),
            lambda: frame(PING, b"a") * 50 + frame(BINARY, b"\xc1"),
            lambda: frame(BINARY, b"", last=False) * 300 + frame(CONTINUATION, b"\xc1"),
            lambda: b"".join(frame(CONTINUATION if n else BINARY, b"\x91", last=n == 99) for n in range(100)),
            lambda: frame(BINARY, b""),
            lambda: frame(BINARY, b"\xc1") * 20,
        ]
    )()


def cut_short(rng: random.Random, message: bytes) -> bytes:
    """The begin of something right."""
    return rng.choice(
        [
            lambda: frame(BINARY, message[:1900])[: rng.randrange(1, 40)],
            lambda: frame(BINARY, b"abc", last=False),
            lambda: b"\x82",
            lambda: b"",
        ]
    )()


def hostile_talks(seed: int) -> Iterator[Talk]:
    """Endless connections."""
    rng = random.Random(seed)
    messages = hostile(1 << 30, seed)
    while True:
        message, refused = next(messages)
        kind = rng.random()
        if kind < 0.2:
            yield Talk(broken_handshake(rng), b"", True)
        elif kind < 0.4:
            yield Talk(handshake(), broken_frames(rng, message), True)
        elif kind < 0.45:
            yield Talk(handshake()[: rng.randrange(1, 100)], b"", False, leaves=True)
        elif kind < 0.5:
            yield Talk(handshake(), cut_short(rng, message), False, leaves=True)
        elif kind < 0.55:
            data = frame(BINARY, message[:1900])
            place = rng.randrange(len(data))
            yield Talk(handshake(), data[:place] + rng.randbytes(1) + data[place + 1 :], False, leaves=True)
        else:
            yield Talk(handshake(), frame(BINARY, message), refused)
