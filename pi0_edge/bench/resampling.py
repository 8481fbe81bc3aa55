"""Medians of resamples of a series whose neighbours are alike: the moving-block bootstrap.

Latencies that follow each other are no independent draws, because a machine is slow for a while. Whole blocks of
neighbours are therefore drawn (Künsch, "The jackknife and the bootstrap for general stationary observations", 1989).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 2000

_AT_ONCE = 2**21
"""Values in memory."""


def block_medians(values: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.float64]:
    """Medians of series as long as `values`, each put together from blocks of as many neighbours as the root of it.

    Args:
        values: float64 [n], at least one, in the order of time.
        rng: Draws.

    Returns:
        float64 [RESAMPLES].
    """
    count = len(values)
    length = max(1, round(count**0.5))
    blocks = -(-count // length)
    starts = rng.integers(0, count - length + 1, (RESAMPLES, blocks))
    rows = max(1, _AT_ONCE // (blocks * length))
    parts = (starts[begin : begin + rows, :, None] + np.arange(length) for begin in range(0, RESAMPLES, rows))
    return np.concatenate([np.median(values[part.reshape(len(part), -1)[:, :count]], axis=1) for part in parts])
