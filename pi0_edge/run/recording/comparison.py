"""The first place at which what was recorded and what was computed again differ."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pi0_edge.run.recording.file_reader import Place


@dataclass(frozen=True)
class Difference:
    """Something that is not the same.

    Attributes:
        where: Which chunk, row and joint, or which tick and joint.
        recorded: What the file says.
        computed: What was computed again.
        place: The bytes of the record.
        hint: What else is known about it; may be empty.
    """

    where: str
    recorded: float | int | str
    computed: float | int | str
    place: Place
    hint: str = ""

    @property
    def by(self) -> float | None:
        """By how much numbers differ."""
        if isinstance(self.recorded, str) or isinstance(self.computed, str):
            return None
        return abs(float(self.computed) - float(self.recorded))

    def __str__(self) -> str:
        by = "" if self.by is None else f", a difference of {self.by:.3g}"
        hint = f"; {self.hint}" if self.hint else ""
        return f"{self.where}: recorded {self.recorded}, computed {self.computed}{by} (record at {self.place}){hint}"

    def to_dict(self) -> dict[str, Any]:
        """In types that JSON has."""
        return {
            "where": self.where,
            "recorded": self.recorded,
            "computed": self.computed,
            "by": self.by,
            "offset": self.place.offset,
            "size": self.place.size,
            "hint": self.hint,
        }


def first_other_bits(recorded: NDArray[np.float32], computed: NDArray[np.float32]) -> tuple[int, ...] | None:
    """Index of the first value whose 32 bits differ, None where all are equal; of arrays of one shape."""
    other = np.ascontiguousarray(recorded).view(np.uint32) != np.ascontiguousarray(computed).view(np.uint32)
    return tuple(int(index) for index in np.argwhere(other)[0]) if other.any() else None
