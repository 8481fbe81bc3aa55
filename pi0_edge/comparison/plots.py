"""The figures of the report, each an SVG from its rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pi0_edge.comparison.figures import Row
from pi0_edge.pages.svg import Axis, Plot, legend, linear_axis, log_axis

CSS = ("first", "second", "third", "fourth")


def success_plot(tasks: Sequence[str], rows: Sequence[Row]) -> str:
    """Success of every head and decoding, with its interval, one colour for each task."""
    names = list(dict.fromkeys(row.name for row in rows))
    x = linear_axis("success, %", 0, 100, 10)
    ticks = tuple((len(names) - place - 0.5, name) for place, name in enumerate(names))
    plot = Plot("Success of every head", x, Axis("", 0, len(names), ticks), height=60 + 26 * len(names), left=190)
    for row in rows:
        which = tasks.index(row.task)
        height = len(names) - names.index(row.name) - 0.35 - 0.3 * which / max(1, len(tasks) - 1)
        plot.line([(100 * end, height) for end in row.interval], f"line interval {CSS[which]}")
        plot.dot(100 * row.success, height, CSS[which], f"{row.name}, {row.task}: {row.successes} of {row.episodes}")
    return legend(list(zip(CSS, tasks, strict=False))) + plot.svg()


def ways_plot(rows: Sequence[Row]) -> str:
    """Collisions against the distance to both ways; a good head is at the lower left."""
    found = [(row, row.ways) for row in rows if row.ways is not None]
    if not found:
        return ""
    x = linear_axis(
        "sliced Wasserstein distance to both ways, rad per setpoint", 0, max(w.distance for _, w in found), 8
    )
    plot = Plot("Two ways", x, linear_axis("paths that touch the post, %", 0, 100, 5), height=360)
    plot.limit(found[0][1].floor, "expert", "limit soft")
    for row, ways in found:
        plot.dot(ways.distance, 100 * ways.collision, "first", row.name)
        plot.text(ways.distance + 0.01 * (x.high - x.low), 100 * ways.collision + 1.5, row.name)
    return plot.svg()


def speed_plot(rows: Sequence[Row], latency: Sequence[dict[str, Any]], task: str) -> str:
    """Success of a task against the latency of a chunk."""
    speed = {(one["variant"], one["decoding"]): one["chunk_ms"]["p50"] for one in latency}
    found = [(row, speed[row.variant, row.decoding]) for row in rows if (row.variant, row.decoding) in speed]
    if not found:
        return ""
    times = [value for _, value in found]
    x = log_axis("latency of a chunk (p50), ms", min(times), max(times))
    plot = Plot(f"Success and latency, {task}", x, linear_axis("success, %", 0, 100, 5), height=360)
    for row, value in found:
        plot.dot(value, 100 * row.success, "first", row.name)
        plot.text(value * 1.02, 100 * row.success + 1.5, row.name)
    return plot.svg()


def steps_plot(task: str, rows: Sequence[Row]) -> str:
    """Success over the number of steps, one line for each head that has any."""
    curves: dict[str, list[tuple[int, float]]] = {}
    for row in rows:
        count = row.decoding.split()[0]
        if count.isdigit():
            curves.setdefault(row.variant, []).append((int(count), 100 * row.success))
    if not curves:
        return ""
    x = linear_axis("steps from noise to a chunk", 0, max(step for curve in curves.values() for step, _ in curve), 10)
    plot = Plot(f"Success over steps, {task}", x, linear_axis("success, %", 0, 100, 5))
    for place, (name, curve) in enumerate(curves.items()):
        css = CSS[place % len(CSS)]
        plot.line(sorted(curve), f"line {css}")
        for step, success in curve:
            plot.dot(step, success, css, f"{name}, {step} steps: {success:.0f} %")
    entries = [(CSS[place % len(CSS)], name) for place, name in enumerate(curves)]
    return legend(entries) + plot.svg()
