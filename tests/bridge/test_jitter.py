"""The jitter test: planted stalls are found, ticks of a real board are read, and the thread is the bridge's."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from firmware_bridge.bridge.jitter import COLUMNS, Cyclictest, JitterResult, TickJitter, cyclictest, measure_jitter
from firmware_bridge.bridge.server import BridgeServer
from firmware_bridge.bridge.thread_settings import ThreadSettings
from firmware_bridge.bridge.wake_ups import command, wake_up_lateness
from firmware_bridge.client import BridgeClient
from firmware_bridge.emulator.board import EmulatedBoard
from firmware_bridge.errors import BridgeError, LinkError
from pi0_edge.cli.bench_jitter import jitter
from pi0_edge.doctor.bridge_process import read_process
from pi0_edge.errors import BenchError, ConfigError

pytestmark = [pytest.mark.real_time, pytest.mark.system]

ROOT = Path(__file__).resolve().parents[2]
STALL_S = 0.1
HZ, PERIOD_US = 25_000_000, 20_000
NO_PROCESSOR = ThreadSettings(cpus=frozenset({4095}))


def result_of(lateness_us: list[int], interval_us: int = 1000) -> JitterResult:
    return JitterResult(interval_us, ThreadSettings(), np.array(lateness_us, np.int64) * 1000)


def may(settings: ThreadSettings) -> bool:
    """Whether a process of this user may have them."""
    code = "import sys, json; from firmware_bridge.bridge.thread_settings import ThreadSettings as T; "
    code += f"T.from_dict(json.loads('{json.dumps(settings.to_dict())}')).apply()"
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, check=False).returncode == 0


def settings_of(argv: list[str]) -> ThreadSettings:
    """That a measuring process had."""
    ran = subprocess.run(argv, capture_output=True, cwd=ROOT, check=True)
    return ThreadSettings.from_dict(json.loads(ran.stdout.partition(b"\n")[0]))


def test_every_wake_up_is_counted_and_told():
    result = measure_jitter(1.0)
    assert len(result.lateness_ns) == 1000
    assert (result.lateness_ns > 0).all(), "a thread went on before it was due"
    assert sum(result.histogram.values()) == sum(count for _, count in result.histogram_rows()) == 1000
    told = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert told["wake_ups_us"]["n"] == 1000
    assert told["wake_ups_us"]["p50"] <= told["wake_ups_us"]["p90"] <= told["wake_ups_us"]["max"]
    assert told["wake_ups_us"]["p99.9"] is None, "1000 samples do not carry it"
    (row,) = result.rows()
    assert len(row) == len(COLUMNS) and "not enough: 1000 of" in str(row[-2])
    assert result.settings.cpus == os.sched_getaffinity(0)


def test_a_process_that_stands_still_is_late_at_every_due_time_of_the_stall():
    child = subprocess.Popen(command(700, 1000, ThreadSettings()), stdout=subprocess.PIPE, cwd=ROOT)
    assert child.stdout is not None
    had = ThreadSettings.from_dict(json.loads(child.stdout.readline()))
    time.sleep(0.2)
    child.send_signal(signal.SIGSTOP)
    time.sleep(STALL_S)
    child.send_signal(signal.SIGCONT)
    result = JitterResult(1000, had, np.frombuffer(child.communicate()[0], np.int64))
    at_s, late_us = max(result.worst(), key=lambda one: one[1])
    assert late_us >= STALL_S * 1e6 * 0.95
    assert 0.1 < at_s < 0.6
    first = round(at_s / 1e-3)
    shrinking = result.lateness_ns[first : first + 50]
    assert (shrinking > STALL_S * 1e9 * 0.45).all(), "due times within the stall were left out"


def test_a_thread_that_holds_the_interpreter_makes_the_other_late():
    found: list[float] = []
    measuring = threading.Thread(target=lambda: found.extend(wake_up_lateness(600, 1000)))
    measuring.start()
    time.sleep(0.15)
    began = time.monotonic_ns()
    sum(range(8_000_000))  # one call of C code, which does not let go of the interpreter
    held_ns = time.monotonic_ns() - began
    measuring.join()
    assert max(found) > 0.5 * held_ns > 10e6


def test_a_stall_is_one_of_the_worst_and_not_a_hundred():
    late = [60] * 500
    late[100:200] = range(100_000, 0, -1000)
    late[300] = 900
    assert result_of(late).worst(2) == [(0.1, 100_000.0), (0.3, 900.0)]


@given(st.lists(st.integers(0, 2_000_000), min_size=2, max_size=200))
def test_histogram_and_steps_hold_every_wake_up(late: list[int]):
    result = result_of(late)
    assert sorted(late) == [us for us, count in result.histogram.items() for _ in range(count)]
    assert sum(count for _, count in result.histogram_rows()) == len(late)
    assert max(us for _, us in result.worst()) == max(late)


@given(
    st.lists(st.integers(0, 400_000), min_size=2, max_size=60),
    st.integers(0, 2**31),
    st.integers(0, 2**60),
)
def test_planted_delays_of_ticks_are_found_wherever_the_count_stands(delays: list[int], tick: int, counter: int):
    period = HZ * PERIOD_US // 1_000_000
    ticks = [(tick + k, counter + k * period + delay) for k, delay in enumerate(delays)]
    found = TickJitter.of(ticks, HZ, PERIOD_US)
    assert found.late.count == len(delays)
    assert found.late.max_ms == pytest.approx((max(delays) - min(delays)) / HZ * 1e3)
    periods = [20.0 + (b - a) / HZ * 1e3 for a, b in itertools.pairwise(delays)]
    assert (found.shortest_ms, found.longest_ms) == pytest.approx((min(periods), max(periods)))


def test_lost_telemetry_is_no_long_period_and_a_restart_begins_anew():
    period = HZ // 50
    lost = [(k, k * period) for k in (*range(10), *range(13, 20))]
    found = TickJitter.of(lost, HZ, PERIOD_US)
    assert (found.missing, found.longest_ms, found.late.max_ms) == (3, 20.0, 0.0)
    restarted = [(90, 90 * period), (91, 91 * period + 9), (0, 0), (1, period), (2, 2 * period)]
    found = TickJitter.of(restarted, HZ, PERIOD_US)
    assert (found.late.count, found.late.max_ms) == (3, 0.0)
    with pytest.raises(LinkError, match="consecutive"):
        TickJitter.of([(1, 1), (5, 9)], HZ, PERIOD_US)


def test_what_cannot_be_measured_is_refused():
    with pytest.raises(BenchError, match="at least two intervals"):
        measure_jitter(0.001)
    with pytest.raises(BenchError, match="at least two intervals"):
        measure_jitter(1.0, 0)
    with pytest.raises(BenchError, match=r"4095.*doctor --real-time"):
        measure_jitter(0.01, started_with=NO_PROCESSOR)
    for niceness, priority in ((0, 100), (0, -1), (-21, 0)):
        with pytest.raises(ConfigError, match="give"):
            ThreadSettings(niceness, priority)


def test_the_thread_has_what_it_was_started_with():
    wanted = ThreadSettings(priority=5, cpus=frozenset({max(os.sched_getaffinity(0))}))
    if not may(wanted):
        pytest.skip("SCHED_FIFO is not allowed to this user")
    had = measure_jitter(0.05, started_with=wanted).settings
    assert (had.priority, had.cpus) == (wanted.priority, wanted.cpus)


def test_memory_is_locked_where_its_limit_is_none_and_only_there():
    without = ["setpriv", "--bounding-set=-ipc_lock", "--inh-caps=-ipc_lock", "prlimit", f"--memlock={2**23}"]
    assert settings_of([*without, *command(2, 1000, ThreadSettings())]).lock_memory is False
    if not may(ThreadSettings(lock_memory=True)):
        pytest.skip("this user may not lock all memory")
    assert settings_of(command(2, 1000, ThreadSettings())).lock_memory is True


@given(st.integers(-20, 19), st.integers(0, 99), st.frozensets(st.integers(0, 63)), st.booleans())
def test_settings_come_back_from_json(niceness: int, priority: int, cpus: frozenset[int], lock: bool):
    settings = ThreadSettings(niceness, priority, cpus, lock)
    assert ThreadSettings.from_dict(json.loads(json.dumps(settings.to_dict()))) == settings


def test_cyclictest_is_read_as_it_prints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    program = tmp_path / "cyclictest"
    monkeypatch.setenv("PATH", str(tmp_path))
    assert cyclictest(1.0, 1000, ThreadSettings()) is None
    line = "T: 0 (22598) P:50 I:1000 C:    999 Min:     10 Act:   19 Avg:   64 Max:    1159"
    program.write_text(f'#!/bin/sh\necho "$*" > {tmp_path}/given\necho "# /dev/cpu_dma_latency"\necho "{line}"\n')
    program.chmod(0o755)
    assert cyclictest(1.0, 500, ThreadSettings(priority=50, cpus=frozenset({1}))) == Cyclictest(999, 10, 64, 1159)
    given_options = (tmp_path / "given").read_text()
    assert "--interval=500" in given_options and "--priority=50" in given_options and "--affinity=1" in given_options
    program.write_text("#!/bin/sh\necho could not set the policy >&2\nexit 1\n")
    with pytest.raises(BenchError, match="could not set the policy"):
        cyclictest(1.0, 1000, ThreadSettings())


def test_cyclictest_measures_the_same_thing():
    if shutil.which("cyclictest") is None:
        pytest.skip("cyclictest is not installed (rt-tests)")
    result = measure_jitter(1.0, with_cyclictest=True)
    assert result.cyclictest is not None
    assert 0.5 * 1000 <= result.cyclictest.cycles <= 1001, "it skips due times after a stall"
    assert result.cyclictest.min_us <= result.cyclictest.mean_us <= result.cyclictest.max_us
    assert [row[0] for row in result.rows()] == ["thread of the host", "cyclictest, afterwards"]


@pytest.fixture(scope="module")
def board(firmware_image: Path) -> Iterator[EmulatedBoard]:
    with EmulatedBoard(firmware_image) as board:
        yield board


def test_ticks_of_the_firmware_are_measured_beside_the_thread(board: EmulatedBoard):
    server = BridgeServer(board.port, "127.0.0.1:0", "aloha")
    server.start()
    try:
        with BridgeClient(server.address, "jitter") as client:
            client.wait_ready()
            result = measure_jitter(1.0, bridge=client)
        ran = run_command("--seconds", "0.5", "--bridge", server.address, "--json")
    finally:
        server.stop()
    assert result.ticks is not None
    assert result.ticks.late.count >= 40
    assert (result.ticks.period_ms, result.ticks.counter_hz) == (20.0, HZ)
    assert result.ticks.shortest_ms <= 20.0 <= result.ticks.longest_ms
    assert "emulator" in result.to_dict()["ticks"]["remark"]
    assert [row[0] for row in result.rows()] == ["thread of the host", "ticks of the firmware"]
    told = json.loads(ran.splitlines()[-1])
    assert told["ticks"]["late_us"]["n"] > 15 and told["wake_ups_us"]["n"] == 500


def test_a_bridge_that_goes_away_is_told_as_that(board: EmulatedBoard):
    server = BridgeServer(board.port, "127.0.0.1:0", "aloha")
    server.start()
    with BridgeClient(server.address, "jitter") as client:
        client.wait_ready()
        threading.Timer(0.3, server.stop).start()
        with pytest.raises(BridgeError):
            measure_jitter(2.0, bridge=client)


def test_the_running_bridge_has_what_it_was_started_with(board: EmulatedBoard):
    wanted = ThreadSettings(priority=7, cpus=frozenset({max(os.sched_getaffinity(0))}))
    if not may(wanted):
        pytest.skip("SCHED_FIFO is not allowed to this user")
    bridge = [sys.executable, "-m", "firmware_bridge", "--port", board.port, "--listen", "127.0.0.1:0"]
    argv = ["chrt", "--fifo", "7", "taskset", "--cpu-list", str(*wanted.cpus), *bridge]
    child = subprocess.Popen(argv, stderr=subprocess.PIPE, text=True, cwd=ROOT)
    try:
        assert child.stderr is not None
        assert any("bridge ready" in line for line in child.stderr)
        found = read_process(Path(f"/proc/{child.pid}"))
    finally:
        child.terminate()
        child.wait(10)
    assert found is not None
    assert (found.priority, found.cpus) == (wanted.priority, wanted.cpus)
    assert bool(found.locked_kib) is may(ThreadSettings(lock_memory=True))


def run_command(*arguments: str) -> str:
    """Output of the command that the command line has as `bench jitter`."""
    app = typer.Typer()
    app.command()(jitter)
    ran = CliRunner().invoke(app, arguments)
    assert ran.exit_code == 0, ran.output
    return ran.output


def test_the_command_says_what_it_measured_and_when_it_proves_nothing():
    said = run_command("--seconds", "0.2")
    assert "wake-ups by lateness" in said and "load average" in said
    told = json.loads(run_command("--seconds", "0.2", "--interval-us", "500", "--json").splitlines()[-1])
    assert told["wake_ups_us"]["n"] == 400 and told["interval_us"] == 500
