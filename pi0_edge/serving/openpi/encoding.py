"""Messages of openpi: msgpack, in which an array is a map with keys of bytes.

=========  =========================================================================
array      {b"__ndarray__": true, b"data": bytes, b"dtype": "<f8", b"shape": [2, 3]}
scalar     {b"__npgeneric__": true, b"data": 0.5, b"dtype": "<f4"}
text       an array of no dimensions with dtype "<Un", n characters of four bytes
the rest   plain msgpack without extension types; keys are str
=========  =========================================================================

openpi's own receiver lets the sender choose any numpy dtype, and one message with the dtype of Python objects ends it
with a segmentation fault. Here a dtype is one of a list, and data, shape and dtype must fit to the byte. The reader is
our own because msgpack's allocates all items before anybody can count them: 32 MiB of empty lists become 2 GiB.
"""

from __future__ import annotations

import math
import struct
from typing import Any, cast

import msgpack
import numpy as np
from numpy.typing import NDArray

from pi0_edge.errors import ObservationError

LARGEST_DEPTH = 8
"""Containers inside each other; an observation has four: itself, its images, an array and its shape."""

MOST_ITEMS = 10_000
"""Values and keys in one message; a plan of 50 rows of 32 numbers as lists has 1,650."""

LONGEST_KEY = 256
"""Bytes of a key."""

LONGEST_SHOWN = 80
"""Characters of a key that a message for people shows."""

LONGEST_TEXT = 65_536
"""Bytes of a text; a prompt is much shorter."""

MOST_DIMENSIONS = 4

DTYPES = {text: np.dtype(text) for text in ("|u1", "|b1", "|i1", "<i4", "<i8", "<f2", "<f4", "<f8", ">f8")}
"""What an array may hold; nothing else occurs in messages of openpi's clients."""

_ARRAY, _SCALAR = b"__ndarray__", b"__npgeneric__"
_ARRAY_KEYS = {_ARRAY, b"data", b"dtype", b"shape"}
_SCALAR_KEYS = {_SCALAR, b"data", b"dtype"}
_CONSTANTS = {0xC0: None, 0xC2: False, 0xC3: True}
_NUMBERS = {
    code: struct.Struct(f">{kind}")
    for code, kind in {
        **{0xCA: "f", 0xCB: "d", 0xCC: "B", 0xCD: "H", 0xCE: "I", 0xCF: "Q"},
        **{0xD0: "b", 0xD1: "h", 0xD2: "i", 0xD3: "q"},
    }.items()
}
_LENGTH_BYTES = {
    **{0xC4: 1, 0xC5: 2, 0xC6: 4},  # bin
    **{0xD9: 1, 0xDA: 2, 0xDB: 4},  # str
    **{0xDC: 2, 0xDD: 4},  # array
    **{0xDE: 2, 0xDF: 4},  # map
}
_BIN, _STR, _LIST, _MAP = (0xC4, 0xC5, 0xC6), (0xD9, 0xDA, 0xDB), (0xDC, 0xDD), (0xDE, 0xDF)


def decode(data: bytes) -> Any:
    """One message as plain values.

    Args:
        data: All bytes of it; its size is limited by whoever received it.

    Returns:
        None, bool, int, float, str, list, dict (keys str or bytes), memoryview for bytes, and read-only arrays that
        look into `data`. A scalar of numpy comes back as bool, int or float, an array of text as str.

    Raises:
        ObservationError: If it is no msgpack, exceeds a limit, or has an array that is not as above. The message names
            the field.
    """
    reader = _Reader(data)
    value = reader.value("", 0)
    if reader.remaining:
        raise ObservationError(f"the message ends {reader.remaining} bytes before its frame; expected one value")
    return value


def encode(value: Any) -> bytes:
    """One message, as openpi's own packer writes it.

    Args:
        value: Plain values, and arrays of `DTYPES`.

    Raises:
        TypeError: For anything else.
    """
    return cast(bytes, msgpack.packb(value, default=_packed))


def _packed(value: object) -> dict[bytes, object]:
    if isinstance(value, (np.ndarray, np.generic)) and value.dtype.str in DTYPES:
        if isinstance(value, np.ndarray):
            array = {b"data": value.tobytes(), b"dtype": value.dtype.str, b"shape": value.shape}
            return {_ARRAY: True, **array}
        return {_SCALAR: True, b"data": value.item(), b"dtype": value.dtype.str}
    raise TypeError(f"a {type(value).__name__} is not part of a message")


def _shown(key: str | bytes) -> str:
    """A key in a message for people and in a log: short, in one line."""
    name = key if isinstance(key, str) else key.decode("utf-8", "replace")
    return name[:LONGEST_SHOWN] if name.isprintable() else ascii(name)[:LONGEST_SHOWN]


def field_name(where: str) -> str:
    """What to call a place in a message; the message itself has no name."""
    return where or "the message"


class _Reader:
    """Reads values one after the other, and counts."""

    def __init__(self, data: bytes) -> None:
        self._data = memoryview(data)
        self._at = 0
        self._items = 0

    @property
    def remaining(self) -> int:
        return len(self._data) - self._at

    def value(self, where: str, depth: int) -> Any:
        """The next value, which is the field `where`, inside of `depth` containers."""
        self._count(1, where)
        code = self._take(1, where)[0]
        if code < 0x80 or code >= 0xE0:
            return code if code < 0x80 else code - 256
        if code in _CONSTANTS:
            return _CONSTANTS[code]
        if number := _NUMBERS.get(code):
            return number.unpack(self._take(number.size, where))[0]
        if code < 0x90:
            return self._map(code & 0x0F, where, depth)
        if code < 0xA0:
            return self._list(code & 0x0F, where, depth)
        if code < 0xC0:
            return self._text(code & 0x1F, where)
        if code not in _LENGTH_BYTES:
            raise ObservationError(
                f"{field_name(where)} has the msgpack code 0x{code:02x}; expected a value without extension types"
            )
        length = int.from_bytes(self._take(_LENGTH_BYTES[code], where), "big")
        if code in _BIN:
            return self._take(length, where)
        if code in _STR:
            return self._text(length, where)
        return self._list(length, where, depth) if code in _LIST else self._map(length, where, depth)

    def _count(self, items: int, where: str) -> None:
        self._items += items
        if self._items > MOST_ITEMS:
            raise ObservationError(
                f"{field_name(where)} is beyond item {MOST_ITEMS} of the message; send images and vectors as arrays"
            )

    def _take(self, size: int, where: str) -> memoryview:
        if size > self.remaining:
            raise ObservationError(
                f"{field_name(where)} needs {size} bytes more, but the message has {self.remaining} left; expected "
                "all of it in one frame"
            )
        taken = self._data[self._at : self._at + size]
        self._at += size
        return taken

    def _text(self, length: int, where: str) -> str:
        if length > LONGEST_TEXT:
            raise ObservationError(f"{field_name(where)} is a text of {length} bytes, expected at most {LONGEST_TEXT}")
        try:
            return str(self._take(length, where), "utf-8")
        except UnicodeDecodeError as error:
            raise ObservationError(f"{field_name(where)} is a text that is not UTF-8 ({error.reason})") from None

    def _inside(self, length: int, where: str, depth: int) -> int:
        if depth >= LARGEST_DEPTH:
            raise ObservationError(f"{field_name(where)} lies inside of more than {LARGEST_DEPTH} lists and maps")
        if length > self.remaining:
            raise ObservationError(
                f"{field_name(where)} announces {length} entries, but {self.remaining} bytes are left of the message"
            )
        return depth + 1

    def _list(self, length: int, where: str, depth: int) -> list[Any]:
        depth = self._inside(length, where, depth)
        return [self.value(f"{where}[{index}]" if where else f"item {index}", depth) for index in range(length)]

    def _map(self, length: int, where: str, depth: int) -> Any:
        depth = self._inside(length, where, depth)
        found: dict[str | bytes, Any] = {}
        for _ in range(length):
            key = self._key(where)
            if key in found:
                raise ObservationError(f"{field_name(where)} has the key {key!r} twice; expected each once")
            name = _shown(key)
            found[key] = self.value(f"{where}.{name}" if where else name, depth)
        if _ARRAY in found:
            return _array(found, where)
        if _SCALAR in found:
            return _scalar(found, where)
        if _ARRAY.decode() in found or _SCALAR.decode() in found:
            raise ObservationError(f"{field_name(where)} is an array whose keys are str; write its keys as bin")
        return found

    def _key(self, where: str) -> str | bytes:
        code = self._data[self._at] if self.remaining else 0xA0
        key = self.value(f"a key of {field_name(where)}", 0) if 0xA0 <= code < 0xC0 or code in (*_BIN, *_STR) else None
        if not isinstance(key, (str, memoryview)) or len(key) > LONGEST_KEY:
            raise ObservationError(
                f"{field_name(where)} has a key of msgpack code 0x{code:02x}, expected a text of at most {LONGEST_KEY} "
                "characters"
            )
        return bytes(key) if isinstance(key, memoryview) else key


def _array(found: dict[Any, Any], where: str) -> NDArray[Any] | str:
    name, data, text, shape = _parts(found, where, _ARRAY_KEYS)
    if not isinstance(data, memoryview):
        raise ObservationError(f"{name} has {type(data).__name__} as data, expected bytes")
    if (
        not isinstance(shape, list)
        or len(shape) > MOST_DIMENSIONS
        or not all(type(size) is int and size >= 0 for size in shape)
    ):
        raise ObservationError(
            f"{name} has the shape {shape!r:.80}, expected at most {MOST_DIMENSIONS} whole numbers from 0 on"
        )
    if text not in DTYPES:
        return _unicode(data, text, shape, name)
    dtype = DTYPES[text]
    needed = math.prod(shape) * dtype.itemsize
    if len(data) != needed:
        raise ObservationError(f"{name} holds {len(data)} bytes, but shape {shape} of {text} requires {needed}")
    if not needed:
        if math.prod(size or 1 for size in shape) > MOST_ITEMS:
            raise ObservationError(f"{name} has the shape {shape} without any value; expected an array with values")
        return np.zeros(shape, dtype)
    if text == "|b1":  # any byte but 0 is true; numpy takes only 0 and 1 for granted
        return (np.frombuffer(data, np.uint8) != 0).reshape(shape)
    return np.frombuffer(data, dtype).reshape(shape)


def _unicode(data: memoryview, dtype: str, shape: list[int], name: str) -> str:
    digits = dtype.removeprefix("<U")
    is_text = dtype.startswith("<U") and digits.isascii() and digits.isdigit() and len(digits) <= 5
    if not is_text or shape:
        raise ObservationError(
            f"{name} has the dtype {dtype!r:.40}, expected one of {', '.join(DTYPES)}, or <U of no dimensions"
        )
    if len(data) != 4 * int(digits) or len(data) > LONGEST_TEXT:
        raise ObservationError(f"{name} holds {len(data)} bytes, expected 4 for each character of {dtype}")
    try:
        return str(data, "utf-32-le").rstrip("\0")
    except UnicodeDecodeError as error:
        raise ObservationError(f"{name} is a text that is not UTF-32 ({error.reason})") from None


def _scalar(found: dict[Any, Any], where: str) -> bool | int | float:
    name, data, text, _ = _parts(found, where, _SCALAR_KEYS)
    if text not in DTYPES or not isinstance(data, (bool, int, float)):
        raise ObservationError(
            f"{name} is a {type(data).__name__} of dtype {text!r:.40}, expected a number of {', '.join(DTYPES)}"
        )
    return data


def _parts(found: dict[Any, Any], where: str, keys: set[bytes]) -> tuple[str, Any, str, Any]:
    """Name, data, dtype and shape of an array or scalar that has these keys and no other."""
    name = field_name(where)
    if found.keys() != keys:
        raise ObservationError(f"{name} is an array with other keys than {', '.join(key.decode() for key in keys)}")
    marker = found[_ARRAY] if _ARRAY in found else found[_SCALAR]
    dtype = found[b"dtype"]
    if marker is not True or not isinstance(dtype, str):
        raise ObservationError(f"{name} is an array whose dtype is {dtype!r:.40}, expected a text such as '<f8'")
    return name, found[b"data"], dtype, found.get(b"shape")
