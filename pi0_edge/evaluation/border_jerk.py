"""How roughly setpoints change where one chunk follows another, against how they change inside the chunks."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray


def split_jerk(
    setpoints: NDArray[np.floating], entries: Iterable[int], control_hz: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Third differences of setpoints, per second³.

    Args:
        setpoints: [ticks, joints].
        entries: Rows at which a chunk was entered. Before the first of them there was none, so that its border belongs
            to neither of both results.
        control_hz: Ticks per second.

    Returns:
        Those across a border, three for each, and those inside a chunk, each float64 [rows, joints].
    """
    jerk = np.diff(setpoints.astype(np.float64), n=3, axis=0) * control_hz**3
    crossing, inside = np.zeros(len(jerk), bool), np.ones(len(jerk), bool)
    for number, entry in enumerate(entries):
        rows = slice(max(0, entry - 3), max(0, entry))
        crossing[rows], inside[rows] = number > 0, False
    return jerk[crossing], jerk[inside]
