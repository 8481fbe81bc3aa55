"""The promises of `docs/safety.md`, checked at every servo step and tick, knowing only what was sent and came back."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from firmware_bridge.errors import BridgeError
from firmware_bridge.firmware.joint_table import JointTable
from pi0_edge.protos.serial_link import State, Telemetry, TickFlag

ACTIVE = (State.ARMED, State.RUNNING, State.STARVED)
_SILENCE_MS = 200


class BrokenPromiseError(BridgeError):
    """The core did what it must never do."""


class Watch:
    """Watches one boot of the firmware after the other; every method raises `BrokenPromiseError`."""

    def __init__(self, table: JointTable) -> None:
        self._lowest = np.array([joint.minimum for joint in table.joints])
        self._highest = np.array([joint.maximum for joint in table.joints])
        self._step = np.array([joint.velocity for joint in table.joints]) / table.servo_hz
        self._change = np.array([joint.acceleration for joint in table.joints]) / table.servo_hz**2
        self._slack = 2.0**-22 * np.maximum(-self._lowest, self._highest)  # float32: two units in the last place
        self._silence = _SILENCE_MS * table.control_hz // 1000
        self._velocity: NDArray[np.float64] | None = None

    def restart(self) -> None:
        """The board was reset: its motion begins anew."""
        self._velocity = None

    def check_step(self, motion: NDArray[np.float64], state: State, evenly: bool) -> None:
        """After a servo step.

        Args:
            motion: float64 [joints, 2], position and displacement of the last step.
            state: In which the step was made.
            evenly: It came right after the step before.
        """
        position, velocity = motion[:, 0], motion[:, 1]
        speed = np.abs(velocity)
        _require(np.all((position >= self._lowest) & (position <= self._highest)), "a joint left its position limits")
        _require(np.all(speed <= self._step + self._slack), "a joint exceeded its velocity limit")
        if evenly and self._velocity is not None:
            change = np.abs(velocity - self._velocity)
            _require(np.all(change <= self._change + self._slack), "a joint exceeded its acceleration limit")
            if state not in ACTIVE:
                slower = np.maximum(np.abs(self._velocity) - self._change, 0.0)
                _require(np.all(speed <= slower + self._slack), "a joint did not brake where it must")
        self._velocity = velocity.copy()

    def check_tick(self, before: State, report: Telemetry, cleared: bool, silent_ticks: int) -> None:
        """After the first step of a tick.

        Args:
            before: State before it.
            report: Of this tick.
            cleared: CLEAR was sent since the last one.
            silent_ticks: Ticks since the host sent its last heartbeat.
        """
        state = State(report.state)
        latched = before in (State.SAFE, State.ESTOP)
        _require(not latched or state in (before, State.ESTOP) or cleared, "a latched state was left without CLEAR")
        _require(state not in ACTIVE or silent_ticks < self._silence, "the arm stayed active without a heartbeat")
        executed = bool(report.flags & TickFlag.EXECUTED)
        _require(executed == (state == State.RUNNING), "setpoints were executed in another state than RUNNING")

    def check_estop(self, state: State) -> None:
        """Right after an e-stop was pressed, or its command answered."""
        _require(state == State.ESTOP, "the e-stop did not act at once")


def _require(kept: bool | np.bool_, promise: str) -> None:
    if not kept:
        raise BrokenPromiseError(promise)
