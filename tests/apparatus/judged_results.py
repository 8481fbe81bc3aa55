"""A bench result without a fault, made of numbers alone, into which tests plant one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from recorded_boards import lay_out

from pi0_edge.bench.result import (
    Accuracy,
    BenchResult,
    ClockCheck,
    PolicyUnderTest,
    Reading,
    Run,
    Verdict,
    WarmUp,
)
from pi0_edge.bench.samples import Samples
from pi0_edge.board.readings import Board
from pi0_edge.board.state import BoardState

BEGIN_NS = 5_000_000_000_000
"""Of the runs."""
MEASURED = 4711
"""Process of the recorded AGX Orin that stands for the measurement."""

POLICY = PolicyUnderTest(
    name="cups",
    bundle_sha256="ab" * 32,
    gate="passed",
    overrides=(),
    scheme="int8-w8a8",
    engine="cpu",
    threads=2,
    euler_steps=10,
    cameras=2,
    tokens=12,
    horizon=50,
    control_hz=50.0,
)


def latencies(count: int, seed: int = 0, spread: float = 0.03) -> NDArray[np.float64]:
    """Milliseconds around 100, as of a quiet computer."""
    return 100 * np.exp(np.random.default_rng(seed).normal(0, spread, count))


def run_of(latency_ms: NDArray[np.float64], begin_ns: int = BEGIN_NS, overhead_ms: float = 0.1) -> Run:
    """A closed run of these latencies."""
    ends = begin_ns + np.cumsum((latency_ms * 1e6).astype(np.int64))
    begins = ends - (latency_ms * 1e6).astype(np.int64)
    samples = Samples(begins, begins, ends, np.zeros(len(ends), np.int64))
    return Run("closed", None, None, samples, overhead_ms)


def readings_of(state: BoardState, seconds: float, change: Callable[[float, BoardState], BoardState] | None = None):
    """A reading each second, from 2 s before the runs to 2 s after them; processes at both ends alone.

    Args:
        state: Of a board at rest, in which the measurement had taken some time of the processors.
        seconds: That the runs took.
        change: What a state becomes so many seconds after the runs began.
    """
    times = [-2.0, *np.arange(0.5, seconds), seconds + 2.0]
    readings = []
    for place, since in enumerate(times):
        own = (state.cpu_own_s or 0.0) + 1.5 * since
        now = replace(state, cpu_own_s=own, cpu_busy_s=(state.cpu_busy_s or 0.0) + 1.52 * since)
        if change is not None:
            now = change(since, now)
        if place not in (0, len(times) - 1):
            now = replace(now, cpu_own_s=None, busiest={})
        readings.append(Reading(BEGIN_NS + round(since * 1e9), now))
    return tuple(readings)


def result_of(runs: Sequence[Run], readings: Sequence[Reading], **other: Any) -> BenchResult:
    """A result without a fault, but for what is given."""
    parts: dict[str, Any] = {
        "id": "0" * 16,
        "session": "0" * 16,
        "started": "2026-11-27T12:00:00+00:00",
        "command": ("pi0-edge", "bench", "cups"),
        "boundary": "policy",
        "policy": POLICY,
        "accuracy": Accuracy(True, ("cosine 0.9999",), ("cosine 0.9999",)),
        "software": {"pi0-edge": "0.1"},
        "interference": (),
        "warm_up": WarmUp(True, (300.0, 100.0, 101.0), 1.5),
        "runs": tuple(runs),
        "readings": tuple(readings),
        "clock": ClockCheck("CLOCK_MONOTONIC", 0.1, ""),
        "estimate_ms": {},
        "verdict": Verdict(False, ("nobody has judged it yet",)),
    }
    return BenchResult(**{**parts, **other})


def recorded_state(name: str, root: Path) -> BoardState:
    """What a recorded board says."""
    return Board(lay_out(name, root), own=(MEASURED,)).state()
