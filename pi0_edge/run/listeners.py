"""Tells every listener of a run what happens, one call at a time."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence

from firmware_bridge.client import Tick
from pi0_edge.cameras import CameraSet
from pi0_edge.run.camera_feed import CameraFeed
from pi0_edge.run.events import Answered, Event, Observed, RunListener

logger = logging.getLogger(__name__)


class Listeners:
    """The listeners of one run, seen as one.

    A listener that raises is told nothing more: the arm does not stop because a recording or a picture went wrong.
    """

    def __init__(self, listeners: Sequence[RunListener]) -> None:
        self._listeners = list(listeners)
        self._lock = threading.RLock()
        self._tick = 0

    def add(self, listener: RunListener) -> None:
        """One more listener."""
        with self._lock:
            self._listeners.append(listener)

    def feed(self, cameras: CameraSet) -> None:
        """Every listener with a method `on_image` is given each new image of each camera from now on."""
        with self._lock:
            self._listeners += [
                CameraFeed(cameras, on_image)
                for listener in self._listeners
                if (on_image := getattr(listener, "on_image", None)) is not None
            ]

    def on_observed(self, observed: Observed) -> None:
        """An observation goes to the policy."""
        self._tell(lambda listener: listener.on_observed(observed))

    def on_answered(self, answered: Answered) -> None:
        """A chunk came back and was played or refused."""
        self._tell(lambda listener: listener.on_answered(answered))

    def on_tick(self, tick: Tick) -> None:
        """The firmware executed a tick."""
        self._tick = tick.tick
        self._tell(lambda listener: listener.on_tick(tick))

    def on_event(self, event: Event) -> None:
        """Something else happened."""
        logger.info("tick %d: %s%s", event.tick, event.name, f": {event.text}" if event.text else "")
        self._tell(lambda listener: listener.on_event(event))

    def say(self, name: str, text: str = "", tick: int | None = None) -> None:
        """Tells of an event at a tick, the newest one where None."""
        self._tick = max(self._tick, tick or 0)
        self.on_event(Event(self._tick if tick is None else tick, time.monotonic_ns(), name, text))

    def _tell(self, call: Callable[[RunListener], None]) -> None:
        with self._lock:
            for listener in tuple(self._listeners):
                try:
                    call(listener)
                except Exception as error:
                    self._listeners.remove(listener)
                    logger.exception("a listener failed and is told nothing more")
                    self.say("listener-failed", f"{type(listener).__name__}: {error}")
