"""The real asynchronous client of LeRobot against the real server."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from policy_builders import write_checkpoint

from pi0_edge.policy import Policy
from pi0_edge.robots import load_robot
from pi0_edge.serving.lerobot_async import LerobotAsyncServer
from pi0_edge.serving.shared_policy import SharedPolicy

PYTHON = os.environ.get("PI0_EDGE_LEROBOT_PYTHON", sys.executable)
"""An interpreter with LeRobot, where this one has none."""

ROOT = Path(__file__).parents[3]
PROGRAM = ROOT / "tests" / "apparatus" / "lerobot_robot_client.py"
JOINTS = [joint.name for joint in load_robot("aloha_sim").joints]

pytestmark = [
    pytest.mark.real_time,
    pytest.mark.slow,
    pytest.mark.skipif(
        sys.executable == PYTHON and importlib.util.find_spec("lerobot") is None,
        reason="LeRobot is not installed; PI0_EDGE_LEROBOT_PYTHON names an interpreter that has it",
    ),
]


def drive(folder: Path, address: str, joints: list[str], seconds: int = 4, *seed: str) -> dict[str, Any]:
    command = [PYTHON, str(PROGRAM), address, str(seconds), ",".join(joints), *seed]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=120, check=False, env=environment, cwd=folder
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_a_stock_client_drives_its_robot_and_one_with_other_joints_does_not_start(tmp_path):
    shared = SharedPolicy(Policy.load(write_checkpoint(tmp_path / "checkpoint"), "reference"))
    server = LerobotAsyncServer(shared, "0")
    server.start()
    try:
        driven = drive(tmp_path, server.address, JOINTS)
        refused = drive(tmp_path, server.address, [*JOINTS[:-1], "elsewhere"])
    finally:
        server.stop()
        shared.close()
    assert driven["started"]
    assert driven["actions"] > 30
    assert driven["joints"] == [sorted(f"{joint}.pos" for joint in JOINTS)]
    assert shared.chunks > 3
    assert (refused["started"], refused["actions"]) == (False, 0)


@pytest.mark.parametrize("seed", range(10_000, 10_010))
def test_a_stock_client_transfers_the_cube(tmp_path, seed):
    shared = SharedPolicy(Policy.load(ROOT / "pi0_edge" / "assets" / "pi0_cube_transfer"))
    server = LerobotAsyncServer(shared, "0", fps=50.0)
    server.start()
    try:
        driven = drive(tmp_path, server.address, JOINTS, 60, str(seed))
    finally:
        server.stop()
        shared.close()
    assert driven["success"], driven
