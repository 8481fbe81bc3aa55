"""Results of a bench with the samples that a test wants, as if the shipped policy had been measured on a Jetson."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

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
from pi0_edge.board.state import BoardState

ORIN = BoardState(model="NVIDIA Jetson AGX Orin Developer Kit", power_mode="0 MAXN")
BUNDLE = "ab" * 32
POLICY = PolicyUnderTest(
    name="cups",
    bundle_sha256=BUNDLE,
    gate="passed",
    overrides=(),
    scheme="int8-w8a8",
    engine="cuda",
    threads=1,
    euler_steps=10,
    cameras=2,
    tokens=20,
    horizon=50,
    control_hz=50.0,
)


def measured(
    latency_ms: Sequence[float] | None = None,
    *,
    skipped: int = 0,
    period_ms: float | None = 500.0,
    stages_ms: Mapping[str, Sequence[float]] | None = None,
    policy: Mapping[str, Any] | None = None,
    state: BoardState = ORIN,
    **changes: Any,
) -> BenchResult:
    """A valid result with one run: paced where there is a period, else closed; 459 chunks of 100 ms if none are given.

    Args:
        latency_ms: Of each chunk.
        skipped: Periods without an observation before the last chunk.
        period_ms: Between two due times.
        stages_ms: Samples by stage.
        policy: Changed fields of `POLICY`.
        state: Of the computer.
        changes: Other fields of the result.
    """
    latencies = np.array([100.0] * 459 if latency_ms is None else latency_ms, np.float64)
    count = len(latencies)
    due = (np.arange(count) * (period_ms or 1000.0) * 1e6).astype(np.int64)
    gaps = np.zeros(count, np.int64)
    gaps[-1:] = skipped
    stages = {name: np.array(values, np.float64) for name, values in (stages_ms or {}).items()}
    samples = Samples(due, due, due + np.round(latencies * 1e6).astype(np.int64), gaps, stages)
    run = Run("paced" if period_ms is not None else "closed", period_ms, None, samples, 0.01)
    fields: dict[str, Any] = {
        "id": "0123456789abcdef",
        "session": "0123456789abcdef",
        "started": "2026-11-27T12:00:00+00:00",
        "command": ("pi0-edge", "bench"),
        "boundary": "served",
        "policy": dataclasses.replace(POLICY, **(policy or {})),
        "accuracy": Accuracy(True, (), ()),
        "software": {"pi0-edge": "0.1.0"},
        "interference": (),
        "warm_up": WarmUp(True, (120.0, 100.0), 3.0),
        "runs": (run,),
        "readings": (Reading(0, state), Reading(10**9, state)),
        "clock": ClockCheck("monotonic", 0.1, ""),
        "estimate_ms": {},
        "verdict": Verdict(True, ()),
    }
    return BenchResult(**{**fields, **changes})
