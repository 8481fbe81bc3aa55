"""Two policies on the same seeds: where both succeed, where only one does, and how far apart their success can be."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import comb, sqrt
from typing import Any

from pi0_edge.evaluation.rollout import Rollout, wilson_interval


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
        """How many seeds both played."""
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
        """Counts and figures in types that JSON has."""
        low, high = self.interval
        figures = {"difference": self.difference, "interval_95": [low, high], "p_value": self.p_value}
        return {**asdict(self), **figures}


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
