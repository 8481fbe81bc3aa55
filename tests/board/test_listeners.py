"""Who listens on a port of this computer."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from pi0_edge.board.listeners import listening_processes


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
def test_this_process_listens_and_no_longer(family: socket.AddressFamily):
    with socket.socket(family) as listener:
        listener.bind(("127.0.0.1" if family == socket.AF_INET else "::1", 0))
        port = listener.getsockname()[1]
        assert os.getpid() not in listening_processes(port)  # bound, and not listening yet
        listener.listen()
        assert listening_processes(port) == (os.getpid(),)
    assert listening_processes(port) == ()


def test_another_process_is_found():
    code = "import socket; s = socket.create_server(('127.0.0.1', 0)); print(s.getsockname()[1], flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert listening_processes(int(child.stdout.readline())) == (child.pid,)
        child.communicate(b"\n")


def test_a_computer_that_does_not_say_has_no_listener(tmp_path: Path):
    assert listening_processes(80, tmp_path) == ()
    (tmp_path / "proc/net").mkdir(parents=True)
    (tmp_path / "proc/net/tcp").write_text("  sl  local_address rem_address\n garbage\n   0: 00000000:0050 0 0A\n")
    assert listening_processes(80, tmp_path) == ()
