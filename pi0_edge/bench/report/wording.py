"""How a result is told in sentences: the same ones on the page and in the terminal."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Iterator

from pi0_edge.bench.energy import energies_of_run
from pi0_edge.bench.figures import STALL_FACTOR, RunFigures
from pi0_edge.bench.result import BenchResult, PolicyUnderTest, Run
from pi0_edge.latency.percentiles import RISK, Latency, fewest_samples, percentile_text
from pi0_edge.latency.stages import Boundary

RULE = (
    "A percentile p is told only where the samples carry it, by the early-stopping rule of MLPerf Inference: of "
    "n samples it is the (n − t)-th smallest, with the largest t for which, where a share 1 − p of all chunks is "
    f"slower, at most t slow ones among n have a probability of {RISK * 100:g} % at most. Where chunks are independent "
    f"of each other, the true percentile is above the told one in at most {RISK * 100:g} of 100 runs. "
    f"p90 needs at least {fewest_samples(0.9)} samples, p99 {fewest_samples(0.99)}, p99.9 {fewest_samples(0.999):,}; "
    "with fewer, “not enough” stands in its place. The median is that of all samples. Every sample counts and none is "
    "trimmed. In a paced run the latency begins when the observation was due, and periods without an observation are "
    "counted as missed, so that a stall shows as what it costs a robot."
)
"""How percentiles are told, and why."""

SPANS = {
    Boundary.ENGINE: "model inputs to normalized actions",
    Boundary.POLICY: "observation to actions in physical units",
    Boundary.SERVED: "observation to actions in physical units, through a policy server",
    Boundary.PATH: "time of the image to the first servo command that answers it",
}
"""What lies between begin and end of a latency."""

_GATES = {
    "passed": "gate passed",
    "failed": "GATE FAILED",
    "missing": "NO GATE: nobody judged this bundle",
    "random weights": "no gate: random weights, of which no accuracy can be told",
}
_UNSEEN = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
"""Unicode categories of characters that do something instead of being seen: controls, directions, lone surrogates."""


def plain(text: object) -> str:
    """A text in which every character is seen; one that acts on a terminal or a page becomes `�`."""
    return "".join("�" if unicodedata.category(letter) in _UNSEEN else letter for letter in str(text))


def milliseconds(value: float | None) -> str:
    """Such as `41.3 ms`."""
    return "not known" if value is None or not math.isfinite(value) else f"{value:.4g} ms"


def share(value: float) -> str:
    """Such as `0.12 %`."""
    return f"{100 * value:.3g} %"


def duration(seconds: float) -> str:
    """Such as `12.5 s` or `10 min 3 s`."""
    if seconds < 120:
        return f"{seconds:.3g} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if rest else f"{minutes} min"


def counted(count: int, singular: str, plural: str = "") -> str:
    """Such as `1 period` or `12,000 periods`."""
    return f"{count:,} {singular if count == 1 else plural or singular + 's'}"


def verdict_title(result: BenchResult) -> str:
    """`VALID` or `VOID`, and what that means."""
    if result.verdict.valid:
        return "VALID"
    reasons = counted(len(result.verdict.reasons), "reason")
    return f"VOID: these figures may not be told ({reasons})"


def boundary_text(name: str) -> str:
    """Such as `B2 policy: observation to actions in physical units`."""
    try:
        boundary = Boundary(name)
    except ValueError:
        return plain(name)
    return f"{boundary.number} {boundary}: {SPANS[boundary]}"


def gate_text(policy: PolicyUnderTest) -> str:
    """Verdict of the accuracy gate, with the rules that the user overrode."""
    told = _GATES.get(policy.gate, plain(f"gate: {policy.gate}"))
    if policy.overrides:
        told += f" (overridden: {', '.join(map(plain, policy.overrides))})"
    return told


def accuracy_text(result: BenchResult) -> str:
    """What stands beside every speed: the gate, and whether what was timed still gives the recorded actions."""
    vectors = {
        True: "self-test vectors passed before and after",
        False: "SELF-TEST VECTORS FAILED",
        None: "no self-test vectors",
    }
    return f"{gate_text(result.policy)}; {vectors[result.accuracy.passed]}"


def policy_text(policy: PolicyUnderTest) -> str:
    """One line: what was measured."""
    parts = [
        policy.name,
        policy.scheme,
        policy.engine + (f" over {policy.protocol}" if policy.protocol else ""),
        counted(policy.euler_steps, "Euler step"),
        counted(policy.cameras, "camera"),
        counted(policy.tokens, "token"),
        f"{counted(policy.horizon, 'action')} in a chunk",
    ]
    return ", ".join(map(plain, parts))


def kind_of(run: Run) -> str:
    """`closed` or `paced`, whatever a file calls it."""
    return "closed" if run.period_ms is None else "paced"


def run_name(run: Run) -> str:
    """Such as `closed` or `paced, every 100 ms`."""
    return kind_of(run) if run.period_ms is None else f"{kind_of(run)}, every {milliseconds(run.period_ms)}"


def run_text(run: Run) -> str:
    """How the chunks of a run were asked for."""
    if run.period_ms is None:
        return "Each chunk is asked for when the last is there; latency counts from then."
    return (
        f"An observation is due every {milliseconds(run.period_ms)}; latency counts from the due time, and a period in "
        "which the chunk before is not there yet is skipped and counted as missed."
    )


def percentiles(latency: Latency) -> Iterator[tuple[str, str]]:
    """(name, text) of every figure of a latency."""
    yield "p50", milliseconds(latency.p50_ms)
    yield "p90", percentile_text(latency.p90_ms, 0.9, latency.count)
    yield "p99", percentile_text(latency.p99_ms, 0.99, latency.count)
    yield "p99.9", percentile_text(latency.p999_ms, 0.999, latency.count)
    yield "max", milliseconds(latency.max_ms)


def misses_text(run: Run, figures: RunFigures) -> str:
    """How many chunks came too late, and of how many."""
    misses = figures.misses
    if misses is None:
        return "no deadline is known"
    what = "period" if kind_of(run) == "paced" else "chunk"
    told = f"{misses.count:,} of {counted(misses.expected, what)} ({share(misses.share)})"
    return f"{told}: {misses.late:,} late, {misses.skipped:,} skipped" if misses.skipped else told


def stalls_text(figures: RunFigures) -> str:
    """How many chunks stalled, and their share of the time."""
    count = figures.latency.count
    if not figures.stalls:
        return f"No chunk of {count:,} took more than {STALL_FACTOR:g} times the median."
    return (
        f"{figures.stalls:,} of {counted(count, 'chunk')} stalled (more than {STALL_FACTOR:g} times the median): "
        f"{share(figures.stalled_share)} of the time."
    )


def would_miss_text(figures: RunFigures) -> str:
    """What a robot would have felt of a closed run, whose percentiles do not show it; empty of a paced run."""
    if figures.would_miss is None:
        return ""
    period = milliseconds(2 * figures.latency.p50_ms)
    return (
        f"A robot that observes every {period} (twice the median) would have missed "
        f"{counted(figures.would_miss, 'period')}."
    )


def drift_text(figures: RunFigures) -> str:
    """How the latency changed over the run; empty where that cannot be told from chance."""
    drift = figures.drift
    if drift is None or not drift.is_real:
        return ""
    word = "slower" if drift.change > 0 else "faster"
    return (
        f"The last tenth of the run is {share(abs(drift.change))} {word} than the first "
        f"(99 % interval {100 * drift.low:+.2g} % to {100 * drift.high:+.2g} %)."
    )


def overhead_text(run: Run, figures: RunFigures) -> str:
    """What the bench itself took for each chunk."""
    part = run.overhead_ms / figures.latency.p50_ms if figures.latency.p50_ms > 0 else 0.0
    return f"{milliseconds(run.overhead_ms)} of a processor a chunk, {share(part)} of the median"


def ratio_text(measured_ms: float, estimate_ms: float) -> str:
    """How many times the estimate a measurement is, such as `1.24 ×`."""
    return f"{measured_ms / estimate_ms:.3g} ×" if estimate_ms > 0 else "–"


ENERGY_COLUMNS = ("run", "energy of", "mean", "a chunk", "an action", "a chunk, above idle")


def energy_rows(result: BenchResult) -> list[tuple[str, ...]]:
    """One row of `ENERGY_COLUMNS` for each run and group of rails or counter; empty where the board tells none."""
    return [
        (
            kind_of(run),
            f"{plain(energy.group)}: {' + '.join(map(plain, energy.rails))}",
            f"{energy.mean_w:.3g} W",
            f"{energy.per_chunk_j:.3g} J",
            f"{energy.per_action_j:.3g} J",
            "not measured" if energy.net_per_chunk_j is None else f"{energy.net_per_chunk_j:.3g} J",
        )
        for run in result.runs
        for energy in energies_of_run(result, run)
    ]
