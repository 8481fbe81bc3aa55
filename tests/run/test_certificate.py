"""What the pre-flight finds wrong with a serving certificate, and what a run takes from it."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from cli_runner import run
from measured_results import ORIN, measured

from pi0_edge.bench.certifying import certify
from pi0_edge.errors import BenchError
from pi0_edge.latency.certificate import Certificate, certificate_file
from pi0_edge.protos import policy_pb2
from pi0_edge.robots import LatencyLimits, Robot, load_robot
from pi0_edge.run.loop import RunLimits
from pi0_edge.run.policy_source import ServedPolicy, is_here
from pi0_edge.run.problems import certificate_problems
from pi0_edge.run.robot_run import RobotRun, certificate_of

ROBOT = load_robot("aloha_sim")
CERTIFICATE = certify(measured(), ROBOT)


def metadata(**changes: Any) -> policy_pb2.PolicyMetadata:
    fields: dict[str, Any] = {
        "engine": CERTIFICATE.engine,
        "scheme": CERTIFICATE.scheme,
        "horizon": CERTIFICATE.horizon,
        "bundle_sha256": CERTIFICATE.bundle_sha256,
    }
    return policy_pb2.PolicyMetadata(**{**fields, **changes})


def found(policy: policy_pb2.PolicyMetadata | None = None, robot: Robot = ROBOT, **changes: Any) -> list[str]:
    circumstances: dict[str, Any] = {"replan_ticks": 25, "is_served": True, "computer": ORIN, **changes}
    certificate = circumstances.pop("certificate", CERTIFICATE)
    problems = list(certificate_problems(certificate, policy or metadata(), robot, **circumstances))
    assert {problem.rule for problem in problems} <= {"certificate"}
    assert all("to go on nevertheless, give --accept-mismatch certificate" in str(problem) for problem in problems)
    return [problem.found for problem in problems]


def test_a_certificate_of_what_runs_is_no_problem():
    assert found() == []
    assert found(computer=None) == []


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"policy": metadata(bundle_sha256="cd" * 32)}, "the bundle cdcdcdcdcdcd"),
        ({"policy": metadata(bundle_sha256="")}, "a policy without a bundle"),
        ({"policy": metadata(engine="cpu")}, "engine cuda, and here it is cpu"),
        ({"policy": metadata(scheme="fp32")}, "scheme int8-w8a8, and here it is fp32"),
        ({"policy": metadata(horizon=16)}, "horizon 50, and here it is 16"),
        ({"robot": dataclasses.replace(ROBOT, control_hz=20.0)}, "50 ticks per second, and this one has 20"),
        ({"computer": dataclasses.replace(ORIN, model="a PC")}, "and here it is a PC"),
        ({"computer": dataclasses.replace(ORIN, power_mode="2 MODE_30W")}, "power mode 0 MAXN, and here it is 2 MODE"),
        ({"replan_ticks": 45}, "every 45 ticks the arm starves from a delay of 6 ticks on, and 8 were measured"),
        ({"certificate": dataclasses.replace(CERTIFICATE, boundary="policy")}, "and here a policy server answers"),
    ],
)
def test_a_certificate_of_something_else_is_a_problem_that_can_be_accepted(changes: dict[str, Any], words: str):
    texts = found(**changes)
    assert len(texts) == 1 and words in texts[0]


def test_a_certificate_with_transport_is_good_for_a_policy_in_this_process():
    assert found(is_served=False) == []
    assert found(is_served=False, certificate=dataclasses.replace(CERTIFICATE, boundary="policy")) == []


@pytest.mark.parametrize(
    ("address", "here"),
    [
        ("127.0.0.1:50051", True),
        ("localhost:1", True),
        ("[::1]:50051", True),
        ("cell-7:50051", False),
        ("10.0.0.7:1", False),
    ],
)
def test_the_computer_is_compared_where_the_policy_runs_on_it(address: str, here: bool):
    source = ServedPolicy(address)
    assert is_here(source) is here
    source.close()


@pytest.mark.parametrize(
    ("limits", "certificate", "latency", "expected"),
    [
        (RunLimits(replan_ticks=7), CERTIFICATE, LatencyLimits(replan_ticks=12), 7),
        (RunLimits(), dataclasses.replace(CERTIFICATE, replan_ticks=20), LatencyLimits(replan_ticks=12), 20),
        (RunLimits(), None, LatencyLimits(replan_ticks=12), 12),
        (RunLimits(), None, LatencyLimits(p99_ms=100), 25),
        (RunLimits(), None, None, 25),
    ],
)
def test_the_interval_is_the_users_else_certified_else_the_robots_else_25(
    limits: RunLimits, certificate: Certificate | None, latency: LatencyLimits | None, expected: int
):
    robot = dataclasses.replace(ROBOT, latency=latency)
    with RobotRun(robot, "127.0.0.1:1", certificate=certificate, limits=limits) as run:
        assert run.replan_ticks == expected


def test_the_certificate_of_a_loaded_bundle_lies_beside_it(tmp_path: Path):
    policy = SimpleNamespace(bundle=SimpleNamespace(folder=tmp_path / "cups"))
    assert certificate_of(policy) is None and certificate_of(SimpleNamespace(bundle=None)) is None
    CERTIFICATE.save(certificate_file(tmp_path / "cups"))
    assert certificate_of(policy) == CERTIFICATE
    certificate_file(tmp_path / "cups").write_text("{}")
    with pytest.raises(BenchError, match="certify again"):
        certificate_of(policy)


def test_the_command_reads_the_file_that_it_is_given(tmp_path: Path):
    file = tmp_path / "cups.certificate.json"
    arguments = ("run", "aloha_sim", "--policy", "127.0.0.1:1", "--bridge", "127.0.0.1:1", "--certificate", file)
    ran = run(*arguments)
    assert ran.code == 2 and "cannot be read" in ran.err
    CERTIFICATE.save(file)
    ran = run(*arguments, "--json")
    assert ran.code == 3 and ran.result["outcome"] == "REFUSED"
