"""The figures of a run that is under way: latencies, ages, counts, the newest tick. Dashboard and metrics read them."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Sequence

import numpy as np

from firmware_bridge.bridge.telemetry import AgeOfInformation, AgeWindow
from firmware_bridge.client import Tick
from pi0_edge.protos.bridge_pb2 import ChunkReport
from pi0_edge.run.events import Answered, Event, Observed

WINDOW = 200
"""Chunks whose latencies the percentiles cover."""

EVENTS_KEPT = 50


class RunFigures:
    """A listener that keeps what is worth looking at. One thread at a time adds, any thread may read.

    Attributes:
        tick: The newest one; None before the first.
        observed: The newest observation; None before the first.
        outcomes: Chunks by what became of them, names of `ChunkReport.Outcome`.
        events: The last ones, the newest last.
        overrides: Rules that the policy's user overrode, as the newest chunk says.
    """

    def __init__(self) -> None:
        self.tick: Tick | None = None
        self.observed: Observed | None = None
        self.outcomes: Counter[str] = Counter()
        self.events: deque[Event] = deque(maxlen=EVENTS_KEPT)
        self.overrides: tuple[str, ...] = ()
        self._to_chunk_ms: deque[float] = deque(maxlen=WINDOW)
        self._infer_ms: deque[float] = deque(maxlen=WINDOW)
        self._ages = AgeWindow()

    def on_observed(self, observed: Observed) -> None:
        """An observation goes to the policy."""
        self.observed = observed

    def on_answered(self, answered: Answered) -> None:
        """A chunk came back and was played or refused."""
        self.outcomes[ChunkReport.Outcome.Name(answered.report.outcome)] += 1
        self.overrides = answered.overrides
        self._to_chunk_ms.append(answered.to_chunk_ms)
        self._infer_ms.append(answered.infer_ms)

    def on_tick(self, tick: Tick) -> None:
        """The firmware executed a tick."""
        self.tick = tick
        self._ages.add(tick.tick, tick.observed_tick, tick.chunk_id)

    def on_event(self, event: Event) -> None:
        """Something else happened."""
        if event.name != "setpoints":
            self.events.append(event)

    def to_chunk_ms(self) -> tuple[float, float]:
        """Median and 99th percentile from observation to chunk; 0 before the first."""
        return _percentiles(tuple(self._to_chunk_ms))

    def infer_ms(self) -> tuple[float, float]:
        """Median and 99th percentile of the network alone; 0 before the first."""
        return _percentiles(tuple(self._infer_ms))

    def age(self, tick_period_s: float) -> AgeOfInformation:
        """Age of the observations behind the last executed ticks."""
        return self._ages.figure(tick_period_s)


def _percentiles(values: Sequence[float]) -> tuple[float, float]:
    if not values:
        return 0.0, 0.0
    median, tail = np.percentile(values, (50, 99))
    return float(median), float(tail)
