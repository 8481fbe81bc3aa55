"""Reads the pickles of LeRobot's asynchronous client as data: nothing is imported, nothing that a peer names is called.

A pickle is a program for a stack machine. Here a few of its opcodes work on a stack of plain values; the few globals
that a stock client writes stand for entries of a table. Every other opcode is refused before its argument is read, and
every other global is refused. Protocols 2 to 5 are understood.

numpy writes an array as (module of numpy before 2.0 in brackets)::

    numpy._core[numpy.core].multiarray._reconstruct(numpy.ndarray, (0,), b"b"), state (1, shape, dtype, fortran, bytes)
    numpy._core[numpy.core].numeric._frombuffer(bytes, dtype, shape, "C" or "F")      protocol 5
    numpy._core[numpy.core].multiarray.scalar(dtype, bytes)                           one number
    numpy.dtype("u1", False, True), state (3, "|", None, None, None, -1, -1, 0)       a dtype

Protocol 2 writes bytes as `_codecs.encode(text, "latin1")`, or `__builtin__.bytes()` where there are none.
"""

from __future__ import annotations

import io
import math
import pickletools
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pi0_edge.errors import ObservationError

BYTES_LIMIT = 64 << 20
"""Bytes of one pickle: three cameras of 1920x1080 are 18 MiB."""

OPCODES_LIMIT = 20_000
"""Opcodes of one pickle; three cameras and 14 joints take about 200."""

MEMO_LIMIT = 10_000
"""Values that a pickle may keep to refer to them again."""

DEPTH_LIMIT = 12
"""Containers inside each other in what was read; stock clients write 4."""

MODULES = ("lerobot.async_inference.helpers", "lerobot.scripts.server.helpers")
"""Modules of LeRobot's message classes: from 0.4.0 on, and before."""

_RECORDS = ("RemotePolicyConfig", "TimedObservation")
_DTYPES = {
    *("b1|", "u1|", "i1|"),
    *(f"{kind}{order}" for kind in ("u2", "i2", "u4", "i4", "u8", "i8", "f2", "f4", "f8") for order in "<>"),
}
_MOST_DIMS = 4
_GLOBAL_BYTES = 128
_LARGEST_INT = 1 << 63


class _Kind(Enum):
    RECORD = auto()
    RECONSTRUCT = auto()
    FROM_BUFFER = auto()
    SCALAR = auto()
    NDARRAY = auto()
    DTYPE = auto()
    ENCODE = auto()
    BYTES = auto()


@dataclass(frozen=True)
class _Global:
    kind: _Kind
    module: str
    name: str


_GLOBALS = {
    **{(module, name): _Kind.RECORD for module in MODULES for name in _RECORDS},
    **{(f"numpy.{core}.multiarray", "_reconstruct"): _Kind.RECONSTRUCT for core in ("core", "_core")},
    **{(f"numpy.{core}.multiarray", "scalar"): _Kind.SCALAR for core in ("core", "_core")},
    **{(f"numpy.{core}.numeric", "_frombuffer"): _Kind.FROM_BUFFER for core in ("core", "_core")},
    ("numpy", "ndarray"): _Kind.NDARRAY,
    ("numpy", "dtype"): _Kind.DTYPE,
    ("_codecs", "encode"): _Kind.ENCODE,
    ("__builtin__", "bytes"): _Kind.BYTES,
    ("builtins", "bytes"): _Kind.BYTES,
}


@dataclass(frozen=True)
class Record:
    """A message class of LeRobot with its fields.

    Attributes:
        module: Module that the peer knows the class from.
        name: Name of the class.
        fields: Plain values: None, bool, int, float, str, list, tuple, dict with str keys, and numpy arrays.
    """

    module: str
    name: str
    fields: dict[str, Any]


@dataclass(eq=False)
class _Object:
    """A record while it is read."""

    of: _Global
    state: dict[Any, Any] | None = None


@dataclass(eq=False)
class _Dtype:
    kind: str
    order: str = ""

    def resolve(self) -> np.dtype[Any]:
        if f"{self.kind}{self.order}" not in _DTYPES:
            raise _refused(f"an array of dtype {self.order}{self.kind}", "numbers of 1 to 8 bytes")
        return np.dtype(f"{self.order}{self.kind}")


@dataclass(eq=False)
class _Array:
    values: NDArray[Any] | None = None


@dataclass
class _Budget:
    left: int = OPCODES_LIMIT


def read_pickle(data: bytes) -> Record:
    """Reads one message.

    Args:
        data: The pickle.

    Raises:
        ObservationError: If it is no pickle that a stock client writes; nothing was executed.
    """
    if len(data) > BYTES_LIMIT:
        raise _refused(f"{len(data)} bytes", f"at most {BYTES_LIMIT}")
    try:
        result = _Machine(data).run()
        if not isinstance(result, _Object) or result.state is None:
            raise _refused("another value", f"one of {', '.join(_RECORDS)}")
        return Record(result.of.module, result.of.name, _plain_dict(result.state, DEPTH_LIMIT, _Budget()))
    except (ValueError, IndexError, KeyError, TypeError, AttributeError, OverflowError, struct.error) as error:
        # Opcodes that do not fit what is on the stack, or text that is none.
        raise _refused(f"one that cannot be read ({type(error).__name__})", "a complete one") from error


def _refused(found: str, expected: str) -> ObservationError:
    return ObservationError(
        f"the pickle is or has {found}, expected {expected}; use the asynchronous client of LeRobot 0.3 to 0.6"
    )


class _Machine:
    """The stack, the memo and the opcodes that are understood."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._stack: list[Any] = []
        self._marks: list[int] = []
        self._memo: dict[int, Any] = {}
        self._encoded = 0

    def run(self) -> Any:
        """What the pickle holds."""
        for place, (name, argument) in enumerate(self._opcodes()):
            if (name == "PROTO") != (place == 0):
                raise _refused("no protocol at its begin", "protocol 2 to 5")
            if name == "STOP":
                break
            _HANDLERS[name](self, argument)
        if self._marks or len(self._stack) != 1:
            raise _refused(f"{len(self._stack)} values at its end", "one")
        return self._stack[0]

    def _opcodes(self) -> Iterator[tuple[str, Any]]:
        stream = io.BytesIO(self._data)
        opcodes = pickletools.genops(stream)
        for _ in range(OPCODES_LIMIT):
            place = stream.tell()
            code = self._data[place : place + 1]
            # Looked at before pickletools reads the argument: so it reads those of listed opcodes alone.
            if code not in _CODES:
                raise _refused(f"opcode {code!r} at byte {place}", "those of plain values and arrays")
            if code == b"c":
                self._check_global(place + 1)
            opcode, argument, _ = next(opcodes)
            if opcode.name == "STOP" and stream.tell() != len(self._data):
                raise _refused(f"{len(self._data) - stream.tell()} bytes after its end", "none")
            yield opcode.name, argument
            if opcode.name == "STOP":
                return
        raise _refused("too many opcodes", f"at most {OPCODES_LIMIT}")

    def _check_global(self, place: int) -> None:
        """Pickletools would replace a backslash in a name, and warn of each that stands for nothing."""
        lines = self._data[place : place + _GLOBAL_BYTES].split(b"\n", 2)
        if len(lines) < 3 or b"\\" in lines[0] + lines[1]:
            raise _refused("a long or strange name of a global", "those of LeRobot's messages and of arrays")

    def push(self, value: Any) -> None:
        """One more value."""
        self._stack.append(value)

    def pop(self) -> Any:
        """The last value, of those after the last mark."""
        if self._marks and len(self._stack) <= self._marks[-1]:
            raise _refused("an opcode that lacks its values", "a complete one")
        return self._stack.pop()

    def mark(self, _: Any) -> None:
        self._marks.append(len(self._stack))

    def pop_mark(self) -> list[Any]:
        place = self._marks.pop()
        values = self._stack[place:]
        del self._stack[place:]
        return values

    def protocol(self, number: int) -> None:
        if not 2 <= number <= 5:
            raise _refused(f"protocol {number}", "2 to 5")

    def constant(self, value: Any) -> None:
        if type(value) is int and abs(value) >= _LARGEST_INT:
            raise _refused("a number of more than 64 bits", "64 at most")
        self.push(value)

    def memoize(self, place: int | None) -> None:
        if len(self._memo) >= MEMO_LIMIT:
            raise _refused("too many values to refer to", f"at most {MEMO_LIMIT}")
        self._memo[len(self._memo) if place is None else place] = self._stack[-1]

    def get(self, place: int) -> None:
        self.push(self._memo[place])

    def tuple_of(self, count: int) -> None:
        values = [self.pop() for _ in range(count)]
        self.push(tuple(reversed(values)))

    def append(self, values: list[Any]) -> None:
        target = self._stack[-1]
        if type(target) is not list:
            raise _refused("items for what is no list", "a list")
        target.extend(values)

    def set_items(self, values: list[Any]) -> None:
        target = self._stack[-1]
        if type(target) is not dict or len(values) % 2:
            raise _refused("items for what is no map", "a map")
        keys = values[::2]
        if not all(type(key) is str for key in keys):
            raise _refused("a key that is no text", "texts")
        target.update(zip(keys, values[1::2], strict=True))

    def find_global(self, module: Any, name: Any) -> None:
        kind = _GLOBALS.get((module, name)) if type(module) is type(name) is str else None
        if kind is None:
            names = [text[:60] if type(text) is str else type(text).__name__ for text in (module, name)]
            raise _refused(f"the global {names}", "those of LeRobot's messages and of arrays")
        self.push(_Global(kind, module, name))

    def new_object(self, _: Any) -> None:
        arguments, of = self.pop(), self.pop()
        if type(of) is not _Global or of.kind is not _Kind.RECORD or arguments != ():
            raise _refused("an object of another class", f"one of {', '.join(_RECORDS)}")
        self.push(_Object(of))

    def reduce(self, _: Any) -> None:
        arguments, of = self.pop(), self.pop()
        if type(of) is not _Global or type(arguments) is not tuple:
            raise _refused("a call of what is no function", "arrays")
        self.push(self._reduced(of.kind, arguments))

    def _reduced(self, kind: _Kind, arguments: tuple[Any, ...]) -> Any:
        if kind is _Kind.RECONSTRUCT:
            of, shape, code = arguments
            if type(of) is _Global and of.kind is _Kind.NDARRAY and _is((0,), shape) and _is(b"b", code):
                return _Array()
        elif kind is _Kind.FROM_BUFFER:
            buffer, dtype, shape, order = arguments
            if _is("C", order) or _is("F", order):
                return _Array(_array(buffer, dtype, shape, order))
        elif kind is _Kind.SCALAR:
            dtype, buffer = arguments
            return _array(buffer, dtype, (), "C").item()
        elif kind is _Kind.DTYPE:
            text, align, copy = arguments
            if type(text) is str and len(text) == 2 and align is False and copy is True:
                return _Dtype(text)
        elif kind is _Kind.ENCODE:
            text, codec = arguments
            if type(text) is str and _is("latin1", codec):
                self._encoded += len(text)
                if self._encoded > BYTES_LIMIT:
                    raise _refused("too many bytes, encoded", f"at most {BYTES_LIMIT}")
                return text.encode("latin1")
        elif kind is _Kind.BYTES and arguments == ():
            return b""
        raise _refused("a call with other arguments", "those that numpy writes")

    def build(self, _: Any) -> None:
        state, target = self.pop(), self._stack[-1]
        if type(target) is _Object and target.state is None and type(state) is dict:
            target.state = state
        elif type(target) is _Dtype and not target.order and type(state) is tuple and len(state) == 8:
            if state[:1] + state[2:] != (3, None, None, None, -1, -1, 0) or state[1] not in ("<", ">", "|"):
                raise _refused("a dtype with fields or flags", "plain numbers")
            target.order = state[1]
        elif type(target) is _Array and target.values is None and type(state) is tuple and len(state) == 5:
            version, shape, dtype, fortran, buffer = state
            if version != 1 or type(fortran) is not bool:
                raise _refused("an array of another version", "1")
            target.values = _array(buffer, dtype, shape, "F" if fortran else "C")
        else:
            raise _refused("a state for another value", "one for a message, an array or a dtype")


def _is(expected: object, found: object) -> bool:
    return type(found) is type(expected) and found == expected


def _array(buffer: Any, dtype: Any, shape: Any, order: Any) -> NDArray[Any]:
    """A view of the bytes, where they are exactly those of the shape."""
    if type(buffer) not in (bytes, bytearray) or type(dtype) is not _Dtype or type(shape) is not tuple:
        raise _refused("an array of other parts", "bytes, dtype and shape")
    resolved = dtype.resolve()
    if len(shape) > _MOST_DIMS or not all(type(size) is int and 0 <= size <= BYTES_LIMIT for size in shape):
        raise _refused("an array of another shape", f"up to {_MOST_DIMS} whole numbers from 0 on")
    if math.prod(shape) * resolved.itemsize != len(buffer):
        raise _refused(f"{len(buffer)} bytes for an array of shape {list(shape)}", "as many as its shape has")
    if resolved.kind == "b" and np.any(np.frombuffer(buffer, np.uint8) > 1):
        raise _refused("truth values other than 0 and 1", "0 and 1")
    return np.frombuffer(buffer, resolved).reshape(shape, order="F" if order == "F" else "C")


def _plain(value: Any, depth: int, budget: _Budget) -> Any:
    """The value without what only the reading needs; a value that is referred to often counts each time."""
    budget.left -= 1
    if depth < 0 or budget.left < 0:
        raise _refused("values too deep or too many", f"{DEPTH_LIMIT} deep and {OPCODES_LIMIT} in all")
    if value is None or type(value) in (bool, int, float):
        return value
    if type(value) is str:
        value.encode()  # half of a surrogate pair is no text
        return value
    if type(value) is dict:
        return _plain_dict(value, depth, budget)
    if type(value) in (list, tuple):
        return type(value)(_plain(item, depth - 1, budget) for item in value)
    if type(value) is _Array and value.values is not None:
        return value.values
    raise _refused(f"a {type(value).__name__.strip('_')} among its values", "plain values and arrays")


def _plain_dict(value: dict[Any, Any], depth: int, budget: _Budget) -> dict[str, Any]:
    return {_plain(key, 0, budget): _plain(item, depth - 1, budget) for key, item in value.items()}


_HANDLERS: dict[str, Callable[[_Machine, Any], object]] = {
    "PROTO": _Machine.protocol,
    "STOP": lambda machine, _: None,
    "FRAME": lambda machine, _: None,
    "MEMOIZE": _Machine.memoize,
    **dict.fromkeys(("BINPUT", "LONG_BINPUT"), _Machine.memoize),
    **dict.fromkeys(("BINGET", "LONG_BINGET"), _Machine.get),
    "MARK": _Machine.mark,
    **dict.fromkeys(
        (
            *("SHORT_BINUNICODE", "BINUNICODE", "SHORT_BINBYTES", "BINBYTES", "BINBYTES8", "BYTEARRAY8"),
            *("BINFLOAT", "BININT", "BININT1", "BININT2", "LONG1"),
        ),
        _Machine.constant,
    ),
    "NONE": lambda machine, _: machine.push(None),
    "NEWTRUE": lambda machine, _: machine.push(True),
    "NEWFALSE": lambda machine, _: machine.push(False),
    "EMPTY_DICT": lambda machine, _: machine.push({}),
    "EMPTY_LIST": lambda machine, _: machine.push([]),
    "EMPTY_TUPLE": lambda machine, _: machine.push(()),
    "TUPLE": lambda machine, _: machine.push(tuple(machine.pop_mark())),
    "TUPLE1": lambda machine, _: machine.tuple_of(1),
    "TUPLE2": lambda machine, _: machine.tuple_of(2),
    "TUPLE3": lambda machine, _: machine.tuple_of(3),
    "APPEND": lambda machine, _: machine.append([machine.pop()]),
    "APPENDS": lambda machine, _: machine.append(machine.pop_mark()),
    "SETITEM": lambda machine, _: machine.set_items([machine.pop(), machine.pop()][::-1]),
    "SETITEMS": lambda machine, _: machine.set_items(machine.pop_mark()),
    "GLOBAL": lambda machine, names: machine.find_global(*names.split(" ", 1)),
    "STACK_GLOBAL": lambda machine, _: machine.find_global(*[machine.pop(), machine.pop()][::-1]),
    "NEWOBJ": _Machine.new_object,
    "REDUCE": _Machine.reduce,
    "BUILD": _Machine.build,
}
_CODES = {opcode.code.encode("latin1") for opcode in pickletools.opcodes if opcode.name in _HANDLERS}
