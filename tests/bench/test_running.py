"""A whole bench of a small bundle: what stands in its result, planted faults, and the command."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from cli_runner import run
from flashed_robot import small_bundle

from pi0_edge.bench.clock import ClockWatch
from pi0_edge.bench.comparison import compare_results
from pi0_edge.bench.figures import figures_of
from pi0_edge.bench.opening import TargetRequest, opened_targets
from pi0_edge.bench.report.page import page
from pi0_edge.bench.result import BenchResult, Verdict, load_result
from pi0_edge.bench.running import BenchPlan, run_bench
from pi0_edge.bench.targets import PolicyTarget
from pi0_edge.bench.verdict import judge
from pi0_edge.bundle import open_bundle
from pi0_edge.errors import BenchError
from pi0_edge.latency.stages import Boundary
from pi0_edge.policy import Policy

pytestmark = [pytest.mark.real_time, pytest.mark.system]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield small_bundle(tmp_path_factory.mktemp("bench"))
    torch.set_num_threads(threads)


def measured(bundle: Path, plan: BenchPlan) -> BenchResult:
    with opened_targets(TargetRequest(bundle, threads=1)) as targets:
        return run_bench(targets, plan)[0]


def test_a_result_holds_every_sample_and_everything_that_belongs_to_a_speed(bundle: Path, tmp_path: Path):
    result = measured(bundle, BenchPlan(seconds=0.5, chunks=44, period_s=0.01, command=("pi0-edge", "bench")))
    closed, paced = result.run("closed"), result.run("paced")
    assert closed is not None and paced is not None
    assert len(closed.samples) >= 44 and len(paced.samples) >= 44
    assert (closed.period_ms, paced.period_ms) == (None, 10.0)
    assert result.accuracy.passed is True and result.accuracy.before == result.accuracy.after != ()
    assert result.policy.gate == "passed" and result.policy.bundle_sha256 == open_bundle(bundle).sha256
    assert result.readings[0].time_ns < closed.samples.begin_ns[0]
    assert result.readings[-1].time_ns > paced.samples.end_ns[-1]
    assert result.clock.problem == "" and result.warm_up.load_s is not None
    assert closed.overhead_ms > 0.0 and "in turns" not in page(result)
    figures = figures_of(closed)
    assert figures.latency.p90_ms is not None and figures.latency.p999_ms is None
    assert {"preprocess", "vision", "prefix", "state", "Euler loop", "postprocess"} <= figures.stages.keys()
    result.save(tmp_path / "result.json")
    again = load_result(tmp_path / "result.json")
    assert again.to_dict() == result.to_dict()
    np.testing.assert_array_equal(again.runs[0].samples.end_ns, closed.samples.end_ns)


def test_two_in_turns_are_pairs_and_their_pages_say_so(bundle: Path):
    with opened_targets(TargetRequest(bundle, against=bundle, threads=1)) as targets:
        timed = run_bench(targets, BenchPlan(modes=("closed",), seconds=0.0, chunks=44))
    first, second = (replace(one, verdict=Verdict(True, ())) for one in timed)  # other programs may run here
    assert first.session == second.session and first.id != second.id
    assert [found.paired for found in compare_results(first, second)] == [True]
    said = f"in turns with those of the other results of the session {first.session}"
    assert all(said in page(one) for one in (first, second))


class Slowed(PolicyTarget):
    """Sleeps before some chunks."""

    slow: Mapping[int, float]

    def ask(self, number: int) -> Mapping[str, float]:
        time.sleep(self.slow.get(number, 0.0))
        return super().ask(number)


def slowed(bundle: Path, slow: Mapping[int, float], plan: BenchPlan) -> BenchResult:
    opened = open_bundle(bundle)
    target = Slowed(Policy.from_bundle(opened), "slowed", Boundary.POLICY)
    target.slow = slow
    return run_bench([(target, opened)], plan)[0]


def test_a_stall_is_a_row_of_misses_in_the_paced_run_and_told_of_the_closed_one(bundle: Path):
    stalls = {30: 0.2, 40: 0.2}
    result = slowed(bundle, stalls, BenchPlan(chunks=50, seconds=0.0, period_s=0.02))
    paced, closed = result.run("paced"), result.run("closed")
    assert paced is not None and closed is not None
    misses = figures_of(paced).misses
    assert misses is not None and misses.skipped >= 2 * (200 / 20 - 2)
    figures = figures_of(closed)
    assert figures.stalls >= 2 and figures.latency.max_ms > 200
    assert figures.would_miss is not None and figures.would_miss >= 2


def test_a_warm_up_that_is_not_over_voids_the_result(bundle: Path):
    slow = {number: 0.1 * 0.9 ** (number - 20) for number in range(20, 60)}  # begins when the warm-up seems to be over
    result = slowed(bundle, slow, BenchPlan(modes=("closed",), chunks=200, seconds=0.0))
    late = replace(
        result,
        runs=tuple(
            replace(run, samples=replace(run.samples, end_ns=run.samples.end_ns + shift(len(run.samples))))
            for run in result.runs
        ),
    )
    assert any("first tenth" in reason for reason in judge(late).reasons)


def shift(count: int) -> np.ndarray:
    """Nanoseconds that the first tenth takes longer."""
    return np.where(np.arange(count) < count // 10, 200_000_000, 0)


def test_a_clock_that_steps_voids_the_result(bundle: Path, monkeypatch: pytest.MonkeyPatch):
    wall = iter([0, *[3 * 10**9] * 10**6])

    def stepping() -> ClockWatch:
        return ClockWatch(wall=lambda: time.monotonic_ns() + next(wall))

    monkeypatch.setattr("pi0_edge.bench.running.ClockWatch", stepping)
    result = measured(bundle, BenchPlan(modes=("closed",), seconds=0.0, chunks=44))
    assert not result.verdict.valid
    assert any("wall clock stepped by 3 s" in reason for reason in result.verdict.reasons)


def test_two_policies_are_not_paced_in_turns(bundle: Path):
    with (
        opened_targets(TargetRequest(bundle, against=bundle, threads=1)) as targets,
        pytest.raises(BenchError, match="leave the paced one out"),
    ):
        run_bench(targets, BenchPlan())


def test_the_command_writes_result_and_page_and_tells_both(bundle: Path, tmp_path: Path):
    output = tmp_path / "cube"
    ran = run("bench", "--bundle", str(bundle), "--seconds", "0.2", "--chunks", "44", "--rate", "100",
              "--threads", "1", "--output", str(output), "--json")  # fmt: skip
    told = ran.result
    assert ran.code == (0 if told["verdict"]["valid"] else 1)  # other programs may run on this machine
    assert set(told["figures"]) == {"closed", "paced"}
    assert told["figures"]["closed"]["latency"]["count"] >= 44
    assert "runs" not in told and "readings" not in told
    assert load_result(output.with_suffix(".json")).id == told["id"]
    assert output.with_suffix(".html").read_text().startswith("<!doctype html>")


def test_a_receipt_needs_a_key_and_a_bench_a_bundle():
    for arguments, reason in (
        (("--bundle", "x", "--receipt", "r"), "--receipt and --private-key go together"),
        ((), "give a bundle or random weights"),
        (("--bundle", "x", "--output", "/dev/null/result"), "/dev/null cannot be made"),
        (("--bundle", "x", "--receipt", "r", "--private-key", "/dev/null"), "is not a private key"),
        (("--bundle", "x", "--random", "pi0"), "give a bundle or random weights"),
    ):
        ran = run("bench", "--mode", "closed", *arguments)
        assert ran.code == 2 and reason in ran.err
