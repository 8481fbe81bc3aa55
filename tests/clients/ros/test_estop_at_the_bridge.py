"""The e-stop service of the node latches the real bridge, which moves an emulated board, while an inference runs."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path

import pytest
import torch
from held_policy import held_server
from ros_system import Peer, free_domain, needs_ros, start_node
from run_system import RunSystem

from firmware_bridge.client import BridgeClient
from pi0_edge.protos.serial_link import State
from pi0_edge.robots import load_robot

pytestmark = pytest.mark.real_time

torch.set_num_threads(1)

JOINTS = [joint.name for joint in load_robot("aloha_sim").joints]


@pytest.mark.slow
def test_an_estop_during_an_inference_is_latched_and_keeps_the_node_from_being_activated(
    firmware_image: Path, tmp_path: Path
) -> None:
    needs_ros()
    domain = free_domain()
    with contextlib.ExitStack() as stack:
        system = RunSystem(tmp_path, stack)
        system.start_board()
        system.start_bridge()
        policy, server = stack.enter_context(held_server(tmp_path))
        joints = "joints:=[" + ",".join(JOINTS) + "]"
        given = [f"server:={server.address}", f"bridge:={system.bridge.address}", joints, "cameras:=[top]"]
        node = start_node(tmp_path, domain, *given)
        stack.callback(node.stop)
        peer = Peer(tmp_path, domain)
        stack.callback(peer.stop)
        bridge = stack.enter_context(BridgeClient(system.bridge.address, "test"))
        bridge.wait_ready()
        bridge.arm(JOINTS)
        assert peer("transition", name="configure") and peer("transition", name="activate"), node.log.read_text()
        policy.hold()
        peer("play", names=JOINTS, positions=[0.0] * len(JOINTS), camera="raw")
        assert policy.begun.wait(15)
        answer = peer("estop")
        assert answer["success"], answer
        assert State(bridge.status().state) == State.ESTOP
        assert not policy._may_run.is_set(), "the inference ended before the stop"
        assert "emergency stop" in peer("diagnosis", containing="emergency stop")["message"]
        assert peer("state") == "inactive"
        assert not peer("transition", name="activate")
        assert "the bridge is in ESTOP; clear it first" in node.log.read_text()
        policy.let_go()
        assert peer("trajectories", more_than=0, limit_s=0.2) == []
        # A stop is taken whatever the node's state: also before configure.
        bridge.clear()
        assert peer("transition", name="activate") and peer("transition", name="deactivate")
        assert peer("transition", name="cleanup")
        assert peer("estop")["success"] and State(bridge.status().state) == State.ESTOP
        bridge.clear()


@pytest.mark.slow
def test_a_bridge_that_does_not_answer_is_said_at_configure_and_by_the_estop(tmp_path: Path) -> None:
    needs_ros()
    domain = free_domain()
    with contextlib.ExitStack() as stack:
        _, server = stack.enter_context(held_server(tmp_path))
        joints = "joints:=[" + ",".join(JOINTS) + "]"
        node = start_node(
            tmp_path, domain, f"server:={server.address}", "bridge:='127.0.0.1:9'", joints, "cameras:=[top]"
        )
        stack.callback(node.stop)
        peer = Peer(tmp_path, domain)
        stack.callback(peer.stop)
        assert not peer("transition", name="configure") and peer("state") == "unconfigured"
        assert "no bridge answers at 127.0.0.1:9" in node.log.read_text()
        begin_s = time.monotonic()
        answer = peer("estop")
        assert time.monotonic() - begin_s < 10
        assert not answer["success"] and "did not confirm the emergency stop" in answer["message"]
