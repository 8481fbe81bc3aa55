"""Times of runs, and the readings of the board that belong to them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pi0_edge.bench.result import Reading, Run
from pi0_edge.board.state import BoardState

_JUNCTIONS = ("tj-thermal", "x86_pkg_temp")
"""Zones that are the hottest place of the chip."""


@dataclass(frozen=True)
class Span:
    """A time.

    Attributes:
        begin_ns: On the clock of `time.monotonic_ns`.
        end_ns: The same.
    """

    begin_ns: int
    end_ns: int

    @property
    def seconds(self) -> float:
        """How long it was."""
        return (self.end_ns - self.begin_ns) * 1e-9


def span_of(run: Run) -> Span:
    """From the first question of a run, which has at least one sample, to its last chunk."""
    return Span(int(run.samples.begin_ns[0]), int(run.samples.end_ns[-1]))


def around(readings: Sequence[Reading], span: Span) -> list[Reading]:
    """The readings in a time, with the last one before it and the first one after it."""
    before = [reading for reading in readings if reading.time_ns < span.begin_ns]
    within = [reading for reading in readings if span.begin_ns <= reading.time_ns <= span.end_ns]
    after = [reading for reading in readings if reading.time_ns > span.end_ns]
    return [*before[-1:], *within, *after[:1]]


def junction(state: BoardState) -> tuple[str, float]:
    """Zone and temperature of the chip's hottest place, in degrees Celsius; NaN where nothing is told."""
    for zone in _JUNCTIONS:
        if zone in state.temperatures_c:
            return zone, state.temperatures_c[zone]
    if not state.temperatures_c:
        return "", float("nan")
    return max(state.temperatures_c.items(), key=lambda one: one[1])
