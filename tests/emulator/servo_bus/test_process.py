"""The process of servo buses: its sockets, its control, its start and its end."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from firmware_bridge.emulator.servo_bus.arms import aloha_bus, so101_bus
from firmware_bridge.emulator.servo_bus.child import ServoBusProcess
from firmware_bridge.emulator.servo_bus.dynamixel_packets import Instruction, packet, status
from firmware_bridge.emulator.servo_bus.settings import BusSettings
from firmware_bridge.errors import EmulatorError

pytestmark = pytest.mark.real_time

PING = packet(1, Instruction.PING, b"")
PONG = status(1, 0, struct.pack("<HB", 1120, 47))
ROOT = Path(__file__).resolve().parents[3]


def connected(path: str) -> socket.socket:
    link = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    link.settimeout(5.0)
    link.connect(path)
    return link


def take(link: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size and (more := link.recv(size - len(data))):
        data += more
    return data


def on_socket(bus: BusSettings, path: Path, connection: str = "server") -> BusSettings:
    return dataclasses.replace(bus, connection=connection, socket=str(path))


def test_a_bus_serves_one_peer_after_the_other(tmp_path: Path) -> None:
    with ServoBusProcess([on_socket(aloha_bus("left"), tmp_path / "left")]) as process:
        assert process.paths == {"left": str(tmp_path / "left")}
        for _ in range(2):
            with connected(process.paths["left"]) as link:
                link.sendall(PING)
                assert take(link, len(PONG)) == PONG
                link.sendall(PING + PING[:4])


def test_a_bus_connects_to_a_socket_and_ends_with_it(tmp_path: Path) -> None:
    server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    server.bind(str(tmp_path / "uart"))
    server.listen()
    server.settimeout(5.0)
    with server, ServoBusProcess([on_socket(aloha_bus("left"), tmp_path / "uart", "client")]) as process:
        link, _ = server.accept()
        with link:
            link.settimeout(5.0)
            link.sendall(PING)
            assert take(link, len(PONG)) == PONG
        until = time.monotonic() + 5.0
        with pytest.raises(EmulatorError, match="died with 0"):
            while time.monotonic() < until:
                process.check_alive()
                time.sleep(0.01)


def test_a_socket_that_is_not_there_is_named(tmp_path: Path) -> None:
    process = ServoBusProcess([on_socket(aloha_bus("left"), tmp_path / "nowhere", "client")])
    with pytest.raises(EmulatorError, match=r"nowhere cannot be reached: .*No such file"):
        process.start()
    assert process.paths == {}


def test_a_host_of_another_speed_is_not_heard(tmp_path: Path) -> None:
    slow = dataclasses.replace(aloha_bus("left"), baud=57_600)
    with ServoBusProcess([on_socket(slow, tmp_path / "left")]) as process:
        with connected(process.paths["left"]) as link:
            link.sendall(PING)
            link.settimeout(0.2)
            with pytest.raises(TimeoutError):
                link.recv(100)
        assert process.control.state()["left"]["counters"]["unheard_bytes"] == len(PING)


@pytest.fixture(scope="module")
def both() -> Iterator[ServoBusProcess]:
    with ServoBusProcess([aloha_bus("left"), so101_bus("arm")]) as process:
        yield process


def test_every_command_reaches_its_bus(both: ServoBusProcess) -> None:
    control = both.control
    control.drop_replies("left", 0.5)
    control.drop_replies("left", 0.0)
    control.corrupt_replies("left", 0.5, servo=1)
    control.corrupt_replies("left", 0.0)
    control.duplicate_id("left", 1)
    control.duplicate_id("left", 1, present=False)
    control.move_by_hand("left", 2, 1500)
    control.temperature("left", 6, 60.0)
    control.obstacle("left", 1, 3000)
    control.obstacle("left", 1, None)
    control.push("left", 1, 0.1)
    control.overload("arm", 3)
    control.connect("arm", 2, False)
    control.lose_torque("arm", 1)
    control.supply("arm", 11.0)
    time.sleep(0.1)
    state = control.state()
    left, arm = state["left"]["servos"], state["arm"]["servos"]
    assert (left["2"]["position"], left["3"]["position"]) == (1500, 1500)
    assert left["6"]["celsius"] == pytest.approx(60.0, abs=0.1)
    assert arm["3"]["error"] == 0x20
    assert not arm["2"]["connected"]
    assert state["arm"]["volts"] == pytest.approx(11.0, abs=0.1)
    assert state["left"]["volts"] == pytest.approx(12.0, abs=0.1)


def test_a_refused_command_says_why(both: ServoBusProcess) -> None:
    with pytest.raises(EmulatorError, match="has no servo 8; it has"):
        both.control.connect("arm", 8, True)


def test_a_killed_process_is_noticed() -> None:
    with ServoBusProcess([so101_bus("arm")]) as process:
        os.kill(process.pid, signal.SIGKILL)
        until = time.monotonic() + 5.0
        with pytest.raises(EmulatorError, match="died with -9"):
            while time.monotonic() < until:
                process.check_alive()
                time.sleep(0.01)
        with pytest.raises(EmulatorError, match="does not answer"):
            process.control.state()
    with pytest.raises(EmulatorError, match="not started"):
        _ = process.pid


def test_the_command_serves_a_known_arm_until_it_is_asked_to_end() -> None:
    argv = [sys.executable, "-m", "firmware_bridge.emulator.servo_bus", "--arm", "aloha"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, cwd=ROOT) as process:
        assert process.stdout is not None
        said = json.loads(process.stdout.readline())
        assert set(said["paths"]) == {"left", "right"}
        assert Path(said["control"]).is_socket()
        process.terminate()
        assert process.wait(5.0) == 0
        assert not Path(said["control"]).exists()


def test_the_command_names_a_mistake(tmp_path: Path) -> None:
    document = tmp_path / "buses.yaml"
    document.write_text("buses: [{name: arm, servos: [{id: 1, model: STS999}]}]")
    argv = [sys.executable, "-m", "firmware_bridge.emulator.servo_bus", "--buses", str(document)]
    ran = subprocess.run(argv, capture_output=True, text=True, cwd=ROOT, check=False)
    assert ran.returncode == 1
    assert "error: servo bus 'arm': servo 1: model 'STS999' is not known" in ran.stderr
