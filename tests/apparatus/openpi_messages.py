"""Messages of openpi's clients, written byte by byte from the description of the format, and hostile ones.

Nothing here uses msgpack or the code under test.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Iterator
from typing import Any

import numpy as np


def text(value: str) -> bytes:
    data = value.encode()
    return (bytes([0xA0 + len(data)]) if len(data) < 32 else b"\xdb" + struct.pack(">I", len(data))) + data


def binary(value: bytes) -> bytes:
    return (b"\xc4" + bytes([len(value)]) if len(value) < 256 else b"\xc6" + struct.pack(">I", len(value))) + value


def array_of(data: bytes, dtype: bytes, shape: bytes) -> bytes:
    """An array whose parts are written already."""
    parts = [(b"__ndarray__", b"\xc3"), (b"data", data), (b"dtype", dtype), (b"shape", shape)]
    return b"\x84" + b"".join(binary(key) + value for key, value in parts)


def write(value: Any) -> bytes:
    """A value as openpi's packer writes it."""
    if value is None or isinstance(value, bool):
        return {None: b"\xc0", False: b"\xc2", True: b"\xc3"}[value]
    if isinstance(value, str):
        return text(value)
    if isinstance(value, bytes):
        return binary(value)
    if isinstance(value, np.ndarray):
        return array_of(binary(value.tobytes()), text(value.dtype.str), write(list(value.shape)))
    if isinstance(value, np.generic) and not isinstance(value, float):
        parts = [(b"__npgeneric__", True), (b"data", value.item()), (b"dtype", value.dtype.str)]
        return b"\x83" + b"".join(binary(key) + write(part) for key, part in parts)
    if isinstance(value, float):
        return b"\xcb" + struct.pack(">d", value)
    if isinstance(value, int):
        if value >= 1 << 63:
            return b"\xcf" + struct.pack(">Q", value)
        return bytes([value]) if 0 <= value < 128 else b"\xd3" + struct.pack(">q", value)
    if isinstance(value, (list, tuple)):
        return b"\xdd" + struct.pack(">I", len(value)) + b"".join(map(write, value))
    if isinstance(value, dict):
        return b"\xdf" + struct.pack(">I", len(value)) + b"".join(write(k) + write(v) for k, v in value.items())
    raise TypeError(type(value))


def picture(height: int = 24, width: int = 32, seed: int = 0) -> np.ndarray:
    """uint8 [height, width, 3]."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def aloha(cameras: tuple[str, ...] = ("cam_high", "cam_low", "cam_left_wrist", "cam_right_wrist")) -> dict[str, Any]:
    """What `examples/aloha_real` and `aloha_sim` send: channels first, no prompt."""
    images = {name: picture(seed=place).transpose(2, 0, 1) for place, name in enumerate(cameras)}
    return {"state": np.linspace(-0.4, 0.4, 14), "images": images}


def droid() -> dict[str, Any]:
    """What `examples/droid` sends."""
    return {
        "observation/exterior_image_1_left": picture(seed=1),
        "observation/wrist_image_left": picture(seed=2),
        "observation/joint_position": np.linspace(-0.4, 0.4, 7),
        "observation/gripper_position": np.array([0.5]),
        "prompt": "Transfer cube",
    }


def libero() -> dict[str, Any]:
    """What `examples/libero` sends."""
    return {
        "observation/image": picture(seed=1),
        "observation/wrist_image": picture(seed=2),
        "observation/state": np.linspace(-0.4, 0.4, 8),
        "prompt": "Transfer cube",
    }


DTYPES = (
    *("|O", "O", "|V8", "V1", "|V0", "|S0", "|S4", "<U0", ">U2", "<U99999999999", "O,i4", "float", "<c16", "<M8[s]"),
    *("<m8", "", "<f4,<f4", "(2,)<f8", "i4", "object", "<g", "f8;import os", "{'names':['a']}", "<f8\0", "<\u06608"),
)
"""None of them is in the list; numpy takes most."""


def sure(random_: random.Random) -> bytes:
    """A message that has to be refused: as state of an otherwise right one, or instead of it."""
    data = binary(random_.randbytes(random_.choice([0, 1, 8, 64, 112])))
    shape = write(
        random_.choice([[14], [-1], [2**62], [1, 1, 1, 1, 1], [14, -1], [2**31, 2**31], [True], ["a"], 7, {}])
    )
    dtype = text(random_.choice(DTYPES))
    nested = random_.choice([9, 100, 1000])
    many = random_.choice([20_000, 300_000])
    large = [
        lambda: b"\xdd" + struct.pack(">I", many) + b"\x90" * many,
        lambda: write(["x"] * 5000 + ["y" * 60_000]),
        lambda: write(np.zeros(100_000)),
        lambda: b"\x91" * 100_000 + b"\xc0",
    ]
    state = random_.choice(
        large
        if random_.random() < 0.02
        else [
            lambda: array_of(data, dtype, shape),
            lambda: array_of(binary(b"\1" * 112), text("|O"), write([14])),
            lambda: array_of(binary(b"\1" * 112), dtype, write([14])),
            lambda: array_of(data, text("<f8"), write([random_.choice([-1, 15, 2**40])])),
            lambda: array_of(write("not bytes"), text("<f8"), write([14])),
            lambda: array_of(data, write(random_.choice([None, 7, [], {}])), write([14])),
            lambda: array_of(b"", b"", b""),
            lambda: (
                b"\x83" + binary(b"__npgeneric__") + b"\xc3" + binary(b"data") + write(2**31) + binary(b"dtype") + dtype
            ),
            lambda: write({"__ndarray__": True, "data": b"\0" * 112, "dtype": "<f8", "shape": [14]}),
            lambda: b"\x91" * nested + b"\xc0",
            lambda: b"\x81\xa1a" * nested + b"\xc0",
            lambda: b"\xdd" + struct.pack(">I", random_.choice([2**32 - 1, 2**31, 10**6])),
            lambda: b"\xdf" + struct.pack(">I", random_.choice([2**32 - 1, 2**31, 10**6])),
            lambda: b"\xc6" + struct.pack(">I", random_.choice([2**32 - 1, 2**31])),
            lambda: b"\xc7\x08" + random_.randbytes(9),  # extension types, the one for times among them
            lambda: b"\xd6\xff" + random_.randbytes(4),
            lambda: b"\xc1",
            lambda: b"\xa4\xff\xfe\xfd\xfc",
            lambda: write([float("nan")] * 14),
            lambda: write(np.full(14, np.inf)),
            lambda: write(["x"] * 14),
            lambda: write({"a": 1}),
            lambda: write(np.zeros(random_.choice([0, 13, 15]))),
            lambda: write(np.zeros((14, 1, 1, 1))),
        ]
    )()
    camera = text("images") + write({"cam_high": picture(4, 4)})
    return random_.choice(
        [
            lambda: b"\x82" + camera + text("state") + state,
            lambda: b"\x82" + text("state") + state + camera,
            lambda: state,
            lambda: b"\x82" + text("state") + write(np.zeros(14)) + text("images") + state,
            lambda: b"\x83" + camera + text("state") + write(np.zeros(14)) + text("continuation") + state,
            lambda: b"\x82" + camera + camera,
            lambda: b"\x81" + state + state,
        ]
    )()


def changed(right: bytes, random_: random.Random) -> bytes:
    """A right message with some bytes other than they were."""
    message = bytearray(right)
    for _ in range(random_.randint(1, 8)):
        at = random_.randrange(min(len(message), 400))
        random_.choice(
            [
                lambda at=at: message.__setitem__(at, random_.randrange(256)),
                lambda at=at: message.insert(at, random_.randrange(256)),
                lambda at=at: message.pop(at),
            ]
        )()
    return bytes(message[: random_.choice([len(message), len(message), random_.randrange(len(message))])])


def hostile(count: int, seed: int = 0) -> Iterator[tuple[bytes, bool]]:
    """Messages, and whether each has to be refused; the others are damaged, and may be right by chance."""
    random_ = random.Random(seed)
    right = [write(aloha(("cam_high",))), write(droid()), write(libero())]
    for number in range(count):
        if number % 4 == 0:
            yield changed(random_.choice(right), random_), False
        elif number % 4 == 1:
            yield random_.randbytes(random_.randrange(64)), False
        else:
            yield sure(random_), True
