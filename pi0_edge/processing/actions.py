"""Actions relative to the current state and back.

A chunk of delta actions is relative to the one state it was predicted from: all rows use the same state, also the last.
Which dimensions are relative is a mask, written as openpi writes it: (6, -1, 6, -1) is six relative dimensions, one
absolute, six relative, one absolute.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def delta_mask(runs: Sequence[int]) -> NDArray[np.bool_]:
    """(6, -1) -> six times True, once False."""
    return np.repeat(np.asarray(runs, np.int64) > 0, np.abs(np.asarray(runs, np.int64)))


def to_delta(actions: NDArray[np.float64], state: NDArray[np.float64], mask: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Subtracts the state where the mask is True.

    Args:
        actions: [rows, dims].
        state: [dims of the state], at least as many as the mask has.
        mask: bool; dimensions beyond it are absolute.

    Returns:
        [rows, dims].
    """
    return actions - _offset(actions, state, mask)


def to_absolute(
    actions: NDArray[np.float64], state: NDArray[np.float64], mask: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """Adds the state where the mask is True; the inverse of `to_delta`."""
    return actions + _offset(actions, state, mask)


def _offset(actions: NDArray[np.float64], state: NDArray[np.float64], mask: NDArray[np.bool_]) -> NDArray[np.float64]:
    offset = np.zeros(actions.shape[-1])
    offset[: len(mask)] = np.where(mask, state[: len(mask)], 0.0)
    return offset
