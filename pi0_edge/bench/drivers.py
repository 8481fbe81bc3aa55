"""The two ways of timing: closed and paced.

Closed, in the manner of MLPerf Inference's single stream: the next chunk is asked for when the last one is there. That
is how fast an engine is, but it hides every stall: while one chunk takes two seconds, nobody asks for the others.

Paced, as a robot asks: observations are due at absolute times, and a latency counts from the due time. While a chunk is
late, the periods that pass are skipped, and each is counted as a miss. Nothing is left out, so there is no coordinated
omission (Tene, "How not to measure latency").
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from pi0_edge.bench.samples import Samples
from pi0_edge.errors import BenchError
from pi0_edge.progress import Stage as ProgressStage

Ask = Callable[[int], Mapping[str, float]]
"""Makes the chunk of a number, which counts from 0; returns stage -> milliseconds."""

_CALIBRATIONS = 200


@dataclass(frozen=True)
class Extent:
    """How long a run is: until the time is over and there are enough chunks.

    Attributes:
        seconds: Shortest time.
        chunks: Fewest chunks.
    """

    seconds: float
    chunks: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.seconds < math.inf or self.chunks < 1:
            raise BenchError(f"a run of {self.seconds} s and {self.chunks} chunks; expected at least one chunk")


@dataclass
class _Rows:
    """Samples as they come."""

    due: list[int] = field(default_factory=list)
    begin: list[int] = field(default_factory=list)
    end: list[int] = field(default_factory=list)
    skipped: list[int] = field(default_factory=list)
    stages: list[Mapping[str, float]] = field(default_factory=list)

    def ask(self, ask: Ask, due_ns: int | None, skipped: int = 0) -> None:
        number = len(self.due)
        begin = time.monotonic_ns()
        stages = ask(number)
        end = time.monotonic_ns()
        self.due.append(begin if due_ns is None else due_ns)
        self.begin.append(begin)
        self.end.append(end)
        self.skipped.append(skipped)
        self.stages.append(stages)

    def samples(self) -> Samples:
        names = dict.fromkeys(name for row in self.stages for name in row)
        stages = {name: np.array([row.get(name, math.nan) for row in self.stages]) for name in names}
        columns = (np.array(column, np.int64) for column in (self.due, self.begin, self.end, self.skipped))
        due, begin, end, skipped = columns
        return Samples(due, begin, end, skipped, stages)


def closed_run(asks: Sequence[Ask], extent: Extent, progress: ProgressStage | None = None) -> list[Samples]:
    """Asks one after the other, several of them in turns: sample k of each is then a pair with sample k of another.

    Args:
        asks: Who makes chunks; each gets the same numbers.
        extent: How long.
        progress: Counts seconds.

    Returns:
        One for each of `asks`.
    """
    rows = [_Rows() for _ in asks]
    begin = time.monotonic()
    while (passed := time.monotonic() - begin) < extent.seconds or len(rows[0].due) < extent.chunks:
        turn = len(rows[0].due)
        for place in range(len(asks)):
            chosen = (place + turn) % len(asks)  # whoever comes second is not always the same
            rows[chosen].ask(asks[chosen], None)
        _report(progress, passed, extent)
    return [row.samples() for row in rows]


def paced_run(ask: Ask, period_s: float, extent: Extent, progress: ProgressStage | None = None) -> Samples:
    """Asks at due times t0 + k · period; while a chunk is late, the newest due time is taken and the others skipped.

    Args:
        ask: Who makes chunks.
        period_s: Between two due times.
        extent: How long.
        progress: Counts seconds.
    """
    if not 0 < period_s < math.inf:
        raise BenchError(f"the period is {period_s} s; expected more than 0")
    rows, period_ns = _Rows(), round(period_s * 1e9)
    first_ns = time.monotonic_ns() + period_ns
    period = 0
    while period * period_s < extent.seconds or len(rows.due) < extent.chunks:
        due_ns = first_ns + period * period_ns
        _sleep_until(due_ns)
        newest = max(period, (time.monotonic_ns() - first_ns) // period_ns)
        rows.ask(ask, first_ns + newest * period_ns, skipped=newest - period)
        _report(progress, (newest + 1) * period_s, extent)
        period = newest + 1
    return rows.samples()


def overhead_ms(calls: int = _CALIBRATIONS) -> float:
    """What the loop around each chunk costs, in milliseconds: a run of chunks that take no time."""
    rows, nothing = _Rows(), dict[str, float]()
    begin = time.perf_counter()
    for _ in range(calls):
        rows.ask(lambda _: nothing, None)
    return 1e3 * (time.perf_counter() - begin) / calls


def _sleep_until(due_ns: int) -> None:
    while (left := due_ns - time.monotonic_ns()) > 0:
        time.sleep(left * 1e-9)


def _report(progress: ProgressStage | None, passed_s: float, extent: Extent) -> None:
    done = min(int(passed_s), math.ceil(extent.seconds))
    if progress is not None and done > progress.done:
        progress.set(done)
