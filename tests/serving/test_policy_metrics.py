"""The figures of a policy server: release, time of its chunks, misses, temperatures."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import pytest
from bundle_builders import bundle_inputs
from policy_builders import observation
from prometheus_client import CollectorRegistry
from recorded_boards import lay_out

from pi0_edge.board.readings import Board
from pi0_edge.bundle import write_bundle
from pi0_edge.policy import Policy
from pi0_edge.serving.latency_budget import LatencyBudget
from pi0_edge.serving.policy_client import PolicyClient
from pi0_edge.serving.policy_metrics import PolicyMetrics, release_labels
from pi0_edge.serving.policy_server import PolicyServer


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundles")
    write_bundle(folder / "cups", **bundle_inputs(folder / "inputs"))
    return folder / "cups"


@pytest.fixture
def installed(bundle: Path, tmp_path: Path) -> Path:
    """The bundle where an installer puts it, with the statement beside it."""
    digest = hashlib.sha256((bundle / "manifest.json").read_bytes()).hexdigest()
    release = tmp_path / "releases" / f"7-{digest[:12]}"
    shutil.copytree(bundle, release / "bundle")
    statement = {"manifest_sha256": digest, "sequence": 7, "robot": "aloha_sim", "unknown": {"field": 1}}
    (release / "release.json").write_text(json.dumps(statement))
    return release


def labels(folder: Path) -> dict[str, str]:
    return release_labels(Policy.from_bundle(folder, accept_failed_gate=True))


def test_the_release_that_is_served(installed: Path):
    found = labels(installed / "bundle")
    assert found["release"] == installed.name
    assert (found["sequence"], found["robot"], found["scheme"]) == ("7", "aloha_sim", "int8-w8a8")
    assert found["gate"] in ("passed", "failed", "missing")


def test_a_bundle_that_is_no_release(bundle: Path):
    found = labels(bundle)
    assert (found["release"], found["sequence"], found["scheme"]) == ("", "", "int8-w8a8")


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"manifest_sha256": 3}', json.dumps({"manifest_sha256": "0" * 64})]
)
def test_a_statement_that_is_damaged_or_of_another_bundle_names_no_release(
    installed: Path, caplog: pytest.LogCaptureFixture, content: str
):
    (installed / "release.json").write_text(content)
    found = labels(installed / "bundle")
    assert (found["release"], found["sequence"]) == ("", "")
    assert "the figures tell no release" in caplog.text


def test_what_a_server_counts(installed: Path):
    policy = Policy.from_bundle(installed / "bundle", accept_failed_gate=True)
    exceeded: list[int] = []
    budget = LatencyBudget(1e-3, lambda: exceeded.append(1))
    with PolicyServer(policy, "127.0.0.1:0", budget=budget) as server, PolicyClient(server.address) as client:
        for tick in range(8):
            client.infer(observation(), tick, 1)
        figure = server.registry.get_sample_value
        assert figure("pi0_edge_chunk_seconds_count") == figure("pi0_edge_deadline_misses_total") == 8
        assert figure("pi0_edge_release_info", release_labels(policy)) == 1
        assert (figure("pi0_edge_release_sequence"), figure("pi0_edge_budget_seconds")) == (7, 1e-6)
    assert exceeded == [1]


def test_temperatures_are_read_when_they_are_asked_for(bundle: Path, tmp_path: Path):
    root = lay_out("agx-orin", tmp_path / "board")
    registry = CollectorRegistry()
    PolicyMetrics(Policy.from_bundle(bundle, accept_failed_gate=True), registry, Board(root))

    def warm(zone: str) -> float | None:
        return registry.get_sample_value("pi0_edge_temperature_celsius", {"zone": zone})

    assert (warm("tj-thermal"), warm("cv0-thermal")) == (52.906, None)
    for zone in root.glob("sys/class/thermal/thermal_zone*"):
        if (zone / "type").read_text() == "tj-thermal\n":
            (zone / "temp").write_text("99500\n")
    assert warm("tj-thermal") == 99.5
