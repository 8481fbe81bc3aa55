"""Results of benches that never ran: each the same whenever it is made, with what a page must be able to show.

`python tests/apparatus/bench_results.py FOLDER` writes their pages, for eyes.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from pi0_edge.bench.report.page import write_page
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
from pi0_edge.latency.stages import Stage, euler_step

BEGIN_NS = 5_000_000_000_000
STAGES_MS = {
    Stage.PREPROCESS: 3.1,
    Stage.VISION: 9.4,
    Stage.PREFIX: 31.0,
    Stage.STATE: 0.4,
    Stage.EULER: 48.0,
    Stage.POSTPROCESS: 0.3,
}
"""Of an AGX Orin, about; nothing was measured."""
ESTIMATE_MS: dict[str, float] = {Stage.VISION: 8.0, Stage.PREFIX: 27.5, Stage.STATE: 0.3, Stage.EULER: 36.0}
STEPS = 10

POLICY = PolicyUnderTest(
    name="pi0_fold_towel",
    bundle_sha256="3f" * 32,
    gate="passed",
    overrides=(),
    scheme="int8-w4-mixed",
    engine="cuda",
    threads=None,
    euler_steps=STEPS,
    cameras=3,
    tokens=48,
    horizon=50,
    control_hz=50.0,
)


def samples(
    count: int, period_ms: float | None = None, stalls: Mapping[int, float] | None = None, seed: int = 0
) -> Samples:
    """Chunks of about 92 ms.

    Args:
        count: Of chunks.
        period_ms: Between due times; None for a closed run.
        stalls: Chunk -> milliseconds that its Euler loop stands still.
        seed: Of the noise.
    """
    rng = np.random.default_rng(seed)
    stages = {
        stage: mean * (1 + 0.012 * rng.standard_normal(count)) + rng.exponential(0.15, count)
        for stage, mean in STAGES_MS.items()
    }
    single = {euler_step(step): stages[Stage.EULER] / STEPS * (1.2 if step == 0 else 0.978) for step in range(STEPS)}
    for chunk, stall_ms in (stalls or {}).items():
        stages[Stage.EULER][chunk] += stall_ms
        single[euler_step(4)][chunk] += stall_ms
    took_ns = ((np.sum(list(stages.values()), axis=0) + 0.2) * 1e6).astype(np.int64)
    if period_ms is None:
        begin = BEGIN_NS + np.cumsum(took_ns + 20_000) - (took_ns + 20_000)
        due, skipped = begin.copy(), np.zeros(count, np.int64)
    else:
        due, begin, skipped = _paced(took_ns, round(period_ms * 1e6))
    columns = {name: np.asarray(values, np.float64) for name, values in {**stages, **single}.items()}
    return Samples(due, begin, begin + took_ns, skipped, {str(name): values for name, values in columns.items()})


def _paced(took_ns: np.ndarray, period_ns: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A period in which the chunk before is not there yet is skipped; each chunk begins a little after it is due."""
    due, skipped, period, free = [], [], 0, BEGIN_NS
    for took in took_ns.tolist():
        passed = 0
        while BEGIN_NS + period * period_ns < free:
            period, passed = period + 1, passed + 1
        due.append(BEGIN_NS + period * period_ns)
        skipped.append(passed)
        free = due[-1] + 60_000 + took
        period += 1
    return np.array(due), np.array(due) + 60_000, np.array(skipped)


def closed_run(count: int = 1200, stalls: Mapping[int, float] | None = None, budget_ms: float | None = None) -> Run:
    return Run("closed", None, budget_ms, samples(count, None, stalls), overhead_ms=0.04)


def paced_run(count: int = 1200, stalls: Mapping[int, float] | None = None, period_ms: float = 100.0) -> Run:
    return Run("paced", period_ms, None, samples(count, period_ms, stalls, seed=1), overhead_ms=0.05)


def orin(at: float, load: float) -> BoardState:
    """An AGX Orin.

    Args:
        at: Share of the bench that has passed, which warms it.
        load: 0 at rest, 1 at work.
    """
    warm = 44 + 21 * (1 - np.exp(-3 * at)) + 4 * load
    ripple = float(np.sin(40 * at))
    return BoardState(
        model="NVIDIA Jetson AGX Orin Developer Kit",
        release="36.4.3",
        kernel="5.15.148-tegra PREEMPT_RT",
        power_mode="0 MAXN",
        governors={"policy0": "schedutil", "policy4": "schedutil"},
        clocks_mhz={"cpu0": 2201.6 if load else 729.6, "gpu": 1300.5 if load else 306.0, "memory": 3199.0},
        clock_limits_mhz={"cpu0": 2201.6, "gpu": 1300.5, "memory": 3199.0},
        temperatures_c={
            name: round(float(warm + offset), 1)
            for name, offset in {"cpu": 0, "gpu": 2.5, "soc0": -2, "soc1": -1.5, "soc2": -2.5, "tj": 3}.items()
        },
        over_current_events={"oc1": 0, "oc2": 0, "oc3": int(120 * at)},
        rails_mw={
            "VDD_GPU_SOC": round(6_100 + load * (15_800 + 700 * ripple)),
            "VDD_CPU_CV": round(1_400 + load * (2_600 - 300 * ripple)),
            "VIN_SYS_5V0": round(4_200 + load * (2_300 + 120 * ripple)),
            "VDDQ_VDD2_1V8AO": round(900 + load * 1_450),
        },
        memory_available_bytes=48 * (1 << 30) - int(load * (6 << 30)),
        swap_used_bytes=0,
        cpu_busy_s=1000 + 190 * at,
        cpu_own_s=20 + 170 * at,
        busiest={"gnome-shell 1802": 31 + 2.5 * at, "nvargus-daemon 950": 12 + 0.4 * at},
        fan_rpm={"pwm-fan": 1800 + 900 * at},
        boot_id="7d3a5c1e-0f6b-4c0e-9a55-2b1f3c4d5e6f",
    )


def readings(seconds: float, begin_ns: int = BEGIN_NS, count: int = 40) -> tuple[Reading, ...]:
    """Of an AGX Orin, from 5 s before the runs to 5 s after them."""
    whole = seconds + 10
    found: list[Reading] = []
    for at in np.linspace(0, whole, count).tolist():
        state = orin(at / whole, float(5 <= at <= 5 + seconds))
        found.append(Reading(begin_ns - 5_000_000_000 + round(at * 1e9), state))
    return tuple(found)


def bench_result(runs: Sequence[Run] | None = None) -> BenchResult:
    """A valid result of a closed and a paced run on an AGX Orin, with stalls."""
    timed = (closed_run(stalls={400: 900.0, 401: 310.0}), later(paced_run(stalls={300: 420.0, 811: 900.0}), 115))
    timed = timed if runs is None else tuple(runs)
    ends = [int(run.samples.end_ns.max()) for run in timed if len(run.samples)]
    seconds = (max(ends) - BEGIN_NS) * 1e-9 if ends else 10.0
    found = ("2 frames, 5 draws each: worst cosine 0.99931 (at least 0.99)",)
    return BenchResult(
        id="9f1c2a7b30d4e586",
        session="9f1c2a7b30d4e586",
        started="2026-11-27T15:20:04Z",
        command=("pi0-edge", "bench", "--bundle", "bundles/fold towel", "--boundary", "policy", "--minutes", "4"),
        boundary="policy",
        policy=POLICY,
        accuracy=Accuracy(True, found, found),
        software={"pi0-edge": "0.9.0", "torch": "2.7.0", "CUDA driver": "12.6"},
        interference=(),
        warm_up=WarmUp(True, tuple((92 + 1400 * np.exp(-np.arange(40) / 2.2)).round(3).tolist()), 11.8),
        runs=timed,
        readings=readings(seconds),
        clock=ClockCheck("CLOCK_MONOTONIC", 0.6, ""),
        estimate_ms={str(stage): value for stage, value in ESTIMATE_MS.items()},
        verdict=Verdict(True, (), ("the governor of policy0 is schedutil: clocks follow the load",)),
    )


def later(run: Run, seconds: float) -> Run:
    """The same run at a later time."""
    moved = {name: getattr(run.samples, name) + round(seconds * 1e9) for name in ("due_ns", "begin_ns", "end_ns")}
    return replace(run, samples=replace(run.samples, **moved))


def few_samples() -> BenchResult:
    """Of 30 chunks: not even a 90th percentile."""
    return bench_result([closed_run(30)])


def void_result() -> BenchResult:
    """Of a board that throttled, with a bundle whose gate failed."""
    base = bench_result()
    middle = len(base.readings) // 2
    hot = [
        replace(reading, state=replace(reading.state, throttling=("cpu-throttle-alert",)))
        if middle <= place < middle + 6
        else reading
        for place, reading in enumerate(base.readings)
    ]
    reasons = (
        "cpu-throttle-alert was active in 6 of 40 readings, expected in none; cool the board",
        "the bundle's gate failed, and accept-failed-gate was given",
    )
    policy = replace(POLICY, gate="failed", overrides=("accept-failed-gate",))
    accuracy = Accuracy(False, base.accuracy.before, ("frame 1: worst cosine 0.913, at least 0.99",))
    verdict = Verdict(False, reasons, base.verdict.remarks)
    return replace(base, policy=policy, accuracy=accuracy, readings=tuple(hot), verdict=verdict)


def random_weights() -> BenchResult:
    """Of weights that nobody trained, on a PC without rails, by an engine that tells no stage, without an estimate."""
    run = closed_run(700, budget_ms=93.0)
    bare = replace(run, samples=replace(run.samples, stages_ms={}))
    state = BoardState(
        model="AMD Ryzen 7 7840U",
        release="Debian GNU/Linux 12",
        kernel="6.1.0",
        governors={"policy0": "performance"},
        memory_available_bytes=9 << 30,
        cpu_busy_s=10.0,
        cpu_own_s=5.0,
    )
    base = bench_result([bare])
    policy = replace(POLICY, name="random pi0", bundle_sha256="", gate="random weights", engine="cpu", threads=8)
    return replace(
        base,
        policy=replace(policy, control_hz=None),
        accuracy=Accuracy(None, (), ()),
        readings=(Reading(BEGIN_NS - 1, state), Reading(BEGIN_NS + 10**11, replace(state, cpu_busy_s=90.0))),
        estimate_ms={},
        interference=("stress-ng --vm 4 --vm-bytes 1G",),
    )


def empty_result() -> BenchResult:
    """A bench that was stopped before its first chunk."""
    empty = closed_run(0)
    verdict = Verdict(False, ("no chunk was timed; run the bench again",))
    return replace(bench_result([empty]), readings=(), warm_up=WarmUp(False, (), 3.0), estimate_ms={}, verdict=verdict)


def example() -> BenchResult:
    """What the documentation shows: nobody may take it for a measurement."""
    base = bench_result()
    name = "example board (made-up samples)"
    shown = [replace(one, state=replace(one.state, model=name)) for one in base.readings]
    return replace(base, policy=replace(POLICY, name="example policy"), readings=tuple(shown))


ALL = {
    "whole": bench_result,
    "example": example,
    "few": few_samples,
    "void": void_result,
    "random": random_weights,
    "empty": empty_result,
    "no runs": lambda: bench_result([]),
}
"""Name -> what makes the result."""

if __name__ == "__main__":
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for title, make in ALL.items():
        write_page(make(), folder / f"{title.replace(' ', '-')}.html")
