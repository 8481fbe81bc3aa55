"""Charts as SVG text that is readable at any width: places along x are shares of it, letters keep their size.

A chart is as wide as its column and as high as it says. Its lines and dots lie in an inner drawing that is stretched;
axes, bars and words lie outside of it. Colours come from the CSS classes of the page. The same marks give the same
bytes.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from html import escape

from pi0_edge.pages.svg import Axis

ROW = 15
"""Height of a row of words, in pixels."""
TICK_ROWS = 21
"""Height of the labels of the x axis, in pixels."""

_NARROW = 230
"""Width in pixels of a chart on a telephone: words that do not overlap there overlap nowhere."""
_LETTER = 6.3
"""Width of a letter, in pixels."""
_SHORT = 8
"""Letters of a word to the right of a chart that needs little room."""
_INNER = 1000
"""Width of the inner drawing, in its own units."""


def nice_step(span: float, count: int) -> float:
    """The step of about `count` ticks over a span: 1, 2 or 5 times a power of ten, so that there are never more."""
    least = span / count
    power = 10.0 ** math.floor(math.log10(least))
    return next(factor * power for factor in (1.0, 2.0, 5.0, 10.0) if factor * power >= least * (1 - 1e-9))


def linear_axis(
    title: str, low: float, high: float, count: int = 5, to_ticks: bool = True, whole: bool = False
) -> Axis:
    """An axis with ticks at 1, 2 or 5 times a power of ten.

    Args:
        title: What it shows.
        low: Smallest value, finite.
        high: Largest value; where it is not larger, the axis is made as long as its values are large.
        count: Of steps between ticks, at most.
        to_ticks: Whether the axis is extended to a tick at both ends; else it ends where the values end.
        whole: Whether values are counts, between which there are no ticks.
    """
    if high - low <= max(abs(low), abs(high)) * 1e-9:
        half = abs(high) / 2 or 0.5
        low, high = (low, low + 2 * half) if low >= 0 else (low - half, high + half)
    step = nice_step(high - low, count)
    step = max(step, 1.0) if whole else step
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    marks = [step * k for k in range(first, last + 1)]
    if to_ticks:
        low, high = marks[0], marks[-1]
    slack = (high - low) * 1e-9
    kept = tuple((mark, tick_label(mark, step)) for mark in marks if low - slack <= mark <= high + slack)
    return Axis(title, low, high, kept)


def log_axis(title: str, low: float, high: float, count: int = 7) -> Axis:
    """An axis of equal ratios over values above 0, a little longer than they are.

    Args:
        title: What it shows.
        low: Smallest value, above 0.
        high: Largest value.
        count: Of ticks, at most: powers of ten, with 2 and 5 between them where there is room; within less than a
            decade at equal steps.
    """
    high = max(high, low * 1.1)
    room = (high / low) ** 0.03
    low, high = low / room, high * room
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for factors in ((1, 2, 5), (1, 3), (1,)):
        values = [factor * 10.0**decade for decade in decades for factor in factors]
        ticks = [(value, tick_label(value, value)) for value in values if low <= value <= high]
        if len(ticks) <= count:
            break
    if len(ticks) < 3:
        finer = (linear_axis("", low, high, steps, to_ticks=False).ticks for steps in itertools.count(count - 1))
        ticks = next(list(found) for found in finer if len(found) >= 2)
    return Axis(title, low, high, tuple(ticks[:: -(-len(ticks) // count)]), log=True)


def tick_label(value: float, step: float) -> str:
    """A value with as many decimals as its step needs, such as `0.25` or `12,000`."""
    if abs(value) < step * 1e-6:
        return "0"
    digits = max(0, -math.floor(math.log10(step) + 1e-9))
    if digits > 6 or abs(value) >= 1e9:
        return f"{value:.3g}"
    text = f"{value:,.{digits + 1}f}"
    return text.rstrip("0").rstrip(".")


class Chart:
    """One chart, which is filled with marks and then written."""

    def __init__(self, name: str, title: str, description: str, x: Axis, y: Axis, height: int = 180) -> None:
        """An empty chart.

        Args:
            name: Letters, digits and hyphens, once on the page.
            title: What a screen reader says it is.
            description: What it shows, in a sentence with figures.
            x: Axis to the right.
            y: Axis upwards.
            height: Of the area of the marks, in pixels.
        """
        self.x, self.y, self.height = x, y, height
        self._name, self._title, self._description = name, title, description
        self._bands: list[str] = []
        self._bars: list[str] = []
        self._inner: list[str] = []
        self._before: list[str] = []
        self._flags: list[tuple[float, str, str]] = []
        self._ends: list[tuple[float, str, str]] = []
        self._letters = 0
        self._hover = ""

    def dots(self, points: Iterable[tuple[float, float]], css: str) -> None:
        """A dot for each point."""
        path = "".join(f"M{self._across(x)} {self._up(y)}h0" for x, y in points)
        if path:
            self._inner.append(f'<path class="dots {css}" d="{path}"/>')

    def stems(self, points: Iterable[tuple[float, float]], css: str) -> None:
        """A line from the bottom of the chart to each point."""
        path = "".join(f"M{self._across(x)} {self.height}V{self._up(y)}" for x, y in points)
        if path:
            self._inner.append(f'<path class="stem {css}" d="{path}"/>')

    def line(self, points: Iterable[tuple[float, float]], css: str) -> None:
        """A line through the points."""
        path = " ".join(f"{self._across(x)} {self._up(y)}" for x, y in points)
        if path:
            self._inner.append(f'<path class="line {css}" d="M{path}"/>')

    def steps(self, points: Sequence[tuple[float, float]], css: str) -> None:
        """A line that keeps each height until the next point."""
        path, last = "", ("", "")
        for x, y in points:
            place = (self._across(x), self._up(y))
            if not path:
                path = f"M{place[0]} {place[1]}"
            elif place != last:
                path += f"H{place[0]}V{place[1]}"
            last = place
        if path:
            self._inner.append(f'<path class="line {css}" d="{path}"/>')

    def bar(self, left: float, right: float, low: float, high: float, css: str, hint: str = "") -> None:
        """A box between two values of each axis, never less than 2 pixels high; `hint` appears under the pointer."""
        x0, x1 = self.x.fraction(left), self.x.fraction(right)
        top, bottom = float(self._up(high)), float(self._up(low))
        top = min(top, bottom - 2)
        place = f'x="{100 * x0:.3f}%" y="{top:.1f}" width="{100 * (x1 - x0):.3f}%" height="{bottom - top:.1f}"'
        self._bars.append(f'<rect class="bar {css}" {place}>{_hint(hint)}</rect>')

    def band(self, left: float, right: float, css: str, text: str = "") -> None:
        """A background over the whole height, with a word at its top."""
        x0, x1 = self.x.fraction(left), self.x.fraction(right)
        place = f'x="{100 * x0:.3f}%" y="0" width="{100 * (x1 - x0):.3f}%" height="{self.height}"'
        self._bands.append(f'<rect class="band {css}" {place}/>')
        if text:
            self._before.append(f'<text class="word" x="{100 * x0:.3f}%" dx="4" y="12">{escape(text)}</text>')

    def limit(self, y: float, text: str, css: str = "limit") -> None:
        """A line across at a height, with a word above its right end."""
        at = self._up(y)
        self._before.append(f'<line class="{css}" x1="0" x2="100%" y1="{at}" y2="{at}"/>')
        place = f'text-anchor="end" x="100%" dx="-2" y="{max(float(at) - 4, 10):.1f}"'
        self._before.append(f'<text class="word {css}-word" {place}>{escape(text)}</text>')

    def flag(self, x: float, text: str, css: str = "flag") -> None:
        """A line upwards at a value, with a word above the chart."""
        self._flags.append((self.x.fraction(x), text, css))

    def end_label(self, y: float, text: str, css: str) -> None:
        """A word to the right of the chart at a height, moved where others are in its way."""
        self._ends.append((float(self._up(y)), text, css))

    def room_for(self, letters: int) -> None:
        """Leaves as much room to the right as words of so many letters need, so that charts are equally wide."""
        self._letters = letters

    def hover(self, kind: str) -> None:
        """Has the script of the page tell values under the pointer; `kind` says which."""
        self._hover = kind

    def svg(self) -> str:
        """The chart."""
        flags, rows = self._placed_flags()
        top = ROW * (rows + 1) + 8
        whole = top + self.height + TICK_ROWS + ROW
        labelled = f'role="img" aria-labelledby="{self._name}-title {self._name}-text"'
        size = f'width="100%" height="{whole}"{self._hover_data(top)}'
        inner = f'viewBox="0 0 {_INNER} {self.height}" preserveAspectRatio="none" width="100%" height="{self.height}"'
        parts = [
            f'<svg class="chart" id="{self._name}" {labelled} {size}>',
            f'<title id="{self._name}-title">{escape(self._title)}</title>',
            f'<desc id="{self._name}-text">{escape(self._description)}</desc>',
            f'<text class="axis-title" x="0" dx="-44" y="11">{escape(self.y.title)}</text>',
            f'<svg x="0" y="{top}" width="100%" height="{self.height}" overflow="visible">',
            *self._bands,
            *self._grid(),
            *self._bars,
            f'<svg class="inner" {inner} overflow="visible">',
            *self._inner,
            "</svg>",
            *flags,
            *self._before,
            *self._placed_ends(),
            *self._x_labels(),
            "</svg>",
            "</svg>",
        ]
        longest = max([self._letters, *(len(text) for _, text, _ in self._ends)])
        css = "figure" + (" ends" if longest > _SHORT else " short ends" if longest else "")
        return f'<div class="{css}">\n' + "\n".join(parts) + "\n</div>"

    def _hover_data(self, top: int) -> str:
        """What the script of the page needs to find the value under the pointer."""
        if not self._hover:
            return ""
        scale = f"{self.x.low:.9g},{self.x.high:.9g},{int(self.x.log)}"
        return f' data-hover="{escape(self._hover)}" data-top="{top}" data-height="{self.height}" data-x="{scale}"'

    def _grid(self) -> list[str]:
        lines: list[str] = []
        for value, label in self.y.ticks:
            y = self._up(value)
            lines.append(f'<line class="grid" x1="0" x2="100%" y1="{y}" y2="{y}"/>')
            lines.append(f'<text class="tick" text-anchor="end" x="-7" y="{float(y) + 4:.1f}">{escape(label)}</text>')
        return [*lines, f'<line class="axis" x1="0" x2="100%" y1="{self.height}" y2="{self.height}"/>']

    def _x_labels(self) -> list[str]:
        """Ticks and labels; a label for which a telephone has no room is shown on wider pages only."""
        lines: list[str] = []
        free = -math.inf
        for value, label in self.x.ticks:
            share, half = self.x.fraction(value), (len(label) + 1) * _LETTER / 2 / _NARROW
            is_narrow = share - half >= free
            free = share + half if is_narrow else free
            x, y, css = f"{100 * share:.3f}%", self.height, "tick" if is_narrow else "tick wide-only"
            lines.append(f'<line class="axis" x1="{x}" x2="{x}" y1="{y}" y2="{y + 4}"/>')
            lines.append(f'<text class="{css}" text-anchor="middle" x="{x}" y="{y + 17}">{escape(label)}</text>')
        under = f'text-anchor="end" x="100%" y="{self.height + TICK_ROWS + ROW - 4}"'
        return [*lines, f'<text class="axis-title" {under}>{escape(self.x.title)}</text>']

    def _placed_flags(self) -> tuple[list[str], int]:
        """The flags and how many rows their words take: no word lies on another, nor a line on a word where it can."""
        to_right = sorted((flag for flag in self._flags if flag[0] <= 0.6), reverse=True)
        to_left = sorted(flag for flag in self._flags if flag[0] > 0.6)
        # From the inside out, so that the lines of the outer ones, which are higher, pass beside the inner words.
        placed: list[tuple[int, float, tuple[float, float]]] = []
        lines: list[str] = []
        for share, text, css in [*to_right, *to_left]:
            width = (len(text) * _LETTER + 10) / _NARROW
            words = (share - width, share - 1e-6) if share > 0.6 else (share + 1e-6, share + width)
            highest = 1 + max((row for row, _, _ in placed), default=-1)
            row = next((row for row in range(highest) if _is_free(row, share, words, placed)), highest)
            placed.append((row, share, words))
            x, y = f"{100 * share:.3f}%", -4 - ROW * row
            anchor, shift = ("end", -4) if share > 0.6 else ("start", 4)
            lines.append(f'<line class="{css}" x1="{x}" x2="{x}" y1="{y - 9}" y2="{self.height}"/>')
            place = f'text-anchor="{anchor}" x="{x}" dx="{shift}" y="{y}"'
            lines.append(f'<text class="word {css}-word" {place}>{escape(text)}</text>')
        return lines, 1 + max((row for row, _, _ in placed), default=-1)

    def _placed_ends(self) -> list[str]:
        ordered = sorted(self._ends)
        places = spread([y for y, _, _ in ordered], ROW - 2, 0, self.height)
        lines: list[str] = []
        for (y, text, css), place in zip(ordered, places, strict=True):
            shown = text if len(text) <= 16 else f"{text[:15]}…"
            if abs(place - y) > 2:
                lines.append(
                    f'<svg x="100%" width="10" height="{self.height}" overflow="visible">'
                    f'<path class="lead {css}" d="M1 {y:.1f}L9 {place:.1f}"/></svg>'
                )
            lines.append(
                f'<text class="end {css}" x="100%" dx="12" y="{place + 4:.1f}">{escape(shown)}{_hint(text)}</text>'
            )
        return lines

    def _across(self, value: float) -> str:
        return _short(_INNER * self.x.fraction(value))

    def _up(self, value: float) -> str:
        return _short(self.height * (1 - self.y.fraction(value)))


def spread(wanted: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Places in rising order that are at least `gap` apart and near to the wanted ones, which rise too.

    They stay between `low` and `high` where there is room for them.
    """
    places: list[float] = []
    for want in wanted:
        places.append(max(want, places[-1] + gap if places else low))
    ceiling = high
    for place in range(len(places) - 1, -1, -1):
        places[place] = min(places[place], ceiling)
        ceiling = places[place] - gap
    return places


def _is_free(
    row: int, line: float, words: tuple[float, float], placed: Sequence[tuple[int, float, tuple[float, float]]]
) -> bool:
    """Whether a flag can have a row: its words meet no words and no line, its line crosses no words below."""
    for other_row, other_line, other in placed:
        if other_row == row and words[0] < other[1] and other[0] < words[1]:
            return False
        if other_row > row and words[0] <= other_line <= words[1]:
            return False
        if other_row <= row and other[0] <= line <= other[1]:
            return False
    return True


def _short(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")


def _hint(text: str) -> str:
    return f"<title>{escape(text)}</title>" if text else ""
