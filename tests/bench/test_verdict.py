"""Every planted fault is found by its own reason, and nothing else is; a run without one is valid."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from judged_results import BEGIN_NS, POLICY, latencies, readings_of, recorded_state, result_of, run_of

from pi0_edge.bench.board_rules import LONGEST_GAP_S, MOST_CLIMB_K_PER_MIN, MOST_OTHER_SHARE, STEADY_S
from pi0_edge.bench.result import Accuracy, BenchResult, ClockCheck, WarmUp, parse_result
from pi0_edge.bench.verdict import (
    FEWEST_SAMPLES,
    MOST_OVERHEAD,
    SLOWER_FIRST_TENTH,
    judge,
    slowness_of_first_tenth,
)
from pi0_edge.board.state import BoardState

Change = Callable[[float, BoardState], BoardState]


@pytest.fixture
def orin(tmp_path: Path) -> BoardState:
    return recorded_state("agx-orin", tmp_path)


def result(state: BoardState, change: Change | None = None, count: int = 200, **other: Any) -> BenchResult:
    run = run_of(latencies(count))
    seconds = float(run.samples.latency_ms.sum()) / 1000
    return result_of([run], readings_of(state, seconds, change), **other)


def only_reason(found: BenchResult) -> str:
    verdict = judge(found)
    assert not verdict.valid
    assert len(verdict.reasons) == 1, verdict.reasons
    assert "expected" in verdict.reasons[0]
    return verdict.reasons[0]


def test_a_run_without_a_fault_is_valid(orin: BoardState):
    verdict = judge(result(orin))
    assert verdict.valid and verdict.reasons == ()


@pytest.mark.parametrize("name", ["orin-nx", "thor", "x86"])
def test_so_it_is_on_other_boards(tmp_path: Path, name: str):
    """Their recordings hold no processes of a measurement; that is a remark."""
    run = run_of(latencies(200))
    state = replace(recorded_state(name, tmp_path), cpu_own_s=None)

    def unseen(_: float, state: BoardState) -> BoardState:
        return replace(state, cpu_own_s=None)

    verdict = judge(result_of([run], readings_of(state, 20, unseen)))
    assert verdict.valid, verdict.reasons
    assert any("nobody looked at other processes" in remark for remark in verdict.remarks)


def test_a_verdict_is_the_same_of_a_result_that_was_kept(orin: BoardState):
    before = result(orin, lambda since, state: replace(state, power_mode="3 MODE_50W") if since > 9 else state)
    kept = parse_result(before.to_dict(), "kept")
    assert judge(kept) == judge(before)
    assert not judge(kept).valid


CHANGES: dict[str, tuple[Change, str]] = {
    "power mode": (
        lambda since, state: replace(state, power_mode="3 MODE_50W") if since > 9 else state,
        "the power mode changed from 0 MAXN to 3 MODE_50W",
    ),
    "clock limit": (
        lambda since, state: (
            replace(state, clock_limits_mhz={**state.clock_limits_mhz, "gpu": 816.0}) if since > 9 else state
        ),
        "the highest allowed clock of gpu changed from 1300.5 MHz to 816 MHz",
    ),
    "clock limit, for a moment": (
        lambda since, state: (
            replace(state, clock_limits_mhz={**state.clock_limits_mhz, "cpu4": 1728.0}) if 9 < since < 10 else state
        ),
        "the highest allowed clock of cpu4 changed from 2201.6 MHz to 1728 MHz",
    ),
    "governor": (
        lambda since, state: (
            replace(state, governors={**state.governors, "policy8": "powersave"}) if since > 9 else state
        ),
        "the governor of policy8 changed from schedutil to powersave",
    ),
    "another start": (
        lambda since, state: replace(state, boot_id="another") if since > 9 else state,
        "the start of the computer changed from 5d3b6ac1-8f1e-4a57-9c1c-000000000001 to another",
    ),
    "throttle alert": (
        lambda since, state: replace(state, throttling=("cpu-throttle-alert",)) if 9 < since < 12 else state,
        r"cpu-throttle-alert was active in 3 of \d+ readings, first after 11.5 s, at up to 52.9 °C",
    ),
    "under-voltage": (
        lambda since, state: (
            replace(state, over_current_events={"oc1": 2, "oc2": 0, "oc3": 412}) if since > 9 else state
        ),
        r"oc1 \(under-voltage\) rose from 0 to 2",
    ),
    "average over-current": (
        lambda since, state: (
            replace(state, over_current_events={"oc1": 0, "oc2": 5, "oc3": 412}) if since > 9 else state
        ),
        r"oc2 \(average over-current\) rose from 0 to 5",
    ),
    "heat on a PC": (
        lambda since, state: replace(state, throttle_counts={"package-0": 4 + 3 * (since > 9)}),
        "package-0 slowed down for heat 3 times",
    ),
    "swap": (
        lambda since, state: replace(state, swap_used_bytes=(64 << 20) * (since > 9)),
        "used swap grew from 0 to 64 MiB",
    ),
    "another process": (
        lambda since, state: replace(
            state, busiest={"Xorg 1401": 0.03 * max(since, 0), "find 99": 0.31 * max(since, 0)}
        ),
        r"another process, find \(99\), took 28\.. % of a processor",
    ),
    "short processes": (
        lambda since, state: replace(
            state, cpu_busy_s=(state.cpu_busy_s or 0) + 0.6 * since, forks=1000 + round(30 * since)
        ),
        "processes that ended before they could be named took 62 % of a processor",
    ),
}


def test_ticks_that_nobody_can_have_taken_are_an_error_of_the_kernels_sampling(orin: BoardState):
    """Timers that go off with the ticks of the kernel's clock are counted as if they had worked all of each tick."""

    def sampled(since: float, state: BoardState) -> BoardState:
        return replace(state, cpu_busy_s=(state.cpu_busy_s or 0) + 0.6 * since, forks=1000 + round(since / 10))

    assert judge(result(orin, sampled)).valid


@pytest.mark.parametrize("fault", CHANGES)
def test_a_fault_of_the_board_is_found(orin: BoardState, fault: str):
    change, words = CHANGES[fault]
    assert re.match(words, only_reason(result(orin, change)))


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ({"accuracy": Accuracy(False, ("fine",), ("cosine 0.71",))}, r"the accuracy .*cosine 0.71"),
        (
            {"policy": replace(POLICY, gate="failed")},
            "the accuracy gate of the bundle is failed, and nobody overrode it",
        ),
        ({"clock": ClockCheck("CLOCK_MONOTONIC", 0.1, "the machine was suspended for 3 s")}, ".*suspended for 3 s"),
        ({"warm_up": WarmUp(False, (300.0, 250.0, 200.0), 1.0)}, "the warm-up was not over after 3 chunks"),
    ],
)
def test_what_stands_in_a_result_is_found(orin: BoardState, fault: dict[str, Any], words: str):
    assert re.match(words, only_reason(result(orin, **fault)))


def test_too_few_samples_are_found(orin: BoardState):
    words = f"the closed run has {FEWEST_SAMPLES - 1} samples; expected {FEWEST_SAMPLES} at least"
    assert only_reason(result(orin, count=FEWEST_SAMPLES - 1)).startswith(words)
    assert judge(result(orin, count=FEWEST_SAMPLES)).valid


def test_no_run_and_no_sample_are_no_result(orin: BoardState):
    assert only_reason(result_of([], readings_of(orin, 20))).startswith("there is no timed run")
    assert "has 0 samples" in only_reason(result_of([run_of(np.empty(0))], readings_of(orin, 20)))


def test_the_bench_may_not_take_more_than_its_share(orin: BoardState):
    run = run_of(latencies(200))
    median = float(np.median(run.samples.latency_ms))
    for share, valid in ((0.9, True), (1.1, False)):
        heavy = replace(run, overhead_ms=share * MOST_OVERHEAD * median)
        assert judge(result_of([heavy], readings_of(orin, 20))).valid == valid
    assert "0.55 % of the median latency" in only_reason(result_of([heavy], readings_of(orin, 20)))


def test_a_begin_that_is_slower_is_found(orin: BoardState):
    latency_ms = latencies(300)
    latency_ms[:30] *= 1.2
    found = only_reason(result_of([run_of(latency_ms)], readings_of(orin, 31)))
    assert re.match(r"the first tenth of the closed run was \d+\.?\d* % slower than the rest", found)
    latency_ms[:30] /= 1.2
    assert judge(result_of([run_of(latency_ms)], readings_of(orin, 31))).valid


def test_a_quiet_run_hardly_ever_seems_to_begin_slowly():
    """Also where neighbours resemble each other, as they do on a shared machine: a first-order process."""
    wrong = 0
    for seed in range(100):
        rng = np.random.default_rng(seed)
        noise = rng.normal(0, 0.03, 200)
        for place in range(1, 200):
            noise[place] += 0.6 * noise[place - 1]
        found = slowness_of_first_tenth(100 * np.exp(noise), seed)
        assert found is not None
        wrong += found.least > SLOWER_FIRST_TENTH
    assert wrong <= 2


def test_a_run_without_readings_is_void(orin: BoardState):
    run = run_of(latencies(200))
    assert only_reason(result_of([run], ())).startswith("the board was never read during the closed run")


def test_a_gap_between_readings_is_found(orin: BoardState):
    run = run_of(latencies(400))
    readings = readings_of(orin, 40)
    holes = [one for one in readings if not 10 < (one.time_ns - BEGIN_NS) * 1e-9 < 10 + LONGEST_GAP_S + 2]
    assert only_reason(result_of([run], holes)).startswith("the board was not read for 13 s")


def climbing(kelvin_per_minute: float) -> Change:
    def climb(since: float, state: BoardState) -> BoardState:
        return replace(state, temperatures_c={"tj-thermal": 60 + kelvin_per_minute * since / 60, "soc0-thermal": 90})

    return climb


@pytest.mark.parametrize(("slope", "valid"), [(0.7 * MOST_CLIMB_K_PER_MIN, True), (1.5 * MOST_CLIMB_K_PER_MIN, False)])
def test_a_temperature_that_still_climbs_voids_a_long_run(orin: BoardState, slope: float, valid: bool):
    count = round(STEADY_S * 10 * 1.2)
    run = run_of(latencies(count))
    seconds = float(run.samples.latency_ms.sum()) / 1000
    found = judge(result_of([run], readings_of(orin, seconds, climbing(slope))))
    assert found.valid == valid
    if not valid:
        assert found.reasons[0].startswith("the junction temperature still rose by 1.5 K a minute")


def test_a_short_run_may_warm_up_and_says_so(orin: BoardState):
    verdict = judge(result(orin, climbing(30)))
    assert verdict.valid
    assert any("(tj-thermal went from 59 to 71" in remark for remark in verdict.remarks)


def test_instantaneous_over_current_is_a_remark_with_its_rate(orin: BoardState):
    def busy(since: float, state: BoardState) -> BoardState:
        return replace(state, over_current_events={"oc1": 0, "oc2": 0, "oc3": 412 + round(5 * max(since, 0))})

    verdict = judge(result(orin, busy))
    assert verdict.valid
    assert any(re.match(r"oc3 .* rose by 1\d\d, 4\.\d+ a second", remark) for remark in verdict.remarks)


def test_the_time_of_the_measurement_and_of_the_kernel_is_nobody_elses(orin: BoardState):
    def kernel(since: float, state: BoardState) -> BoardState:
        took = 0.3 * max(since, 0)
        return replace(state, busiest={"[irq/73-gpu] 88": took}, cpu_busy_s=(state.cpu_busy_s or 0) + took)

    assert judge(result(orin, kernel)).valid


def test_a_process_may_take_a_little(orin: BoardState):
    def little(since: float, state: BoardState) -> BoardState:
        return replace(state, busiest={"sshd 900": 0.8 * MOST_OTHER_SHARE * max(since, 0)})

    assert judge(result(orin, little)).valid


def test_what_happened_before_the_runs_is_not_held_against_them(orin: BoardState):
    """A minute earlier, while the policy was loaded, the computer was busy, throttled, and in another mode."""
    run = run_of(latencies(200))
    loud = replace(
        orin, power_mode="1 MODE_15W", throttling=("hot-surface-alert",), swap_used_bytes=0, busiest={"x 1": 9}
    )
    earlier = replace(readings_of(orin, 20)[0], time_ns=BEGIN_NS - 60_000_000_000, state=loud)
    assert judge(result_of([run], (earlier, *readings_of(orin, 20)))).valid


def test_remarks_about_clocks_and_power(tmp_path: Path, orin: BoardState):
    loose = judge(result(orin)).remarks
    assert any("schedutil" in remark for remark in loose)
    assert any("gpu 306 to 1300.5 MHz" in remark and "jetson_clocks" in remark for remark in loose)
    pinned = judge(result(recorded_state("orin-nx", tmp_path / "nx"))).remarks
    assert not any("pinned" in remark or "governor" in remark or "energy" in remark for remark in pinned)
    bare = BoardState(kernel="6.18", cpu_busy_s=1.0, cpu_own_s=0.5)
    told = judge(result(bare)).remarks
    assert [remark.split(" (")[0] for remark in told] == [
        "this computer does not tell its clocks, as is usual for a virtual machine",
        "this computer tells no power",
        "this computer tells no temperatures: whether it throttled is not known",
    ]


def test_a_computer_that_gives_its_time_to_others_says_so(orin: BoardState):
    found = result(orin, lambda since, state: replace(state, cpu_stolen_s=0.4 * max(since, 0)))
    assert any(re.match(r"the hypervisor gave 3\d\.?\d* % of a processor", one) for one in judge(found).remarks)


def test_a_gate_that_did_not_pass_is_remarked_under_its_name(orin: BoardState):
    for gate, overrides, words in (
        ("random weights", (), "the weights are random"),
        ("missing", ("accept_missing_gate",), "missing, overridden by name: accept_missing_gate"),
    ):
        verdict = judge(result(orin, policy=replace(POLICY, gate=gate, overrides=overrides)))
        assert verdict.valid
        assert any(words in remark for remark in verdict.remarks)
    verdict = judge(result(orin, accuracy=Accuracy(None, (), ())))
    assert any("has no self-test vectors" in remark for remark in verdict.remarks)


def test_loads_that_were_started_on_purpose_are_told(orin: BoardState):
    verdict = judge(result(orin, interference=("stress-ng --cpu 1",)))
    assert verdict.valid
    assert "run beside it on purpose: stress-ng --cpu 1" in verdict.remarks


def test_faults_do_not_hide_each_other(orin: BoardState):
    def everything(since: float, state: BoardState) -> BoardState:
        for change in (CHANGES[name][0] for name in ("power mode", "throttle alert", "swap", "another process")):
            state = change(since, state)
        return state

    verdict = judge(result(orin, everything, warm_up=WarmUp(False, (1.0,), 1.0)))
    assert len(verdict.reasons) == 5
