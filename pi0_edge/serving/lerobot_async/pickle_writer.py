"""Writes the reply to LeRobot's asynchronous client, a list of TimedAction, as the opcodes of a pickle of protocol 4.

Neither LeRobot nor torch is needed for it. The client builds each action by calling `torch.tensor` with a list of
numbers, which gives a float32 tensor on the processor. The state of a TimedAction is set as `pickle` sets that of a
dataclass.
"""

from __future__ import annotations

import struct

import numpy as np
from numpy.typing import NDArray

from pi0_edge.serving.lerobot_async.pickle_reader import MODULES

_PROTO, _STOP, _MARK, _EMPTY_LIST, _EMPTY_DICT, _EMPTY_TUPLE = b"\x80\x04", b".", b"(", b"]", b"}", b")"
_APPENDS, _SETITEMS, _NEWOBJ, _REDUCE, _BUILD, _TUPLE1 = b"e", b"u", b"\x81", b"R", b"b", b"\x85"
_LARGEST_TIMESTEP = 1 << 62


def write_actions(module: str, timestamp: float, timestep: int, actions: NDArray[np.float64], fps: float) -> bytes:
    """A chunk as the client reads it: action k has the timestep `timestep` + k and the time `timestamp` + k / `fps`.

    Args:
        module: Module that the client knows TimedAction from, one of `pickle_reader.MODULES`.
        timestamp: Time of the observation, s.
        timestep: Timestep of the observation.
        actions: [rows, dims], in the client's units and order.
        fps: Actions per second.

    Raises:
        ValueError: If the module is another one, or a timestep is out of range.
    """
    if module not in MODULES:
        raise ValueError(f"module is {module!r:.80}, expected one of {', '.join(MODULES)}")
    if not 0 <= timestep < _LARGEST_TIMESTEP:
        raise ValueError(f"timestep is {timestep}, expected 0 to {_LARGEST_TIMESTEP}")
    rows = [_timed_action(module, timestamp + k / fps, timestep + k, row) for k, row in enumerate(actions.tolist())]
    return b"".join((_PROTO, _EMPTY_LIST, _MARK, *rows, _APPENDS, _STOP))


def _timed_action(module: str, timestamp: float, timestep: int, action: list[float]) -> bytes:
    numbers = b"".join(map(_float, action))
    tensor = _global("torch", "tensor") + _EMPTY_LIST + _MARK + numbers + _APPENDS + _TUPLE1 + _REDUCE
    state = _text("timestamp") + _float(timestamp) + _text("timestep") + _int(timestep) + _text("action") + tensor
    return _global(module, "TimedAction") + _EMPTY_TUPLE + _NEWOBJ + _EMPTY_DICT + _MARK + state + _SETITEMS + _BUILD


def _global(module: str, name: str) -> bytes:
    return f"c{module}\n{name}\n".encode("ascii")


def _text(text: str) -> bytes:
    encoded = text.encode()
    return b"X" + struct.pack("<I", len(encoded)) + encoded


def _float(value: float) -> bytes:
    return b"G" + struct.pack(">d", value)


def _int(value: int) -> bytes:
    return b"\x8a\x08" + struct.pack("<q", value)
