"""The samples of one run, every one of them, in columns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pi0_edge.errors import BenchError


@dataclass(frozen=True)
class Samples:
    """One row for each chunk that was asked for.

    Attributes:
        due_ns: int64 [n], when the observation was due, on the clock of `time.monotonic_ns`; in a closed run, when the
            chunk was asked for.
        begin_ns: int64 [n], when the chunk was asked for.
        end_ns: int64 [n], when it was there.
        skipped: int64 [n], periods that passed without an observation between the one before and this one: each is a
            chunk that a robot did not get. 0 in a closed run.
        stages_ms: Stage or Euler step -> float64 [n], how long it took, in milliseconds; NaN where it is not known.
    """

    due_ns: NDArray[np.int64]
    begin_ns: NDArray[np.int64]
    end_ns: NDArray[np.int64]
    skipped: NDArray[np.int64]
    stages_ms: Mapping[str, NDArray[np.float64]] = field(default_factory=dict[str, Any])

    def __len__(self) -> int:
        return len(self.due_ns)

    @property
    def latency_ms(self) -> NDArray[np.float64]:
        """float64 [n], from the time at which the observation was due."""
        return (self.end_ns - self.due_ns).astype(np.float64) * 1e-6

    def to_dict(self) -> dict[str, Any]:
        """In types that JSON has; NaN becomes null."""
        stages = {
            name: [None if value != value else round(float(value), 6) for value in values]
            for name, values in self.stages_ms.items()
        }
        columns = {name: getattr(self, name).tolist() for name in ("due_ns", "begin_ns", "end_ns", "skipped")}
        return {**columns, "stages_ms": stages}

    @classmethod
    def from_dict(cls, read: Mapping[str, Any]) -> Samples:
        """What `to_dict` gave.

        Raises:
            BenchError: If columns are missing or of unequal length.
        """
        try:
            due, begin, end, skipped = (
                np.array(read[name], np.int64) for name in ("due_ns", "begin_ns", "end_ns", "skipped")
            )
            stages = {
                str(name): np.array([np.nan if value is None else value for value in values], np.float64)
                for name, values in read["stages_ms"].items()
            }
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise BenchError(f"samples cannot be read ({error!r}); run the bench again") from error
        columns = (due, begin, end, skipped, *stages.values())
        lengths = {len(column) for column in columns if column.ndim == 1}
        if len(lengths) != 1 or any(column.ndim != 1 for column in columns):
            raise BenchError(f"the columns of samples have {sorted(lengths)} rows, expected as many in each")
        return cls(due, begin, end, skipped, stages)
