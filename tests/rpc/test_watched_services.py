"""Policy server and bridge as processes that systemd watches: ready when they answer, and silent when they hang."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from notify_socket import NotifySocket
from policy_builders import write_checkpoint

from firmware_bridge.emulator.board import EmulatedBoard

pytestmark = [pytest.mark.real_time, pytest.mark.system]

ROOT = Path(__file__).resolve().parents[2]
WATCHDOG_S = 0.6
ALIVE = "WATCHDOG=1"


@pytest.fixture
def systemd(tmp_path: Path) -> Iterator[NotifySocket]:
    made = NotifySocket(tmp_path / "notify")
    yield made
    made.close()


@contextmanager
def service(systemd: NotifySocket, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    argv = [sys.executable, "-m", "pi0_edge.cli", *arguments]
    with subprocess.Popen(argv, cwd=ROOT, env=systemd.environment(WATCHDOG_S), stdout=subprocess.PIPE) as process:
        try:
            yield process
        finally:
            process.kill()


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


def test_a_policy_server_is_ready_when_it_answers_and_says_so_until_it_ends(systemd: NotifySocket, tmp_path: Path):
    listen = f"127.0.0.1:{free_port()}"
    checkpoint = write_checkpoint(tmp_path / "checkpoint")
    with service(systemd, "serve", "--checkpoint", str(checkpoint), "--listen", listen, "--threads", "1") as process:
        lines = systemd.wait_for("READY=1", 60, lambda: process.poll() is None)
        with socket.create_connection(("127.0.0.1", int(listen.rpartition(":")[2])), 1):
            pass
        assert [line for line in lines if line.startswith("STATUS=")][-1] == f"STATUS=policy on {listen}"
        assert "EXTEND_TIMEOUT_USEC=30000000" in lines
        assert systemd.count(ALIVE, 2) >= 6
        process.send_signal(signal.SIGSTOP)
        assert systemd.count(ALIVE, 1) <= 1
        process.send_signal(signal.SIGCONT)
        process.terminate()
        assert process.wait(20) == 0
        assert "STOPPING=1" in [line for message in systemd.messages() for line in message]


def test_a_bridge_is_ready_when_the_board_answers_and_lives_on_when_it_is_unplugged(
    systemd: NotifySocket, firmware_image: Path
):
    with EmulatedBoard(firmware_image) as board:
        arguments = ("--port", board.port, "--listen", "127.0.0.1:0")
        with service(systemd, "bridge", *arguments) as process:
            systemd.wait_for("READY=1", 30, lambda: process.poll() is None)
            assert systemd.count(ALIVE, 2) >= 4
            board.stop()
            assert systemd.count(ALIVE, 4) >= 8
            process.terminate()
            assert process.wait(20) == 0
