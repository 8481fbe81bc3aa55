"""What the training loop draws from: one source per robot."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from torch import Tensor

from pi0_edge.model import ModelInputs


@dataclass(frozen=True)
class Batch:
    """Observations of one robot and what followed them.

    Attributes:
        inputs: The observations.
        chunks: Normalized and zero-padded, float32 [batch, horizon, action_dim].
        real_dims: Leading action dimensions that this robot has; the rest is padding.
        keys: Names the images and prompt of each row: rows with one key have one prefix. Unique within a source.
        source: Tells sources apart.
    """

    inputs: ModelInputs
    chunks: Tensor
    real_dims: int
    keys: tuple[str, ...]
    source: str = ""


class Source(Protocol):
    """Demonstrations of one robot."""

    def batch(self, size: int, rng: np.random.Generator) -> Batch:
        """Draws `size` observations; the same state of `rng` gives the same ones."""
        ...
