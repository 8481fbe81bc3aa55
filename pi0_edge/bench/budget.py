"""Whether a measured result keeps what a robot allows: for the continuous integration of those who make robots.

Everything that is not known counts as not kept: a percentile without enough samples, a void result, a result without a
paced run. A period is missed when its chunk takes longer than the period, or when nothing was asked for in it because
the chunk before was not there yet.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass

from pi0_edge.bench.figures import Misses, misses_of
from pi0_edge.bench.result import BenchResult, Run
from pi0_edge.errors import BenchError
from pi0_edge.latency.percentiles import Latency, percentile_text
from pi0_edge.robots import LatencyLimits, Robot

_RATE_TOLERANCE = 0.01


@dataclass(frozen=True)
class BudgetFinding:
    """One thing that was looked at.

    Attributes:
        name: valid, boundary, rate, pace, p99 or misses.
        passed: Whether it is as the robot allows.
        text: What was found and what was expected, in one sentence.
    """

    name: str
    passed: bool
    text: str


@dataclass(frozen=True)
class BudgetCheck:
    """A result against the budget of a robot.

    Attributes:
        findings: In the order in which they were looked at.
    """

    findings: tuple[BudgetFinding, ...]

    @property
    def passed(self) -> bool:
        """Whether all is as the robot allows."""
        return all(finding.passed for finding in self.findings)

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why not, one sentence each."""
        return tuple(finding.text for finding in self.findings if not finding.passed)


def check_budget(result: BenchResult, budget: Robot | LatencyLimits) -> BudgetCheck:
    """Judges a result.

    Args:
        result: Of any kind.
        budget: A robot whose file has a section `latency`, or the limits alone, which then know no control rate.

    Raises:
        BenchError: If the robot does not say what its chunks may take.
    """
    limits = budget.latency if isinstance(budget, Robot) else budget
    control_hz = budget.control_hz if isinstance(budget, Robot) else None
    if limits is None or limits.p99_ms is None:
        name = f"robot {budget.name}" if isinstance(budget, Robot) else "the budget"
        raise BenchError(f"{name} has no latency.p99_ms: write into its file what 99 of 100 chunks may take, in ms")
    return BudgetCheck(tuple(_findings(result, limits, limits.p99_ms, control_hz)))


def _findings(
    result: BenchResult, limits: LatencyLimits, p99_ms: float, control_hz: float | None
) -> Iterator[BudgetFinding]:
    reasons = "; ".join(result.verdict.reasons)
    void = f"the result is void: {reasons}"
    yield BudgetFinding("valid", result.verdict.valid, "the result is valid" if result.verdict.valid else void)
    same = result.boundary == limits.boundary
    yield BudgetFinding(
        "boundary",
        same,
        f"the latency is that of the boundary {result.boundary}"
        + ("" if same else f", and the budget is of {limits.boundary}: bench with --boundary {limits.boundary}"),
    )
    if control_hz is not None:
        yield _rate(result.policy.control_hz, control_hz)
    run = result.run("paced")
    if run is None or not len(run.samples):
        text = "there is no paced run, and a closed one hides missed periods: bench with a paced run"
        yield BudgetFinding("pace", False, text)
        return
    if control_hz is not None and limits.replan_ticks is not None:
        yield _pace(run, limits.replan_ticks * 1000 / control_hz)
    yield _p99(Latency.of(run.samples.latency_ms.tolist()), p99_ms)
    misses = misses_of(dataclasses.replace(run, budget_ms=None))
    if misses is not None:
        yield _misses(misses, limits.misses)


def _rate(found: float | None, expected: float) -> BudgetFinding:
    passed = found is not None and abs(found / expected - 1) <= _RATE_TOLERANCE
    said = "does not say how often it acts" if found is None else f"acts {found:g} times per second"
    return BudgetFinding("rate", passed, f"the policy {said}, the robot {expected:g} times")


def _pace(run: Run, expected_ms: float) -> BudgetFinding:
    period_ms = float("inf") if run.period_ms is None else run.period_ms
    passed = period_ms <= expected_ms * (1 + _RATE_TOLERANCE)
    advice = "" if passed else f": bench with a period of {expected_ms:.4g} ms or less"
    text = f"a chunk was asked for every {period_ms:.4g} ms, the robot asks every {expected_ms:.4g} ms{advice}"
    return BudgetFinding("pace", passed, text)


def _p99(latency: Latency, budget_ms: float) -> BudgetFinding:
    found = percentile_text(latency.p99_ms, 0.99, latency.count)
    if latency.p99_ms is None:
        text = f"99th percentile: {found}, and what is not known is not within {budget_ms:g} ms: bench for longer"
        return BudgetFinding("p99", False, text)
    passed = latency.p99_ms <= budget_ms
    relation = "within" if passed else "above"
    text = f"99th percentile {found} of {latency.count} chunks, {relation} the budget of {budget_ms:g} ms"
    return BudgetFinding("p99", passed, text)


def _misses(misses: Misses, allowed: float) -> BudgetFinding:
    passed = misses.share <= allowed
    relation = "within" if passed else "above"
    text = (
        f"{misses.count} of {misses.expected} periods of {misses.limit_ms:g} ms missed ({misses.skipped} without an "
        f"observation), {relation} the share of {allowed:g}"
    )
    return BudgetFinding("misses", passed, text)
