"""Plots as SVG text: two axes and marks on them, nothing that needs a plotting library on the robot.

Colours and fonts come from the CSS classes of the page that the plot stands in. The same marks give the same bytes.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

LEFT, RIGHT, TOP, BOTTOM = 62, 16, 14, 46
"""Margins around the area of the marks, in pixels."""
SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


@dataclass(frozen=True)
class Axis:
    """One axis.

    Attributes:
        title: What it shows, with its unit.
        low: Value at its start.
        high: Value at its end.
        ticks: (value, label) of each tick, in rising order.
        log: Whether equal ratios take equal space.
    """

    title: str
    low: float
    high: float
    ticks: tuple[tuple[float, str], ...]
    log: bool = False

    def fraction(self, value: float) -> float:
        """Where a value lies: 0 at `low`, 1 at `high`; what is outside is put at the end, what is no number at 0."""
        low, high, at = self.low, self.high, value
        if self.log:
            low, high, at = math.log(low), math.log(high), math.log(max(value, self.low))
        share = (at - low) / (high - low)
        return min(1.0, max(0.0, share)) if share == share else 0.0


def linear_axis(title: str, low: float, high: float, count: int = 5) -> Axis:
    """At least from `low` to `high`, with about `count` ticks at multiples of 1, 2 or 5 times a power of ten."""
    span = high - low if high > low else 1.0
    power = 10.0 ** math.floor(math.log10(span / count))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= span / count * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil((low + span) / step - 1e-9)
    marks = [step * k for k in range(first, last + 1)]
    return Axis(title, marks[0], marks[-1], tuple((mark, f"{mark:.10g}") for mark in marks))


def log_axis(title: str, low: float, high: float) -> Axis:
    """Over whole decades, from the one below `low` to the one above `high`; both above 0."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    decades = range(first, max(last, first + 1) + 1)
    ticks = tuple((10.0**decade, f"10{str(decade).translate(SUPERSCRIPTS)}") for decade in decades)
    return Axis(title, ticks[0][0], ticks[-1][0], ticks, log=True)


class Plot:
    """A figure of fixed size that scales with its column."""

    def __init__(self, label: str, x: Axis, y: Axis, width: int = 960, height: int = 260, left: int = LEFT) -> None:
        """An empty plot; `label` is what a screen reader says, and `left` the room for labels of the y axis."""
        self.label, self.x, self.y = label, x, y
        self.width, self.height, self.left = width, height, left
        self._marks: list[str] = []

    def bar(self, left: float, right: float, top: float, css: str, hint: str = "") -> None:
        """A bar from the bottom of the plot; `hint` appears under the pointer."""
        x0, x1, y = self._x(left) + 0.5, self._x(right) - 0.5, self._y(top)
        size = f'width="{max(x1 - x0, 1):.1f}" height="{self._y(self.y.low) - y:.1f}"'
        self._marks.append(f'<rect class="{css}" x="{x0:.1f}" y="{y:.1f}" {size} rx="1.5">{_hint(hint)}</rect>')

    def line(self, points: Iterable[tuple[float, float]], css: str) -> None:
        """A line through (x, y)."""
        path = " ".join(f"{self._x(x):.1f},{self._y(y):.1f}" for x, y in points)
        self._marks.append(f'<polyline class="{css}" points="{path}"/>')

    def dot(self, x: float, y: float, css: str, hint: str = "") -> None:
        """A point."""
        place = f'cx="{self._x(x):.1f}" cy="{self._y(y):.1f}"'
        self._marks.append(f'<circle class="{css}" {place} r="4">{_hint(hint)}</circle>')

    def band(self, left: float, right: float, css: str) -> None:
        """A full-height background from x to x."""
        x0, x1 = self._x(left), self._x(right)
        box = f'x="{x0:.1f}" y="{TOP}" width="{x1 - x0:.1f}" height="{self.height - TOP - BOTTOM}"'
        self._marks.append(f'<rect class="{css}" {box}/>')

    def limit(self, x: float, text: str, css: str = "limit") -> None:
        """A vertical line with a word to its left."""
        at = self._x(x)
        self._marks.append(
            f'<line class="{css}" x1="{at:.1f}" x2="{at:.1f}" y1="{TOP}" y2="{self.height - BOTTOM}"/>'
            f'<text text-anchor="end" x="{at - 5:.1f}" y="{TOP + 10}">{escape(text)}</text>'
        )

    def text(self, x: float, y: float, text: str) -> None:
        """A word that starts at (x, y)."""
        self._marks.append(f'<text x="{self._x(x):.1f}" y="{self._y(y):.1f}">{escape(text)}</text>')

    def svg(self) -> str:
        """The figure."""
        head = f'<svg role="img" aria-label="{escape(self.label)}" viewBox="0 0 {self.width} {self.height}">'
        return "\n".join([head, *self._grid(), *self._marks, *self._titles(), "</svg>"])

    def _grid(self) -> list[str]:
        bottom, right = self.height - BOTTOM, self.width - RIGHT
        lines = [f'<line class="axis" x1="{self.left}" x2="{right}" y1="{bottom}" y2="{bottom}"/>']
        for value, label in self.y.ticks:
            y = self._y(value)
            lines.append(f'<line class="grid" x1="{self.left}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}"/>')
            lines.append(
                f'<text class="tick" text-anchor="end" x="{self.left - 8}" y="{y + 4:.1f}">{escape(label)}</text>'
            )
        for value, label in self.x.ticks:
            x = self._x(value)
            lines.append(f'<line class="axis" x1="{x:.1f}" x2="{x:.1f}" y1="{bottom}" y2="{bottom + 4}"/>')
            lines.append(
                f'<text class="tick" text-anchor="middle" x="{x:.1f}" y="{bottom + 18}">{escape(label)}</text>'
            )
        return lines

    def _titles(self) -> list[str]:
        middle = (TOP + self.height - BOTTOM) / 2
        across = f'x="{(self.left + self.width - RIGHT) / 2:.1f}" y="{self.height - 8}"'
        along = f'transform="translate(14 {middle:.1f}) rotate(-90)"'
        return [
            f'<text class="title" text-anchor="middle" {across}>{escape(self.x.title)}</text>',
            f'<text class="title" text-anchor="middle" {along}>{escape(self.y.title)}</text>',
        ]

    def _x(self, value: float) -> float:
        return self.left + self.x.fraction(value) * (self.width - self.left - RIGHT)

    def _y(self, value: float) -> float:
        return self.height - BOTTOM - self.y.fraction(value) * (self.height - TOP - BOTTOM)


def legend(entries: Sequence[tuple[str, str]]) -> str:
    """One line of (css class, text) with a swatch each, as HTML."""
    items = (f'<span class="key"><i class="{css}"></i>{escape(text)}</span>' for css, text in entries)
    return f'<p class="legend">{"".join(items)}</p>'


def _hint(text: str) -> str:
    return f"<title>{escape(text)}</title>" if text else ""
