"""The file in which emulated servo buses write down when packets with goals have left: what a latency ends with.

One record of nine bytes for each packet: the number of the bus (u8) and the time at which the last byte of the packet
had passed the line (f64, little endian, seconds on the clock of `time.monotonic`, which all processes of a machine
share). QEMU hands the bytes of its serial ports over at once; the time that they take on a wire is added by the bus.
"""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from firmware_bridge.errors import EmulatorError

_RECORD = struct.Struct("<Bd")
_COLUMNS = np.dtype([("bus", "u1"), ("left_s", "<f8")])


def goal_record(bus: int, left_s: float) -> bytes:
    """One record."""
    return _RECORD.pack(bus, left_s)


def read_goal_log(path: Path, buses: int) -> list[NDArray[np.float64]]:
    """When the packets with goals have left.

    Args:
        path: Of the file; a record that is not complete yet is left out.
        buses: How many there are.

    Returns:
        For each bus float64 [n], seconds on the clock of `time.monotonic`, in their order.

    Raises:
        EmulatorError: The file cannot be read.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise EmulatorError(f"the log of the servo buses cannot be read: {error}") from error
    records = np.frombuffer(content[: len(content) // _RECORD.size * _RECORD.size], _COLUMNS)
    return [records["left_s"][records["bus"] == number].astype(np.float64) for number in range(buses)]
