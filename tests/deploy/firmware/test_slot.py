"""The board follows the slot: whatever the power or a fall-back does, the bridge that starts finds its firmware."""

from __future__ import annotations

import fcntl
import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from bridge_unit import BridgeUnit
from firmware_needs import firmware_need
from flashable_board import FlashableBoard, flashable_board
from source_tree import ROOT

from pi0_edge.deploy.installer.arm import read_arm
from pi0_edge.deploy.installer.firmware import await_bridge, firmware_is_needed
from pi0_edge.deploy.installer.firmware_slot import follow_slot
from pi0_edge.deploy.installer.installed import firmware_of
from pi0_edge.deploy.launcher.bridge import restart_bridge
from pi0_edge.deploy.launcher.fallback import fall_back
from pi0_edge.deploy.launcher.journal import read_entries
from pi0_edge.deploy.launcher.layout import Layout
from pi0_edge.deploy.launcher.services import BRIDGE
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

pytestmark = [pytest.mark.real_time, pytest.mark.system]

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


class Bench:
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

    def begin_trial(self, slot: Slot) -> None:
        """The bridge of the release starts, and before it the board is written."""
        begin_trial(self.layout, slot)
        if restart_bridge(self.layout, self.unit, read_slots(self.layout).current, slot):
            await_bridge(self.settings, firmware_of(self.layout, slot).need, self.unit)

    def follow(self) -> None:
        """Before the bridge starts."""
        slot = read_trial(self.layout) or read_slots(self.layout).current
        self.unit.robot = "so101" if slot == SO101 else "aloha"
        follow_slot(self.layout, self.reasons.append)

    def runs(self, slot: Slot) -> bool:
        """Whether the bridge is up with the firmware of a release."""
        self.unit.await_ready()
        arm = read_arm(self.settings)
        assert arm is not None and arm.told_by == "bridge"
        return firmware_is_needed(firmware_of(self.layout, slot).need, arm) is None

    @property
    def events(self) -> list[tuple[str, str]]:
        return [(entry["event"], entry["release"]) for entry in read_entries(self.layout)]


@pytest.fixture
def robot(firmware_image: Path, so101_image: Path, tmp_path: Path) -> Iterator[Bench]:
    layout = Layout(tmp_path / "disk")
    layout.state.mkdir(parents=True)
    install(layout, ALOHA, firmware_need("aloha", BOARD), firmware_image)
    install(layout, SO101, firmware_need("so101", BOARD), so101_image)
    with flashable_board(tmp_path / "board", firmware_image) as board:
        robot = Bench(layout, board, tmp_path / "bridge.log")
        yield robot
        robot.unit.stop(BRIDGE)


def test_a_release_is_tried_committed_and_taken_back_with_its_firmware(robot: Bench) -> None:
    robot.unit.start(BRIDGE)
    assert robot.runs(ALOHA) and robot.board.writes == [] and robot.events == []
    robot.begin_trial(SO101)
    assert robot.runs(SO101)
    write_slots(robot.layout, read_slots(robot.layout).committed(SO101))
    end_trial(robot.layout)
    assert not restart_bridge(robot.layout, robot.unit, SO101, SO101)
    assert fall_back(robot.layout, robot.unit) == ALOHA  # its policy server failed for good
    assert robot.runs(ALOHA)
    assert robot.events == [
        ("firmware written", SO101.release),
        ("taken back", SO101.release),
        ("firmware written", ALOHA.release),
    ]


@pytest.mark.slow
def test_a_trial_that_fails_gives_the_firmware_back(robot: Bench) -> None:
    robot.unit.start(BRIDGE)
    robot.begin_trial(SO101)
    assert fall_back(robot.layout, robot.unit) == ALOHA
    assert robot.runs(ALOHA)


@pytest.mark.slow
def test_a_power_cut_in_a_trial_boots_with_the_firmware_of_the_committed_release(robot: Bench) -> None:
    robot.begin_trial(SO101)
    assert robot.runs(SO101)
    robot.unit.stop(BRIDGE)
    end_trial(robot.layout)  # a power cut empties /run
    robot.unit.start(BRIDGE)
    assert robot.runs(ALOHA)


def test_the_same_firmware_and_sdk_leave_the_bridge_alone(robot: Bench) -> None:
    again = Slot("d" * 16, 4, sys.prefix)
    install(robot.layout, again, firmware_of(robot.layout, ALOHA).need, None)
    robot.unit.start(BRIDGE)
    robot.unit.await_ready()
    robot.begin_trial(again)
    assert robot.unit.calls == ["start"]
    assert restart_bridge(robot.layout, robot.unit, again, replace(again, environment="other"))


def test_a_board_that_was_half_written_is_written_at_the_next_start(robot: Bench) -> None:
    begin_trial(robot.layout, SO101)
    robot.board.fail_next("half")
    with pytest.raises(DeployError, match="the programmer was unplugged"):
        robot.follow()
    end_trial(robot.layout)
    robot.unit.start(BRIDGE)
    assert robot.runs(ALOHA)
    assert robot.events == [("firmware failed", SO101.release), ("firmware written", ALOHA.release)]


@pytest.mark.slow
def test_an_image_that_does_not_come_to_run_is_not_tried_for_ever(robot: Bench, aloha_image: Path) -> None:
    """The bridge is started again and again; a flash memory wears out."""
    (robot.layout.release(SO101.release) / "firmware.bin").write_bytes(aloha_image.read_bytes())
    begin_trial(robot.layout, SO101)
    for _ in range(3):
        with pytest.raises(DeployError, match="after the image was written, the board holds joint table 0x9428b2ba"):
            robot.follow()
    with pytest.raises(DeployError, match="did not come to run 3 times since this computer booted"):
        robot.follow()
    assert len(robot.board.writes) == 3
    assert robot.events == [("firmware failed", SO101.release)] * 3
    end_trial(robot.layout)
    robot.unit.start(BRIDGE)  # of ALOHA, which the board runs
    assert robot.runs(ALOHA)


def test_a_robot_whose_board_is_unplugged_does_not_fill_its_journal(robot: Bench) -> None:
    robot.board.port.unlink()
    for _ in range(2):
        with pytest.raises(DeployError, match="does not exist"):
            robot.follow()
    assert robot.events == []


def test_only_one_writes_the_board(robot: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pi0_edge.deploy.installer.firmware_writing._LOCK_LIMIT_S", 0.2)
    robot.layout.runtime.mkdir(parents=True)
    with robot.layout.firmware_lock.open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(DeployError, match="another process is writing the board"):
            robot.follow()
    robot.follow()


def test_nothing_is_asked_of_a_board_that_no_release_names(robot: Bench) -> None:
    nothing = Slot("c" * 16, 3, sys.prefix)
    install(robot.layout, nothing, None, None)
    begin_trial(robot.layout, nothing)
    robot.follow()
    assert robot.reasons == ["nothing is asked of the firmware"]
    robot.layout.settings.write_bytes(replace(robot.settings, bridge=None).to_bytes())
    end_trial(robot.layout)
    robot.follow()
    assert robot.reasons == ["nothing is asked of the firmware"] * 2


@pytest.mark.slow
def test_the_program_before_the_bridge_says_what_is_wrong(robot: Bench, tmp_path: Path) -> None:
    argv = [sys.executable, "-m", "pi0_edge.deploy.installer.firmware_slot", "--root", str(robot.layout.root)]
    good = subprocess.run(argv, capture_output=True, text=True, cwd=ROOT, check=False)
    assert (good.returncode, good.stdout) == (0, "the board runs what the release needs\n")
    robot.board.fail_next("half")
    with pytest.raises(DeployError):
        robot.board.write(tmp_path / "other.bin")
    bad = subprocess.run(argv, capture_output=True, text=True, cwd=ROOT, check=False)
    assert bad.returncode == 1
    assert bad.stderr.startswith("error: the port is silent for 3.0 s")
