"""Warm-up that is checked instead of assumed: chunks until the latency is steady.

Steady means that the median of the last chunks is that of those before them. Single chunks may differ: a machine that
does other things is not cold.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence

from pi0_edge.bench.drivers import Ask

WINDOW = 10
"""Chunks whose medians are compared; fewer where a chunk takes long."""
SHORT_WINDOW = 3
LONG_CHUNK_MS = 1000.0
STEADY = 0.05
LIMIT_S = 60.0


def warm_up(ask: Ask, limit_s: float = LIMIT_S) -> tuple[tuple[float, ...], bool]:
    """Asks until the latency is steady.

    Args:
        ask: Who makes chunks.
        limit_s: Gives up after so many seconds, if there were chunks enough to judge.

    Returns:
        Latency of every chunk in milliseconds, and whether it had become steady.
    """
    samples: list[float] = []
    begin = time.monotonic()
    while True:
        asked = time.perf_counter()
        ask(len(samples))
        samples.append(1e3 * (time.perf_counter() - asked))
        if is_steady(samples):
            return tuple(samples), True
        if time.monotonic() - begin > limit_s and len(samples) >= 2 * _window(samples):
            return tuple(samples), False


def is_steady(samples_ms: Sequence[float]) -> bool:
    """Whether the last chunks took as long as those before them."""
    if not samples_ms or len(samples_ms) < 2 * (window := _window(samples_ms)):
        return False
    before = statistics.median(samples_ms[-2 * window : -window])
    last = statistics.median(samples_ms[-window:])
    return abs(last - before) <= STEADY * before


def _window(samples_ms: Sequence[float]) -> int:
    """By the last chunk: the first one is cold and takes longer than any other."""
    return SHORT_WINDOW if samples_ms[-1] > LONG_CHUNK_MS else WINDOW
