"""Pickles that nobody should load, made by a grammar of the opcodes, and orders of their pieces; the same for a seed.

Some would write a file where they are loaded: the canary. Nothing here pickles or unpickles.
"""

from __future__ import annotations

import pickletools
import random
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

HELPERS = b"lerobot.async_inference.helpers"
BEGIN = b"\x80\x04c" + HELPERS + b"\nTimedObservation\n)\x81}("
END = b"ub."
UNKNOWN, FIRST, MIDDLE, LAST = range(4)
"""Values of LeRobot's TransferState."""

_BY_NAME = {opcode.name: opcode.code.encode("latin1") for opcode in pickletools.opcodes}
_RUNNABLE = ("posix system", "os system", "builtins eval", "builtins exec", "subprocess getoutput", "os popen")
_NAMES = (
    *("builtins getattr", "builtins __import__", "builtins open", "torch.storage _load_from_bytes", "torch load"),
    *("numpy ndarray.__class__", "numpy dtype.type", "lerobot.async_inference.helpers TimedObservation.__init__"),
    *("numpy.core.multiarray _reconstruct", "numpy._core.multiarray scalar", "numpy load", "pickle loads"),
    *("lerobot.async_inference.helpers RemotePolicyConfig.__globals__", "numpy.ctypeslib as_array", "sys modules.os"),
    *("functools partial", "operator attrgetter", "importlib import_module", "code interact", "pty spawn", " ", ". ."),
)


def short(value: bytes) -> bytes:
    """A short text."""
    return b"\x8c" + bytes([len(value)]) + value


def whole(value: int) -> bytes:
    """A number of up to 255 bytes."""
    size = max(1, (value.bit_length() + 8) // 8)
    return b"\x8a" + bytes([size]) + value.to_bytes(size, "little", signed=True)


def found(name: str, how: str) -> bytes:
    """A global, asked for in one of the ways that there are."""
    module, _, attribute = name.partition(" ")
    if how == "stack":
        return short(module.encode()) + short(attribute.encode()) + b"\x93"
    return b"c" + module.encode() + b"\n" + attribute.encode() + b"\n"


def runs(rng: random.Random, canary: Path) -> bytes:
    """Opcodes that would write the canary."""
    name = rng.choice(_RUNNABLE)
    command = f"touch {canary}"
    if "eval" in name or "exec" in name:
        command = f"open({str(canary)!r}, 'w')"
    text = b"X" + struct.pack("<I", len(command)) + command.encode()
    of = found(name, rng.choice(["global", "stack"]))
    module, _, attribute = name.encode().partition(b" ")
    return rng.choice(
        [
            of + text + b"\x85R",
            of + b"(" + text + b"tR",
            b"(" + text + b"i" + module + b"\n" + attribute + b"\n",
            b"(" + of + text + b"o",
            of + text + b"\x85\x81",
            of + text + b"\x85}\x92",
            b"(S" + repr(command).encode() + b"\ni" + module + b"\n" + attribute + b"\n",
            of + b"q\x00" + text + b"q\x01" + b"h\x00h\x01\x85R",
            b"cbuiltins\ngetattr\n" + found(f"{module.decode()} __dict__", "stack") + short(attribute) + b"\x86R",
            b"(" + 20 * (of + text + b"\x85R") + b"l",
        ]
    )


def bombs(rng: random.Random) -> bytes:
    """Opcodes that are small to send and large to hold, or deep."""
    times = rng.choice([3, 30, 60, 300])
    doubled = b"]r\x00\x00\x00\x00" + b"".join(
        b"](" + 2 * (b"j" + struct.pack("<I", place)) + b"er" + struct.pack("<I", place + 1) for place in range(times)
    )
    shape = b"(" + b"".join(whole(rng.choice([0, 1, -1, 2**31, 2**62, 2**40])) for _ in range(rng.randrange(6))) + b"t"
    rebuilt = b"cnumpy._core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85C\x01b\x87R"
    kind = short(rng.choice([b"O8", b"V0", b"S0", b"U9", b"f8", b"u1", b"M8", b"c16", b"b1", b"V2147483647"]))
    dtype = b"cnumpy\ndtype\n" + kind + b"\x89\x88\x87R(K\x03" + short(rng.choice([b"|", b"<", b">", b"="]))
    dtype += b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    data = rng.randbytes(rng.choice([0, 1, 8, 64]))
    deep = rng.choice([20, 1000, 9000])
    encode = b"X\x00\x00\x01\x00" + b"a" * 65536 + b"q\x00]("
    return rng.choice(
        [
            lambda: doubled,
            lambda: doubled + short(b"x") + b"\x93",
            lambda: b"]q\x00h\x00a",
            lambda: b"}q\x00" + short(b"a") + b"h\x00s",
            lambda: b"]" * deep + b"a" * (deep - 1),
            lambda: b"(" * deep + b"t" * deep,
            lambda: b"N" + b"\x85" * deep,
            lambda: rebuilt + b"(K\x01" + shape + dtype + b"\x89C" + bytes([len(data)]) + data + b"tb",
            lambda: b"cnumpy._core.numeric\n_frombuffer\n(C\x01a" + dtype + shape + short(b"C") + b"tR",
            lambda: b"cnumpy._core.multiarray\nscalar\n" + dtype + b"C" + bytes([len(data)]) + data + b"\x86R",
            lambda: encode + 30 * (b"c_codecs\nencode\nh\x00" + short(b"latin1") + b"\x86R") + b"e",
            lambda: b"Nr" + struct.pack("<I", 2**32 - 1) + b"j" + struct.pack("<I", rng.choice([2**32 - 1, 7])),
            lambda: b"N" + b"\x94" * 12_000,
            lambda: b"](" + b"N" * 25_000 + b"e",
            lambda: b"\x8e" + struct.pack("<Q", rng.choice([2**62, 2**64 - 1, 2**31])) + b"abc",
            lambda: b"\x96" + struct.pack("<Q", rng.choice([2**62, 2**33])) + b"abc",
            lambda: b"\x8b" + struct.pack("<i", rng.choice([-1, 2**31 - 1, 1000])) + b"\x7f" * 40,
            lambda: b"\x95" + struct.pack("<Q", rng.choice([0, 1, 2**63, 2**64 - 1])) + b"N",
            lambda: b"I" + b"9" * 5000 + b"\n",
            lambda: b"L" + b"7" * 5000 + b"L\n",
            lambda: rng.choice([b"V\\uD800\n", b"S'\\x41\n", b"F1e999999\n", b"Pname\n", b"\x82\x01"]),
            lambda: b"}(" + b"".join(short(b"%d" % place) + b"N" for place in range(8000)) + b"u",
        ]
    )()


def program(rng: random.Random) -> bytes:
    """Any opcodes in any order, with arguments of the right form or nearly."""
    written = b""
    for _ in range(rng.choice([1, 3, 10, 60])):
        opcode = rng.choice(pickletools.opcodes)
        written += opcode.code.encode("latin1")
        if opcode.arg is None:
            continue
        size = opcode.arg.n
        text = rng.choice([b"1", b"'a'", b"os\nsystem", b"7L", b"1.5", rng.randbytes(4)])
        written += {
            -1: lambda text=text: text + b"\n",
            -2: lambda: struct.pack("<B", 2) + rng.randbytes(2),
            -3: lambda: struct.pack("<i", rng.choice([1, -1, 2**31 - 1])) + b"a",
            -4: lambda: struct.pack("<I", rng.choice([1, 2**32 - 1])) + b"a",
            -5: lambda: struct.pack("<Q", rng.choice([1, 2**64 - 1])) + b"a",
        }.get(size, lambda size=size: rng.randbytes(max(size, 0)))()
    return written


def hostile_pickle(rng: random.Random, canary: Path) -> bytes:
    """A pickle that has to be refused."""
    inside = rng.choice(
        [
            lambda: runs(rng, canary),
            lambda: runs(rng, canary),
            lambda: bombs(rng),
            lambda: program(rng),
            lambda: found(rng.choice(_NAMES), rng.choice(["global", "stack"])) + rng.choice([b")R", b")\x81", b"}b"]),
        ]
    )()
    protocol = b"\x80" + bytes([rng.choice([0, 1, 2, 3, 4, 5, 6, 255])])
    return rng.choice(
        [
            lambda: BEGIN + short(b"observation") + inside + END,
            lambda: BEGIN + short(b"observation") + b"}(" + short(b"top") + inside + b"u" + END,
            lambda: BEGIN.replace(b"TimedObservation", b"RemotePolicyConfig") + short(b"policy_type") + inside + END,
            lambda: protocol + inside + b".",
            lambda: inside + b".",
            lambda: BEGIN + b"u" + b"}(" + short(b"__class__") + inside + b"ub" + END[1:],
            lambda: BEGIN + inside + short(b"a") + END,
        ]
    )()


def changed(rng: random.Random, right: bytes) -> bytes:
    """A right message with bytes changed, removed or repeated; it may be right by chance."""
    data = bytearray(right)
    for _ in range(rng.choice((1, 1, 2, 8))):
        place, length = rng.randrange(len(data) + 1), rng.randrange(1, 40)
        new = rng.choice((b"", rng.randbytes(1), rng.randbytes(length), bytes(data[place:][:length]) * 2))
        data[place : place + rng.choice((0, 1, length))] = new
    return bytes(data)


Pieces = list[tuple[int, bytes]]


def in_pieces(rng: random.Random, payload: bytes) -> Pieces:
    """A payload in pieces, in an order that is right or not."""
    cut = sorted(rng.randrange(len(payload) + 1) for _ in range(rng.choice([0, 0, 1, 4])))
    parts = [payload[a:b] for a, b in zip([0, *cut], [*cut, len(payload)], strict=True)]
    states = [FIRST, *[MIDDLE] * (len(parts) - 2), LAST] if len(parts) > 1 else [LAST]
    pieces = list(zip(states, parts, strict=True))
    orders: list[Callable[[], Pieces]] = [
        lambda: pieces,
        lambda: pieces,
        lambda: rng.sample(pieces, len(pieces)),
        lambda: pieces[:-1],
        lambda: [*pieces, *pieces],
        lambda: [(UNKNOWN, payload)],
        lambda: [(rng.choice([4, 99, 2**31 - 1]), payload)],
        lambda: [(FIRST, payload)] * 3,
        lambda: [(MIDDLE, b"")] * 200,
        lambda: [(FIRST, b""), *[(MIDDLE, b"x")] * 200],
        lambda: [],
        lambda: [(LAST, b"")],
    ]
    return rng.choice(orders)()


def hostile_pickles(seed: int, canary: Path, right: list[bytes]) -> Iterator[tuple[bytes, bool]]:
    """Endless pickles, and whether each has to be refused.

    Args:
        seed: Of all of them.
        canary: File that some would write.
        right: Messages that are changed for some.
    """
    rng = random.Random(seed)
    while True:
        if rng.random() < 0.3:
            yield changed(rng, rng.choice(right)), False
        else:
            yield hostile_pickle(rng, canary), True
