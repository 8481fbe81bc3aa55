"""Whatever becomes of the process or the disk, what was recorded by then can be read."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import recording_process
from recording_process import tick_of

from pi0_edge.protos.policy_pb2 import PolicyMetadata
from pi0_edge.robots import load_robot
from pi0_edge.run.recording import RunDescription, RunRecorder, RunRecording
from pi0_edge.run.recording.recorder import FLUSH_S
from pi0_edge.run.recording.recovery import recover

pytestmark = [pytest.mark.real_time, pytest.mark.system]

SLACK_S = 1.5
"""Of a busy machine: the recorder's thread may come late to flush."""
NS = 1_000_000_000
ROOT = Path(__file__).parents[3]


def start(run: Path, *options: str) -> subprocess.Popen[str]:
    argv = [sys.executable, str(recording_process.__file__), str(run), *options]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, env=environment)


def check_ticks(recording: RunRecording) -> int:
    """All ticks from the first one on, without a gap and with their content; how many there are."""
    numbers = [tick.message.tick for tick in recording.ticks]
    assert numbers == list(range(1, len(numbers) + 1))
    for tick in recording.ticks:
        np.testing.assert_array_equal(np.array(tick.message.executed, np.float32), tick_of(tick.message.tick).executed)
    return len(numbers)


@pytest.mark.parametrize("seed", range(4))
def test_a_killed_process_loses_at_most_what_it_had_not_flushed(tmp_path: Path, seed: int) -> None:
    run = tmp_path / "run.mcap"
    process = start(run)
    assert process.stdout is not None
    process.stdout.readline()  # it records
    time.sleep(random.Random(seed).uniform(0.0, 4.0))
    process.kill()
    killed_ns = time.monotonic_ns()
    told = [line.split() for line in process.stdout.read().splitlines(keepends=True) if line.endswith("\n")]
    process.wait()
    assert not run.exists()
    recording = RunRecording(tmp_path / "run.mcap.partial")
    assert not recording.closed and all(damage.cut for damage in recording.damage)
    assert recording.description.robot.name == "aloha_sim"  # it stands first
    kept = check_ticks(recording)
    flushed = [int(number) for number, told_ns in told if int(told_ns) < killed_ns - (FLUSH_S + SLACK_S) * NS]
    assert kept >= max(flushed, default=0)
    for image in recording.images("top"):
        assert recording.pixels(image, "an image").shape == (120, 160, 3)
    report = recover(tmp_path / "run.mcap.partial", run)
    again = RunRecording(run)
    assert again.closed and not again.damage and check_ticks(again) == kept
    assert sum(report.messages.values()) == kept + len(recording.images("top"))


def test_a_full_disk_ends_the_recording_and_not_the_run(tmp_path: Path) -> None:
    """The limit of a process for the size of a file: writing fails in the middle of a record."""
    run = tmp_path / "run.mcap"
    process = start(run, "--ticks", "1500", "--file-limit", str(300_000))
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    lines = said.splitlines()
    assert lines[-2].startswith("1500 ")  # the run went on
    assert lines[-1].count("File too large") == 1 and "run.mcap.partial" in lines[-1]  # and was told once
    recording = RunRecording(tmp_path / "run.mcap.partial")
    assert recording.path.stat().st_size <= 300_000 and 0 < check_ticks(recording) < 1500
    assert [damage.place.size for damage in recording.damage] == [0]  # it ends after a whole record
    assert not run.exists()


@pytest.mark.skipif(not Path("/dev/full").exists() or os.geteuid() != 0, reason="needs root to mount a small disk")
def test_a_small_disk_that_fills_ends_the_recording(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)], capture_output=True)
    if mounted.returncode != 0:
        pytest.skip(f"cannot mount a small disk here: {mounted.stderr.decode().strip()}")
    try:
        process = start(disk / "run.mcap", "--ticks", "1500")
        said, _ = process.communicate(timeout=60)
        assert process.returncode == 0 and said.count("No space left on device") == 1
        assert check_ticks(RunRecording(disk / "run.mcap.partial")) > 0
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def description() -> RunDescription:
    return RunDescription(load_robot("aloha_sim"), PolicyMetadata(model="pi0"))


def test_a_disk_that_does_not_keep_up_ends_the_recording_and_says_so_once(tmp_path: Path) -> None:
    said: list[str] = []
    with RunRecorder(tmp_path / "run.mcap", description(), waiting_bytes=50_000, on_ended=said.append) as recorder:
        recorder._file.write = lambda outgoing: time.sleep(0.05)  # type: ignore[method-assign] - a slow disk
        slowest = 0.0
        for number in range(1, 1001):
            began = time.perf_counter()
            recorder.on_tick(tick_of(number))
            slowest = max(slowest, time.perf_counter() - began)
    assert len(said) == 1 and "too slow" in said[0] and recorder.ended == said[0]
    assert slowest < 0.04, "the run waited for the disk"
    assert RunRecording(tmp_path / "run.mcap.partial").description.robot.name == "aloha_sim"


def test_a_listener_that_fails_does_not_stop_the_run(tmp_path: Path) -> None:
    def fail(_: str) -> None:
        raise RuntimeError("the dashboard is gone")

    with RunRecorder(tmp_path / "run.mcap", description(), waiting_bytes=1, on_ended=fail) as recorder:
        recorder.on_tick(tick_of(1))
        recorder.on_tick(tick_of(2))
    assert recorder.ended is not None
