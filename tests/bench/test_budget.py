"""A result against the budget of a robot: what passes, and every reason not to."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import yaml
from bench_commands import run_bench_command
from hypothesis import given, settings
from hypothesis import strategies as st
from measured_results import measured

from pi0_edge.bench.budget import check_budget
from pi0_edge.bench.result import Verdict
from pi0_edge.errors import BenchError
from pi0_edge.robots import LatencyLimits, Robot, load_robot

ROBOT = dataclasses.replace(load_robot("aloha_sim"), latency=LatencyLimits(120.0, 0.0, 25))
LIMITS = LatencyLimits(120.0)


def failed(result: Any, budget: Robot | LatencyLimits = ROBOT) -> dict[str, str]:
    """Names and texts of what did not pass."""
    return {finding.name: finding.text for finding in check_budget(result, budget).findings if not finding.passed}


def test_a_result_within_the_budget_passes():
    found = check_budget(measured(), ROBOT)
    assert found.passed and found.reasons == ()
    assert [finding.name for finding in found.findings] == ["valid", "boundary", "rate", "pace", "p99", "misses"]
    texts = {finding.name: finding.text for finding in found.findings}
    assert texts["p99"] == "99th percentile 100 ms of 459 chunks, within the budget of 120 ms"
    assert texts["misses"] == "0 of 459 periods of 500 ms missed (0 without an observation), within the share of 0"


@pytest.mark.parametrize(
    ("result", "name", "words"),
    [
        (measured([130.0] * 459), "p99", "130 ms of 459 chunks, above the budget of 120 ms"),
        (measured([100.0] * 458), "p99", "not enough: 458 of 459 samples, and what is not known is not within 120 ms"),
        (measured([100.0] * 458 + [501.0]), "p99", "501 ms"),
        (measured(skipped=3), "misses", "3 of 462 periods of 500 ms missed (3 without an observation), above"),
        (measured([100.0] * 999 + [501.0]), "misses", "1 of 1000 periods of 500 ms missed (0 without"),
        (measured(verdict=Verdict(False, ("it throttled", "swap grew"))), "valid", "void: it throttled; swap grew"),
        (measured(boundary="policy"), "boundary", "that of the boundary policy, and the budget is of served"),
        (measured(policy={"control_hz": 30.0}), "rate", "acts 30 times per second, the robot 50 times"),
        (measured(policy={"control_hz": None}), "rate", "does not say how often it acts"),
        (measured(period_ms=None), "pace", "no paced run, and a closed one hides missed periods"),
        (measured(period_ms=600.0), "pace", "every 600 ms, the robot asks every 500 ms: bench with a period of 500 ms"),
    ],
)
def test_each_reason_fails_alone_and_says_what_was_found(result: Any, name: str, words: str):
    found = failed(result)
    assert words in found.pop(name)
    assert found == {} or set(found) <= {"misses"}
    assert not check_budget(result, ROBOT).passed


def test_a_share_of_misses_may_be_allowed():
    allowed = dataclasses.replace(ROBOT, latency=LatencyLimits(120.0, 0.01, 25))
    assert check_budget(measured(skipped=4), allowed).passed
    assert set(failed(measured(skipped=5), allowed)) == {"misses"}


def test_a_period_is_missed_only_where_its_chunk_takes_longer_than_the_period():
    """The budget of the 99th percentile may be exceeded by one of a hundred: that is no missed period."""
    assert check_budget(measured([100.0] * 699 + [200.0]), ROBOT).passed


def test_limits_alone_know_no_control_rate():
    assert failed(measured(policy={"control_hz": 7.0}, period_ms=900.0), LIMITS) == {}


@pytest.mark.parametrize("budget", [load_robot("aloha_sim"), LatencyLimits(replan_ticks=3)])
def test_a_robot_without_a_budget_is_asked_for_one(budget: Robot | LatencyLimits):
    with pytest.raises(BenchError, match=r"has no latency\.p99_ms: write into its file"):
        check_budget(measured(), budget)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 700), st.floats(1, 600), st.integers(0, 30), st.floats(1, 600), st.floats(0, 0.1))
def test_nothing_passes_that_is_not_known_to_be_within_the_budget(count, latency, skipped, p99_ms, share):
    result = measured([latency] * (count + 1), skipped=skipped)
    passed = check_budget(result, LatencyLimits(p99_ms, share)).passed
    missed = skipped + (count + 1) * (latency > 500.0)
    within = round(latency * 1e6) * 1e-6 <= p99_ms and missed / (count + 1 + skipped) <= share
    assert passed == (count + 1 >= 459 and within)


@pytest.fixture
def robot_file(tmp_path: Path) -> Path:
    file = tmp_path / "robot.yaml"
    content = {"name": "arm", "control_hz": 50, "joints": "aloha", "cameras": {"top": "base_0_rgb"}}
    file.write_text(yaml.safe_dump({**content, "latency": {"p99_ms": 120}}))
    return file


def test_the_command_ends_with_1_where_the_budget_is_not_kept(tmp_path: Path, robot_file: Path):
    result = tmp_path / "result.json"
    measured().save(result)
    ran = run_bench_command("check", result, "--budget", robot_file, "--json")
    assert ran.code == 0 and ran.result["passed"] is True and ran.result["reasons"] == []
    measured([130.0] * 459).save(result)
    ran = run_bench_command("check", result, "--budget", robot_file, "--json")
    assert ran.code == 1 and ran.result["passed"] is False
    assert ran.result["reasons"] == ["99th percentile 130 ms of 459 chunks, above the budget of 120 ms"]
    ran = run_bench_command("check", result, "--budget", robot_file)
    assert ran.code == 1 and "above the budget of 120 ms" in ran.out
    assert run_bench_command("check", result, "--budget", "aloha").code == 2
