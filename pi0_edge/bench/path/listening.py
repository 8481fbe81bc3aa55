"""Listens to a run, and keeps of each chunk and tick the times that the path is made of; no pixels and no actions."""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple

import numpy as np

from firmware_bridge.client import Tick
from pi0_edge.bench.path.times import PassedChunk, PassedTicks
from pi0_edge.protos.bridge_pb2 import ChunkReport
from pi0_edge.run.events import Answered, Event, Observed


class _TickTimes(NamedTuple):
    tick: int
    counter: int
    chunk_id: int
    begin_s: float
    uncertainty_ms: float


class PathListener:
    """A listener of a run.

    Attributes:
        chunks: The accepted ones.
        outcomes: Chunks by what became of them, names of `ChunkReport.Outcome`.
        refused: What the bridge said of the last chunk that it did not accept; empty where it accepted all.
        counter_hz: Of the board's counter; 0 before the first tick.
    """

    def __init__(self) -> None:
        self.chunks: list[PassedChunk] = []
        self.outcomes: Counter[str] = Counter()
        self.refused = ""
        self.counter_hz = 0
        self._ticks: list[_TickTimes] = []

    def on_observed(self, observed: Observed) -> None:
        """Nothing: the answer holds it."""

    def on_answered(self, answered: Answered) -> None:
        """Keeps the times of a chunk."""
        report, observed = answered.report, answered.observed
        self.outcomes[ChunkReport.Outcome.Name(report.outcome)] += 1
        if report.outcome != ChunkReport.ACCEPTED:
            self.refused = report.reason
            return
        self.chunks.append(
            PassedChunk(
                chunk_id=report.chunk_id,
                observed_tick=observed.tick,
                image_ns=min(image.taken_ns for image in observed.images.values()),
                observed_ns=observed.time_ns,
                chunk_ns=observed.time_ns + round(1e6 * answered.to_chunk_ms),
                reported_ns=answered.time_ns,
                preprocess_ms=answered.preprocess_ms,
                network_ms=answered.infer_ms,
                postprocess_ms=answered.postprocess_ms,
                splice_ms=report.splice_ms,
                serial_ms=report.serial_ms,
                decided_s=report.decided_time_s,
            )
        )

    def on_tick(self, tick: Tick) -> None:
        """Keeps the times of a tick; one whose time the bridge does not know yet is of no use."""
        self.counter_hz = tick.counter_hz
        if tick.host_time_s:
            times = _TickTimes(tick.tick, tick.counter, tick.chunk_id, tick.host_time_s, 1e3 * tick.clock_uncertainty_s)
            self._ticks.append(times)

    def on_event(self, event: Event) -> None:
        """Nothing."""

    def ticks(self, tick_period_s: float) -> PassedTicks:
        """All ticks so far."""
        columns = [np.array(column) for column in zip(*self._ticks, strict=True)] or [np.zeros(0)] * len(
            _TickTimes._fields
        )
        tick, counter, chunk_id = (column.astype(np.int64) for column in columns[:3])
        begin_s, uncertainty_ms = (column.astype(np.float64) for column in columns[3:])
        return PassedTicks(tick, counter, chunk_id, begin_s, uncertainty_ms, self.counter_hz, tick_period_s)
