"""What a run tells the systemd that started it: ready with the first tick, and with each that its loop goes round."""

from __future__ import annotations

from contextlib import ExitStack

from firmware_bridge.client import Tick
from pi0_edge.protos.rpc.service_manager import ServiceManager
from pi0_edge.run.events import Answered, Event, Observed


class ServiceReports:
    """A listener, and a context around the whole run: while it is checked, systemd is asked for more time."""

    def __init__(self, manager: ServiceManager) -> None:
        """Reports to `manager`."""
        self._manager = manager
        self._checking = ExitStack()
        self._ready = False

    def __enter__(self) -> ServiceReports:
        self._checking.enter_context(self._manager.starting("pre-flight"))
        return self

    def __exit__(self, *_: object) -> None:
        self._checking.close()

    def on_observed(self, observed: Observed) -> None:
        """Nothing."""

    def on_answered(self, answered: Answered) -> None:
        """Nothing."""

    def on_tick(self, tick: Tick) -> None:
        """The loop goes round: it takes in a tick itself, so one that hangs takes in none."""
        if not self._ready:
            self._ready = True
            self._checking.close()
            self._manager.ready(f"the run began at tick {tick.tick}")
        self._manager.feed_watchdog()

    def on_event(self, event: Event) -> None:
        """The end of the run, and what else a person would want to know."""
        if event.name == "stopped":
            self._manager.stopping(event.text)
        elif event.name != "setpoints":
            self._manager.status(f"{event.name}: {event.text}" if event.text else event.name)
