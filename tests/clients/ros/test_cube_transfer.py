"""The closed loop: the simulated ALOHA as a robot of ROS 2, the node, and the shipped policy behind its server.

The time is the simulation's (`use_sim_time`): the robot makes a tick of 20 ms in TICK_MS of wall time.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from ros_system import NODE, Peer, RosProcess, free_domain, needs_ros, start_node

from pi0_edge.robots import load_robot

pytestmark = [pytest.mark.real_time, pytest.mark.slow]

EPISODES = 10
TICK_MS = float(os.environ.get("PI0_EDGE_ROS_TICK_MS", "40"))
JOINTS = [joint.name for joint in load_robot("aloha_sim").joints]
LIMIT_S = 30 + EPISODES * 600 * TICK_MS / 1e3


@pytest.fixture
def server() -> Iterator[str]:
    needs_ros()
    argv = [sys.executable, "-m", "pi0_edge.cli", "serve", "--listen", "127.0.0.1:0"]
    process = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        address = re.search(r"policy ready on (\S+)", process.stdout.readline())
        assert address is not None
        yield address[1]
    finally:
        process.terminate()
        process.wait(20)


def test_cubes_change_hands(server: str, tmp_path: Path) -> None:
    domain = free_domain()
    joints = "joints:=[" + ",".join(JOINTS) + "]"
    node = start_node(tmp_path, domain, f"server:={server}", joints, "cameras:=[top]", "use_sim_time:=true")
    peer = Peer(tmp_path, domain)
    try:
        assert peer("transition", name="configure"), node.log.read_text()
        program = str(Path(__file__).parents[2] / "apparatus" / "ros_cube.py")
        argv = [program, NODE, str(TICK_MS), *map(str, range(EPISODES))]
        robot = RosProcess(argv, tmp_path / "robot.log", domain)
        said, _ = robot.process.communicate(timeout=LIMIT_S)
        assert robot.process.returncode == 0, robot.log.read_text()
    finally:
        peer.stop()
        node.stop()
    episodes = [json.loads(line) for line in said.splitlines()]
    print(said)
    assert len(episodes) == EPISODES
    assert [episode for episode in episodes if not episode["success"]] == []
    assert min(episode["trajectories"] for episode in episodes) > 3, "one chunk cannot do it"
