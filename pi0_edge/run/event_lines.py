"""One line for each event of a run, for terminals that are none, logs and other programs."""

from __future__ import annotations

from collections.abc import Callable

from firmware_bridge.client import Tick
from pi0_edge.protos.bridge_pb2 import ChunkReport
from pi0_edge.run.events import Answered, Event, Observed


class EventLines:
    """A listener that prints what a person would want to know: every event, and every chunk that was not played."""

    def __init__(self, write: Callable[[str], object]) -> None:
        """Prints with `write`, one line at a time."""
        self._write = write

    def on_observed(self, observed: Observed) -> None:
        """Nothing."""

    def on_answered(self, answered: Answered) -> None:
        """A chunk that was not played, and why."""
        report = answered.report
        if report.outcome != ChunkReport.ACCEPTED:
            outcome = ChunkReport.Outcome.Name(report.outcome).lower()
            self._write(f"tick {answered.observed.tick}: chunk {outcome}: {report.reason}")

    def on_tick(self, tick: Tick) -> None:
        """Nothing."""

    def on_event(self, event: Event) -> None:
        """The event; setpoints of a person are for recordings alone."""
        if event.name != "setpoints":
            self._write(f"tick {event.tick}: {event.name}{f': {event.text}' if event.text else ''}")
