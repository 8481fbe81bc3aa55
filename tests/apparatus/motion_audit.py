"""Reads what the emulated board really executed, tick by tick, and checks it against the joint limits."""

import itertools
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from firmware_bridge.emulator.board import EmulatedBoard
from firmware_bridge.link.framing import FrameDecoder
from firmware_bridge.robot import RobotJoints, load_joints
from pi0_edge.protos.serial_link import Fault, State, Telemetry, TickFlag

ALOHA = load_joints("aloha")
TICK_S = 0.02
SWING_RATE = 5.0  # rad/s
SWING = 0.8 * min(ALOHA.velocity[0] / SWING_RATE, ALOHA.acceleration[0] / SWING_RATE**2)
_ROUNDING = 1e-5
_WATCHDOG_FREEZES = 8


def wait_until(condition: Callable[[], bool], timeout_s: float = 3.0) -> bool:
    """Whether the condition came true in time."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.005)
    return True


def freeze_until_watchdog_resets(board: EmulatedBoard, has_reset: Callable[[], bool]) -> None:
    """Freezes the board for longer than the watchdog's limit, and again where that did not reset it.

    A processor that was not asleep when it froze may reload the watchdog before QEMU looks at the timers that expired
    meanwhile: 4 of 25 freezes ended without a reset.
    """
    for _ in range(_WATCHDOG_FREEZES):
        with board.frozen():
            time.sleep(0.8)
        if wait_until(has_reset, 0.5):
            return
    raise AssertionError(f"no reset by the watchdog in {_WATCHDOG_FREEZES} freezes of 0.8 s")


def fast_swing(ticks: np.ndarray) -> np.ndarray:
    """Positions at these ticks: four joints swing at four fifths of what their limits allow, from home at tick 0."""
    positions = np.tile(ALOHA.home, (len(ticks), 1))
    swing = SWING * (1.0 - np.cos(SWING_RATE * ticks * TICK_S))
    for joint in (0, 3, 7, 10):
        positions[:, joint] += swing
    return positions


def executed_ticks(record: Path) -> list[Telemetry]:
    """Every tick that the board reported on the line, before the line could damage it."""
    frames = FrameDecoder().feed(record.read_bytes())
    return [Telemetry.unpack(frame.payload) for frame in frames if frame.type == Telemetry.ID]


def assert_no_watchdog_reset(ticks: list[Telemetry]) -> None:
    """The firmware never hung; a machine that stops the emulator for half a second looks the same."""
    reset = [tick.tick for tick in ticks if tick.faults & Fault.WATCHDOG_RESET]
    assert not reset, "the watchdog reset the board: the firmware hung, or this machine held it up for half a second"


def assert_within_limits(ticks: list[Telemetry], robot: RobotJoints = ALOHA) -> None:
    """Position, velocity and acceleration of every executed setpoint; restarts of the board begin a new motion."""
    step_before, tick_before = None, None
    for earlier, later in itertools.pairwise(ticks):
        position = np.array(later.executed)
        assert np.all(position >= robot.lower - _ROUNDING), later
        assert np.all(position <= robot.upper + _ROUNDING), later
        elapsed = later.tick - earlier.tick
        if elapsed <= 0:
            continue
        step = position - np.array(earlier.executed)
        assert np.all(np.abs(step) <= robot.velocity * TICK_S * elapsed + _ROUNDING), (earlier, later)
        if elapsed == 1 and tick_before == earlier.tick and step_before is not None:
            change = np.abs(step - step_before)
            assert np.all(change <= robot.acceleration * TICK_S**2 + _ROUNDING), (earlier, later)
        whole = elapsed == 1 and not later.flags & TickFlag.TICKS_MISSED
        step_before, tick_before = (step, later.tick) if whole else (None, None)


def assert_ends_at_rest(ticks: list[Telemetry], *states: State) -> None:
    """The last two ticks hold still in one of these states."""
    assert ticks[-1].state in states, ticks[-1]
    assert ticks[-1].executed == ticks[-2].executed
