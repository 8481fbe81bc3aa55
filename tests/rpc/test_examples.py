"""The example clients in Python and in C++ with the real bridge and the real firmware."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from network_peers import make_peers

from firmware_bridge.bridge.server import BridgeServer
from firmware_bridge.emulator.board import EmulatedBoard

pytestmark = [pytest.mark.real_time, pytest.mark.system]

ROOT = Path(__file__).resolve().parents[2]
PYTHON_CLIENT = [sys.executable, str(ROOT / "examples" / "python" / "robot_client.py")]


@pytest.fixture(scope="module")
def peers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return make_peers(tmp_path_factory.mktemp("peers"))


@pytest.fixture(scope="module")
def board(firmware_image: Path) -> Iterator[EmulatedBoard]:
    with EmulatedBoard(firmware_image) as board:
        yield board


@pytest.fixture(params=[False, True], ids=["loopback", "tls"])
def where(request: pytest.FixtureRequest, board: EmulatedBoard, peers: dict[str, Path]) -> Iterator[list[str]]:
    """The arguments of the examples: an address, and with TLS a folder."""
    server = BridgeServer(board.port, "127.0.0.1:0", "aloha", tls=peers["server"] if request.param else None)
    server.start()
    yield [server.address, *(["--tls", str(peers["command"])] if request.param else [])]
    server.stop()


def run(client: list[str], *arguments: str) -> subprocess.CompletedProcess[str]:
    argv = [*client, *arguments]
    return subprocess.run(argv, capture_output=True, text=True, cwd=ROOT, timeout=30, check=False)


def assert_watches_and_holds(client: list[str], where: list[str]) -> None:
    watched = run(client, *where)
    assert (watched.returncode, watched.stderr) == (0, "")
    assert watched.stdout.startswith("STATE_DISARMED, 14 joints, 20 ms per tick\ntick ")
    assert len(watched.stdout.splitlines()[1].split(":")[1].split()) == 14
    held = run(client, *where, "--hold")
    assert (held.returncode, held.stderr) == (0, "")
    assert held.stdout.rstrip().endswith(": ACCEPTED")


def test_the_python_client_watches_and_holds(where: list[str]):
    assert_watches_and_holds(PYTHON_CLIENT, where)


def test_the_python_client_says_in_one_line_what_went_wrong(board: EmulatedBoard, peers: dict[str, Path]):
    server = BridgeServer(board.port, "127.0.0.1:0", "aloha", tls=peers["server"])
    server.start()
    try:
        refused = run(PYTHON_CLIENT, server.address, "--tls", str(peers["observe"]), "--hold")
    finally:
        server.stop()
    assert refused.returncode == 1
    assert refused.stdout.startswith("STATE_DISARMED")
    assert refused.stderr.startswith("error: PERMISSION_DENIED: Arm needs a certificate with the role command")
    assert len(refused.stderr.splitlines()) == 1


@pytest.mark.slow
def test_the_cpp_client_watches_and_holds(cpp_examples: Path, where: list[str]):
    assert_watches_and_holds([str(cpp_examples / "robot_client")], where)
