"""What is cut: the disk before, what is done to it, what must hold when the power is back, and how the work goes on."""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Thread

from power_cuts import Cuts, cut_states

SIZE_MIB = 16
BEFORE_S = 0.02
"""So long nothing is done yet: the state before is one of those that are seen."""


@dataclass(frozen=True)
class Subject:
    """What is cut.

    Attributes:
        name: What is done.
        prepare: The disk before.
        run: Does it.
        check: Looks at the disk after a cut, and returns a word.
        go_on: Does what was cut off again, after `check`.
        words: All that `check` may say, each of which must be seen.
    """

    name: str
    prepare: Callable[[Path], object]
    run: Callable[[Path], object]
    check: Callable[[Path], str]
    go_on: Callable[[Path], object]
    words: frozenset[str]

    def cut(self, states: int, go_on_every: int = 1, seed: int = 0) -> Cuts:
        """Cuts the power so often.

        Args:
            states: How many cuts.
            go_on_every: After each of so many cuts the work is done again.
            seed: Fixes the moments.
        """
        count = itertools.count()

        def check(disk: Path) -> str:
            word = self.check(disk)
            if next(count) % go_on_every == 0:
                self.go_on(disk)
            return word

        def run(disk: Path) -> None:
            with another_program(disk):
                time.sleep(BEFORE_S)
                self.run(disk)

        return cut_states(self.prepare, run, check, states, seed, SIZE_MIB)


@contextmanager
def another_program(disk: Path) -> Iterator[None]:
    """One that synchronizes a file of its own all the time: whatever others did by then is on the disk as it was."""
    done = Event()

    def log() -> None:
        with (disk / "another.log").open("ab", buffering=0) as file:
            while not done.wait(0.002):
                file.write(b"x")
                os.fdatasync(file.fileno())

    thread = Thread(target=log)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
