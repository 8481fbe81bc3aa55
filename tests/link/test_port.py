"""The error of an unusable port gives the cause and the remedy."""

import os
import pty
import socket
import time
from pathlib import Path

import pytest

from firmware_bridge.errors import LinkError, PortError
from firmware_bridge.link.port import open_stream


def test_missing_port_names_the_ports_that_exist():
    with pytest.raises(PortError, match=r"/dev/ttyNONE does not exist; (ports of this machine|this machine has no)"):
        open_stream("/dev/ttyNONE", 921600)


def test_ordinary_file_is_no_port(tmp_path: Path):
    path = tmp_path / "port"
    path.write_text("")
    with pytest.raises(PortError, match="is not a serial port"):
        open_stream(str(path), 921600)


def test_port_without_permission_names_the_group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    _, slave = pty.openpty()
    monkeypatch.setattr(os, "access", lambda *_: False)  # root, as in containers, may open everything
    with pytest.raises(PortError, match="usermod -aG dialout"):
        open_stream(os.ttyname(slave), 921600)


def test_busy_port_is_refused():
    _, slave = pty.openpty()
    first = open_stream(os.ttyname(slave), 921600)
    with pytest.raises(PortError, match="in use by another program"):
        open_stream(os.ttyname(slave), 921600)
    first.close()
    open_stream(os.ttyname(slave), 921600).close()


@pytest.mark.parametrize("url", ["http://example", "socket://127.0.0.1:1", "socket://"])
def test_address_where_nothing_answers(url: str):
    with pytest.raises(PortError):
        open_stream(url, 921600)


def test_socket_port_carries_bytes_both_ways_and_reports_its_end():
    with socket.create_server(("127.0.0.1", 0)) as server:
        stream = open_stream(f"socket://127.0.0.1:{server.getsockname()[1]}", 921600)
        board, _ = server.accept()
        stream.write(b"to the board", 1.0)
        assert board.recv(100) == b"to the board"
        board.sendall(b"to the host")
        assert stream.read(1.0) == b"to the host"
        assert stream.read(0.01) == b""
        board.close()
        with pytest.raises(LinkError, match="closed at the far end"):
            stream.read(1.0)
        stream.close()


def test_port_that_vanishes_is_an_error():
    master, slave = pty.openpty()
    stream = open_stream(os.ttyname(slave), 921600)
    os.close(slave)
    os.close(master)
    with pytest.raises(LinkError):
        stream.read(1.0)
    stream.close()


def test_stalled_line_does_not_block_for_ever():
    _, slave = pty.openpty()
    stream = open_stream(os.ttyname(slave), 921600)
    started = time.monotonic()
    with pytest.raises(LinkError, match="stands still"):
        stream.write(bytes(1 << 20), 0.05)
    assert time.monotonic() - started < 2.0
    stream.close()
