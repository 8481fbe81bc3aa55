"""What docs/run.md says under "Try it without a robot", typed as it stands there."""

from __future__ import annotations

import importlib.util
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from rtsp_server import require_rtsp_server

ROOT = Path(__file__).resolve().parents[2]
PORTS = (50061, 8554)
READY_S = 90.0

pytestmark = [
    pytest.mark.slow,
    pytest.mark.real_time,
    pytest.mark.skipif(shutil.which("qemu-system-arm") is None, reason="qemu-system-arm is not installed"),
    pytest.mark.skipif(importlib.util.find_spec("gym_aloha") is None, reason="the extra [sim] is not installed"),
]


def documented() -> list[list[str]]:
    """The commands `pi0-edge` of the section, in their order."""
    section = (ROOT / "docs" / "run.md").read_text().split("## Try it without a robot\n")[1].split("\n## ")[0]
    blocks = re.findall(r"```bash\n(.*?)```", section, re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines() if line.startswith("pi0-edge ")]
    return [[sys.executable, "-u", "-m", "pi0_edge.cli", *shlex.split(line)[1:]] for line in lines]


def require_free_ports() -> None:
    for port in PORTS:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError as error:
                pytest.skip(f"port {port} of the documented command is in use here ({error})")


@contextmanager
def first_terminal(command: list[str], folder: Path, environment: dict[str, str]) -> Iterator[Path]:
    """The command in the background until the context ends, by SIGTERM; gives the file with what it says."""
    screen = folder / "screen.txt"
    with screen.open("w") as shown:
        process = subprocess.Popen(
            command, cwd=folder, env=environment, stdin=subprocess.PIPE, stdout=shown, stderr=subprocess.STDOUT
        )
        try:
            deadline = time.monotonic() + READY_S
            while "lies on the table" not in screen.read_text():
                assert process.poll() is None and time.monotonic() < deadline, screen.read_text()
                time.sleep(0.1)
            yield screen
        finally:
            process.send_signal(signal.SIGTERM)
            assert process.wait(30) == 0, screen.read_text()


def test_the_documented_commands_transfer_a_cube_and_replay_it(firmware_image: Path, tmp_path: Path):
    require_rtsp_server()
    require_free_ports()
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    simulate, run, replay = documented()
    with first_terminal(simulate, tmp_path, environment) as screen:
        ended = subprocess.run(run, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        said = screen.read_text()
        printed = re.search(r"^ +(pi0-edge run .*)$", said, re.MULTILINE)
        assert printed is not None
        assert set(shlex.split(printed[1])[1:]) <= set(run), "the screen and the page name different commands"
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "cube 0 transferred" in said, ended.stdout + said
    again = subprocess.run(replay, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert again.returncode == 0 and "bit-exact" in again.stdout, again.stdout + again.stderr
