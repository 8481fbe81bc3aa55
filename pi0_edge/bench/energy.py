"""Energy of a time: power rails integrated, and counters of the processor subtracted.

Rails that measure different things stand in different groups, which are never added to each other and belong on no
common axis: `compute` is what processors and GPU take, `module` what goes into the module, `board` what goes into the
board that carries it. None of them is a meter at the wall.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pi0_edge.bench.result import BenchResult, Reading, Run
from pi0_edge.bench.spans import Span, span_of

FEWEST_READINGS = 10
"""In a time, of rails: fewer tell no energy."""
SHORTEST_IDLE_S = 20.0
_LEAST_SHARE = 0.9
"""Of the time of a closed run that passes in its chunks."""

_GROUPS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("compute", ("VDD_GPU_SOC", "VDD_CPU_CV")),  # AGX Orin
    ("compute", ("VDD_CPU_GPU_CV", "VDD_SOC")),  # Orin NX, Orin Nano
    ("compute", ("VDD_GPU", "VDD_CPU_SOC_MSS")),  # Thor
    ("module", ("VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0")),  # AGX Orin; VDDQ_VDD2_1V8AO is fed by VIN_SYS_5V0
    ("module", ("VDD_IN",)),
    ("module", ("VDD_GPU", "VDD_CPU_SOC_MSS", "VIN_SYS_5V0")),
    ("board", ("VIN",)),
)
"""Name of a group and its rails; a board has those groups whose rails it has all of. After NVIDIA's guides."""


@dataclass(frozen=True)
class Energy:
    """What one group of rails, or one counter, took in a time.

    Attributes:
        group: `compute`, `module`, `board`, or the name of a RAPL counter such as `package-0`.
        rails: Their names; of a counter, its own.
        joules: In the whole time.
        seconds: How long it was.
        chunks: That were made in it.
        actions: In each of them.
        idle_w: Mean power while nothing was asked, in the same state of the board; None where nobody measured it.
        readings: How many of them lie within the time.
    """

    group: str
    rails: tuple[str, ...]
    joules: float
    seconds: float
    chunks: int
    actions: int
    idle_w: float | None
    readings: int

    @property
    def mean_w(self) -> float:
        """Mean power."""
        return self.joules / self.seconds

    @property
    def per_chunk_j(self) -> float:
        """Joules for each chunk, everything that the computer takes anyway included."""
        return self.joules / self.chunks

    @property
    def per_action_j(self) -> float:
        """Joules for each action."""
        return self.per_chunk_j / self.actions

    @property
    def net_per_chunk_j(self) -> float | None:
        """Joules for each chunk beyond what the idle computer takes; None where that is not known."""
        if self.idle_w is None:
            return None
        return (self.joules - self.idle_w * self.seconds) / self.chunks


def energies_of_run(result: BenchResult, run: Run) -> tuple[Energy, ...]:
    """Of one run of a result; empty where the board tells no energy, or has been asked too seldom.

    Empty too for a closed run whose chunks took turns with those of another target: the board cannot tell them apart.
    """
    samples = run.samples
    if not len(samples):
        return ()
    in_chunks_ns = int((samples.end_ns - samples.begin_ns).sum())
    if run.mode == "closed" and in_chunks_ns < _LEAST_SHARE * 1e9 * span_of(run).seconds:
        return ()
    span = span_of(run)
    idle = None if result.idle_ns is None else Span(*result.idle_ns)
    return energies(result.readings, span, len(samples), result.policy.horizon, idle)


def energies(
    readings: Sequence[Reading], span: Span, chunks: int, actions: int, idle: Span | None = None
) -> tuple[Energy, ...]:
    """What every group of rails and every counter took in a time.

    Args:
        readings: In the order of time.
        span: The time.
        chunks: That were made in it, 1 at least.
        actions: In each of them.
        idle: A time in which nothing was asked, in the same state of the board; shorter than `SHORTEST_IDLE_S` it is
            not used.
    """
    if span.seconds <= 0 or chunks <= 0 or actions <= 0:
        return ()
    if idle is not None and idle.seconds < SHORTEST_IDLE_S:
        idle = None
    found = []
    for group, rails, series in (*_rail_series(readings), *_counter_series(readings)):
        joules = series.joules(span)
        within = series.count(span)
        if joules is None:
            continue
        rest = None if idle is None else series.joules(idle)
        idle_w = None if rest is None or idle is None else rest / idle.seconds
        found.append(Energy(group, rails, joules, span.seconds, chunks, actions, idle_w, within))
    return tuple(found)


@dataclass(frozen=True)
class _Rails:
    """Power over time.

    Attributes:
        times_ns: float64 [n], rising.
        watts: float64 [n].
    """

    times_ns: NDArray[np.float64]
    watts: NDArray[np.float64]

    def count(self, span: Span) -> int:
        return _within(self.times_ns, span)

    def joules(self, span: Span) -> float | None:
        """By the trapezoidal rule between readings; at both ends the power of the line between the two next ones."""
        if self.count(span) < FEWEST_READINGS:
            return None
        inside = (self.times_ns > span.begin_ns) & (self.times_ns < span.end_ns)
        times = np.concatenate(([span.begin_ns], self.times_ns[inside], [span.end_ns])).astype(np.float64)
        watts = np.interp(times, self.times_ns, self.watts)
        return float(((watts[1:] + watts[:-1]) / 2 * np.diff(times)).sum() * 1e-9)


@dataclass(frozen=True)
class _Counter:
    """Energy over time.

    Attributes:
        times_ns: float64 [n], rising.
        joules_so_far: float64 [n], since the first reading.
    """

    times_ns: NDArray[np.float64]
    joules_so_far: NDArray[np.float64]

    def count(self, span: Span) -> int:
        return _within(self.times_ns, span)

    def joules(self, span: Span) -> float | None:
        """Its difference; at both ends that of the line between the two next readings."""
        if self.times_ns[0] > span.begin_ns or self.times_ns[-1] < span.end_ns:
            return None
        begin, end = np.interp((span.begin_ns, span.end_ns), self.times_ns, self.joules_so_far)
        return float(end - begin)


def _within(times_ns: NDArray[np.float64], span: Span) -> int:
    return int(((times_ns >= span.begin_ns) & (times_ns <= span.end_ns)).sum())


def _rail_series(readings: Sequence[Reading]) -> list[tuple[str, tuple[str, ...], _Rails]]:
    """Each group that the board has, from those readings that have all of its rails."""
    series = []
    for group, rails in _GROUPS:
        rows = [
            (reading.time_ns, sum(reading.state.rails_mw[rail] for rail in rails) / 1000)
            for reading in readings
            if all(rail in reading.state.rails_mw for rail in rails)
        ]
        if rows:
            times, watts = np.array(rows, np.float64).T
            series.append((group, rails, _Rails(times, watts)))
    return series


def _counter_series(readings: Sequence[Reading]) -> list[tuple[str, tuple[str, ...], _Counter]]:
    names = sorted({name for reading in readings for name in reading.state.energy_uj})
    ranges: dict[str, int] = {}
    for reading in readings:
        ranges.update(reading.state.energy_range_uj)
    series = []
    for name in names:
        rows = [(one.time_ns, one.state.energy_uj[name]) for one in readings if name in one.state.energy_uj]
        counter = _unwrapped(rows, name, ranges)
        if counter is not None:
            series.append((name, (name,), counter))
    return series


def _unwrapped(rows: Sequence[tuple[int, int]], name: str, ranges: Mapping[str, int]) -> _Counter | None:
    """A counter that began again at zero has gone on from the end of its range; None where that end is not known."""
    so_far = [0]
    for (_, before), (_, after) in itertools.pairwise(rows):
        step = after - before
        if step < 0:
            if name not in ranges:
                return None
            step += ranges[name]
        so_far.append(so_far[-1] + step)
    times = np.array([time_ns for time_ns, _ in rows], np.float64)
    return _Counter(times, np.array(so_far, np.float64) * 1e-6)
