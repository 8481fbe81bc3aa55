"""What can be wrong with the sweep in which every joint was moved through its range."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from pi0_edge.robots.servos import COUNTS_PER_TURN

LEAST_SWEEP = 100
"""A joint that moved by fewer counts, nine degrees, was not moved."""

_HALF_TURN = COUNTS_PER_TURN // 2
_SAME_MOTION = 0.02  # of the range: two joints whose difference, or sum, stays within are one


def mistakes_in_sweep(joints: Sequence[str], counts: NDArray[np.float64]) -> Iterator[str]:
    """What is wrong with it, each in words.

    Args:
        joints: Names.
        counts: [ticks, joints], in the order of time.
    """
    if not len(counts):
        yield "no joint was moved"
        return
    crossed = crosses_the_end(counts)
    moved = np.ptp(counts, axis=0) >= LEAST_SWEEP
    for name, moves, crosses in zip(joints, moved, crossed, strict=True):
        if not moves:
            yield f"{name} was not moved"
        elif crosses:
            yield (
                f"{name} passed the end of its encoder, from 4095 to 0: a servo cannot be commanded across it. Keep "
                "the joint within its limits; if these lie across the end, mount the horn half a turn further"
            )
    whole = [place for place in range(len(joints)) if moved[place] and not crossed[place]]
    for one, other in combinations(whole, 2):
        if _moves_as(counts[:, one], counts[:, other]):
            yield (
                f"{joints[one]} and {joints[other]} moved as one, count for count: their servos are on one axis. Check "
                "the IDs and the secondary IDs of shadows; or you moved both at once: move one after the other"
            )


def crosses_the_end(counts: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Whether each joint left 0 to 4095 or jumped by more than half a turn between two ticks, bool [joints]."""
    outside = (counts.min(axis=0) < 0) | (counts.max(axis=0) >= COUNTS_PER_TURN)
    return outside | (np.abs(np.diff(counts, axis=0, prepend=counts[:1])).max(axis=0) > _HALF_TURN)


def _moves_as(one: NDArray[np.float64], other: NDArray[np.float64]) -> bool:
    most = _SAME_MOTION * max(np.ptp(one), np.ptp(other))
    return bool(np.ptp(one - other) < most or np.ptp(one + other) < most)
