"""What a source of arrays and a naming layout must offer for a checkpoint to be built from them."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

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
    """Where one of our parameters lies: an array, a layer of it if it is stacked, and how it must be rearranged."""

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

    def read(self, source: TensorSource) -> Tensor:
        """The whole parameter in its stored dtype."""
        start, stop = (0, source.entries[self.key].shape[0]) if self.layer is None else (self.layer, self.layer + 1)
        rows = source.read_rows(self.key, start, stop)
        array = rows if self.layer is None else rows[0]
        return array if self.arrange is None else self.arrange(array)


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


def count_layers(keys: Collection[str], prefix: str) -> int:
    """One more than the highest index i among keys that start with `prefix` + "{i}."."""
    tails = (key[len(prefix) :].split(".", 1)[0] for key in keys if key.startswith(prefix))
    return max((int(tail) + 1 for tail in tails if tail.isdigit()), default=0)
