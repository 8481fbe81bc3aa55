"""Statistics of rollouts: success with its confidence interval, two policies on the same seeds, jerk at chunk borders.

Numbers only: nothing here needs the simulation.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from math import comb, sqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Rollout:
    """One episode.

    Attributes:
        seed: Fixes scene and noise.
        success: Whether the task was done.
        ticks: Ticks until success, or all ticks of the episode.
        best_reward: Highest stage of the task that was reached, see `SimulatedTask.stages`.
    """

    seed: int
    success: bool
    ticks: int
    best_reward: float


@dataclass(frozen=True)
class Evaluation:
    """One policy on some seeds.

    Attributes:
        rollouts: One per seed, in the order of the seeds.
    """

    rollouts: tuple[Rollout, ...]

    @property
    def episodes(self) -> int:
        """How many episodes were run."""
        return len(self.rollouts)

    @property
    def successes(self) -> int:
        """How many of them succeeded."""
        return sum(rollout.success for rollout in self.rollouts)

    @property
    def success_rate(self) -> float:
        """Share of the episodes that succeeded."""
        return self.successes / self.episodes

    @property
    def interval(self) -> tuple[float, float]:
        """95 % confidence interval of `success_rate`, see `wilson_interval`."""
        return wilson_interval(self.successes, self.episodes)

    @property
    def mean_ticks_to_success(self) -> float | None:
        """Mean over the episodes that succeeded; None where none did."""
        ticks = [rollout.ticks for rollout in self.rollouts if rollout.success]
        return sum(ticks) / len(ticks) if ticks else None

    def to_dict(self) -> dict[str, Any]:
        """Counts and statistics, without the episodes, in types that JSON has."""
        return {
            "episodes": self.episodes,
            "successes": self.successes,
            "success_rate": self.success_rate,
            "interval_95": list(self.interval),
            "mean_ticks_to_success": self.mean_ticks_to_success,
        }


def wilson_interval(successes: int, trials: int, z: float = 1.96) -> tuple[float, float]:
    """95 % confidence interval of a success rate (Wilson 1927), which stays inside [0, 1] near its ends.

    Raises:
        ValueError: If there was no trial.
    """
    if trials < 1:
        raise ValueError(f"an interval needs at least one trial, found {trials}")
    rate = successes / trials
    centre = (rate + z * z / (2 * trials)) / (1 + z * z / trials)
    half = z * sqrt(rate * (1 - rate) / trials + z * z / (4 * trials * trials)) / (1 + z * z / trials)
    return max(0.0, centre - half), min(1.0, centre + half)


@dataclass(frozen=True)
class Pairing:
    """Successes of two policies on the same seeds.

    Attributes:
        both: Seeds on which both succeed.
        only_first: Seeds on which only the first does.
        only_second: Seeds on which only the second does.
        neither: The other seeds.
    """

    both: int
    only_first: int
    only_second: int
    neither: int

    @property
    def seeds(self) -> int:
        """How many seeds both policies ran on."""
        return self.both + self.only_first + self.only_second + self.neither

    @property
    def difference(self) -> float:
        """Success rate of the second minus that of the first."""
        return (self.only_second - self.only_first) / self.seeds

    @property
    def interval(self) -> tuple[float, float]:
        """95 % confidence interval of `difference`.

        Method 10 of Newcombe (1998), Improved confidence intervals for the difference between binomial proportions
        based on paired data, Statistics in Medicine 17, 2635-2650: the Wilson intervals of both rates, added in
        quadrature with the correlation between the outcomes, whose estimate is corrected for continuity where it is
        positive. Unlike Wald's interval it has a width even where both always succeed.
        """
        first, second = self.both + self.only_first, self.both + self.only_second
        rates = first / self.seeds, second / self.seeds
        (low1, high1), (low2, high2) = (wilson_interval(successes, self.seeds) for successes in (first, second))
        correlation = self._correlation()

        def length(a: float, b: float) -> float:
            return sqrt(max(0.0, a * a + b * b - 2 * correlation * a * b))

        below = length(rates[1] - low2, high1 - rates[0])
        above = length(high2 - rates[1], rates[0] - low1)
        return self.difference - below, self.difference + above

    def _correlation(self) -> float:
        """Newcombe's estimate of the correlation between the two outcomes of a seed."""
        first, second = self.both + self.only_first, self.both + self.only_second
        spread = first * (self.seeds - first) * second * (self.seeds - second)
        if not spread:
            return 0.0
        product = self.both * self.neither - self.only_first * self.only_second
        corrected = max(0.0, product - self.seeds / 2) if product > 0 else product
        return corrected / sqrt(spread)

    @property
    def p_value(self) -> float:
        """Chance of a difference this large between equal policies (exact two-sided test of McNemar 1947)."""
        differing = self.only_first + self.only_second
        tail = sum(comb(differing, k) for k in range(min(self.only_first, self.only_second) + 1))
        return min(1.0, 2 * tail / 2**differing)

    def to_dict(self) -> dict[str, Any]:
        """Counts and statistics in types that JSON has."""
        low, high = self.interval
        statistics = {"difference": self.difference, "interval_95": [low, high], "p_value": self.p_value}
        return {**asdict(self), **statistics}


def pair(first: Sequence[Rollout], second: Sequence[Rollout]) -> Pairing:
    """Counts the four cases.

    Raises:
        ValueError: If the seeds are not the same, or there is none.
    """
    if not first:
        raise ValueError("at least one rollout of each is needed, found none")
    if [rollout.seed for rollout in first] != [rollout.seed for rollout in second]:
        raise ValueError("only rollouts on the same seeds can be paired")
    cases = [(a.success, b.success) for a, b in zip(first, second, strict=True)]
    return Pairing(*(cases.count(case) for case in ((True, True), (True, False), (False, True), (False, False))))


def split_jerk(
    setpoints: NDArray[np.floating], entries: Iterable[int], control_hz: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Third differences of setpoints, per second³, at the borders of chunks and inside them.

    Args:
        setpoints: [ticks, joints].
        entries: Rows at which a chunk was entered. Before the first of them there was none, so that its border belongs
            to neither result.
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
