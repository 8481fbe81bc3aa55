"""Limits that hold for whole episodes, by split conformal prediction (Vovk et al. 2005; Angelopoulos and Bates 2021).

Half of the training episodes are examples. Each episode of the other half gets one score, the largest value that a rule
would have seen in it. A new episode of the same kind stays within the ceil((n + 1)(1 - a))-th smallest of these n
scores with a probability of at least 1 - a; where n is less than 1/a - 1, the largest score is taken, for which the
probability is n / (n + 1).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

MISS_RATE = 0.01
"""a: the share of ordinary episodes that a limit may refuse, where there are episodes enough to say so."""

SHARE = 2 / 3
"""Of the moments that a rule looks at, how many must break it: 20 of 30 images before arming."""

WATCH_EVERY_S = 0.5
"""Time between two moments that the guard looks at while the robot works."""

WATCHED = 8
"""Moments that a rule looks at together while the robot works: 4 s."""


@dataclass(frozen=True)
class Limits:
    """How far ordinary episodes go.

    Attributes:
        distance: From the nearest example.
        margins: By the name of an alternative: how much nearer an example is if the alternative were true.
    """

    distance: float
    margins: dict[str, float] = field(default_factory=dict)


def conformal_limit(scores: Sequence[float] | NDArray[np.floating], miss_rate: float = MISS_RATE) -> float:
    """The limit that a new episode exceeds with a probability of at most `miss_rate`, see above.

    Args:
        scores: One for each held-out episode, at least one.
        miss_rate: a.
    """
    ordered = np.sort(np.asarray(scores, np.float64))
    rank = math.ceil((len(ordered) + 1) * (1 - miss_rate))
    return float(ordered[min(rank, len(ordered)) - 1])


def persistent(values: NDArray[np.floating]) -> float:
    """What at least `SHARE` of the values, [n], reach."""
    needed = math.ceil(SHARE * len(values) - 1e-9)
    return float(np.sort(values)[len(values) - needed])


def largest_persistent(values: NDArray[np.floating]) -> float:
    """The largest `persistent` of any `WATCHED` successive values; of all of them where there are fewer."""
    last = max(1, len(values) - WATCHED + 1)
    return max(persistent(values[first : first + WATCHED]) for first in range(last))
