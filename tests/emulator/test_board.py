"""The emulated board runs the real image in real time, and its errors name what is missing."""

import itertools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from motion_audit import ALOHA, TICK_S, assert_no_watchdog_reset, executed_ticks, wait_until

from firmware_bridge.emulator import board as emulator
from firmware_bridge.emulator.board import EmulatedBoard
from firmware_bridge.errors import EmulatorError, ProtocolError
from firmware_bridge.link.framing import FrameDecoder, LineCounters
from firmware_bridge.link.link import FirmwareLink
from firmware_bridge.link.port import open_stream
from firmware_bridge.link.session import LinkSession, shake_hands
from firmware_bridge.robot import load_joints
from pi0_edge.protos.serial_link import Ping, State

pytestmark = pytest.mark.real_time


@pytest.fixture
def board(firmware_image: Path, tmp_path: Path) -> Iterator[EmulatedBoard]:
    with EmulatedBoard(firmware_image, record=tmp_path / "record") as board:
        yield board


def test_missing_image_names_the_command(tmp_path: Path):
    with pytest.raises(EmulatorError, match="make firmware"):
        EmulatedBoard(tmp_path / "firmware.elf").start()


def test_missing_emulator_names_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(EmulatorError, match=r"apt-get install .*qemu-system-arm"):
        EmulatedBoard(tmp_path / "firmware.elf").start()


def test_invalid_image_is_an_error_and_leaves_no_process(firmware_image: Path, tmp_path: Path):
    image = tmp_path / "firmware.elf"
    image.write_bytes(b"\x7fELF but not really")
    board = EmulatedBoard(image)
    with pytest.raises(EmulatorError, match="the emulated board died: qemu"):
        board.start()
    assert board._children == []


def test_ticks_keep_the_period_by_the_boards_own_counter(board: EmulatedBoard, tmp_path: Path):
    time.sleep(1.5)
    board.stop()
    ticks = executed_ticks(tmp_path / "record")
    numbers = np.array([tick.tick for tick in ticks])
    seconds = np.array([tick.counter for tick in ticks]) / 25e6
    assert len(ticks) > 40
    assert np.all(np.diff(numbers) > 0)
    # Late is the emulator's scheduling; early, or drifting away from the tick number, would be the firmware's mistake.
    lateness = seconds - seconds[0] - (numbers - numbers[0]) * TICK_S
    assert np.all(lateness - lateness.min() < 5 * TICK_S)
    assert np.median(np.abs(np.diff(seconds) - TICK_S)) < 0.005


def test_firmware_for_other_joints_is_refused(board: EmulatedBoard):
    with pytest.raises(ProtocolError, match="drives 14 joints, robot 'so101' has 6"):
        FirmwareLink(board.port, load_joints("so101")).start()


def test_link_recovers_after_a_reset_of_the_board(board: EmulatedBoard):
    link = FirmwareLink(board.port, ALOHA)
    link.start()
    try:
        assert wait_until(lambda: link.telemetry is not None and link.telemetry.tick > 20)
        before = link.clock
        board.reset()
        assert wait_until(lambda: link.up and link.clock is not before and link.telemetry is not None)
        assert link.telemetry is not None
        assert link.telemetry.tick < 20 + 3 / TICK_S
        assert link.telemetry.state == State.DISARMED
    finally:
        link.close()


@pytest.mark.slow
def test_flood_of_requests_damages_no_answer_and_hangs_nothing(board: EmulatedBoard, tmp_path: Path):
    session = LinkSession(open_stream(board.port, 921600), LineCounters())
    shake_hands(session, ALOHA, 3.0)
    deadline = time.monotonic() + 4.0
    for ping_id in itertools.count():
        if time.monotonic() > deadline:
            break
        session.send(Ping(ping_id, 0))
        session.receive(0.0)
        time.sleep(0.0005)  # receiving and sending overlap on the board
    session.close()
    decoder = FrameDecoder()
    decoder.feed((tmp_path / "record").read_bytes())
    assert decoder.counters.frames > 1000
    assert (decoder.counters.crc_errors, decoder.counters.framing_errors) == (0, 0)
    assert_no_watchdog_reset(executed_ticks(tmp_path / "record"))


def test_death_of_qemu_is_reported(board: EmulatedBoard):
    board.check_alive()
    os.kill(board._children[0].pid, signal.SIGKILL)
    board._children[0].wait()
    with pytest.raises(EmulatorError, match="qemu ended with -9"):
        board.check_alive()


def test_qemu_runs_on_one_cpu(board: EmulatedBoard):
    assert len(os.sched_getaffinity(board._children[0].pid)) == 1
    assert emulator.MACHINE == "lm3s6965evb"


def test_command_runs_a_board_until_a_signal_stops_it(firmware_image: Path):
    assert firmware_image.is_file()
    argv = [sys.executable, "-m", "firmware_bridge.emulator.board"]
    cwd = Path(__file__).parents[2]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=cwd) as command:
        assert command.stdout is not None
        port = command.stdout.readline().strip()
        assert Path(port).exists()
        command.terminate()
        _, errors = command.communicate(timeout=10)
    assert (command.returncode, errors) == (0, "")
    assert wait_until(lambda: not Path(port).exists())
