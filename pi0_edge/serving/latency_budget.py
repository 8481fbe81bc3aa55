"""A policy whose chunks are late too often: its server ends itself, so that the release before it takes over."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

LATE_EXIT_CODE = 7
"""Of a server that ended itself: its unit does not start it again, and systemd falls back at once."""

WINDOW = 16
MOST_LATE = 8
"""So many late ones among the last `WINDOW` chunks are too many."""


class LatencyBudget:
    """The time that a chunk may take. One thread adds.

    Attributes:
        budget_ms: Longest time of a chunk, in milliseconds.
        misses: Chunks that took longer.
        exceeded: Why it is exceeded, in words; empty as long as it is not.
    """

    def __init__(self, budget_ms: float, on_exceeded: Callable[[], object] = lambda: None) -> None:
        """Begins counting.

        Args:
            budget_ms: Longest time of a chunk, in milliseconds.
            on_exceeded: Called once, when too many chunks were late.
        """
        self.misses = 0
        self.exceeded = ""
        self.budget_ms = budget_ms
        self._on_exceeded = on_exceeded
        self._recent: deque[float] = deque(maxlen=WINDOW)

    def add(self, chunk_ms: float) -> bool:
        """Counts a chunk.

        Args:
            chunk_ms: How long it took: from the observation to actions in physical units.

        Returns:
            Whether it was late.
        """
        self._recent.append(chunk_ms)
        is_late = chunk_ms > self.budget_ms
        self.misses += is_late
        late = sum(taken > self.budget_ms for taken in self._recent)
        if late >= MOST_LATE and not self.exceeded:
            self.exceeded = (
                f"{late} of the last {len(self._recent)} chunks took longer than the budget of {self.budget_ms:g} ms, "
                f"the slowest {max(self._recent):.1f} ms"
            )
            self._on_exceeded()
        return is_late
