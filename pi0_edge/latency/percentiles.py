"""Percentiles of latencies, by the early-stopping rule of MLPerf Inference: told only where the samples suffice.

A percentile of few samples says little: with 20 samples, the second largest is below the true 90th percentile in four
of ten runs. By the rule, a percentile p is estimated from n samples by the (n - t)-th smallest, with the largest t for
which seeing at most t slower ones by chance has a probability of at most 1 % where a share 1 - p of all is slower:

    sum of C(n, k) (1 - p)^k p^(n - k) over k = 0 ... t  <=  0.01
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

RISK = 0.01


@dataclass(frozen=True)
class Latency:
    """Figures of a timed run, in milliseconds. A percentile that the samples do not carry is None.

    Attributes:
        count: How many samples there are.
        mean_ms: Of all of them.
        p50_ms: Median.
        p90_ms: By `early_stopping_percentile`, as the following.
        p99_ms: As told by enough samples.
        p999_ms: 99.9 %.
        max_ms: The largest.
    """

    count: int
    mean_ms: float
    p50_ms: float
    p90_ms: float | None
    p99_ms: float | None
    p999_ms: float | None
    max_ms: float

    @classmethod
    def of(cls, samples_ms: Sequence[float]) -> Latency:
        """The figures of at least one sample."""
        ordered = sorted(map(float, samples_ms))
        middle = (ordered[(len(ordered) - 1) // 2] + ordered[len(ordered) // 2]) / 2
        return cls(
            count=len(ordered),
            mean_ms=math.fsum(ordered) / len(ordered),
            p50_ms=middle,
            p90_ms=early_stopping_percentile(ordered, 0.9),
            p99_ms=early_stopping_percentile(ordered, 0.99),
            p999_ms=early_stopping_percentile(ordered, 0.999),
            max_ms=ordered[-1],
        )

    def to_dict(self) -> dict[str, float | None]:
        """In types that JSON has, in milliseconds."""
        return {
            "n": self.count,
            "mean": self.mean_ms,
            "p50": self.p50_ms,
            "p90": self.p90_ms,
            "p99": self.p99_ms,
            "p99.9": self.p999_ms,
            "max": self.max_ms,
        }


def percentile_text(value_ms: float | None, percentile: float, count: int) -> str:
    """Such as `41.3 ms`, or `not enough: 120 of 459 samples`."""
    if value_ms is None:
        return f"not enough: {count} of {fewest_samples(percentile)} samples"
    return f"{value_ms:.4g} ms"


def early_stopping_percentile(samples: Sequence[float], percentile: float) -> float | None:
    """An estimate that the true percentile exceeds with a probability of 1 % at most.

    Args:
        samples: Independent of each other, in any order.
        percentile: Above 0 and below 1, such as 0.9.

    Returns:
        One of the samples; None where they are not enough.
    """
    count, slower, below = len(samples), 0, 0.0
    while slower < count:
        below += _probability(slower, count, 1 - percentile)
        if below > RISK:
            break
        slower += 1
    return sorted(samples)[count - slower] if slower else None


def fewest_samples(percentile: float) -> int:
    """How many samples an estimate of a percentile needs at least."""
    return math.ceil(math.log(RISK) / math.log(percentile))


def _probability(hits: int, count: int, share: float) -> float:
    """That exactly `hits` of `count` are among a share of all; in logarithms, which no count overflows."""
    ways = math.lgamma(count + 1) - math.lgamma(hits + 1) - math.lgamma(count - hits + 1)
    return math.exp(ways + hits * math.log(share) + (count - hits) * math.log1p(-share))
