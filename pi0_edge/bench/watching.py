"""Watches the board while something else is timed: readings before, during and after, and what taking them cost."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from types import TracebackType

from pi0_edge.bench.result import Reading
from pi0_edge.board.readings import Board
from pi0_edge.board.state import BoardState

QUICK_S = 0.1
"""Between two readings of rails, energy counters and alerts, on boards with rails. An INA3221 converts no faster."""
WHOLE_S = 1.0
"""Between two readings of everything but processes."""
PROCESSES_S = 10.0
"""Between two readings with all processes, the dearest of all."""

_LAST_READING_S = 5.0
"""How long the end waits for a reading that has begun."""


class BoardWatcher:
    """Takes readings of a board, from the begin to the end of a context, in a thread of its own.

    The first reading is taken before the context begins and the last one after it has ended, both with all processes.
    What cannot be read is missing from the readings, and never an error in what is timed.

    Attributes:
        thread_s: Seconds of a processor that the thread has taken so far.
    """

    def __init__(
        self,
        board: Board,
        *,
        quick_s: float = QUICK_S,
        whole_s: float = WHOLE_S,
        processes_s: float = PROCESSES_S,
    ) -> None:
        """Reads nothing yet.

        Args:
            board: Whose state it is.
            quick_s: Seconds between two readings of rails, energy counters and alerts, where the board has rails.
            whole_s: Seconds between two readings of everything but processes.
            processes_s: Seconds between two readings with all processes.
        """
        self.thread_s = 0.0
        self._board = board
        self._quick_s, self._whole_s, self._processes_s = quick_s, whole_s, processes_s
        self._readings: list[Reading] = []
        self._problems: Counter[str] = Counter()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="board watcher", daemon=True)

    @property
    def readings(self) -> tuple[Reading, ...]:
        """All so far, in the order of time."""
        return tuple(self._readings)

    @property
    def problems(self) -> tuple[str, ...]:
        """What readings failed of, one sentence each."""
        return tuple(f"a reading of the board failed {count} times: {why}" for why, count in self._problems.items())

    def __enter__(self) -> BoardWatcher:
        self._take(self._board.state)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join(_LAST_READING_S)
        self._take(self._board.state)

    def _watch(self) -> None:
        begin = time.monotonic()
        period = min(self._quick_s, self._whole_s) if self._has_rails() else self._whole_s
        next_whole, next_processes = begin + self._whole_s, begin + self._processes_s
        due = begin
        while True:
            due = max(due + period, time.monotonic())  # what is late is not made up for
            if self._over.wait(due - time.monotonic()):
                return
            now = time.monotonic()
            if now >= next_processes:
                self._take(self._board.state)
                next_whole, next_processes = now + self._whole_s, now + self._processes_s
            elif now >= next_whole - period / 2:
                self._take(lambda: self._board.state(processes=False))
                next_whole = now + self._whole_s
            else:
                self._take(self._board.quick_state)
            self.thread_s = time.thread_time()

    def _has_rails(self) -> bool:
        try:
            return self._board.has_rails
        except Exception as error:
            self._problems[repr(error)] += 1
            return False

    def _take(self, read: Callable[[], BoardState]) -> None:
        """One reading, dated before it is taken; an error is counted, whatever it is."""
        now_ns = time.monotonic_ns()
        try:
            state = read()
        except Exception as error:
            self._problems[repr(error)] += 1
            return
        if not self._over.is_set() or threading.current_thread() is not self._thread:
            self._readings.append(Reading(now_ns, state))
