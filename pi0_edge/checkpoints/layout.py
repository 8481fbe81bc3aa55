"""What a checkpoint is built from: a source of arrays, a layout of names, and both joined as `StoredParameters`."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from pi0_edge.errors import CheckpointError

TOWERS = ("vision", "prefix", "expert")
"""The three stacks of layers; our names of their parameters start with these words."""


@dataclass(frozen=True)
class Entry:
    """Shape, dtype and file of one stored array, known without reading it."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    file: Path

    @property
    def bytes(self) -> int:
        """Size of the array in its stored dtype."""
        return math.prod(self.shape) * self.dtype.itemsize


class TensorSource(Protocol):
    """Arrays under the names their writer gave them."""

    @property
    def entries(self) -> Mapping[str, Entry]:
        """What is stored, by key."""
        ...

    def read_rows(self, key: str, start: int, stop: int) -> Tensor:
        """Rows start..stop along the first axis; the caller drops them before it asks for more."""
        ...

    def release(self) -> None:
        """Frees what reading keeps in memory between calls."""
        ...

    def files(self) -> list[Path]:
        """Every file the weights are stored in, sorted."""
        ...


@dataclass(frozen=True)
class Location:
    """Where one of our parameters is stored: an array, a layer of it if it is stacked, and how it is rearranged."""

    key: str
    layer: int | None = None
    arrange: Callable[[Tensor], Tensor] | None = None

    def shape(self, entry: Entry) -> tuple[int, ...]:
        """The shape the parameter will have; the stored shape itself where it cannot even be rearranged."""
        stored = entry.shape if self.layer is None else entry.shape[1:]
        if self.arrange is None:
            return stored
        try:
            return tuple(self.arrange(torch.empty(stored, device="meta")).shape)
        except (RuntimeError, IndexError, ValueError):
            return stored

    def rows(self, entry: Entry) -> tuple[int, int]:
        """First and last (exclusive) row of the array that hold the parameter."""
        return self.rows_of(entry.shape[0])

    def rows_of(self, rows: int) -> tuple[int, int]:
        """As `rows`, of an array with so many."""
        return (0, rows) if self.layer is None else (self.layer, self.layer + 1)

    def parameter(self, rows: Tensor) -> Tensor:
        """The parameter from its `rows` as they are stored."""
        array = rows if self.layer is None else rows[0]
        return array if self.arrange is None else self.arrange(array)

    def __str__(self) -> str:
        return self.key if self.layer is None else f"{self.key}[{self.layer}]"


class Layout(Protocol):
    """Translates our parameter names into those of one project."""

    @property
    def name(self) -> str:
        """The family, as in `pi0_edge.checkpoints`."""
        ...

    def locate(self, name: str) -> Location:
        """Where the parameter `name` would be stored, whether or not it is there."""
        ...

    def unused(self, key: str, prefix_depth: int) -> bool:
        """Whether `key` is known and not needed for inference."""
        ...

    def layers(self, tower: str) -> int:
        """How many layers of `tower` are stored."""
        ...

    def sizes(self) -> Mapping[str, int | str]:
        """Sizes that this layout records beyond the shapes of our parameters (names of `sizes`)."""
        ...


@dataclass(frozen=True)
class StoredParameters:
    """The arrays of a source under our parameter names.

    Attributes:
        source: The arrays.
        layout: Where each parameter is stored in it.
        origin: The checkpoint, for error messages.
    """

    source: TensorSource
    layout: Layout
    origin: str

    def locate(self, name: str) -> Location:
        """Where the parameter `name` is stored.

        Raises:
            CheckpointError: If it is not stored.
        """
        location = self.layout.locate(name)
        if not self.holds(location):
            raise CheckpointError(f"{self.origin} ({self.layout.name}) lacks {location}, our {name}")
        return location

    def holds(self, location: Location) -> bool:
        """Whether the array is there, and has that layer."""
        entry = self.source.entries.get(location.key)
        return entry is not None and (location.layer is None or location.layer < entry.shape[0])

    def shape(self, name: str) -> tuple[int, ...] | None:
        """The shape of the parameter `name`, or None where it is not stored."""
        location = self.layout.locate(name)
        return location.shape(self.source.entries[location.key]) if self.holds(location) else None


def count_layers(keys: Collection[str], prefix: str) -> int:
    """One more than the highest index i among keys that start with `prefix` + "{i}."."""
    tails = (key[len(prefix) :].split(".", 1)[0] for key in keys if key.startswith(prefix))
    return max((int(tail) + 1 for tail in tails if tail.isdigit()), default=0)
