"""The invariants of `docs/safety.md`, checked at every servo step and tick from what was sent and what came back."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from firmware_bridge.errors import BridgeError
from firmware_bridge.firmware.joint_table import JointTable
from firmware_bridge.robot import ACTIVE_STATES
from pi0_edge.protos.serial_link import State, Telemetry, TickFlag

_HEARTBEAT_LIMIT_MS = 200


class InvariantViolationError(BridgeError):
    """The core violated an invariant."""


class InvariantChecker:
    """Checks a run of the firmware, over resets too; every check raises `InvariantViolationError`."""

    def __init__(self, table: JointTable) -> None:
        self._minimum = np.array([joint.minimum for joint in table.joints])
        self._maximum = np.array([joint.maximum for joint in table.joints])
        self._max_step = np.array([joint.velocity for joint in table.joints]) / table.servo_hz
        self._max_change = np.array([joint.acceleration for joint in table.joints]) / table.servo_hz**2
        # float32: two units in the last place.
        self._rounding = 2.0**-22 * np.maximum(-self._minimum, self._maximum)
        self._heartbeat_limit = _HEARTBEAT_LIMIT_MS * table.control_hz // 1000
        self._velocity: NDArray[np.float64] | None = None
        self._newest_chunk = 0

    def restart(self) -> None:
        """Starts over after a reset of the board, whose motion does not continue the motion before."""
        self._velocity = None

    def check_step(self, motion: NDArray[np.float64], state: State, evenly: bool, relieved: bool = False) -> None:
        """Checks the motion after a servo step.

        Args:
            motion: Position and displacement of the last step; float64 [joints, 2].
            state: State in which the step was made.
            evenly: Whether the step came directly after the previous step.
            relieved: Whether the arm stopped after a contact: it may move once to where it was measured.
        """
        position, velocity = motion[:, 0], motion[:, 1]
        speed = np.abs(velocity)
        _require(np.all((position >= self._minimum) & (position <= self._maximum)), "a joint left its position limits")
        _require(np.all(speed <= self._max_step + self._rounding), "a joint exceeded its velocity limit")
        if evenly and self._velocity is not None:
            change = np.abs(velocity - self._velocity)
            _require(np.all(change <= self._max_change + self._rounding), "a joint exceeded its acceleration limit")
            if state not in ACTIVE_STATES and not (relieved and state == State.SAFE):
                slower = np.maximum(np.abs(self._velocity) - self._max_change, 0.0)
                _require(np.all(speed <= slower + self._rounding), "a joint did not brake where it must")
        self._velocity = velocity.copy()

    def check_tick(self, before: State, report: Telemetry, cleared: bool, silent_ticks: int) -> None:
        """Checks the state after the first step of a tick.

        Args:
            before: State before the step.
            report: Telemetry of this tick.
            cleared: Whether CLEAR was sent since the last tick.
            silent_ticks: Ticks since the host sent its last heartbeat.
        """
        state = State(report.state)
        latched = before in (State.SAFE, State.ESTOP)
        _require(not latched or state in (before, State.ESTOP) or cleared, "a latched state was left without CLEAR")
        in_time = silent_ticks < self._heartbeat_limit
        _require(state not in ACTIVE_STATES or in_time, "the arm stayed active without a heartbeat")
        executed = bool(report.flags & TickFlag.EXECUTED)
        _require(executed == (state == State.RUNNING), "setpoints were executed in another state than RUNNING")
        in_order = report.chunk_id == 0 or report.chunk_id >= self._newest_chunk
        _require(in_order, "a setpoint of an older chunk was executed after one of a newer")
        self._newest_chunk = max(self._newest_chunk, report.chunk_id)

    def check_estop(self, state: State) -> None:
        """Checks the state right after the e-stop contact opened, or after the answer to the command."""
        _require(state == State.ESTOP, "the e-stop did not act at once")


def _require(holds: bool | np.bool_, violation: str) -> None:
    if not holds:
        raise InvariantViolationError(violation)
