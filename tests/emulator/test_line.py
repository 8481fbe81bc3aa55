"""The wire process sends at the baud rate, looks like a serial device to the host, and applies only the set faults."""

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from firmware_bridge.emulator.child_process import start_child, stop_child
from firmware_bridge.emulator.line_control import LineControl
from firmware_bridge.emulator.line_direction import FaultInjector, LineDirection, LineFaults
from firmware_bridge.errors import EmulatorError
from firmware_bridge.link.port import SerialStream, open_stream
from pi0_edge.errors import ConfigError

pytestmark = pytest.mark.real_time

BAUD = 921600


def random_bytes(count: int, seed: int = 0) -> bytes:
    return np.random.default_rng(seed).integers(0, 256, count, dtype=np.uint8).tobytes()


@given(st.lists(st.binary(max_size=300), max_size=10))
def test_line_without_faults_changes_nothing(parts: list[bytes]):
    injector = FaultInjector(0)
    assert b"".join(injector.apply(part) for part in parts) == b"".join(parts)
    assert injector.damaged == 0


def test_bits_flip_at_the_rate_that_was_asked_for():
    data = random_bytes(200_000)
    damaged = FaultInjector(1, LineFaults(bit_error_rate=1e-3)).apply(data)
    flips = np.unpackbits(np.frombuffer(data, np.uint8) ^ np.frombuffer(damaged, np.uint8)).sum()
    assert int(flips) == pytest.approx(1600, rel=0.15)


@pytest.mark.parametrize(("rate", "sign"), [("byte_drop_rate", -1), ("byte_duplicate_rate", 1)])
def test_bytes_are_lost_or_doubled_at_their_rate(rate: str, sign: int):
    injector = FaultInjector(2, LineFaults().updated({rate: 0.01}))
    assert (len(injector.apply(random_bytes(100_000))) - 100_000) * sign == injector.damaged
    assert injector.damaged == pytest.approx(1000, rel=0.2)


def test_same_seed_gives_same_faults():
    faults = LineFaults(bit_error_rate=1e-3, byte_drop_rate=1e-3, frame_swap_rate=0.1)
    first, second = FaultInjector(3, faults), FaultInjector(3, faults)
    assert first.apply(random_bytes(5000)) == second.apply(random_bytes(5000))


def test_frames_are_doubled_and_swapped_whole():
    frames = [bytes([index + 1]) * 5 + b"\0" for index in range(200)]
    injector = FaultInjector(4, LineFaults(frame_duplicate_rate=0.1, frame_swap_rate=0.1))
    out = b"".join(injector.apply(bytes([byte])) for byte in b"".join(frames))
    injector.faults = LineFaults()
    out += injector.apply(b"")
    arrived = [frame + b"\0" for frame in out.split(b"\0")[:-1]]
    assert set(arrived) == set(frames)
    assert len(arrived) > 200
    assert arrived != sorted(arrived, key=frames.index)


@pytest.mark.parametrize("changes", [{"bit_error_rate": 2.0}, {"rust": 0.1}, {"byte_drop_rate": "often"}])
def test_impossible_faults_are_refused(changes: dict[str, object]):
    with pytest.raises(ConfigError):
        LineFaults().updated(changes)


def test_bytes_leave_at_the_baud_rate():
    direction = LineDirection(BAUD, FaultInjector(0))
    data, now, out = random_bytes(9216), 1.0, b""
    direction.enter(now, data)
    while direction.waiting:
        now += 0.001
        due = direction.due(now)
        direction.sent(len(due))
        out += due
    assert out == data
    assert now - 1.0 == pytest.approx(0.1, abs=0.012)


def test_an_exact_line_saves_nothing_during_a_pause():
    direction = LineDirection(BAUD, FaultInjector(0), exact=True)
    direction.enter(50.0, random_bytes(200))
    assert direction.due(50.0) == b""
    on_wire_s = 200 * 10 / BAUD
    assert direction.wait_s(50.0) == pytest.approx(on_wire_s)
    assert len(direction.due(50.0 + on_wire_s / 2)) in (99, 100)
    direction.sent(100)
    assert direction.wait_s(50.0 + on_wire_s / 2) == pytest.approx(on_wire_s / 2)
    usual = LineDirection(BAUD, FaultInjector(0))
    usual.enter(50.0, random_bytes(2000))
    assert len(usual.due(50.0)) == 921  # ten milliseconds


class Bench:
    """A wire process between a fake board and the test."""

    def __init__(self, directory: Path) -> None:
        server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        server.bind(str(directory / "serial"))
        server.listen()
        argv = [sys.executable, "-m", "firmware_bridge.emulator.line", "--board", str(directory / "serial")]
        argv += ["--control", str(directory / "control")]
        self.process = start_child(argv, log=directory / "log", stdout=subprocess.PIPE)
        assert self.process.stdout is not None
        self.port: str = json.loads(self.process.stdout.readline())["port"]
        self.board, _ = server.accept()
        self.board.settimeout(2.0)
        self.control = LineControl(directory / "control")
        server.close()

    def close(self) -> None:
        self.board.close()
        stop_child(self.process)


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(tmp_path)
    yield bench
    bench.close()


def read_for(stream: SerialStream, seconds: float) -> bytes:
    out, end = b"", time.monotonic() + seconds
    while (rest := end - time.monotonic()) > 0:
        out += stream.read(rest)
    return out


def test_bytes_pass_in_both_directions(bench: Bench):
    with contextlib.closing(open_stream(bench.port, BAUD)) as host:
        time.sleep(0.05)
        bench.board.sendall(b"telemetry\x00\x11\x13\r\n\xff")
        assert read_for(host, 0.2) == b"telemetry\x00\x11\x13\r\n\xff"
        host.write(b"\x03\x04 chunk \x00\n", 1.0)
        time.sleep(0.1)
        assert bench.board.recv(100) == b"\x03\x04 chunk \x00\n"


def test_board_output_is_read_while_no_client_listens_and_old_bytes_are_dropped(bench: Bench):
    bench.board.sendall(bytes(100_000))  # would block for ever if the wire did not read
    time.sleep(1.2)
    with contextlib.closing(open_stream(bench.port, BAUD)) as host:
        time.sleep(0.05)
        bench.board.sendall(b"fresh")
        assert read_for(host, 0.2) == b"fresh"


def test_a_cut_loses_bytes_and_a_stall_delays_them(bench: Bench):
    with contextlib.closing(open_stream(bench.port, BAUD)) as host:
        time.sleep(0.05)
        bench.control.cut(60.0)
        bench.board.sendall(b"lost")
        assert read_for(host, 0.1) == b""
        bench.control.cut(0.0)
        bench.control.stall(0.3)
        bench.board.sendall(b"late")
        assert read_for(host, 0.1) == b""
        assert read_for(host, 0.5) == b"late"
        assert bench.control.counts()["to_host"]["lost"] == 4


def test_invalid_control_requests_are_refused(bench: Bench):
    with pytest.raises(EmulatorError, match="unknown line fault 'gremlins'"):
        bench.control.set_faults(gremlins=0.5)
    with pytest.raises(EmulatorError, match="sideways"):
        bench.control.cut(1.0, "sideways")


def test_wire_ends_with_the_board(bench: Bench):
    bench.board.close()
    assert bench.process.wait(3.0) == 0


def test_child_dies_with_its_parent(tmp_path: Path):
    script = (
        "import sys, pathlib, time; from firmware_bridge.emulator.child_process import start_child\n"
        "child = start_child(['sleep', '60'], log=pathlib.Path(sys.argv[1]))\n"
        "print(child.pid, flush=True); time.sleep(60)"
    )
    argv = [sys.executable, "-c", script, str(tmp_path / "log")]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, cwd=Path(__file__).parents[2]) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        os.kill(child, 0)
        parent.kill()
    deadline = time.monotonic() + 3.0
    while is_running(child) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not is_running(child)


def is_running(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    return False
