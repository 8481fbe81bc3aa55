"""The whole path as it is shipped: simulation, INT8 policy server, bridge, firmware in QEMU, as separate processes."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from firmware_bridge.robot import load_joints
from pi0_edge.demo.policy_choice import PolicyChoice
from pi0_edge.demo.run import run_demo
from pi0_edge.demo.run_record import RunRecord
from pi0_edge.protos.serial_link import TickFlag

pytestmark = [
    pytest.mark.real_time,
    pytest.mark.system,
    pytest.mark.skipif(shutil.which("qemu-system-arm") is None, reason="qemu-system-arm is not installed"),
]

EPISODES = 2
"""Of one alone, the noise of the policy may leave few ticks in which no joint is at a limit."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory, aloha_image) -> Path:
    output = tmp_path_factory.mktemp("demo")
    run_demo(output, episodes=EPISODES, first_seed=0, choice=PolicyChoice())
    return output


def test_the_firmware_executed_the_chunks_of_the_policy(folder):
    run = RunRecord.load(folder / "record.npz")
    robot, unlimited = load_joints("aloha"), []
    for episode in range(EPISODES):
        during = run.tick_episode == episode
        assert (run.chunk_first_tick[run.chunk_episode == episode] > 0).sum() >= 3
        assert (run.tick_flags[during] & TickFlag.EXECUTED.value > 0).sum() > 100
        _, wanted = run.commanded(episode)
        difference = np.abs(run.executed[during] - np.clip(wanted, robot.lower, robot.upper)).max(1)
        limited = run.tick_flags[during] & (TickFlag.VELOCITY_LIMITED | TickFlag.ACCELERATION_LIMITED).value > 0
        unlimited.append(difference[~limited & np.isfinite(difference)])
    # Where no joint is held back by its limits, what is executed is what was commanded, to half a count of 1e-4.
    differences = np.concatenate(unlimited)
    assert len(differences) > 50
    assert np.median(differences) < 1e-4


def test_executed_setpoints_stay_within_the_limits_of_the_firmware(folder):
    run = RunRecord.load(folder / "record.npz")
    robot = load_joints("aloha")
    slack = 1e-4
    assert (run.executed >= robot.lower - slack).all() and (run.executed <= robot.upper + slack).all()
    consecutive = np.diff(run.tick.astype(np.int64)) == 1
    step = np.diff(run.executed, axis=0)[consecutive]
    assert (np.abs(step) <= robot.velocity / 50 + slack).all()


def test_the_policy_got_what_the_servos_measured(folder):
    run = RunRecord.load(folder / "record.npz")
    for state, tick in zip(run.state, run.chunk_tick, strict=True):
        assert np.array_equal(state, run.measured[run.tick == tick][0])
    during = run.tick_episode >= 0
    behind = np.abs(run.measured - run.executed)[during]
    assert 1e-3 < np.median(behind.max(axis=1)) < 0.1  # servos lag, and follow
    assert (run.measurement_age_ms[during] < 200.0).all()  # older ones stop the arm


def test_every_executed_tick_names_the_observation_that_caused_it(folder):
    run = RunRecord.load(folder / "record.npz")
    executed = (run.tick_episode == 0) & (run.tick_chunk > 0)
    age = (run.tick - run.tick_observed)[executed]
    assert executed.sum() > 100 and age.min() >= 1 and age.max() <= 50
    for chunk in np.unique(run.tick_chunk[executed]):
        assert len(np.unique(run.tick_observed[executed & (run.tick_chunk == chunk)])) == 1
    answered = np.isin(run.tick_observed[executed], run.chunk_tick)
    assert answered.mean() > 0.5  # the others are of the chunk that brought the arms home


def test_summary_and_plots_are_written(folder):
    assert {"summary.json", "episode.png", "joints.png", "record.npz"} <= {path.name for path in folder.iterdir()}


@pytest.mark.slow
def test_ctrl_c_leaves_no_process_behind(tmp_path, aloha_image):
    argv = [sys.executable, "-m", "pi0_edge.cli", "demo", "--episodes", "9", "--output", str(tmp_path)]
    demo = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True)
    try:
        _wait_until(lambda: (tmp_path / "logs" / "robot.log").exists(), 60)
        family = _descendants(demo.pid)
        assert len(family) >= 4  # firmware and its wire, bridge, policy server, simulated robot
        demo.send_signal(signal.SIGINT)
        assert demo.wait(20) == 130
        _wait_until(lambda: not any(_alive(pid) for pid in family), 10)
    finally:
        demo.kill()
        output, _ = demo.communicate()
    assert b"Traceback" not in output


def _wait_until(condition, limit_s: float) -> None:
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {limit_s} s"
        time.sleep(0.1)


def _descendants(pid: int) -> list[int]:
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [d for child in map(int, children) for d in (child, *_descendants(child))]


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except (ProcessLookupError, FileNotFoundError):
        return False
