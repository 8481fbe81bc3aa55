"""The C interface, from a program in C99, with the real servers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from cpp_client import CHECKS, CheckClient, build_with
from policy_builders import CONFIG, DIMS, write_checkpoint

from firmware_bridge.bridge.server import BridgeServer
from firmware_bridge.emulator.board import EmulatedBoard
from firmware_bridge.robot import load_joints
from pi0_edge.policy import Policy
from pi0_edge.processing import Observation
from pi0_edge.serving.policy_client import PolicyClient
from pi0_edge.serving.policy_server import PolicyServer

pytestmark = [pytest.mark.slow, pytest.mark.real_time]

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def check(installed_cpp_client: Path, tmp_path_factory: pytest.TempPathFactory) -> CheckClient:
    return CheckClient(build_with(installed_cpp_client, CHECKS, tmp_path_factory.mktemp("check")) / "check_c")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[PolicyServer]:
    running = PolicyServer(Policy.load(write_checkpoint(tmp_path / "checkpoint"), "reference"), "127.0.0.1:0")
    running.start()
    yield running
    running.stop()


def test_a_chunk_and_refusals(check: CheckClient, server: PolicyServer, tmp_path: Path):
    image = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)
    (tmp_path / "top").write_bytes(image.tobytes())
    with PolicyClient(server.address) as client:
        chunk = client.infer(Observation({"top": image}, np.zeros(DIMS), None), 0, 0, 5)
    shape, actions, *refused = check("policy", server.address, "top", "40", "60", str(tmp_path / "top"), "5")
    assert shape == f"{CONFIG.horizon} {DIMS} {DIMS}"
    assert [float.fromhex(value) for value in actions.split()] == list(chunk.actions)
    assert refused == [
        f"-1 actions has room for 3 values; the chunk has {CONFIG.horizon * DIMS}",
        "-1 policy, observation and actions may not be null",
    ]
    said = check("policy", server.address, "top", "40", "61", str(tmp_path / "top"), "5")
    assert said[1].startswith("-2 images['top'] holds 7200 bytes, but height 40 and width 61 require 7320")


def test_arm_play_and_emergency_stop(check: CheckClient, firmware_image: Path):
    with EmulatedBoard(firmware_image) as board:
        server = BridgeServer(board.port, "127.0.0.1:0", "aloha")
        server.start()
        try:
            armed, played, malformed, stopped, refused, cleared, null = check(
                "bridge", server.address, *load_joints("aloha").names
            )
        finally:
            server.stop()
    assert (armed, played, stopped, cleared) == ("armed 1", "played 1", "stopped 5", "cleared 0")
    assert malformed.startswith("-2 ") and "13" in malformed and "14" in malformed
    assert refused.startswith("-2 ") and null == "-1 bridge is null; open it first"
