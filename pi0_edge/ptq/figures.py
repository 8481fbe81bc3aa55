"""The figures of a gate report, each an SVG from the numbers of the report."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from itertools import pairwise

from pi0_edge.pages.svg import Axis, Plot, legend, linear_axis, log_axis
from pi0_edge.ptq.gate import Drift, InnerError
from pi0_edge.ptq.verdict import Thresholds

FINEST = 1e-7
"""Distances from 1 below this are drawn here: float32 actions cannot tell them apart."""
BINS_PER_DECADE = 8


def cosine_histogram(whole: Sequence[float], executed: Sequence[float], thresholds: Thresholds) -> str:
    """How many chunks lie how far from a cosine of 1, on a logarithmic axis, for both parts of the chunk."""
    parts = {"whole chunk": whole, f"first {thresholds.executed} actions": executed}
    distances = {name: [max(1 - c, FINEST) for c in values if math.isfinite(c)] for name, values in parts.items()}
    limits = [1 - thresholds.cosine_worst, 1 - thresholds.cosine_mean]
    shown = [d for values in distances.values() for d in values] + [max(limit, FINEST) for limit in limits]
    x = log_axis("1 − cosine (further right is worse)", min(shown), max(shown))
    bins = _decade_bins(x.low, x.high)
    counts = {name: [sum(a <= d < b for d in values) for a, b in bins] for name, values in distances.items()}
    y = linear_axis("chunks", 0, max(1, *(n for values in counts.values() for n in values)), 3)
    figures = []
    for (name, values), css in zip(counts.items(), ("first", "second"), strict=True):
        plot = Plot(f"Histogram of the cosine of the {name}", x, y, height=190)
        for (a, b), count in zip(bins, values, strict=True):
            if count:
                plot.bar(a, b, count, css, f"{count} chunks with a cosine of {1 - b:.7g} to {1 - a:.7g}")
        plot.limit(limits[0], f"worst allowed {thresholds.cosine_worst:g}")
        plot.limit(limits[1], f"mean allowed {thresholds.cosine_mean:g}", "limit soft")
        figures.append(legend([(css, name)]) + plot.svg())
    return "\n".join(figures)


def drift_plot(drift: Drift, executed: int) -> str:
    """Error of each action along the chunk; the executed part is shaded."""
    x = linear_axis("action of the chunk", 0, len(drift.rms), 10)
    y = linear_axis("error, normalized units", 0, max(drift.max) or 1, 4)
    plot = Plot("Error along the chunk", x, y)
    plot.band(0, min(executed, len(drift.rms)), "executed")
    plot.text(0.3, y.high * 0.94, "executed before the next chunk takes over")
    for values, css in ((drift.max, "third"), (drift.p99, "second"), (drift.rms, "first")):
        plot.line([(k + 0.5, value) for k, value in enumerate(values)], f"line {css}")
    names = [("first", "rms"), ("second", "99th percentile"), ("third", "largest")]
    return legend(names) + plot.svg()


def cache_plot(inner: InnerError) -> str:
    """Relative error of the cached keys and values, per prefix layer."""
    both = (("first", "keys", inner.keys), ("second", "values", inner.values))
    plot = _bars("Error of the keys and values per layer", "layer of the prefix", both)
    return legend([(css, name) for css, name, _ in both]) + plot.svg()


def velocity_plot(inner: InnerError) -> str:
    """Relative error of the velocity, per Euler step."""
    plot = _bars("Error of the velocity per Euler step", "Euler step", (("first", "velocity", inner.velocities),))
    return legend([("first", "velocity, each on its own path")]) + plot.svg()


def success_plot(difference: float, interval: tuple[float, float], loss: float) -> str:
    """The paired difference in success with its interval, between the allowed loss and zero."""
    reach = max(loss, *map(abs, interval)) * 1.15
    x = linear_axis("difference in success, candidate − fp32 (percentage points)", -100 * reach, 100 * reach, 8)
    plot = Plot("Difference in closed-loop success", x, Axis("", 0, 2, ()), height=110)
    plot.limit(-100 * loss, f"largest loss: {100 * loss:g}")
    plot.limit(0, "equal", "limit soft")
    plot.line([(100 * end, 0.8) for end in interval], "line interval first")
    plot.dot(100 * difference, 0.8, "first", f"{100 * difference:+.1f} points")
    return plot.svg()


def damage_plot(damages: Sequence[tuple[str, float]]) -> str:
    """What the quantization of each group alone does to the actions, worst first: horizontal bars as HTML."""
    largest = max((damage for _, damage in damages), default=0.0) or 1.0
    rows = (
        f'<tr><td class="name">{escape(name)}</td><td class="figure">{damage:.3g}</td>'
        f'<td class="wide"><i class="bar first" style="width:{100 * damage / largest:.2f}%"></i></td></tr>'
        for name, damage in damages
    )
    return f'<table class="bars"><tbody>{"".join(rows)}</tbody></table>'


def _bars(label: str, title: str, series: Sequence[tuple[str, str, Sequence[float]]]) -> Plot:
    count = len(series[0][2])
    highest = max(max(values) for _, _, values in series)
    every = -(-count // 18)
    x = Axis(title, 0, count, tuple((k + 0.5, str(k)) for k in range(0, count, every)))
    plot = Plot(label, x, linear_axis("relative error", 0, highest or 1, 4), width=480, height=240)
    width = 0.8 / len(series)
    for place, (css, name, values) in enumerate(series):
        for k, value in enumerate(values):
            left = k + 0.1 + place * width
            plot.bar(left, left + width, value, css, f"{name}, {title} {k}: {value:.4g}")
    return plot


def _decade_bins(low: float, high: float) -> list[tuple[float, float]]:
    first = round(math.log10(low) * BINS_PER_DECADE)
    last = round(math.log10(high) * BINS_PER_DECADE)
    edges = [10.0 ** (k / BINS_PER_DECADE) for k in range(first, last + 1)]
    edges[-1] *= 1 + 1e-9  # the largest distance belongs to the last bin
    return list(pairwise(edges))
