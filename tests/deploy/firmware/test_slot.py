"""The board follows the slot: whatever the power or a fall-back does, the bridge that starts finds its firmware."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from bridge_unit import BridgeUnit
from flashable_board import FlashableBoard, flashable_board
from source_tree import ROOT

from pi0_edge.deploy.firmware_need import firmware_need
from pi0_edge.deploy.installer.arm import read_arm
from pi0_edge.deploy.installer.firmware import BRIDGE_UNIT, firmware_is_needed
from pi0_edge.deploy.installer.firmware_slot import firmware_of, follow_slot
from pi0_edge.deploy.launcher.journal import read_entries
from pi0_edge.deploy.launcher.layout import Layout
from pi0_edge.deploy.launcher.settings import RobotSettings
from pi0_edge.deploy.launcher.slots import (
    Slot,
    begin_trial,
    end_trial,
    read_slots,
    read_trial,
    write_slots,
)
from pi0_edge.deploy.release import FirmwareNeed, Release
from pi0_edge.errors import DeployError

pytestmark = pytest.mark.real_time

BOARD = "lm3s6965evb"
ALOHA = Slot("a" * 16, 1, sys.prefix)
SO101 = Slot("b" * 16, 2, sys.prefix)


def install(layout: Layout, slot: Slot, need: FirmwareNeed | None, image: Path | None) -> None:
    """What an installed release has that is about the microcontroller."""
    folder = layout.release(slot.release)
    folder.mkdir(parents=True)
    statement = Release(slot.release * 4, slot.sequence, "robot", ("any",), ">=0", need, 1.0)
    (folder / "release.json").write_text(json.dumps(statement.to_dict()))
    if image is not None:
        (folder / "firmware.bin").write_bytes(image.read_bytes())


class Robot:
    """A robot with two releases; the first, ALOHA, is committed, and its image is on the board."""

    def __init__(self, layout: Layout, board: FlashableBoard, log: Path) -> None:
        self.layout, self.board = layout, board
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            address = f"127.0.0.1:{free.getsockname()[1]}"
        self.settings = RobotSettings(
            name="bench",
            robot="aloha",
            hardware="any",
            environment=sys.prefix,
            bridge=address,
            bridge_arguments=("--port", str(board.port)),
            firmware_command=board.command,
        )
        layout.settings.parent.mkdir(parents=True)
        layout.settings.write_bytes(self.settings.to_bytes())
        write_slots(layout, read_slots(layout).committed(ALOHA))
        self.reasons: list[str] = []
        self.unit = BridgeUnit(board.port, address, "aloha", log)
        self.unit.before_start = self.follow

    def follow(self) -> None:
        """Before the bridge starts."""
        slot = read_trial(self.layout) or read_slots(self.layout).current
        self.unit.robot = "so101" if slot == SO101 else "aloha"
        follow_slot(self.layout, self.reasons.append)

    def runs(self, slot: Slot) -> bool:
        """Whether the bridge is up with the firmware of a release."""
        arm = read_arm(self.settings)
        assert arm is not None and arm.told_by == "bridge"
        return firmware_is_needed(firmware_of(self.layout, slot).need, arm) is None

    @property
    def events(self) -> list[tuple[str, str]]:
        return [(entry["event"], entry["release"]) for entry in read_entries(self.layout)]


@pytest.fixture
def robot(firmware_image: Path, so101_image: Path, tmp_path: Path) -> Iterator[Robot]:
    layout = Layout(tmp_path / "disk")
    layout.state.mkdir(parents=True)
    install(layout, ALOHA, firmware_need("aloha", BOARD), firmware_image)
    install(layout, SO101, firmware_need("so101", BOARD), so101_image)
    with flashable_board(tmp_path / "board", firmware_image) as board:
        robot = Robot(layout, board, tmp_path / "bridge.log")
        yield robot
        robot.unit.stop(BRIDGE_UNIT)


def test_a_trial_that_the_power_ends_leaves_the_firmware_of_the_committed_release(robot: Robot) -> None:
    robot.unit.start(BRIDGE_UNIT)
    assert robot.runs(ALOHA) and robot.board.writes == [] and robot.events == []
    begin_trial(robot.layout, SO101)
    robot.unit.restart(BRIDGE_UNIT)
    assert robot.runs(SO101)
    robot.unit.stop(BRIDGE_UNIT)
    end_trial(robot.layout)  # a power cut empties /run
    robot.unit.start(BRIDGE_UNIT)
    assert robot.runs(ALOHA)
    assert robot.events == [("firmware written", SO101.release), ("firmware written", ALOHA.release)]


def test_a_fall_back_takes_the_firmware_back_too(robot: Robot) -> None:
    write_slots(robot.layout, read_slots(robot.layout).committed(SO101))
    robot.unit.start(BRIDGE_UNIT)
    assert robot.runs(SO101)
    write_slots(robot.layout, read_slots(robot.layout).taken_back("it crashed"))
    robot.unit.restart(BRIDGE_UNIT)
    assert robot.runs(ALOHA)


def test_a_board_that_was_half_written_is_written_at_the_next_start(robot: Robot) -> None:
    begin_trial(robot.layout, SO101)
    robot.board.fail_next("half")
    with pytest.raises(DeployError, match="the programmer was unplugged"):
        robot.follow()
    end_trial(robot.layout)
    robot.unit.start(BRIDGE_UNIT)
    assert robot.runs(ALOHA)
    assert robot.events == [("firmware failed", SO101.release), ("firmware written", ALOHA.release)]


def test_nothing_is_asked_of_a_board_that_no_release_names(robot: Robot) -> None:
    nothing = Slot("c" * 16, 3, sys.prefix)
    install(robot.layout, nothing, None, None)
    begin_trial(robot.layout, nothing)
    robot.follow()
    assert robot.reasons == ["nothing is asked of the firmware"]
    robot.layout.settings.write_bytes(replace(robot.settings, bridge=None).to_bytes())
    end_trial(robot.layout)
    robot.follow()
    assert robot.reasons == ["nothing is asked of the firmware"] * 2


def test_the_program_before_the_bridge_says_what_is_wrong(robot: Robot, tmp_path: Path) -> None:
    argv = [sys.executable, "-m", "pi0_edge.deploy.installer.firmware_slot", "--root", str(robot.layout.root)]
    good = subprocess.run(argv, capture_output=True, text=True, cwd=ROOT, check=False)
    assert (good.returncode, good.stdout) == (0, "the board runs what the release needs\n")
    robot.board.fail_next("half")
    with pytest.raises(DeployError):
        robot.board.write(tmp_path / "other.bin")
    bad = subprocess.run(argv, capture_output=True, text=True, cwd=ROOT, check=False)
    assert bad.returncode == 1
    assert bad.stderr.startswith("error: the port is silent for 3.0 s")
