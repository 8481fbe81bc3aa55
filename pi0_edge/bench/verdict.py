"""Whether the figures of a bench may be told: everything that would make them say something else than they seem to.

A result is void with a reason for each rule that it breaks, as a sentence with what was found and what was expected.
What a reader must know although it breaks no rule stands among the remarks. The rules about the board are in
`pi0_edge.bench.board_rules`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pi0_edge.bench.board_rules import board_reasons, board_remarks
from pi0_edge.bench.resampling import block_medians
from pi0_edge.bench.result import BenchResult, Run, Verdict
from pi0_edge.latency.percentiles import fewest_samples

MOST_OVERHEAD = 0.005
"""Of the median latency, that the bench itself may take for each chunk."""
FEWEST_SAMPLES = fewest_samples(0.9)
"""Of each run: without a 90th percentile it says nothing about what is rare."""
SLOWER_FIRST_TENTH = 0.02
"""By which the first tenth of a run may be slower than the rest."""

_FEWEST_IN_TENTH = FEWEST_SAMPLES // 10
_ONE_SIDED = 0.5
"""Percent of the resamples that may lie below the lower end of the interval."""


def judge(result: BenchResult) -> Verdict:
    """The verdict of a result; the one that stands in it is not looked at."""
    reasons = (
        *_accuracy_reasons(result),
        *_clock_reasons(result),
        *_warm_up_reasons(result),
        *(reason for run in result.runs for reason in _run_reasons(run)),
        *board_reasons(result.readings, result.runs),
    )
    if not result.runs:
        reasons = (*reasons, "there is no timed run; expected one at least")
    remarks = (*_policy_remarks(result), *board_remarks(result.readings, result.runs))
    return Verdict(not reasons, reasons, remarks)


@dataclass(frozen=True)
class Slowness:
    """How much slower the begin of a run was than the rest.

    Attributes:
        change: Median of the first tenth over that of the rest, less 1.
        least: Lower end of its one-sided bootstrap interval of 99.5 %.
    """

    change: float
    least: float


def slowness_of_first_tenth(latency_ms: NDArray[np.float64], seed: int = 0) -> Slowness | None:
    """The first tenth against the rest; None where a tenth has fewer than 4 samples.

    Args:
        latency_ms: float64 [n], in the order of time.
        seed: Of the resampling.
    """
    tenth = len(latency_ms) // 10
    if tenth < _FEWEST_IN_TENTH:
        return None
    first, rest = latency_ms[:tenth], latency_ms[tenth:]
    rng = np.random.default_rng(seed)
    ratios = block_medians(first, rng) / block_medians(rest, rng) - 1
    change = float(np.median(first) / np.median(rest) - 1)
    return Slowness(change, float(np.percentile(ratios, _ONE_SIDED)))


def _accuracy_reasons(result: BenchResult) -> Iterator[str]:
    if result.accuracy.passed is False:
        findings = "; ".join((*result.accuracy.before, *result.accuracy.after))
        yield f"the accuracy of what was timed failed ({findings}); expected the thresholds of its gate to be met"
    gate = result.policy.gate
    if gate in ("failed", "missing") and not result.policy.overrides:
        yield f"the accuracy gate of the bundle is {gate}, and nobody overrode it by name; expected passed"


def _clock_reasons(result: BenchResult) -> Iterator[str]:
    if result.clock.problem:
        yield f"the clock {result.clock.name} cannot be trusted: {result.clock.problem}; expected no step and no pause"


def _warm_up_reasons(result: BenchResult) -> Iterator[str]:
    samples = result.warm_up.samples_ms
    if not result.warm_up.over:
        last = f", the last one of {samples[-1]:.4g} ms" if samples else ""
        yield f"the warm-up was not over after {len(samples)} chunks{last}; expected a steady latency"


def _run_reasons(run: Run) -> Iterator[str]:
    latency_ms, count = run.samples.latency_ms, len(run.samples)
    if count < FEWEST_SAMPLES:
        yield (
            f"the {run.mode} run has {count} samples; expected {FEWEST_SAMPLES} at least, or nothing can be said of "
            "what is slower than the median"
        )
    if not count:
        return
    median = float(np.median(latency_ms))
    if run.overhead_ms > MOST_OVERHEAD * median:
        yield (
            f"the bench itself took {run.overhead_ms:.3g} ms of a processor for each chunk of the {run.mode} run, "
            f"{_percent(run.overhead_ms / median)} of the median latency of {median:.4g} ms; expected "
            f"{_percent(MOST_OVERHEAD)} at most"
        )
    slowness = slowness_of_first_tenth(latency_ms)
    if slowness is not None and slowness.least > SLOWER_FIRST_TENTH:
        yield (
            f"the first tenth of the {run.mode} run was {_percent(slowness.change)} slower than the rest (at least "
            f"{_percent(slowness.least)} by bootstrap); expected {_percent(SLOWER_FIRST_TENTH)} at most: the warm-up "
            "was not over"
        )


def _policy_remarks(result: BenchResult) -> Iterator[str]:
    policy = result.policy
    if policy.gate == "random weights":
        yield "the weights are random: the figures are of time alone, and no accuracy belongs to them"
    elif policy.gate != "passed" and policy.overrides:
        yield f"the accuracy gate of the bundle is {policy.gate}, overridden by name: {', '.join(policy.overrides)}"
    if result.accuracy.passed is None and policy.gate != "random weights":
        yield "the bundle has no self-test vectors: whether what was timed computes what was judged is not known"
    if result.interference:
        yield f"run beside it on purpose: {'; '.join(result.interference)}"


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"
