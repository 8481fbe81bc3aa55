"""A serving certificate that comes with a release: which budget self-test and trial get, and what is refused."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from flashed_disk import ROBOT, Signed, ask, provision, receive
from measured_results import ORIN, measured

from pi0_edge.bench.certifying import certify
from pi0_edge.deploy.installer import installation, self_test
from pi0_edge.deploy.installer.certified import certified_budget
from pi0_edge.deploy.installer.robot import Robot
from pi0_edge.deploy.transfer.flashing import Flash
from pi0_edge.deploy.transfer.robot_host import flash_from
from pi0_edge.errors import BenchError, DeployError
from pi0_edge.latency.certificate import Certificate, certificate_file
from pi0_edge.robots import load_robot

CERTIFICATE = dataclasses.replace(certify(measured(), load_robot(ROBOT)), engine="cpu")


@pytest.fixture(scope="module")
def signed(tmp_path_factory: pytest.TempPathFactory) -> Signed:
    return Signed(tmp_path_factory.mktemp("workstation"))


@pytest.fixture
def budgets() -> Iterator[list[str | None]]:
    """What each self-test was told to judge by, the trial's included."""
    told: list[str | None] = []

    def healthy(environment: str, arguments: Iterable[str], *, limit_s: float) -> dict[str, Any]:
        words = list(arguments)
        if words[0] == "self-test":
            told.append(words[words.index("--budget-ms") + 1] if "--budget-ms" in words else None)
        return {"passed": True, "checks": [], "findings": [], "latency_ms": {"n": 1}}

    with pytest.MonkeyPatch.context() as patch:
        for module in (installation, self_test):
            patch.setattr(module, "run_in_environment", healthy)
        yield told


def robot_on(disk: Path, signed: Signed, model: str = ORIN.model, **settings: Any) -> tuple[Robot, list[str]]:
    """A robot without a release, with such a computer and settings; and what it will tell."""
    robot, reasons = provision(disk, signed.root), list[str]()
    (disk / "proc/device-tree").mkdir(parents=True)
    (disk / "proc/device-tree/model").write_text(model)
    settings = dataclasses.asdict(robot.settings) | settings
    return dataclasses.replace(robot, settings=type(robot.settings)(**settings), tell=reasons.append), reasons


def of(signed: Signed, sequence: int) -> Certificate:
    return dataclasses.replace(CERTIFICATE, bundle_sha256=signed.files[sequence].manifest_sha256)


def install(robot: Robot, signed: Signed, certificate: dict[str, Any] | None, budget_ms: float | None = None) -> Any:
    files = signed.files[1]
    receive(robot.layout, files, files.sizes)
    return ask(robot, "install", manifest_sha256=files.manifest_sha256, budget_ms=budget_ms, certificate=certificate)


def test_without_any_budget_the_certificate_gives_it_to_self_test_and_trial(
    signed: Signed, tmp_path: Path, budgets: list[str | None]
):
    robot, _ = robot_on(tmp_path / "disk", signed)
    assert install(robot, signed, of(signed, 1).to_dict())["state"] == "committed"
    assert budgets == [str(CERTIFICATE.budget_ms)] * 2


def test_without_a_certificate_everything_is_as_before(signed: Signed, tmp_path: Path, budgets: list[str | None]):
    robot, _ = robot_on(tmp_path / "disk", signed)
    assert install(robot, signed, None)["state"] == "committed"
    assert budgets == [None, None]


@pytest.mark.parametrize(
    ("budget_ms", "expected", "words"),
    [
        (None, CERTIFICATE.budget_ms, "neither the robot nor its user gives one"),
        (80.0, 80.0, "the budget of 80 ms is less"),
        (900.0, CERTIFICATE.budget_ms, "the 900 ms of robot or user are more"),
    ],
)
def test_the_stricter_of_both_counts_and_is_told(
    signed: Signed, tmp_path: Path, budget_ms: float | None, expected: float, words: str
):
    robot, reasons = robot_on(tmp_path / "disk", signed)
    manifest = signed.files[1].manifest_sha256
    assert certified_budget(robot, of(signed, 1), manifest, budget_ms) == expected
    assert words in reasons[-1] and f"starves above {CERTIFICATE.budget_ms:.4g} ms" in reasons[-1]


@pytest.mark.parametrize(
    ("model", "engine", "words"),
    [
        (ORIN.model, "cuda", "of the engine cpu, and here it is cuda"),
        ("NVIDIA Jetson Orin Nano", "cpu", "and here it is NVIDIA Jetson Orin Nano"),
    ],
)
def test_a_certificate_of_another_engine_or_computer_is_not_used(
    signed: Signed, tmp_path: Path, model: str, engine: str, words: str
):
    robot, reasons = robot_on(tmp_path / "disk", signed, model, engine=engine)
    assert certified_budget(robot, of(signed, 1), signed.files[1].manifest_sha256, 900.0) == 900.0
    assert "it is not used" in reasons[-1] and words in reasons[-1]


def test_a_certificate_of_another_bundle_is_refused_on_both_sides(
    signed: Signed, tmp_path: Path, budgets: list[str | None]
):
    robot, _ = robot_on(tmp_path / "disk", signed)
    with pytest.raises(DeployError, match="does not belong to the release"):
        install(robot, signed, of(signed, 2).to_dict())
    assert budgets == []
    certificate = certificate_file(signed.files[1].bundle)
    of(signed, 2).save(certificate)
    try:
        with pytest.raises(DeployError, match=r"the serving certificate is not of .*bundle-1"):
            flash_from(signed.files[1].bundle, layout=robot.layout)
    finally:
        certificate.unlink()


@pytest.mark.parametrize("sent", [{}, {"schema": "other"}, CERTIFICATE.to_dict() | {"longest_ms": 1e9}])
def test_what_is_no_certificate_is_refused(
    signed: Signed, tmp_path: Path, budgets: list[str | None], sent: dict[str, Any]
):
    robot, _ = robot_on(tmp_path / "disk", signed)
    with pytest.raises(DeployError, match="the certificate sent"):
        install(robot, signed, sent)
    assert budgets == []


def test_a_path_whose_link_leaves_no_time_for_a_chunk_is_refused(signed: Signed, tmp_path: Path):
    robot, _ = robot_on(tmp_path / "disk", signed)
    short = {"boundary": "path", "horizon": 4, "replan_ticks": 2, "p50_ms": 30, "p99_ms": 30, "longest_ms": 30}
    with pytest.raises(DeployError, match="leaves no time for a chunk"):
        certified_budget(robot, dataclasses.replace(of(signed, 1), **short), signed.files[1].manifest_sha256, None)


def test_the_request_holds_the_certificate_that_lies_beside_the_bundle(
    signed: Signed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    requests: list[dict[str, Any]] = []
    monkeypatch.setattr(Flash, "run", lambda self: requests.append(self._request))
    robot, _ = robot_on(tmp_path / "disk", signed)
    bundle = signed.files[1].bundle
    flash_from(bundle, layout=robot.layout)
    of(signed, 1).save(certificate_file(bundle))
    try:
        flash_from(bundle, layout=robot.layout)
        certificate_file(bundle).write_text("{}")
        with pytest.raises(BenchError, match="certify again"):
            flash_from(bundle, layout=robot.layout)
    finally:
        certificate_file(bundle).unlink()
    assert "certificate" not in requests[0]
    assert requests[1]["certificate"] == of(signed, 1).to_dict()
