"""Small files of the kernel, read whole: what is missing, empty or fails to read is no error, but not there."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterator
from pathlib import Path

_MOST_BYTES = 65536
_NUMBER = re.compile(r"-?\d+")
_DIGITS = re.compile(r"(\d+)")


def text(path: str | Path) -> str:
    """Content without the zero bytes and line ends around it; empty where there is none.

    With plain calls of the operating system: a board is asked a hundred such questions in a millisecond.
    """
    try:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return ""
    try:
        return os.read(handle, _MOST_BYTES).decode(errors="replace").strip("\0\n ")
    except OSError:
        return ""
    finally:
        os.close(handle)


def number(path: str | Path) -> int | None:
    """The whole number that a file holds; None where it holds none."""
    content = text(path)
    return int(content) if _NUMBER.fullmatch(content) else None


def matching(root: Path, pattern: str) -> list[str]:
    """Paths below a root that a glob pattern fits, `hwmon2` before `hwmon10`."""
    return sorted(glob.glob(os.path.join(glob.escape(str(root)), pattern)), key=_by_numbers)


def hwmon_chips(root: Path) -> Iterator[tuple[str, str]]:
    """Name and folder of every sensor chip; indices of the folders change at every boot."""
    for folder in matching(root, "sys/class/hwmon/hwmon*"):
        yield text(f"{folder}/name"), folder


def _by_numbers(path: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdigit() else (-1, part) for part in _DIGITS.split(path)]
