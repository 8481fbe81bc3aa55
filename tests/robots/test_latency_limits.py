"""The field `latency` of a robot file: what it says, its mistakes, and who does not notice it."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from processing_builders import processor

from firmware_bridge.firmware.joint_table import joint_table
from pi0_edge.errors import ConfigError
from pi0_edge.latency.stages import Boundary
from pi0_edge.robots import LatencyLimits, load_robot, parse_robot, robot_names
from pi0_edge.robots.latency_limits import FELT_BOUNDARIES

ARM: dict[str, Any] = {
    name: value for name, value in json.loads(json.dumps(dataclasses.asdict(load_robot("so101")))).items()
    if name != "latency"
}  # fmt: skip


def arm(latency: Any) -> dict[str, Any]:
    return {**ARM, "latency": latency}


def test_a_robot_says_how_late_its_chunks_may_be(tmp_path: Path):
    file = tmp_path / "arm.yaml"
    file.write_text(yaml.safe_dump(arm({"p99_ms": 180, "misses": 0.001, "replan_ticks": 20, "boundary": "path"})))
    assert load_robot(file).latency == LatencyLimits(180, 0.001, 20, "path")
    assert parse_robot(arm({"replan_ticks": 4}), "arm").latency == LatencyLimits(None, 0.0, 4, "served")


@pytest.mark.parametrize("content", [ARM, arm(None)], ids=["absent", "null"])
def test_it_may_be_left_out(content: dict[str, Any]):
    assert parse_robot(content, "arm").latency is None


@pytest.mark.parametrize(
    ("latency", "message"),
    [
        (180, "latency is 180, expected a mapping"),
        ({"p99": 180}, "latency: 'p99' is not a field of latency; did you mean p99_ms?"),
        ({"p99_ms": 0}, "latency: p99_ms is 0, expected milliseconds, > 0"),
        ({"p99_ms": "fast"}, "latency: p99_ms is 'fast'"),
        ({"p99_ms": float("nan")}, "latency: p99_ms is nan"),
        ({"p99_ms": True}, "latency: p99_ms is True"),
        ({"misses": -0.1}, "latency: misses is -0.1, expected a share from 0 to below 1"),
        ({"misses": 1}, "latency: misses is 1"),
        ({"misses": None}, "latency: misses is None"),
        ({"replan_ticks": 0}, "latency: replan_ticks is 0, expected a whole number of ticks from 1 on"),
        ({"replan_ticks": 2.5}, "latency: replan_ticks is 2.5"),
        ({"boundary": "engine"}, "latency: boundary is 'engine', expected one of policy, served, path"),
        ({"boundary": ["path"]}, r"latency: boundary is \['path'\]"),
    ],
)
def test_a_mistake_in_it_is_explained(latency: Any, message: str):
    with pytest.raises(ConfigError, match=message):
        parse_robot(arm(latency), "arm.yaml")


def test_every_mistake_in_it_is_listed():
    with pytest.raises(ConfigError, match="3 mistakes"):
        parse_robot(arm({"p99_ms": -1, "misses": 2, "replan_ticks": 0}), "arm.yaml")


def test_a_robot_feels_every_boundary_but_that_of_the_engine():
    assert set(FELT_BOUNDARIES) == set(Boundary) - {Boundary.ENGINE}


def test_the_firmware_does_not_notice_it():
    tables = [joint_table(parse_robot(content, "arm")) for content in (ARM, arm({"p99_ms": 180, "replan_ticks": 20}))]
    assert tables[0] == tables[1] and tables[0].limits_hash == tables[1].limits_hash


@pytest.mark.parametrize("name", robot_names())
def test_a_robot_with_it_survives_being_recorded(name: str):
    robot = dataclasses.replace(load_robot(name), latency=LatencyLimits(90.0, 0.01, 10, "policy"))
    assert parse_robot(json.loads(json.dumps(dataclasses.asdict(robot))), "the recorded robot") == robot


def test_a_bundle_does_not_hold_it(tmp_path: Path):
    """It belongs to one robot; an older SDK would not know the field either."""
    made = processor(tmp_path, dataclasses.replace(load_robot("aloha_sim"), latency=LatencyLimits(90.0)))
    assert "latency" not in made.description().robot
