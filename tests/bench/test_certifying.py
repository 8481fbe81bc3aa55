"""The serving certificate of a measured result: what it says, and every result that it is refused for."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from bench_commands import run_bench_command
from measured_results import BUNDLE, ORIN, measured

from firmware_bridge.bridge.schedule import link_ticks, wire_ticks
from firmware_bridge.splice import CHUNK_SPLICES, GUARD_TICKS, client_splice
from pi0_edge.bench.certifying import certify
from pi0_edge.bench.result import Verdict
from pi0_edge.errors import BenchError, ConfigError
from pi0_edge.latency.certificate import SPLICES, load_certificate
from pi0_edge.robots import LatencyLimits, load_robot

ROBOT = load_robot("aloha_sim")


def wanting(replan_ticks: int) -> Any:
    return dataclasses.replace(ROBOT, latency=LatencyLimits(replan_ticks=replan_ticks))


def test_a_certificate_says_what_it_is_of_and_what_the_robot_can_run_with():
    found = certify(measured([90.0] * 500 + [130.0]), ROBOT)
    assert (found.bundle_sha256, found.engine, found.scheme) == (BUNDLE, "cuda", "int8-w8a8")
    assert (found.board, found.power_mode, found.boundary) == (ORIN.model, ORIN.power_mode, "served")
    assert (found.samples, found.p50_ms, found.longest_ms) == (501, 90.0, pytest.approx(130.0))
    assert (found.replan_ticks, found.splice, found.result) == (25, "rtc", "0123456789abcdef")
    on_the_wire = wire_ticks(50, 14, 921600, 0.02)
    assert found.link_ticks == link_ticks(50, 14, 921600, 50) == 1 + on_the_wire + GUARD_TICKS
    assert found.longest_delay_ticks == 10 and found.worst_age_ms == 700


def test_a_path_contains_the_link():
    found = certify(measured([200.0] * 459, boundary="path"), ROBOT)
    assert found.longest_delay_ticks == 9 and found.starves_above_ms == 500


def test_the_robot_says_how_often_it_would_like_to_replan():
    assert certify(measured(period_ms=200.0), wanting(10)).replan_ticks == 10
    assert certify(measured(period_ms=200.0), wanting(60)).replan_ticks == 50 - 8


@pytest.mark.parametrize(
    ("trained_delay", "latency_ms", "splice"), [(0, 100.0, "rtc"), (24, 100.0, "trained-rtc"), (6, 100.0, "rtc")]
)
def test_the_splice_is_the_best_for_the_delay(trained_delay: int, latency_ms: float, splice: str):
    found = certify(measured([latency_ms] * 459, policy={"trained_delay": trained_delay}), ROBOT)
    assert found.splice == splice
    assert client_splice(splice, trained_delay).name == splice


def test_another_splice_may_be_asked_for_if_the_policy_has_it():
    assert certify(measured(), ROBOT, splice="hold-swap").splice == "hold-swap"
    with pytest.raises(BenchError, match=r"trained-rtc.*expected one of rtc, hold-swap.*no frozen prefixes"):
        certify(measured(), ROBOT, splice="trained-rtc")
    with pytest.raises(BenchError, match=r"prefixes of 3 actions, and a chunk is up to 8 ticks late"):
        certify(measured(policy={"trained_delay": 3}), ROBOT, splice="trained-rtc")


def test_the_splices_are_those_that_a_run_can_choose():
    assert {client_splice(name, 24).name for name in SPLICES} == set(SPLICES)
    for name in set(CHUNK_SPLICES) - set(SPLICES):
        with pytest.raises(ConfigError):
            client_splice(name, 24)


@pytest.mark.parametrize(
    ("result", "message"),
    [
        (measured(verdict=Verdict(False, ("it throttled",))), r"is void \(it throttled\); mend that"),
        (measured(boundary="engine"), "boundary engine, which does not contain what a robot feels"),
        (measured(policy={"bundle_sha256": "", "gate": "random weights"}), r"is no bundle \(random weights\)"),
        (measured(period_ms=None), "no paced run, and a closed one hides"),
        (measured([100.0] * 458), "not enough: 458 of 459 samples; run `pi0-edge bench` for longer"),
        (measured([], skipped=0), "no paced run"),
        (measured(period_ms=600.0), "every 600 ms, and the robot asks every 500 ms"),
        (measured(policy={"control_hz": 20.0}), "acts 20 times per second, aloha_sim 50 times"),
        (measured(policy={"control_hz": None}), "acts an unknown number of times per second"),
        (measured([100.0] * 458 + [450.0]), "a chunk took 450 ms, and aloha_sim starves above 4.* ms however often"),
        (measured(policy={"horizon": 10}), "two delays must fit in the 10 actions"),
    ],
)
def test_a_result_that_does_not_carry_it_is_refused(result: Any, message: str):
    with pytest.raises(BenchError, match=message):
        certify(result, ROBOT)


def test_a_robot_of_an_unknown_rate_is_refused():
    with pytest.raises(BenchError, match="an unknown number of times"):
        certify(measured(), dataclasses.replace(ROBOT, control_hz=None))


def test_the_longest_latency_that_is_not_refused_has_no_margin():
    most = certify(measured(), ROBOT).starves_above_ms
    found = certify(measured([most - 1e-3] * 459), ROBOT)
    assert found.margin_ticks == 0 and 0 <= found.margin_ms < 0.01
    with pytest.raises(BenchError, match="starves above"):
        certify(measured([most + 1e-3] * 459), ROBOT)


def test_the_command_writes_it(tmp_path: Path):
    result, file = tmp_path / "result.json", tmp_path / "cups.certificate.json"
    measured().save(result)
    ran = run_bench_command("certify", result, "--robot", "aloha_sim", "--output", file, "--json")
    assert ran.code == 0
    assert load_certificate(file) == certify(measured(), ROBOT)
    assert ran.result["file"] == str(file) and ran.result["replan_ticks"] == 25
    ran = run_bench_command("certify", result, "--robot", "aloha_sim", "--output", file)
    assert "starves above" in ran.out and "worst age" in ran.out
    measured(boundary="engine").save(result)
    ran = run_bench_command("certify", result, "--robot", "aloha_sim", "--output", tmp_path / "other.json")
    assert ran.code == 2 and "what a robot feels" in ran.err and not (tmp_path / "other.json").exists()
