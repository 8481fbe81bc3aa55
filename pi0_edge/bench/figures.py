"""What a run says: percentiles, misses, stalls, drift, and where the time goes. Everything is computed from samples."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pi0_edge.bench.resampling import block_medians
from pi0_edge.bench.result import Run
from pi0_edge.bench.samples import Samples
from pi0_edge.latency.percentiles import Latency
from pi0_edge.latency.stages import WHOLE_NETWORK, Stage

STALL_FACTOR = 3.0
"""A chunk that took so many times the median stalled."""

_SEGMENTS = 10


@dataclass(frozen=True)
class Misses:
    """Chunks that came too late for a robot, or not at all.

    Attributes:
        late: That took longer than the limit.
        skipped: Periods without an observation, because the chunk before was not there yet.
        expected: Periods that passed, or chunks that were asked for.
        limit_ms: What a chunk may take.
    """

    late: int
    skipped: int
    expected: int
    limit_ms: float

    @property
    def count(self) -> int:
        """All of them."""
        return self.late + self.skipped

    @property
    def share(self) -> float:
        """Of what was expected."""
        return self.count / self.expected if self.expected else 0.0


@dataclass(frozen=True)
class Drift:
    """How the latency changed over a run.

    Attributes:
        change: Median of the last tenth over that of the first, less 1.
        low: Of its bootstrap interval of 99 %.
        high: The same.
    """

    change: float
    low: float
    high: float

    @property
    def is_real(self) -> bool:
        """Whether no change is outside of the interval."""
        return not self.low <= 0.0 <= self.high


@dataclass(frozen=True)
class RunFigures:
    """What one run says.

    Attributes:
        latency: From the due time to the chunk.
        misses: None where no limit is known: a closed run without a budget.
        stalls: Chunks that took more than `STALL_FACTOR` times the median.
        stalled_share: Of the time that all chunks took.
        would_miss: Periods that a robot would have missed if it had observed as often as the median allows: what a
            closed run does not show of itself. None in a paced run.
        drift: None where there are too few samples.
        stages: Stage -> its latency; single Euler steps among them, in the order of the way.
        unaccounted_ms: Median of what the stages of a sample leave of its latency.
    """

    latency: Latency
    misses: Misses | None
    stalls: int
    stalled_share: float
    would_miss: int | None
    drift: Drift | None
    stages: Mapping[str, Latency]
    unaccounted_ms: float


def figures_of(run: Run) -> RunFigures:
    """The figures of a run with at least one sample."""
    samples = run.samples
    latency_ms = samples.latency_ms
    median = float(np.median(latency_ms))
    stalled = latency_ms > STALL_FACTOR * median
    stages = stage_latencies(samples)
    return RunFigures(
        latency=Latency.of(latency_ms.tolist()),
        misses=misses_of(run),
        stalls=int(stalled.sum()),
        stalled_share=float(latency_ms[stalled].sum() / latency_ms.sum()) if latency_ms.sum() > 0 else 0.0,
        would_miss=_would_miss(latency_ms, median) if run.mode == "closed" else None,
        drift=drift_of(latency_ms),
        stages=stages,
        unaccounted_ms=_unaccounted_ms(samples),
    )


def misses_of(run: Run) -> Misses | None:
    """Against the budget, or the period where there is none."""
    limit = run.budget_ms if run.budget_ms is not None else run.period_ms
    if limit is None:
        return None
    skipped = int(run.samples.skipped.sum())
    late = int((run.samples.latency_ms > limit).sum())
    return Misses(late, skipped, len(run.samples) + skipped, limit)


def stage_latencies(samples: Samples) -> dict[str, Latency]:
    """Stage -> its latency, where it is known of at least one sample."""
    known = {name: values[np.isfinite(values)] for name, values in samples.stages_ms.items()}
    return {name: Latency.of(values.tolist()) for name, values in known.items() if values.size}


def _unaccounted_ms(samples: Samples) -> float:
    """Single Euler steps are in the loop already, and what the device took is in the network."""
    whole = {*(stage.value for stage in Stage), WHOLE_NETWORK}
    told = [np.nan_to_num(values) for name, values in samples.stages_ms.items() if name in whole]
    return float(np.median(samples.latency_ms - sum(told))) if told else 0.0


def drift_of(latency_ms: NDArray[np.float64], seed: int = 0) -> Drift | None:
    """The last tenth against the first; None for fewer than 10 samples in a tenth.

    Args:
        latency_ms: float64 [n], in the order of time.
        seed: Of the resampling.
    """
    tenth = len(latency_ms) // _SEGMENTS
    if tenth < 10:
        return None
    first, last = latency_ms[:tenth], latency_ms[-tenth:]
    rng = np.random.default_rng(seed)
    ratios = block_medians(last, rng) / block_medians(first, rng) - 1
    low, high = np.percentile(ratios, (0.5, 99.5))
    return Drift(float(np.median(last) / np.median(first) - 1), float(low), float(high))


def _would_miss(latency_ms: NDArray[np.float64], median: float) -> int:
    """Periods of twice the median that passed while a chunk was made, beyond its own."""
    return int(np.floor(latency_ms / (2 * median)).sum()) if median > 0 else 0
