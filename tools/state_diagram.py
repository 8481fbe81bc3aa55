"""Draws a state diagram in the notation of Mermaid as SVG: the states on an ellipse, the transitions as arcs."""

from __future__ import annotations

import html
import math
import re

WIDTH, HEIGHT = 960, 640
RADII = 380, 240
BOX = 124, 40
LINE = 14
_TRANSITION = re.compile(r"^\s*(\S+) --> (\S+): (.+)$", re.MULTILINE)


def draw(diagram: str) -> str:
    """SVG in a block of HTML.

    Args:
        diagram: Lines `FROM --> TO: LABEL`; `[*]` is the start, and `<br>` breaks a label.
    """
    arrows = [(found[1], found[2], found[3].split("<br>")) for found in _TRANSITION.finditer(diagram)]
    names = list(dict.fromkeys(name for arrow in arrows for name in arrow[:2] if name != "[*]"))
    places = {name: _place(number, len(names)) for number, name in enumerate(names)}
    arcs = "".join(_arc(places[source], places[target], label) for source, target, label in arrows if source != "[*]")
    starts = "".join(_start(places[target], label) for source, target, label in arrows if source == "[*]")
    boxes = "".join(_box(place, name) for name, place in places.items())
    marker = (
        '<marker id="tip" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="7" markerHeight="7" orient="auto">'
        '<path d="M0 0 10 5 0 10z" fill="currentColor"/></marker>'
    )
    return (
        f'<div class="state-diagram"><svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" font-size="13">'
        f"<defs>{marker}</defs>{arcs}{starts}{boxes}</svg></div>"
    )


def _place(number: int, count: int) -> tuple[float, float]:
    angle = math.pi * (2 * number / count - 1)
    return WIDTH / 2 + RADII[0] * math.cos(angle), HEIGHT / 2 + RADII[1] * math.sin(angle)


def _box(place: tuple[float, float], name: str) -> str:
    x, y = place
    frame = f'x="{x - BOX[0] / 2:.0f}" y="{y - BOX[1] / 2:.0f}" width="{BOX[0]}" height="{BOX[1]}" rx="8"'
    style = 'fill="var(--md-primary-fg-color)" stroke="currentColor" stroke-width="1"'
    text = f'<text x="{x:.0f}" y="{y + 5:.0f}" text-anchor="middle" fill="#fff" font-weight="600">{name}</text>'
    return f"<rect {frame} {style}/>{text}"


def _start(place: tuple[float, float], label: list[str]) -> str:
    x, y = place[0], place[1] - BOX[1] / 2
    line = f'<path d="M{x:.0f} {y - 46:.0f}V{y - 2:.0f}" stroke="currentColor" marker-end="url(#tip)"/>'
    return f'<circle cx="{x:.0f}" cy="{y - 52:.0f}" r="6" fill="currentColor"/>{line}{_text(x + 30, y - 28, label)}'


def _arc(source: tuple[float, float], target: tuple[float, float], label: list[str]) -> str:
    (x0, y0), (x1, y1) = source, target
    length = math.hypot(x1 - x0, y1 - y0)
    across = (y1 - y0) / length, (x0 - x1) / length
    bow = 20 + 0.06 * length
    bend = (x0 + x1) / 2 + across[0] * bow, (y0 + y1) / 2 + across[1] * bow
    start, end = _edge(source, bend), _edge(target, bend)
    path = f"M{start[0]:.0f} {start[1]:.0f}Q{bend[0]:.0f} {bend[1]:.0f} {end[0]:.0f} {end[1]:.0f}"
    at = 0.42
    x, y = ((1 - at) ** 2 * start[i] + 2 * at * (1 - at) * bend[i] + at**2 * end[i] for i in range(2))
    line = f'<path d="{path}" fill="none" stroke="currentColor" stroke-width="1.2" marker-end="url(#tip)"/>'
    return line + _text(x, y, label)


def _edge(center: tuple[float, float], towards: tuple[float, float]) -> tuple[float, float]:
    """Where the line from a box's center leaves the box."""
    dx, dy = towards[0] - center[0], towards[1] - center[1]
    share = min((BOX[i] / 2 + 3) / abs(d) if d else math.inf for i, d in enumerate((dx, dy)))
    return center[0] + dx * share, center[1] + dy * share


def _text(x: float, y: float, lines: list[str]) -> str:
    top = y - LINE * (len(lines) - 1) / 2 + 4
    style = (
        'text-anchor="middle" fill="currentColor" font-size="10.5" '
        'stroke="var(--md-default-bg-color)" stroke-width="4" paint-order="stroke"'
    )
    spans = "".join(
        f'<tspan x="{x:.0f}" y="{top + LINE * number:.0f}">{html.escape(line)}</tspan>'
        for number, line in enumerate(lines)
    )
    return f"<text {style}>{spans}</text>"
