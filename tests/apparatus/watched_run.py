"""A run in a thread, and what its listener saw: a test waits for an event and looks at what came before."""

from __future__ import annotations

import threading
import time
from typing import Any

from run_system import RunSystem

from firmware_bridge.client import Tick
from pi0_edge.run.events import Answered, Event, Observed
from pi0_edge.run.robot_run import RobotRun, RunResult
from pi0_edge.shipped import shipped_checkpoint
from pi0_edge.training_profile import find_training_profile

WAIT_S = 15.0


class WatchedRun:
    """Plays while the context lasts; leaving it stops the run and waits for its end."""

    def __init__(self, system: RunSystem, seconds: float | None = None, prompt: str = "", **settings: Any) -> None:
        self.observed: list[Observed] = []
        self.answered: list[Answered] = []
        self.ticks: list[Tick] = []
        self.events: list[Event] = []
        self.result: RunResult | None = None
        self.error: BaseException | None = None
        settings = {"profile": find_training_profile(shipped_checkpoint()), "clear": True, **settings}
        self.run = RobotRun(
            "aloha_sim", system.policy.address, system.cameras, system.bridge.address, listeners=[self], **settings
        )
        self._thread = threading.Thread(target=self._play, args=(prompt, seconds), daemon=True)
        self._changed = threading.Condition()

    def __enter__(self) -> WatchedRun:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.run.stop("the test is over")
        self.end()
        self.run.close()

    def end(self) -> RunResult:
        """How it ended, once it has."""
        self._thread.join(WAIT_S)
        assert not self._thread.is_alive(), self.names
        if self.error is not None:
            raise self.error
        assert self.result is not None
        return self.result

    def wait(self, name: str, count: int = 1) -> Event:
        """The event of that name, the `count`-th."""
        deadline = time.monotonic() + WAIT_S
        with self._changed:
            while len(found := [event for event in self.events if event.name == name]) < count:
                assert self._changed.wait(deadline - time.monotonic()), f"no {name} among {self.events}"
                assert self.error is None, self.error
        return found[count - 1]

    def wait_ticks(self, count: int) -> list[Tick]:
        """The next so many ticks."""
        before, deadline = len(self.ticks), time.monotonic() + WAIT_S
        while len(self.ticks) < before + count:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        return self.ticks[before : before + count]

    @property
    def names(self) -> list[str]:
        """Of all events but those that carry setpoints."""
        return [event.name for event in self.events if event.name != "setpoints"]

    def on_observed(self, observed: Observed) -> None:
        self.observed.append(observed)

    def on_answered(self, answered: Answered) -> None:
        self.answered.append(answered)

    def on_tick(self, tick: Tick) -> None:
        self.ticks.append(tick)

    def on_event(self, event: Event) -> None:
        with self._changed:
            self.events.append(event)
            self._changed.notify_all()

    def _play(self, prompt: str, seconds: float | None) -> None:
        try:
            self.result = self.run.play(prompt, seconds)
        except BaseException as error:  # the test raises it
            with self._changed:
                self.error = error
                self._changed.notify_all()
