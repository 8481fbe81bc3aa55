"""A minute of random faults in lockstep violates no invariant, and the same seed gives the same minute."""

from __future__ import annotations

import dataclasses
import subprocess
import sys

import numpy as np
import pytest
from firmware_library import ROOT, HostFirmware, bench, require

from firmware_bridge.firmware.joint_table import load_joint_table
from firmware_bridge.lockstep import soak as soak_module
from firmware_bridge.lockstep.invariants import InvariantChecker, InvariantViolationError
from firmware_bridge.lockstep.soak import FAULTS, Soak, Tally
from pi0_edge.protos.serial_link import Fault, State, Telemetry, TickFlag


def soaked(seed: int, ticks: int) -> Tally:
    """With the servos of an SO-101."""
    require("make", "gcc")
    (tally,) = Soak(load_joint_table("so101"), seed).run(ticks)
    return tally


def test_minutes_of_faults_violate_no_invariant(capsys: pytest.CaptureFixture[str]) -> None:
    tally = soaked(seed=3, ticks=8000)
    assert tally.ticks == sum(tally.states.values()) == 8000
    assert set(tally.states) == {state.name for state in State}
    assert set(tally.faults) == set(FAULTS)
    assert {fault.name for fault in Fault if fault.name not in tally.latched} == set()
    assert tally.states["RUNNING"] > 3000
    with capsys.disabled():
        print(f"\nsoak: {tally.ticks} ticks, {sum(tally.faults.values())} faults")


def test_a_seed_reproduces_the_same_minute_bit_for_bit() -> None:
    first, again, other = soaked(5, 600), soaked(5, 600), soaked(6, 600)
    assert first == again
    assert first.digest != other.digest


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
def test_an_hour_of_faults_violates_no_invariant(seed: int) -> None:
    require("make", "gcc")
    *_, tally = Soak(bench(), seed).run(180_000)
    assert tally.ticks == 180_000


def test_the_command_prints_the_event_counts_of_the_run() -> None:
    require("make", "gcc")
    argv = [sys.executable, "-m", "firmware_bridge.lockstep.soak", "--robot", "so101", "--ticks", "200"]
    ran = subprocess.run(argv, capture_output=True, text=True, cwd=ROOT, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "robot so101, seed 1: no invariant violated" in ran.stdout


STEP, CHANGE = 8.0 / 250, 250.0 / 250**2


@pytest.mark.parametrize(
    ("before", "after", "state", "violation"),
    [
        ((0.0, 0.0), (4.0, 0.0), State.RUNNING, "position"),
        ((0.0, STEP), (0.0, 1.01 * STEP), State.RUNNING, "velocity"),
        ((0.0, 0.0), (0.0, 1.01 * CHANGE), State.RUNNING, "acceleration"),
        ((0.0, STEP), (STEP, STEP), State.ESTOP, "brake"),
        ((0.0, 0.0), (float("nan"), 0.0), State.RUNNING, "position"),
    ],
)
def test_the_checker_finds_a_step_beyond_a_limit(
    before: tuple[float, float], after: tuple[float, float], state: State, violation: str
) -> None:
    checker = InvariantChecker(bench())
    motion = np.array([[joint.home, 0.0] for joint in bench().joints])
    motion[0] = before
    checker.check_step(motion, State.RUNNING, evenly=True)
    motion[0] = after
    with pytest.raises(InvariantViolationError, match=violation):
        checker.check_step(motion, state, evenly=True)


def report(state: State, flags: int = 0) -> Telemetry:
    return dataclasses.replace(HostFirmware().tick(), state=state, flags=flags)


def test_the_checker_finds_a_wrong_state() -> None:
    checker = InvariantChecker(bench())
    with pytest.raises(InvariantViolationError, match="without CLEAR"):
        checker.check_tick(State.SAFE, report(State.DISARMED), cleared=False, silent_ticks=0)
    with pytest.raises(InvariantViolationError, match="heartbeat"):
        checker.check_tick(State.RUNNING, report(State.RUNNING, TickFlag.EXECUTED), cleared=False, silent_ticks=10)
    with pytest.raises(InvariantViolationError, match="RUNNING"):
        checker.check_tick(State.ARMED, report(State.ARMED, TickFlag.EXECUTED), cleared=False, silent_ticks=0)
    with pytest.raises(InvariantViolationError, match="e-stop"):
        checker.check_estop(State.RUNNING)
    checker.check_tick(State.SAFE, report(State.DISARMED), cleared=True, silent_ticks=0)


def test_an_unknown_robot_is_reported_in_one_line(capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["soak", "--robot", "kuka"])
    assert soak_module.main() == 2
    assert capsys.readouterr().err.startswith("error: robot 'kuka' is not known")
