"""How a function of the library reports progress: by calling back, never by printing.

quantize("checkpoint", on_progress=lambda progress: print(progress.stage, progress.done, progress.total))
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Progress:
    """Where a long-running function stands.

    Attributes:
        stage: What it does now, such as "calibrating"; each stage counts from the beginning.
        done: Steps of the stage that are done.
        total: All steps of the stage; None where nobody knows yet.
        note: A figure of the stage, such as the loss; empty where it has none.
    """

    stage: str
    done: int
    total: int | None
    note: str = ""


ProgressCallback = Callable[[Progress], object]
"""Is called after every step; it may raise, for instance KeyboardInterrupt, to end the function."""


ReasonCallback = Callable[[str], object]
"""Is called with one line for each decision of a function."""


def unheard(_: object) -> None:
    """The callback of a caller who gave none."""


class Stage:
    """Counts the steps of one stage and reports each of them.

    Attributes:
        done: Steps that are done.
    """

    def __init__(self, name: str, total: int | None, on_progress: ProgressCallback | None) -> None:
        """Reports that the stage begins.

        Args:
            name: Of the stage.
            total: All its steps; None where nobody knows yet.
            on_progress: Is called; None reports to nobody.
        """
        self.done = 0
        self._name, self._total, self._on_progress = name, total, on_progress
        self.set(0)

    def advance(self, note: str = "") -> None:
        """Reports one more step."""
        self.set(self.done + 1, note)

    def set(self, done: int, note: str = "") -> None:
        """Reports that `done` steps are done."""
        self.done = done
        if self._on_progress is not None:
            self._on_progress(Progress(self._name, done, self._total, note))
