"""A board says what it is, also where it holds other firmware than this SDK's; asking arms nothing."""

from __future__ import annotations

import contextlib
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from cli_runner import run
from hypothesis import given
from hypothesis import strategies as st
from motion_audit import ALOHA, wait_until
from other_firmware import OTHER_SCHEMA, image_of_other_messages

from firmware_bridge.client import BridgeClient
from firmware_bridge.emulator.board import EmulatedBoard
from firmware_bridge.errors import LinkError, PortError
from firmware_bridge.firmware.joint_table import load_joint_table
from firmware_bridge.link import identity
from firmware_bridge.link.framing import Frame
from firmware_bridge.link.identity import BoardIdentity, identify_board
from firmware_bridge.link.link import FirmwareLink
from firmware_bridge.robot import load_joints
from pi0_edge.protos.serial_link import SCHEMA_HASH, VERSION, Command, State, Telemetry, Welcome

pytestmark = [pytest.mark.real_time, pytest.mark.system]


@pytest.fixture
def board(firmware_image: Path) -> Iterator[EmulatedBoard]:
    with EmulatedBoard(firmware_image) as board:
        yield board


@pytest.fixture(scope="module")
def other_image(firmware_image: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Firmware that was built from other serial messages."""
    return image_of_other_messages(tmp_path_factory.mktemp("other") / "firmware")


def test_a_board_says_what_it_is(board: EmulatedBoard) -> None:
    found = identify_board(board.port)
    limits = load_joint_table("aloha").limits_hash
    assert found == BoardIdentity(SCHEMA_HASH, VERSION, limits, 14, State.DISARMED, False)
    assert found.held
    assert identify_board(board.port) == found  # asking changes nothing


def test_the_board_of_another_robot_is_named(so101_image: Path) -> None:
    with EmulatedBoard(so101_image) as board:
        ran = run("bridge", "--port", board.port, "--robot", "aloha", "--identify", "--json")
        assert ran.code == 0
        assert (ran.result["limits_hash"], ran.result["joints"]) == (load_joint_table("so101").limits_hash, 6)
        assert ran.result["robot_limits_hash"] == load_joint_table("aloha").limits_hash
        assert "its joint table is 0x2e0041f9, not that of aloha, 0x9428b2ba" in ran.err
        assert "that of so101" in run("bridge", "--port", board.port, "--robot", "so101", "--identify").out


def test_the_board_that_a_killed_bridge_left_armed_has_stopped(board: EmulatedBoard, tmp_path: Path) -> None:
    argv = [sys.executable, "-m", "firmware_bridge", "--port", board.port, "--listen", "127.0.0.1:0"]
    with (tmp_path / "log").open("wb") as log:
        bridge = subprocess.Popen(argv, stderr=log)
    listens = re.compile(r"listening on ([\d.:]+)")
    assert wait_until(lambda: listens.search((tmp_path / "log").read_text()) is not None, 60.0)
    address = listens.findall((tmp_path / "log").read_text())[0]
    with BridgeClient(address, "test") as client:
        client.wait_ready(20.0)
        client.arm(ALOHA.names)
        assert client.status().state == State.ARMED
        assert client.status().protocol_version == VERSION
        assert client.status().problem == ""
    bridge.send_signal(signal.SIGKILL)
    bridge.wait()
    found = identify_board(board.port)
    assert (found.state, found.held) == (State.SAFE, True)


def test_firmware_of_other_messages_is_recognized(other_image: Path) -> None:
    with EmulatedBoard(other_image) as board:
        found = identify_board(board.port)
        assert found == BoardIdentity(OTHER_SCHEMA, None, load_joint_table("aloha").limits_hash, 14, None, False)
        assert found.held
        ran = run("bridge", "--port", board.port, "--identify", "--json")
        assert ran.result["protocol_version"] is None and ran.result["state"] == "UNKNOWN" and ran.result["held"]
        assert f"(schema 0x12345678) than this SDK (protocol {VERSION}, schema {SCHEMA_HASH:#010x})" in ran.err
        ran = run("bridge", "--port", board.port, "--listen", "127.0.0.1:0")
        assert ran.code == 2
        assert f"(schema 0x12345678) than this host (protocol {VERSION}, schema" in ran.err
        assert "flash the board again" in ran.err


def test_a_link_that_is_down_says_why(board: EmulatedBoard) -> None:
    link = FirmwareLink(board.port, load_joints("aloha"))
    try:
        link.start()
        assert link.problem == ""
        board.stop()
        assert wait_until(lambda: link.problem != "" and not link.up, 5.0)
        assert wait_until(lambda: "does not exist" in link.problem or "was lost" in link.problem, 5.0), link.problem
    finally:
        link.close()


def test_a_port_in_use_and_a_silent_one_are_told_apart(board: EmulatedBoard) -> None:
    link = FirmwareLink(board.port, load_joints("aloha"))
    link.start()
    try:
        with pytest.raises(PortError, match="in use by another program"):
            identify_board(board.port)
    finally:
        link.close()
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"socket://127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(LinkError, match=r"silent for 0\.4 s"):
            identify_board(address, timeout_s=0.4)


def test_noise_is_no_board() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def babble() -> None:
            connection, _ = server.accept()
            with connection, contextlib.suppress(OSError):
                for _ in range(20):
                    connection.sendall(b"\x05garbage\x00" * 8)
                    time.sleep(0.02)

        thread = threading.Thread(target=babble)
        thread.start()
        with pytest.raises(LinkError, match="nothing readable arrives"):
            identify_board(f"socket://127.0.0.1:{server.getsockname()[1]}", timeout_s=0.3)
        thread.join()


@given(st.binary(max_size=64))
def test_any_answer_of_a_future_firmware_is_an_identity(payload: bytes) -> None:
    """Welcome may change its form: its first number says that it is another one, and nothing else is believed."""
    found = identity._identity(Frame(Welcome.ID, 0, payload), [])
    if found.schema_hash != SCHEMA_HASH:
        assert (found.protocol_version, found.state) == (None, None)
    if len(payload) >= 4:
        assert found.schema_hash == int.from_bytes(payload[:4], "little")


@given(st.sampled_from(State), st.lists(st.floats(-1, 1, width=32), min_size=2, max_size=12))
def test_an_arm_that_brakes_is_moving(state: State, positions: list[float]) -> None:
    welcome = Welcome(SCHEMA_HASH, 7, 20000, 1_000_000, 128, 1024, 1, 0)
    ticks = [
        Telemetry(tick, tick, 0, 0, 0, 0, state, 0, 255, 1, (position,)) for tick, position in enumerate(positions)
    ]
    found = identity._identity(Frame(Welcome.ID, 0, welcome.pack()), ticks)
    assert found.state == state
    assert found.moving == (len(set(positions[-10:])) > 1)
    assert found.held == (state in (State.DISARMED, State.SAFE, State.ESTOP))


def test_a_command_is_not_sent(board: EmulatedBoard) -> None:
    """An armed board stays what it is: the one who asks sends Hello, which no state of the arm hears."""
    link = FirmwareLink(board.port, load_joints("aloha"))
    link.start()
    assert wait_until(lambda: link.command(Command.ESTOP).state == State.ESTOP)
    link.close()
    assert identify_board(board.port).state == State.ESTOP
    assert identify_board(board.port).held
