"""The page about the wire: its messages for the bridge, in their order, to a real bridge with the real firmware."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
import torch
from policy_builders import write_checkpoint
from wire_page import run_client, send, shown

from firmware_bridge.bridge.server import BridgeServer
from firmware_bridge.client import BridgeClient
from firmware_bridge.emulator.board import EmulatedBoard
from pi0_edge.policy import Policy
from pi0_edge.protos import bridge_pb2
from pi0_edge.protos.bridge_pb2 import ChunkReport, State
from pi0_edge.serving.policy_server import PolicyServer

pytestmark = pytest.mark.real_time

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def bridge(firmware_image: Path) -> Iterator[BridgeServer]:
    with EmulatedBoard(firmware_image) as board:
        server = BridgeServer(board.port, "127.0.0.1:0", "aloha")
        server.start()
        with BridgeClient(server.address) as client:
            client.wait_ready()
        yield server
        server.stop()


def test_the_messages_of_the_page_arm_play_and_stop(bridge: BridgeServer) -> None:
    answers = {}
    with grpc.insecure_channel(bridge.address) as channel:
        for one in shown("RobotBridge"):
            message = one.message
            if isinstance(message, bridge_pb2.PlayRequest):  # the page cannot know where this arm is
                _, tick = send(channel, "RobotBridge/WatchTelemetry", bridge_pb2.TelemetryRequest())
                message.lease = answers["RobotBridge/Arm"].lease
                message.chunk.clock.tick = tick.tick
                message.chunk.horizon = 25
                message.chunk.actions[:] = list(tick.executed) * 25
            status, answers[one.method] = send(channel, one.method, message)
            assert status == one.status, (one.method, answers[one.method])
    assert list(answers) == [f"RobotBridge/{name}" for name in ("GetStatus", "Arm", "PlayChunks", "EStop", "Clear")]
    assert answers["RobotBridge/PlayChunks"].outcome == ChunkReport.ACCEPTED, answers["RobotBridge/PlayChunks"]
    assert answers["RobotBridge/EStop"].state == State.STATE_ESTOP
    assert answers["RobotBridge/Clear"].state == State.STATE_DISARMED


def test_the_client_of_the_page_plays_its_chunk(bridge: BridgeServer, tmp_path: Path) -> None:
    """The random policy asks for a step that the bridge refuses or the firmware limits: either is an answer."""
    policy = Policy.load(write_checkpoint(tmp_path / "checkpoint"), "reference")
    with PolicyServer(policy, "127.0.0.1:0") as server:
        printed = run_client(tmp_path, server.address, bridge.address)
    assert "a chunk of 140 numbers for tick" in printed
    assert printed.splitlines()[-1].startswith("outcome ")
    with BridgeClient(bridge.address) as client:
        assert client.status().state in (State.STATE_DISARMED, State.STATE_SAFE)
