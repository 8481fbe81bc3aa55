"""The Python examples, as a user runs them: each in a process of its own, with what it needs around it."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from firmware_library import make, require

from firmware_bridge.bridge.server import BridgeServer
from firmware_bridge.emulator.board import EmulatedBoard
from pi0_edge import Policy, PolicyServer
from pi0_edge.shipped import shipped_checkpoint
from pi0_edge.sim.aloha_transfer_cube import AlohaTransferCube

pytestmark = [pytest.mark.real_time, pytest.mark.system]

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples" / "python"


def run(example: str, *arguments: str) -> str:
    argv = [sys.executable, str(EXAMPLES / example), *arguments]
    ran = subprocess.run(argv, capture_output=True, text=True, cwd=ROOT, timeout=120, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


def test_first_chunk_prints_fourteen_joints():
    said = run("first_chunk.py")
    assert said.startswith("50 actions of 14 joints in ")
    assert len(re.findall(r"^  \w+ +-?\d+\.\d{3} (?:rad|ratio)$", said, re.MULTILINE)) == 14


def test_a_robot_of_ones_own_builds_into_firmware(tmp_path: Path):
    require("make", "gcc")
    said = run("own_robot/own_robot.py", str(tmp_path))
    assert "bridge: base, shoulder, elbow, wrist, gripper" in said
    built = make("host", "ROBOT=desk_arm", f"ROBOTS={tmp_path}", f"BUILD={tmp_path / 'build'}")
    assert built.returncode == 0, built.stderr


@pytest.fixture
def policy_address() -> Iterator[str]:
    server = PolicyServer(Policy.load(shipped_checkpoint()), "127.0.0.1:0")
    server.start()
    yield server.address
    server.stop()


@pytest.fixture
def bridge_address(firmware_image: Path) -> Iterator[str]:
    with EmulatedBoard(firmware_image) as board:
        server = BridgeServer(board.port, "127.0.0.1:0", "aloha")
        server.start()
        yield server.address
        server.stop()


def test_the_closed_loop_plays_chunks_and_disarms(policy_address: str, bridge_address: str, tmp_path: Path):
    """With cameras of its own, as a user replaces them: they see the simulated arm at home."""
    environment = AlohaTransferCube()
    environment.reset(0)
    np.save(tmp_path / "image.npy", environment.render("top", 112, 112))
    cameras = (
        f'def read_cameras(cameras):\n    return {{camera: np.load("{tmp_path / "image.npy"}") for camera in cameras}}'
    )
    text = (EXAMPLES / "closed_loop.py").read_text()
    own, found = re.subn(r"def read_cameras.*?(?=\n\n\n)", lambda _: cameras, text, flags=re.DOTALL)
    assert found == 1
    (tmp_path / "closed_loop.py").write_text(own)
    said = run(
        str(tmp_path / "closed_loop.py"), "--policy", policy_address, "--bridge", bridge_address, "--chunks", "2"
    )
    assert [line.split(": ")[1] for line in said.splitlines()] == ["ACCEPTED"] * 2
