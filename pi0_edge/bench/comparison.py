"""Whether one result is faster than another: the ratio of the medians with an interval, or "no difference".

Latencies that follow each other are alike, and an ordinary bootstrap finds differences where there are none: blocks of
neighbours are drawn instead (`resampling`).

Paired: two results of one session, whose chunks were taken in turns. What slows the machine down slows both, so that
the ratio of each pair is compared. Unpaired: two results of two sessions. Between sessions a machine also changes as a
whole, which no resampling within one shows: a difference is told only where it is larger than the two runs wander
within themselves.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pi0_edge.bench.resampling import block_medians
from pi0_edge.bench.result import BenchResult, Mode, PolicyUnderTest
from pi0_edge.bench.samples import Samples
from pi0_edge.errors import BenchError

CONFIDENCE = 0.95
LEAST_DIFFERENCE = 0.02
"""Smaller ones are not told: nobody chooses an engine by them, and sessions differ by more."""
FEWEST_PAIRS = 30

_SEGMENTS = 10


@dataclass(frozen=True)
class Comparison:
    """The second result against the first.

    Attributes:
        mode: Of the runs.
        ratio: Median of the second over that of the first, or the median of the ratios of the pairs.
        low: Of its interval of 95 %.
        high: The same.
        paired: Whether the chunks were taken in turns.
        noise: By how much a ratio may differ from 1 without meaning anything.
        counts: Samples of each.
    """

    mode: Mode
    ratio: float
    low: float
    high: float
    paired: bool
    noise: float
    counts: tuple[int, int]

    @property
    def differs(self) -> bool:
        """Whether the whole interval lies outside of what noise explains."""
        return self.low > 1 + self.noise or self.high < 1 / (1 + self.noise)

    def __str__(self) -> str:
        how = "paired" if self.paired else "two sessions"
        interval = f"{self.ratio:.3f} [{self.low:.3f}, {self.high:.3f}] of the time, {how}, n {self.counts[1]}"
        if not self.differs:
            return f"{self.mode}: no difference: {interval}; smaller ones than {100 * self.noise:.1f} % cannot be told"
        word = "slower" if self.ratio > 1 else "faster"
        return f"{self.mode}: the second is {word}: {interval}"


def compare_results(first: BenchResult, second: BenchResult) -> tuple[Comparison, ...]:
    """Compares the runs that both results have, mode by mode.

    Raises:
        BenchError: If the results are not valid, of different boundaries or work, or have no mode or too few samples
            in common.
    """
    for result in (first, second):
        if not result.verdict.valid:
            raise BenchError(f"the result {result.id} is void: {'; '.join(result.verdict.reasons)}")
    if first.boundary != second.boundary:
        raise BenchError(f"{first.boundary} and {second.boundary} have different begins and ends; measure the same one")
    if _work(first.policy) != _work(second.policy):
        raise BenchError(
            f"the work differs: {_work_text(first.policy)} against {_work_text(second.policy)}; measure the same work"
        )
    paired = first.session == second.session and first.id != second.id
    found = []
    for run in first.runs:
        other = second.run(run.mode)
        if other is not None and run.period_ms == other.period_ms:
            found.append(compare_samples(run.samples, other.samples, run.mode, paired=paired and run.mode == "closed"))
    if not found:
        raise BenchError("the results have no runs of the same mode and period; measure both in the same way")
    return tuple(found)


def compare_samples(
    first: Samples, second: Samples, mode: Mode = "closed", *, paired: bool, seed: int = 0
) -> Comparison:
    """Compares two runs.

    Args:
        first: What the second is divided by.
        second: The other.
        mode: Of both.
        paired: Whether sample k of the one was taken next to sample k of the other.
        seed: Of the resampling.

    Raises:
        BenchError: If there are fewer than `FEWEST_PAIRS` samples.
    """
    counts = len(first), len(second)
    if min(counts) < FEWEST_PAIRS:
        raise BenchError(f"{counts[0]} and {counts[1]} samples are too few; expected {FEWEST_PAIRS} at least")
    shortest = min(first.latency_ms.min(), second.latency_ms.min())
    if not shortest > 0:
        raise BenchError(
            f"a chunk took {shortest:g} ms, expected more than 0: the file was changed; run the bench again"
        )
    a, b = np.log(first.latency_ms), np.log(second.latency_ms)
    rng = np.random.default_rng(seed)
    if paired:
        size = min(len(a), len(b))
        ratios = b[:size] - a[:size]
        middle = float(np.median(ratios))
        drawn = block_medians(ratios, rng)
        noise = LEAST_DIFFERENCE
    else:
        middle = float(np.median(b) - np.median(a))
        drawn = block_medians(b, rng) - block_medians(a, rng)
        noise = max(LEAST_DIFFERENCE, run_noise(first), run_noise(second))
    low, high = np.quantile(drawn, ((1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2))
    return Comparison(
        mode=mode,
        ratio=float(np.exp(middle)),
        low=float(np.exp(low)),
        high=float(np.exp(high)),
        paired=paired,
        noise=noise,
        counts=counts,
    )


def run_noise(samples: Samples) -> float:
    """By how much the median of a run wanders within itself: twice the spread of the medians of its tenths.

    The spread is the median absolute deviation over 0.6745, a standard deviation that single outliers do not move.
    """
    logs = np.log(samples.latency_ms)
    medians = np.array([np.median(part) for part in np.array_split(logs, _SEGMENTS) if part.size])
    deviation = np.median(np.abs(medians - np.median(medians))) / 0.6745
    return float(np.expm1(2 * deviation))


def _work(policy: PolicyUnderTest) -> tuple[int, ...]:
    return policy.cameras, policy.tokens, policy.horizon


def _work_text(policy: PolicyUnderTest) -> str:
    return f"{policy.cameras} cameras, {policy.tokens} tokens, {policy.horizon} actions"
