"""The charts of a result: every one of them computed from all samples or readings, none of which is left out."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from pi0_edge.bench.figures import STALL_FACTOR, RunFigures
from pi0_edge.bench.report.charts import Axis, Chart, linear_axis, log_axis
from pi0_edge.bench.report.wording import counted, duration, kind_of, milliseconds, plain, run_name
from pi0_edge.bench.result import BenchResult, Run
from pi0_edge.bench.spans import span_of
from pi0_edge.latency.percentiles import RISK, Latency
from pi0_edge.latency.stages import euler_step

BINS = 64
"""Of a histogram, at most."""
SERIES = 7
"""Lines of a chart over time, at most: so many colours can be told apart."""

_WIDE = 4.0
"""Values of which the largest is more than so many times the smallest stand on a logarithmic axis."""
OVER_TIME = (("rails_mw", 1e-3), ("temperatures_c", 1.0), ("clocks_mhz", 1.0))
"""What of the board is shown over time: field of `BoardState` and scale."""

_FAR = 5.0
"""Samples that are further above the median than so many times the width of the middle 80 % are far from the rest."""
_FEW = 400
"""So many dots beside each other can be larger."""
_TAIL = (0.0, 0.5, 0.9, 0.99, 0.999, 0.9999, 0.99999)
_TOLD = ("p50", "p90", "p99", "p99.9", "max")


def histogram(run: Run, figures: RunFigures) -> str:
    """How many chunks took how long; where a few are far from the rest, the rest again by itself."""
    latency = run.samples.latency_ms
    whole = _histogram(f"histogram-{kind_of(run)}", run, figures, latency)
    near = latency[latency <= _body_end(latency)]
    if len(near) == len(latency):
        return whole
    return whole + _histogram(f"histogram-near-{kind_of(run)}", run, figures, near)


def _histogram(name: str, run: Run, figures: RunFigures, latency: NDArray[np.float64]) -> str:
    x = _latency_axis(latency, None, to_ticks=False)
    bins = min(BINS, max(8, round(2 * math.sqrt(len(latency)))))
    edges = np.geomspace(x.low, x.high, bins + 1) if x.log else np.linspace(x.low, x.high, bins + 1)
    edges[0], edges[-1] = min(edges[0], latency.min()), max(edges[-1], latency.max())
    counts, _ = np.histogram(latency, edges)
    rest = len(run.samples) - len(latency)
    y = linear_axis(
        f"chunks, closer: {rest:,} further right" if rest else "chunks", 0, float(counts.max()), 4, whole=True
    )
    told = f"{counted(len(latency), 'chunk')} from {milliseconds(latency.min())} to {milliseconds(latency.max())}"
    chart = Chart(name, f"Histogram of the latency, {run_name(run)}", told, x, y, 150)
    for low, high, count in zip(edges[:-1], edges[1:], counts.tolist(), strict=True):
        if count:
            hint = f"{counted(count, 'chunk')} of {milliseconds(low)} to {milliseconds(high)}"
            chart.bar(low, high, 0, count, kind_of(run), hint)
    for figure, value in _told(figures.latency):
        if value <= x.high:
            chart.flag(value, f"{figure} {milliseconds(value)}")
    if figures.misses is not None:
        limit = figures.misses.limit_ms
        side = ", further right" if limit > x.high else ", further left" if limit < x.low else ""
        chart.flag(limit, f"deadline {milliseconds(limit)}{side}", "deadline")
    return chart.svg()


def timeline(run: Run, figures: RunFigures) -> str:
    """Latency of every chunk over the time at which it was due; where a few are far from the rest, the rest closer."""
    latency = run.samples.latency_ms
    y = _latency_axis(latency, run, to_ticks=True)
    whole = _timeline(f"timeline-{kind_of(run)}", run, figures, y, 200)
    end = _body_end(latency)
    if not (latency > end).any():
        return whole
    close = linear_axis("ms", float(latency.min()), end, 4)
    close = replace(close, title=f"ms, closer: {int((latency > close.high).sum()):,} above the upper end")
    return whole + _timeline(f"timeline-near-{kind_of(run)}", run, figures, close, 110)


def _timeline(name: str, run: Run, figures: RunFigures, y: Axis, height: int) -> str:
    """Chunks that are slower than the axis is long stand at its upper end."""
    latency, seconds = run.samples.latency_ms, due_s(run)
    x = _time_axis(float(seconds.max()))
    span, largest = duration(float(seconds.max())), milliseconds(figures.latency.max_ms)
    told = f"Latency of {counted(len(latency), 'chunk')} over {span}; largest {largest}"
    chart = Chart(name, f"Latency of every chunk, {run_name(run)}", told, x, y, height)
    limit = figures.misses.limit_ms if figures.misses else math.inf
    is_stalled = latency > STALL_FACTOR * figures.latency.p50_ms
    is_late = latency > limit
    scale = _per_unit(x)
    places = np.column_stack([seconds / scale, latency])
    chart.stems(_pairs(places[is_late | is_stalled]), "late")
    size = " large" if len(latency) < _FEW else ""
    chart.dots(_pairs(places[~is_late & ~is_stalled]), kind_of(run) + size)
    chart.dots(_pairs(places[is_late & ~is_stalled]), "late" + size)
    chart.dots(_pairs(places[is_stalled]), "stall")
    if limit <= y.high:
        chart.limit(limit, f"deadline {milliseconds(limit)}")
    chart.hover(f"timeline:{kind_of(run)}:{scale:g}")
    return chart.svg()


def tail(runs: Sequence[Run]) -> str:
    """Latency over the share of chunks, logarithmic towards the slowest: the tail takes as much room as the rest."""
    longest = max(len(run.samples) for run in runs)
    together = np.concatenate([run.samples.latency_ms for run in runs])
    last = max(20.0, 2.0 * longest)
    ticks = tuple((1 / (1 - p), f"{100 * p:.10g} %") for p in _TAIL if 1 / (1 - p) <= last)
    x = Axis("share of chunks that are at most so slow", 1.0, last, ticks, log=True)
    y = _latency_axis(together, None, to_ticks=True)
    told = "; ".join(f"{run_name(run)}: largest {milliseconds(run.samples.latency_ms.max())}" for run in runs)
    chart = Chart("tail", "Distribution of the latency with its tail", told, x, y, 220)
    told_up_to: dict[int, list[str]] = {}
    for run in runs:
        ordered = np.sort(run.samples.latency_ms)
        count = len(ordered)
        # The k-th smallest of n: n - k + 1 of n are at least so slow.
        shares = [(count / (count - k), value) for k, value in enumerate(ordered.tolist())]
        chart.steps([*shares, (last, shares[-1][1])], kind_of(run))
        chart.end_label(shares[-1][1], kind_of(run), kind_of(run))
        told_up_to.setdefault(count, []).append(kind_of(run))
    for count, modes in told_up_to.items():
        carried = 1 / (1 - RISK ** (1 / count))
        chart.flag(min(carried, last), f"{' and '.join(modes)}: told up to here", "carried")
    for run in runs[:1]:
        limit = run.budget_ms if run.budget_ms is not None else run.period_ms
        if limit is not None and y.low <= limit <= y.high:
            chart.limit(limit, f"deadline {milliseconds(limit)}")
    chart.hover("tail")
    return chart.svg()


def misses_over_time(run: Run, figures: RunFigures) -> str:
    """When periods were missed, and how many at once; empty where none was."""
    misses = figures.misses
    if misses is None or not misses.count:
        return ""
    seconds = due_s(run)
    missed = missed_periods(run, misses.limit_ms)
    x = _time_axis(float(seconds.max()))
    scale = _per_unit(x)
    y = linear_axis("missed at once", 0, float(missed.max()), 3, whole=True)
    told = f"{counted(misses.count, 'miss', 'misses')} at {counted(int((missed > 0).sum()), 'time')}"
    chart = Chart(f"misses-{kind_of(run)}", f"Misses, {run_name(run)}", told, x, y, 90)
    places = [(at / scale, count) for at, count in zip(seconds.tolist(), missed.tolist(), strict=True) if count]
    chart.stems(places, "late")
    chart.dots(places, "late")
    return chart.svg()


def euler_steps(run: Run, figures: RunFigures, steps: int) -> str:
    """Each Euler step: median and the slowest; empty where single steps are not known."""
    known = [(step, figures.stages[euler_step(step)]) for step in range(steps) if euler_step(step) in figures.stages]
    if not known:
        return ""
    medians = [latency.p50_ms for _, latency in known]
    slowest = [latency.max_ms for _, latency in known]
    y = _latency_axis(np.array([*medians, *slowest]), None, to_ticks=True)
    ticks = tuple((float(step), str(step)) for step in range(0, steps, -(-steps // 20)))
    x = Axis("Euler step", -0.5, steps - 0.5, ticks)
    told = f"Medians from {milliseconds(min(medians))} to {milliseconds(max(medians))}"
    chart = Chart(f"euler-{kind_of(run)}", f"Euler steps, {run_name(run)}", told, x, y, 120)
    for (step, _), median, largest in zip(known, medians, slowest, strict=True):
        chart.line([(step, median), (step, largest)], "whisker")
    chart.dots([(step, largest) for (step, _), largest in zip(known, slowest, strict=True)], "whisker")
    chart.dots([(step, median) for (step, _), median in zip(known, medians, strict=True)], f"median {kind_of(run)}")
    return chart.svg()


def warm_up(result: BenchResult) -> str:
    """Every chunk of the warm-up, the cold one first; empty where there was none."""
    samples = [value for value in result.warm_up.samples_ms if math.isfinite(value)]
    if not samples:
        return ""
    x = linear_axis("chunk of the warm-up", 0, max(len(samples) - 1, 1), 8, to_ticks=False)
    y = _latency_axis(np.array(samples), None, to_ticks=True)
    chart = Chart(
        "warm-up",
        "Latency of every chunk of the warm-up",
        f"First {milliseconds(samples[0])}, last {milliseconds(samples[-1])}",
        x,
        y,
        120,
    )
    chart.line(list(enumerate(samples)), "warm")
    chart.dots(list(enumerate(samples)), "warm")
    chart.flag(0, f"cold: {milliseconds(samples[0])}")
    return chart.svg()


def over_time(result: BenchResult, field: str, title: str) -> str:
    """A quantity of the board over the time of the readings; empty where no reading has it.

    Args:
        result: With the readings.
        field: One of `OVER_TIME`.
        title: Of the axis, with the unit.
    """
    scale = dict(OVER_TIME)[field]
    series = _series(result, field, scale)
    if not series or len(result.readings) < 2:
        return ""
    begin = result.readings[0].time_ns
    seconds = max((result.readings[-1].time_ns - begin) * 1e-9, 1e-3)
    x = _time_axis(seconds)
    per = _per_unit(x)
    kept = sorted(series, key=lambda name: -max(value for _, value in series[name]))[:SERIES]
    values = [value for name in kept for _, value in series[name]]
    low = min(values) if field == "temperatures_c" else min(0.0, *values)
    y = linear_axis(title, low, max(values), 4)
    told = "; ".join(
        f"{plain(name)} {min(v for _, v in series[name]):.4g} to {max(v for _, v in series[name]):.4g}" for name in kept
    )
    chart = Chart(f"board-{field.replace('_', '-')}", title, told, x, y, 150)
    spans = [(run, span_of(run)) for run in result.runs if len(run.samples)]
    for run, span in spans:
        ends = ((at - begin) * 1e-9 / per for at in (span.begin_ns, span.end_ns))
        chart.band(*ends, css=kind_of(run), text=kind_of(run))
    _mark_throttling(chart, result, per)
    worked_ns = max((span.end_ns for _, span in spans), default=0) - begin
    for place, name in enumerate(sorted(kept)):
        chart.line([(at / per, value) for at, value in series[name]], f"series-{place}")
        # After the runs all lines fall together: the word stands where the line was at the end of the work.
        level = [value for at, value in series[name] if at * 1e9 <= worked_ns] or [series[name][-1][1]]
        chart.end_label(level[-1], plain(name), f"series-{place}")
    chart.room_for(max(len(name) for field, _ in OVER_TIME for name in _series(result, field, 1.0)))
    chart.hover(f"board:{field}:{per:g}:{scale:g}")
    return chart.svg()


def left_out(result: BenchResult, field: str) -> list[str]:
    """Names whose line a chart over time has no colour for."""
    series = _series(result, field, 1.0)
    return sorted(sorted(series, key=lambda name: -max(value for _, value in series[name]))[SERIES:])


def due_s(run: Run) -> NDArray[np.float64]:
    """float64 [n], seconds from the first due time of a run."""
    return (run.samples.due_ns - run.samples.due_ns[0]).astype(np.float64) * 1e-9


def missed_periods(run: Run, limit_ms: float) -> NDArray[np.int64]:
    """int64 [n], what was missed with each chunk: periods that were skipped before it, and itself where it was late."""
    return run.samples.skipped + (run.samples.latency_ms > limit_ms)


def _series(result: BenchResult, field: str, scale: float) -> Mapping[str, list[tuple[float, float]]]:
    """Name -> its (seconds, value), where it was read."""
    found: dict[str, list[tuple[float, float]]] = {}
    for reading in result.readings:
        at = (reading.time_ns - result.readings[0].time_ns) * 1e-9
        for name, value in getattr(reading.state, field).items():
            if math.isfinite(value):
                found.setdefault(name, []).append((at, value * scale))
    return found


def _mark_throttling(chart: Chart, result: BenchResult, per: float) -> None:
    """A background from each reading with an alert to the next one."""
    begin = result.readings[0].time_ns
    for reading, following in zip(result.readings, result.readings[1:], strict=False):
        if reading.state.throttling:
            chart.band((reading.time_ns - begin) * 1e-9 / per, (following.time_ns - begin) * 1e-9 / per, "throttled")


def _told(latency: Latency) -> list[tuple[str, float]]:
    values = (latency.p50_ms, latency.p90_ms, latency.p99_ms, latency.p999_ms, latency.max_ms)
    return [(name, value) for name, value in zip(_TOLD, values, strict=True) if value is not None]


def _latency_axis(latency: NDArray[np.float64], run: Run | None, to_ticks: bool) -> Axis:
    """Of all latencies, and of the deadline where it is near to them; logarithmic where they differ much."""
    low, high = float(latency.min()), float(latency.max())
    limit = None if run is None else run.budget_ms if run.budget_ms is not None else run.period_ms
    if limit is not None:
        low, high = min(low, limit), max(high, limit)
    if low > 0 and high > _WIDE * low:
        return log_axis("ms", low, high)
    margin = 0.0 if to_ticks else 0.02 * (high - low)
    return linear_axis("ms", max(0.0, low - margin) if low >= 0 else low - margin, high + margin, 6, to_ticks)


def _body_end(latency: NDArray[np.float64]) -> float:
    """Where those end that a picture of all would press into a line; infinite where no sample is so far away."""
    low, middle, high = np.percentile(latency, (10, 50, 90)).tolist()
    end = middle + _FAR * max(high - low, 0.01 * abs(middle))
    return end if latency.max() > middle + 4 * (end - middle) else math.inf


def _pairs(places: NDArray[np.float64]) -> list[tuple[float, float]]:
    return [(x, y) for x, y in places.tolist()]


def _per_unit(axis: Axis) -> float:
    """Seconds of a unit of a time axis."""
    return 60.0 if axis.title == "min" else 1.0


def _time_axis(seconds: float) -> Axis:
    if seconds >= 180:
        return linear_axis("min", 0, seconds / 60, 10, to_ticks=False)
    return linear_axis("s", 0, max(seconds, 1e-3), 10, to_ticks=False)
