"""The bridge under its real unit: the firmware runs in QEMU, behind a pseudo-terminal of the container."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import serial_relay
from robot_services import APPARATUS, RobotServices

from firmware_bridge.emulator.board import EmulatedBoard

pytestmark = [pytest.mark.real_time, pytest.mark.system]

UNIT = "pi0-edge-bridge.service"
BOARD = "/dev/pi0-edge-board"


@pytest.fixture
def board(services: RobotServices, firmware_image: Path) -> Iterator[EmulatedBoard]:
    """Plugged into the robot."""
    process_1 = services.robot.path("/").parts[2]
    with EmulatedBoard(firmware_image) as emulated:
        listen = [sys.executable, serial_relay.__file__, "listen", "5555", emulated.port]
        inside = ["/usr/bin/python3", f"{APPARATUS}/serial_relay.py", "pty", "5555", BOARD]
        with (
            subprocess.Popen(["nsenter", "-t", process_1, "-n", *listen], stdout=subprocess.PIPE) as outer,
            subprocess.Popen(
                ["nsenter", "-t", process_1, "-a", "sh", "-c", f"sleep 1; exec {' '.join(inside)}"]
            ) as inner,
        ):
            assert outer.stdout is not None and outer.stdout.readline() == b"ready\n"
            services.wait_until("a board", 15, lambda: services.robot.run(f"ls {BOARD}", check=False).returncode == 0)
            yield emulated
            inner.kill()
            outer.kill()
            services.robot.run(f"rm -f {BOARD}")


def test_it_is_active_when_the_firmware_answers_and_stays_so(services: RobotServices, board: EmulatedBoard):
    services.write_settings(bridge_arguments=("--port", BOARD, "--robot", "aloha"))
    services.robot.run(f"usermod -aG dialout pi0-edge; systemctl reset-failed; systemctl start --no-block {UNIT}")
    services.wait_until("bridge", 60, lambda: services.state(UNIT).active == "active", UNIT)
    state = services.state(UNIT)
    assert state.status == f"bridge on 127.0.0.1:50061, firmware on {BOARD}"
    facts = services.robot.run(
        f"pid=$(systemctl show -P MainPID {UNIT}); grep -E 'NoNewPrivs|CapEff|Seccomp:' /proc/$pid/status; "
        "cut -d' ' -f19 /proc/$pid/stat"
    ).stdout.split()  # a container grants no higher limits than it has itself
    assert facts == ["CapEff:", "0" * 16, "NoNewPrivs:", "1", "Seccomp:", "2", "-10"]
    before = state.restarts
    services.robot.run("sleep 12")  # longer than its watchdog
    assert (services.state(UNIT).active, services.state(UNIT).restarts) == ("active", before)
    services.robot.run(f"systemctl stop {UNIT}")
    assert services.state(UNIT).result == "success"


@pytest.mark.slow
def test_it_is_started_again_for_ever_where_no_board_is(services: RobotServices):
    services.write_settings(bridge_arguments=("--port", "/dev/no-board", "--robot", "aloha"))
    services.robot.run(f"systemctl start --no-block {UNIT}")
    try:
        services.wait_until("six starts", 120, lambda: services.state(UNIT).restarts >= 6, UNIT)
        assert services.state(UNIT).result != "start-limit-hit"
    finally:
        services.robot.run(f"systemctl stop {UNIT}")
