"""The examples of monitoring name the figures that a policy server offers, and their rules say what they should."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from bundle_builders import bundle_inputs
from prometheus_client import CollectorRegistry, generate_latest
from recorded_boards import lay_out
from source_tree import ROOT

from pi0_edge.board.readings import Board
from pi0_edge.bundle import write_bundle
from pi0_edge.deploy.release import Release
from pi0_edge.policy import Policy
from pi0_edge.serving.latency_budget import LatencyBudget
from pi0_edge.serving.policy_metrics import PolicyMetrics
from pi0_edge.serving.policy_server import PolicyServer

EXAMPLES = ROOT / "examples" / "monitoring"
METRIC = re.compile(r"(?<![\w$])pi0_edge[_:][a-z0-9_:]+")


def rules() -> list[dict[str, Any]]:
    groups = yaml.safe_load((EXAMPLES / "rules.yml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def recorded() -> set[str]:
    return {rule["record"] for rule in rules() if "record" in rule}


def expressions() -> list[str]:
    board = json.loads((EXAMPLES / "dashboard.json").read_text())
    targets = [target["expr"] for panel in board["panels"] for target in panel["targets"]]
    variables = [variable["definition"] for variable in board["templating"]["list"] if "definition" in variable]
    return [rule["expr"] for rule in rules()] + targets + variables


@pytest.fixture(scope="module")
def offered(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """The names of all series of a policy server that serves an installed release."""
    folder = tmp_path_factory.mktemp("monitoring")
    inputs = bundle_inputs(folder / "inputs")
    write_bundle(folder / "cups", **inputs)
    sha256 = hashlib.sha256((folder / "cups" / "manifest.json").read_bytes()).hexdigest()
    release = Release(sha256, 7, "aloha_sim", ("any",), ">=0.1", None, 1.8e9)
    (folder / release.id).mkdir()
    (folder / "cups").rename(folder / release.id / "bundle")
    (folder / release.id / "release.json").write_text(json.dumps(release.to_dict()))
    policy = Policy.from_bundle(folder / release.id / "bundle", accept_failed_gate=True)
    server = PolicyServer(policy, "127.0.0.1:0", budget=LatencyBudget(100.0))
    root = lay_out("agx-orin", folder / "board")
    registry = CollectorRegistry()
    PolicyMetrics(policy, registry, Board(root))  # the temperatures of a Jetson; this machine may have none
    lines = (generate_latest(server.registry) + generate_latest(registry)).decode().splitlines()
    series = {name for line in lines for name in re.findall(r"^\w+", line)}
    # A figure with labels has no series before its first event; its type is offered from the beginning.
    return series | {line.split()[2] for line in lines if line.startswith("# TYPE")}


def test_every_figure_that_is_asked_for_is_offered(offered: set[str]) -> None:
    named = {name for expression in expressions() for name in METRIC.findall(expression)}
    assert len(named) > 8
    assert {name for name in named - recorded() if name not in offered} == set()


def test_every_recorded_figure_is_used() -> None:
    used = {name for expression in expressions() for name in METRIC.findall(expression)}
    assert recorded() <= used


def test_each_alert_says_what_is_wrong_and_what_to_do() -> None:
    alerts = [rule for rule in rules() if "alert" in rule]
    assert len(alerts) == 7
    for alert in alerts:
        assert set(alert["annotations"]) == {"summary", "action"}
        assert alert["labels"]["severity"] in ("warning", "critical")


def test_each_alert_has_a_test_of_its_own() -> None:
    tests = yaml.safe_load((EXAMPLES / "rules_test.yml").read_text())["tests"]
    fired = {case["alertname"] for test in tests for case in test["alert_rule_test"] if case["exp_alerts"]}
    assert fired == {rule["alert"] for rule in rules() if "alert" in rule}


def test_the_panels_have_places_of_their_own_and_a_source() -> None:
    panels = json.loads((EXAMPLES / "dashboard.json").read_text())["panels"]
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        place = panel["gridPos"]
        columns, lines = range(place["x"], place["x"] + place["w"]), range(place["y"], place["y"] + place["h"])
        cells = {(x, y) for x in columns for y in lines}
        assert place["x"] + place["w"] <= 24 and not cells & taken, panel["title"]
        taken |= cells
        assert panel["description"] and panel["datasource"]["uid"] == "${datasource}"
    assert len({panel["id"] for panel in panels}) == len(panels)


def test_the_agent_asks_on_loopback_alone() -> None:
    """The figures have no authentication."""
    agent = yaml.safe_load((EXAMPLES / "agent.yml").read_text())
    for job in agent["scrape_configs"]:
        for one in job["static_configs"]:
            assert all(target.startswith("127.0.0.1:") for target in one["targets"])
            assert one["labels"]["instance"]
    assert all(one["url"].startswith("https://") for one in agent["remote_write"])


@pytest.mark.parametrize(
    "arguments",
    [
        ["check", "rules", "rules.yml"],
        ["test", "rules", "rules_test.yml"],
        ["check", "config", "prometheus.yml"],
        ["check", "config", "--agent", "agent.yml"],
    ],
)
def test_prometheus_itself_takes_them(arguments: list[str]) -> None:
    if shutil.which("promtool") is None:
        pytest.skip("promtool is not installed: apt-get install prometheus")
    ran = subprocess.run(["promtool", *arguments], cwd=EXAMPLES, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr


def test_prometheus_takes_the_expressions_of_the_dashboard(tmp_path: Path) -> None:
    if shutil.which("promtool") is None:
        pytest.skip("promtool is not installed: apt-get install prometheus")
    plain = [text for text in expressions() if not text.startswith("label_values")]
    queries = [{"record": f"check:{number}", "expr": text} for number, text in enumerate(plain)]
    file = tmp_path / "rules.yml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": queries}]}))
    ran = subprocess.run(["promtool", "check", "rules", file], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
