"""Two engines on the same seeds: where both succeed, where only one does, and whether that could be chance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import comb

from pi0_edge.evaluation.rollout import Rollout


@dataclass(frozen=True)
class Pairing:
    """Successes of two engines on the same seeds.

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
    def p_value(self) -> float:
        """Chance of a difference this large between equal engines (exact two-sided test of McNemar 1947)."""
        differing = self.only_first + self.only_second
        tail = sum(comb(differing, k) for k in range(min(self.only_first, self.only_second) + 1))
        return min(1.0, 2 * tail / 2**differing)


def pair(first: Sequence[Rollout], second: Sequence[Rollout]) -> Pairing:
    """Counts the four cases.

    Raises:
        ValueError: If the seeds are not the same.
    """
    if [rollout.seed for rollout in first] != [rollout.seed for rollout in second]:
        raise ValueError("only rollouts on the same seeds can be paired")
    cases = [(a.success, b.success) for a, b in zip(first, second, strict=True)]
    return Pairing(*(cases.count(case) for case in ((True, True), (True, False), (False, True), (False, False))))
