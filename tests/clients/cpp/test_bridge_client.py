"""The C++ bridge client with the real bridge and the real firmware: commands, telemetry, e-stop, errors."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from cpp_client import CHECKS, CheckClient, build_with
from network_peers import make_peers

from firmware_bridge.bridge.server import BridgeServer
from firmware_bridge.client import BridgeClient
from firmware_bridge.emulator.board import EmulatedBoard
from firmware_bridge.robot import load_joints
from pi0_edge.protos.serial_link import State

pytestmark = [pytest.mark.slow, pytest.mark.real_time]


@pytest.fixture(scope="module")
def check(installed_cpp_client: Path, tmp_path_factory: pytest.TempPathFactory) -> CheckClient:
    return CheckClient(build_with(installed_cpp_client, CHECKS, tmp_path_factory.mktemp("check")) / "check_client")


@pytest.fixture(scope="module")
def board(firmware_image: Path) -> Iterator[EmulatedBoard]:
    with EmulatedBoard(firmware_image) as board:
        yield board


@pytest.fixture
def server(board: EmulatedBoard) -> Iterator[BridgeServer]:
    running = BridgeServer(board.port, "127.0.0.1:0", "aloha")
    running.start()
    yield running
    running.stop()


def test_arm_hold_and_disarm(check: CheckClient, server: BridgeServer):
    said = check("bridge", server.address, "-", "ready", "status", "arm", "hold", "status", "disarm", "status")
    assert said[:4] == ["ready", "DISARMED", "ARMED", "ACCEPTED"]
    assert said[4] in ("ARMED", "RUNNING") and said[5:] == ["DISARMED", "DISARMED"]


def test_the_emergency_stop_latches_and_is_cleared(check: CheckClient, server: BridgeServer):
    said = check("bridge", server.address, "-", "arm", "estop", "arm", "status", "clear", "release")
    assert said[:2] == ["ARMED", "ESTOP"] and said[3:] == ["ESTOP", "DISARMED", "DISARMED"]
    assert said[2].startswith("StateError: ") and "ESTOP" in said[2]


def test_the_emergency_stop_needs_no_lease(check: CheckClient, server: BridgeServer):
    with BridgeClient(server.address, "python") as other:
        other.arm(other.status().joint_names)
        (refused, stopped) = check("bridge", server.address, "-", "arm", "estop")
        assert refused.startswith("StateError: ") and "'python'" in refused
        assert stopped == "ESTOP" and other.status().state == State.ESTOP
        other.clear()


def test_joints_of_another_robot_are_refused_as_for_the_python_client(check: CheckClient, server: BridgeServer):
    (refused,) = check("bridge", server.address, "-", "arm-others")
    with BridgeClient(server.address) as client, pytest.raises(Exception) as expected:
        client.arm(["elbow", "wrist"])
    assert refused.partition(": ")[2] == str(expected.value)


def test_a_malformed_chunk_ends_the_stream_with_the_field_that_was_wrong(check: CheckClient, server: BridgeServer):
    (_, refused, disarmed) = check("bridge", server.address, "-", "arm", "malformed", "disarm")
    assert refused.startswith("ChunkError: chunk.actions holds 1 values; horizon 2 and action_dim 3 require 6")
    assert disarmed == "DISARMED"


def test_without_arming_a_chunk_is_refused(check: CheckClient, server: BridgeServer):
    (refused,) = check("bridge", server.address, "-", "hold")
    assert refused.startswith("StateError: no client holds the arm")


def test_telemetry_has_every_tick_and_every_joint(check: CheckClient, server: BridgeServer):
    (said,) = check("bridge", server.address, "-", "ticks")
    found = re.fullmatch(r"ticks (\d+) gaps 0 joints (\d+)", said)
    assert found is not None, said
    assert int(found[1]) > 1 and int(found[2]) == load_joints("aloha").count


def test_a_bridge_that_is_gone_is_named(check: CheckClient, board: EmulatedBoard):
    gone = BridgeServer(board.port, "127.0.0.1:0", "aloha")
    gone.start()
    address = gone.address
    gone.stop()
    said = check("bridge", address, "-", "status", "estop", "hold", "ready")
    none = f"LinkError: no bridge answers at {address}; start one with `pi0-edge bridge`"
    assert said[:3] == [none] * 3
    assert said[3] == f"LinkError: the bridge at {address} did not answer in time; is it running?"


def test_certificates_and_roles(check: CheckClient, board: EmulatedBoard, tmp_path: Path):
    peers = make_peers(tmp_path)
    server = BridgeServer(board.port, "127.0.0.1:0", "aloha", tls=peers["server"])
    server.start()
    try:
        assert check("bridge", server.address, str(peers["command"]), "arm", "disarm") == ["ARMED", "DISARMED"]
        (status, refused) = check("bridge", server.address, str(peers["observe"]), "status", "arm")
        assert status == "DISARMED"
        assert refused.startswith("AccessError: Arm needs a certificate with the role command")
        (refused,) = check("bridge", server.address, "-", "status")
        assert refused.startswith(f"LinkError: the bridge at {server.address} accepts no connection: it may ask for ")
    finally:
        server.stop()
