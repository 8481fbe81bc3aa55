"""The node on Fast DDS, the robot on Cyclone DDS: both speak ROS 2's wire."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from held_policy import held_server
from ros_system import Peer, RosProcess, free_domain, needs_ros, start_node

from pi0_edge.robots import load_robot

pytestmark = [pytest.mark.real_time, pytest.mark.slow]

torch.set_num_threads(1)

JOINTS = [joint.name for joint in load_robot("aloha_sim").joints]
PROFILE = """<?xml version="1.0" encoding="UTF-8"?>
<dds xmlns="http://www.eprosima.com"><profiles><participant profile_name="plain" is_default_profile="true"><rtps>
<propertiesPolicy><properties><property><name>fastdds.type_propagation</name><value>disabled</value></property>
</properties></propertiesPolicy></rtps></participant></profiles></dds>
"""


def test_a_robot_of_another_vendor_is_heard_and_hears(tmp_path: Path) -> None:
    needs_ros()
    profile = tmp_path / "profile.xml"
    profile.write_text(PROFILE)
    plain = {"FASTDDS_DEFAULT_PROFILES_FILE": str(profile), "FASTRTPS_DEFAULT_PROFILES_FILE": str(profile)}
    domain = free_domain()
    with held_server(tmp_path) as (policy, server):
        joints = "joints:=[" + ",".join(JOINTS) + "]"
        node = start_node(tmp_path, domain, f"server:={server.address}", joints, "cameras:=[top]", **plain)
        peer = Peer(tmp_path, domain, **plain)
        try:
            assert peer("transition", name="configure") and peer("transition", name="activate")
            program = str(Path(__file__).parents[2] / "apparatus" / "ros_cyclone.py")
            robot = RosProcess([program, str(domain), "3", ",".join(JOINTS)], tmp_path / "robot.log", domain)
            said, _ = robot.process.communicate(timeout=60)
            assert robot.process.returncode == 0, robot.log.read_text()[-2000:] + node.log.read_text()[-2000:]
        finally:
            peer.stop()
            node.stop()
        heard = json.loads(said.splitlines()[-1])
        assert heard["came"] >= 3 and heard["joints"] == JOINTS
        assert set(heard["lengths"]) == {len(JOINTS)}
        assert all(earlier < later for earlier, later in pairwise(heard["after_ns"]))
        state = np.array(policy.seen[0][0].state)
        np.testing.assert_allclose(state, 0.1 * np.arange(len(JOINTS)), atol=1e-6)
        assert policy.seen[0][0].images["top"].shape == (24, 32, 3)
