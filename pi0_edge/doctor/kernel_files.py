"""The small files in which the kernel says something: a word, a number, a list of processors."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

_RANGE = re.compile(r"(\d+)(?:-(\d+))?")


def text(path: Path) -> str:
    """Content without the line's end; empty where it cannot be read."""
    try:
        return path.read_bytes().decode(errors="replace").strip("\0\n ")
    except OSError:
        return ""


def number(path: Path) -> int | None:
    """A whole number; None where there is none."""
    found = text(path)
    return int(found) if re.fullmatch(r"-?\d+", found) else None


def processors(ranges: str) -> frozenset[int]:
    """Such as `0-2,5`; empty where it names none, as `(null)` does."""
    found = (_RANGE.fullmatch(part.strip()) for part in ranges.split(","))
    bounds = ((int(match[1]), int(match[2] or match[1])) for match in found if match is not None)
    return frozenset(number for first, last in bounds for number in range(first, last + 1))


def names_of_processors(numbers: Iterable[int]) -> str:
    """The same way back: `0-2,5`."""
    parts: list[list[int]] = []
    for number in sorted(numbers):
        if parts and parts[-1][-1] == number - 1:
            parts[-1].append(number)
        else:
            parts.append([number])
    return ",".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in parts)
