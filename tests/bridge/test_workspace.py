"""The real bridge, over the emulated board, refuses a chunk whose path leaves the workspace, and says where."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from motion_audit import ALOHA, executed_ticks, wait_until
from workspace_builders import aloha_content, written

from firmware_bridge.bridge.server import BridgeServer
from firmware_bridge.bridge.workspace.kinematics import Kinematics
from firmware_bridge.bridge.workspace.settings import load_settings
from firmware_bridge.client import BridgeClient
from firmware_bridge.emulator.board import EmulatedBoard
from pi0_edge.protos.bridge_pb2 import ChunkReport
from pi0_edge.protos.serial_link import Fault, State

pytestmark = pytest.mark.real_time
pytest.importorskip("mujoco", reason="mujoco is not installed")

LOWEST = 0.02 + 0.03 + 0.01  # floor of the box, radius of a hand, margin; metres
SHOULDERS = (1, 8)


@pytest.fixture(scope="module")
def workspace_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(tmp_path_factory.mktemp("workspace"), aloha_content())


@pytest.fixture(scope="module")
def board(firmware_image: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmulatedBoard]:
    with EmulatedBoard(firmware_image, record=tmp_path_factory.mktemp("board") / "record") as board:
        yield board


@pytest.fixture(scope="module")
def client(board: EmulatedBoard, workspace_file: Path) -> Iterator[BridgeClient]:
    server = BridgeServer(board.port, "127.0.0.1:0", "aloha", workspace=workspace_file)
    server.start()
    try:
        with BridgeClient(server.address, "pytest") as client:
            client.wait_ready()
            yield client
    finally:
        server.stop()


def bowing(ticks: np.ndarray, share: float) -> np.ndarray:
    """Both shoulders bend forward and down by up to `share` rad, within 0.9 s."""
    positions = np.tile(ALOHA.home, (len(ticks), 1))
    positions[:, SHOULDERS] += share * 0.5 * (1.0 - np.cos(np.pi * np.minimum(ticks / 45.0, 1.0)))[:, None]
    return positions


def hand_heights(executed: np.ndarray, workspace_file: Path) -> np.ndarray:
    settings = load_settings(workspace_file, "aloha", ALOHA.names)
    return Kinematics(settings, ALOHA).at(executed, np.zeros_like(executed)).points[:, :, 2]


def test_a_chunk_that_leaves_is_refused_the_stream_goes_on_and_the_arm_comes_to_rest_inside(
    client: BridgeClient, board: EmulatedBoard, workspace_file: Path
) -> None:
    client.arm(ALOHA.names)
    start = client.status().tick
    with client.telemetry() as ticks, client.play() as stream:
        stream.send(bowing(np.arange(1, 51), 0.1), start)
        first = stream.next_report(3.0)
        assert first and first.outcome == ChunkReport.ACCEPTED, first
        now = next(ticks).tick
        stream.send(bowing(np.arange(1, 51) + now - start, 1.2), now)
        refused = stream.next_report(3.0)
        assert refused and refused.outcome == ChunkReport.REJECTED
        assert (
            "workspace: " in refused.reason and "_hand leaves the allowed box bench below its min z" in refused.reason
        )
        assert " mm, first at action " in refused.reason and f"(tick {now}" not in refused.reason
        now = next(ticks).tick
        stream.send(bowing(np.arange(1, 26) + now - start, 0.1), now)
        again = stream.next_report(3.0)
        assert again and again.outcome == ChunkReport.ACCEPTED, again
        for tick in ticks:
            if tick.state == State.SAFE:
                assert tick.faults == Fault.STARVATION
                break
    assert board.record is not None
    executed = np.array([tick.executed for tick in executed_ticks(board.record)])
    assert len(executed) > 20 and hand_heights(executed, workspace_file).min() >= LOWEST
    assert hand_heights(bowing(np.array([45.0]), 1.2), workspace_file).min() < 0.02  # what was refused would have left
    client.clear()


def test_a_policy_that_wants_out_ends_in_safe_and_its_refusals_say_why(client: BridgeClient) -> None:
    client.arm(ALOHA.names)
    reasons = []
    with client.telemetry() as ticks, client.play() as stream:
        holding = next(ticks)
        stream.send(np.tile(holding.executed, (10, 1)), holding.tick)
        report = stream.next_report(3.0)
        assert report and report.outcome == ChunkReport.ACCEPTED, report
        for tick in ticks:
            if tick.state == State.SAFE:
                break
            if tick.tick % 10 == 0:
                stream.send(np.tile(ALOHA.home, (50, 1)) + bowing(np.arange(50.0), 1.2) - ALOHA.home, tick.tick)
                if (report := stream.next_report(1.0)) is not None:
                    reasons.append(report.reason)
    assert reasons and all("workspace: " in reason for reason in reasons)
    assert wait_until(lambda: client.status().owner == "")
