"""The firmware follows the release, on the real firmware in QEMU: written while the arm is held, seen to run, or taken
back."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from bridge_unit import BridgeUnit
from firmware_needs import firmware_need
from flashable_board import FlashableBoard, flashable_board
from motion_audit import ALOHA, wait_until
from other_firmware import image_of_other_messages

from firmware_bridge.bridge.server import BridgeServer
from firmware_bridge.client import BridgeClient
from pi0_edge.certificates import issue_client, issue_server, make_authority
from pi0_edge.deploy.installer.arm import read_arm, require_held
from pi0_edge.deploy.installer.firmware import (
    NO_FIRMWARE,
    Firmware,
    check_firmware,
    firmware_is_needed,
    write_firmware,
)
from pi0_edge.deploy.installer.firmware_writing import is_half_written
from pi0_edge.deploy.launcher.layout import Layout
from pi0_edge.deploy.launcher.services import BRIDGE
from pi0_edge.deploy.launcher.settings import RobotSettings
from pi0_edge.errors import DeployError
from pi0_edge.protos.rpc.roles import Role
from pi0_edge.protos.serial_link import State

pytestmark = [pytest.mark.real_time, pytest.mark.system]

BOARD = "lm3s6965evb"


@pytest.fixture
def board(firmware_image: Path, tmp_path: Path) -> Iterator[FlashableBoard]:
    """It runs the image of ALOHA."""
    with flashable_board(tmp_path / "board", firmware_image) as board:
        yield board


@pytest.fixture
def settings(board: FlashableBoard) -> RobotSettings:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    return RobotSettings(
        name="bench",
        robot="aloha",
        hardware="any",
        environment="",
        bridge=address,
        bridge_arguments=("--port", str(board.port)),
        firmware_command=board.command,
    )


@pytest.fixture
def unit(board: FlashableBoard, settings: RobotSettings, tmp_path: Path) -> Iterator[BridgeUnit]:
    """The bridge of the release that runs."""
    unit = BridgeUnit(board.port, settings.bridge or "", "aloha", tmp_path / "bridge.log")
    unit.start(BRIDGE)
    unit.await_ready()
    yield unit
    unit.stop(BRIDGE)


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return Layout(tmp_path / "disk")


@pytest.fixture
def aloha(firmware_image: Path) -> Firmware:
    return Firmware(firmware_need("aloha", BOARD), firmware_image)


@pytest.fixture
def so101(so101_image: Path) -> Firmware:
    return Firmware(firmware_need("so101", BOARD), so101_image)


class Flash:
    """`write_firmware` of so101 over aloha."""

    def __init__(
        self, settings: RobotSettings, unit: BridgeUnit, layout: Layout, so101: Firmware, aloha: Firmware
    ) -> None:
        self.settings, self.unit, self.layout, self.so101, self.aloha = settings, unit, layout, so101, aloha
        self.reasons: list[str] = []
        self.limit_s = 30.0

    def __call__(self, image: Path | None = None) -> None:
        assert self.so101.need is not None
        self.unit.robot = "so101"  # the trial of the release has begun
        try:
            write_firmware(
                self.settings,
                image or self.so101.image,
                self.so101.need,
                self.unit,
                self.reasons.append,
                running=self.aloha,
                layout=self.layout,
                command_limit_s=self.limit_s,
            )
        except DeployError:
            self.unit.robot = "aloha"  # the trial ends
            self.unit.restart(BRIDGE)
            raise

    def runs(self, firmware: Firmware) -> bool:
        """Whether the bridge is up with a board that runs this firmware."""
        self.unit.await_ready()
        arm = read_arm(self.settings)
        assert arm is not None and arm.told_by == "bridge", arm
        return firmware_is_needed(firmware.need, arm) is None


@pytest.fixture
def flash(settings: RobotSettings, unit: BridgeUnit, layout: Layout, so101: Firmware, aloha: Firmware) -> Flash:
    return Flash(settings, unit, layout, so101, aloha)


def test_the_board_is_written_and_the_bridge_of_the_new_release_runs(flash: Flash, board: FlashableBoard) -> None:
    flash()
    assert flash.runs(flash.so101)
    assert not is_half_written(flash.layout)
    assert flash.unit.calls == ["start", "stop", "start"]
    assert any("the arm is held: DISARMED, says the bridge" in reason for reason in flash.reasons)
    assert any("the board holds joint table 0x9428b2ba, the release needs 0x2e0041f9" in r for r in flash.reasons)
    flash()  # again: nothing is written
    assert len(board.writes) == 1
    assert flash.runs(flash.so101)


@pytest.mark.slow
def test_a_bridge_that_does_not_run_needs_no_person(flash: Flash) -> None:
    flash.unit.stop(BRIDGE)
    flash()
    assert any("the arm is held: DISARMED, says the board" in reason for reason in flash.reasons)
    assert flash.runs(flash.so101)


@contextlib.contextmanager
def played(client: BridgeClient) -> Iterator[None]:
    """The arm plays at home while the context lasts: new chunks come long before the last one ends."""
    ended, reports = threading.Event(), []
    with client.telemetry() as ticks, client.play() as stream:

        def send() -> None:
            due = 0
            for tick in ticks:
                if ended.is_set():
                    return
                if tick.tick >= due:
                    stream.send(np.tile(ALOHA.home, (50, 1)), tick.tick)
                    due = tick.tick + 5

        thread = threading.Thread(target=send)
        thread.start()
        try:
            running = wait_until(lambda: client.status().state == State.RUNNING, 10.0)
            while (report := stream.next_report(0.0)) is not None:
                reports.append(report)
            assert running, (client.status(), reports)
            yield
        finally:
            ended.set()
            thread.join()


@pytest.mark.parametrize("playing", [False, True])
def test_an_arm_that_is_armed_or_plays_is_left_alone(flash: Flash, board: FlashableBoard, playing: bool) -> None:
    assert flash.settings.bridge
    with BridgeClient(flash.settings.bridge, "policy") as client:
        client.wait_ready()
        client.arm(ALOHA.names)
        with played(client) if playing else contextlib.nullcontext():
            state = "(RUNNING|STARVED)" if playing else "ARMED"
            with pytest.raises(DeployError, match=f"the arm is {state} and client 'policy' holds it; end that client"):
                require_held(flash.settings)
            with pytest.raises(DeployError, match="client 'policy' holds it"):
                write_firmware(
                    flash.settings,
                    flash.so101.image,
                    flash.so101.need or pytest.fail("no need"),
                    flash.unit,
                    flash.reasons.append,
                    running=flash.aloha,
                    layout=flash.layout,
                )
            assert client.status().owner == "policy"
    assert board.writes == []
    assert flash.unit.calls == ["start"]


@pytest.mark.parametrize(
    "how", [pytest.param("before", marks=pytest.mark.slow), "half", pytest.param("hang", marks=pytest.mark.slow)]
)
def test_a_write_that_fails_brings_the_old_image_back(flash: Flash, board: FlashableBoard, how: str) -> None:
    flash.limit_s = 4.0
    board.fail_next(how)
    said = {"before": "no programmer was found", "half": "was unplugged", "hang": "did not end within 4 s"}[how]
    now = {"before": "runs what it ran before"}.get(how, "written back and runs")
    with pytest.raises(DeployError, match=f"{said}.*{now}"):
        flash()
    assert board.writes == [flash.so101.image, flash.aloha.image][: 1 if how == "before" else 2]
    assert flash.runs(flash.aloha)
    assert not is_half_written(flash.layout)


def test_an_image_of_another_robot_is_taken_back(flash: Flash, board: FlashableBoard, aloha_image: Path) -> None:
    """The release says so101 and carries an image with the joints of ALOHA."""
    with pytest.raises(DeployError, match="after the image was written, the board holds joint table 0x9428b2ba"):
        flash(aloha_image)
    assert flash.runs(flash.aloha)
    assert not is_half_written(flash.layout)


@pytest.mark.slow
def test_an_image_that_is_no_firmware_is_taken_back(flash: Flash, board: FlashableBoard, tmp_path: Path) -> None:
    junk = tmp_path / "junk.bin"
    junk.write_bytes(bytes(4096))
    with pytest.raises(DeployError, match="written back and runs"):
        flash(junk)
    assert board.writes == [junk, flash.aloha.image]
    assert flash.runs(flash.aloha)


@pytest.mark.slow
def test_a_bridge_with_another_robot_than_the_release_is_taken_back(flash: Flash, board: FlashableBoard) -> None:
    """The board was written, and the bridge that starts is still that of aloha."""
    assert flash.so101.need is not None
    with pytest.raises(DeployError, match=r"pi0-edge-bridge.service does not stay up.*written back and runs"):
        write_firmware(
            flash.settings,
            flash.so101.image,
            flash.so101.need,
            flash.unit,
            flash.reasons.append,
            running=flash.aloha,
            layout=flash.layout,
        )
    assert "the firmware drives 6 joints, robot 'aloha' has 14" in flash.unit.log
    assert board.writes == [flash.so101.image, flash.aloha.image]
    assert flash.runs(flash.aloha)


class PowerCutError(Exception):
    """Ends the process of the installer."""


def cut_power(unit: str) -> None:
    raise PowerCutError


@pytest.mark.slow
def test_a_power_cut_between_writing_and_starting_the_bridge(
    flash: Flash, board: FlashableBoard, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = flash.unit.start
    monkeypatch.setattr(flash.unit, "start", cut_power)
    with pytest.raises(PowerCutError):
        flash()
    monkeypatch.setattr(flash.unit, "start", start)
    arm = read_arm(flash.settings)
    assert arm is not None and arm.told_by == "board"
    flash()
    assert board.writes == [flash.so101.image]
    assert flash.runs(flash.so101)


def test_a_power_cut_that_leaves_the_board_half_written(
    flash: Flash, board: FlashableBoard, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither image could be written, and the power is cut: running the command again mends the board."""
    board.fail_next("half")
    flash.aloha, old = Firmware(flash.aloha.need, flash.layout.state / "no-such-image.bin"), flash.aloha
    start = flash.unit.start
    monkeypatch.setattr(flash.unit, "start", cut_power)
    with pytest.raises(PowerCutError):
        flash()
    assert is_half_written(flash.layout)
    monkeypatch.setattr(flash.unit, "start", start)
    flash.aloha = old
    flash()
    assert flash.runs(flash.so101)
    assert not is_half_written(flash.layout)
    assert any("because writing it was cut off" in reason for reason in flash.reasons)


@pytest.mark.slow
def test_a_silent_board_that_nobody_wrote_is_not_written(flash: Flash, board: FlashableBoard) -> None:
    """A loose cable is no reason to write firmware."""
    board.fail_next("half")
    with pytest.raises(DeployError):
        board.write(Path("other.bin"))
    flash.unit.stop(BRIDGE)
    with pytest.raises(DeployError, match="the board itself was asked, too: the port is silent"):
        flash()
    assert len(board.writes) == 1


@pytest.mark.slow
def test_a_bridge_without_link_says_so_and_the_board_is_asked(flash: Flash, board: FlashableBoard) -> None:
    """Someone wrote another image behind the bridge's back: it runs on, and its link stays down."""
    assert flash.so101.image is not None
    board.write(flash.so101.image)
    assert flash.settings.bridge
    with BridgeClient(flash.settings.bridge) as client:
        assert wait_until(lambda: "drives 6 joints" in client.status().problem, 10.0)
    with pytest.raises(DeployError, match=r"nobody can tell whether the arm moves.*drives 6 joints"):
        require_held(flash.settings)
    flash()  # it is what the release needs
    assert len(board.writes) == 1
    assert flash.runs(flash.so101)


def test_a_release_without_image_is_refused_before_anything_changes(flash: Flash, board: FlashableBoard) -> None:
    arm = read_arm(flash.settings)
    bare = Firmware(flash.so101.need)
    said = (
        "the board holds joint table 0x9428b2ba, the release needs 0x2e0041f9, and it carries no image: sign it with "
        "--firmware-image"
    )
    with pytest.raises(DeployError, match=said):
        check_firmware(flash.settings, bare, flash.aloha, arm)
    flash.so101 = bare
    with pytest.raises(DeployError, match=said):
        flash()
    assert board.writes == []
    with pytest.raises(DeployError, match="the release that runs carries no image"):
        check_firmware(flash.settings, flash_with(flash, "so101"), Firmware(flash.aloha.need), arm)
    assert check_firmware(flash.settings, flash.aloha, NO_FIRMWARE, arm) is None


def flash_with(flash: Flash, robot: str) -> Firmware:
    return Firmware(firmware_need(robot, BOARD), flash.aloha.image)


def test_a_robot_without_a_bridge_has_no_arm(flash: Flash) -> None:
    alone = replace(flash.settings, bridge=None)
    assert read_arm(alone) is None
    assert "no bridge" in require_held(alone)
    assert firmware_is_needed(flash.so101.need, None) is None
    write_firmware(alone, None, flash.so101.need or pytest.fail("no need"), flash.unit, flash.reasons.append)
    assert flash.unit.calls == ["start"]


@pytest.mark.slow
def test_a_board_of_other_messages_is_updated(flash: Flash, board: FlashableBoard, tmp_path: Path) -> None:
    """The bridge cannot start with it; the board tells that it is another one, and gets the image."""
    flash.unit.stop(BRIDGE)
    board.write(image_of_other_messages(tmp_path / "firmware"))
    arm = read_arm(flash.settings)
    assert arm is not None and (arm.state, arm.held, arm.protocol_version) == ("UNKNOWN", True, None)
    flash()
    assert any("the board speaks other messages than this SDK (protocol" in reason for reason in flash.reasons)
    assert flash.runs(flash.so101)


def test_a_bridge_that_asks_for_certificates_is_asked_with_that_of_the_run(
    board: FlashableBoard, settings: RobotSettings, tmp_path: Path
) -> None:
    authority, server_folder, run_folder = (tmp_path / name for name in ("authority", "server", "run"))
    make_authority(authority)
    issue_server(authority, server_folder, "bridge", ["127.0.0.1"])
    issue_client(authority, run_folder, "run", Role.COMMAND)
    tls = replace(settings, bridge_arguments=(*settings.bridge_arguments, "--tls", str(server_folder)))
    server = BridgeServer(str(board.port), settings.bridge or "", "aloha", tls=server_folder)
    server.start()
    try:
        with pytest.raises(DeployError, match=r"robot\.json names none of a client"):
            read_arm(tls)
        arm = read_arm(replace(tls, run_arguments=(f"--tls={run_folder}",)))
        assert arm is not None and (arm.state, arm.told_by) == ("DISARMED", "bridge")
        with pytest.raises(DeployError, match="it may ask for certificates"):
            read_arm(settings)
    finally:
        server.stop()
