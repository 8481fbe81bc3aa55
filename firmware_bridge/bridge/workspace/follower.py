"""Follows the arm: what it does now, what the firmware still holds, and so what a chunk would make of it.

Telemetry reports a position per tick, and no velocity. Where the reported position of a joint is the predicted one, bit
for bit, its velocity is that of the prediction; elsewhere that of a parabola through the last three ticks. From rest on
the prediction is exact, and remains so from chunk to chunk.
"""

from __future__ import annotations

import threading
from typing import NamedTuple

import numpy as np

from firmware_bridge.bridge.workspace.motion import ArmState, Motion, MotionPredictor, Setpoints
from firmware_bridge.robot import ACTIVE_STATES, RobotJoints
from firmware_bridge.splice import GUARD_TICKS, Plan
from pi0_edge.protos.serial_link import Telemetry


class _Prediction(NamedTuple):
    """What a chunk would make of the arm, and whether it was to arrive at the last moment."""

    chunk: Plan
    at_last_moment: bool
    motion: Motion

    def holds(self, chunk: Plan, arrival: int) -> bool:
        """Whether it is what came of the chunk that the firmware holds since a tick."""
        is_same = (self.chunk.first_tick, self.chunk.last_tick) == (chunk.first_tick, chunk.last_tick)
        return is_same and _is_last_moment(chunk, arrival) == self.at_last_moment


def _is_last_moment(chunk: Plan, arrival: int) -> bool:
    """Whether the curve of the tick in which a chunk arrives ends where its first setpoint might still change it."""
    return arrival >= chunk.first_tick - GUARD_TICKS


class ArmFollower:
    """The arm of one robot. One thread plays chunks, another may report telemetry."""

    def __init__(self, robot: RobotJoints) -> None:
        """Begins without knowing where the arm is."""
        self._predictor = MotionPredictor(robot)
        self._recent: tuple[Telemetry, ...] = ()  # of consecutive ticks, the newest last
        self._held = Setpoints()
        self._motion: Motion | None = None  # what they make of the arm
        self._predicted: _Prediction | None = None  # of the last chunk that was predicted
        self._lock = threading.Lock()

    @property
    def newest_tick(self) -> int | None:
        """The last tick that was reported."""
        recent = self._recent
        return recent[-1].tick if recent else None

    def on_telemetry(self, telemetry: Telemetry) -> None:
        """Takes a tick."""
        with self._lock:
            follows = bool(self._recent) and telemetry.tick == self._recent[-1].tick + 1
            self._recent = (*(self._recent[-2:] if follows else ()), telemetry)
            if telemetry.state not in ACTIVE_STATES:
                self._held, self._motion, self._predicted = Setpoints(), None, None

    def predict(self, chunk: Plan, arrival: int | None = None) -> Motion | None:
        """The motion that a chunk would lead to, from its first tick on; None where all of it is past due.

        Args:
            chunk: The setpoints as they are to be sent, of `RobotJoints.of_counts`. A tick must have been reported.
            arrival: The tick in which the firmware is expected to get its first ones, see `MotionPredictor.predict`.
        """
        with self._lock:
            start, held = self._state(), self._held
        ahead = chunk.since(start.tick + 1)
        if not len(ahead.setpoints):
            return None
        motion = self._predictor.predict(start, held, ahead, arrival)
        with self._lock:
            self._predicted = _Prediction(ahead, arrival is not None and _is_last_moment(ahead, arrival), motion)
        return motion.between(ahead.first_tick, ahead.last_tick)

    def accepted(self, chunk: Plan, arrival: int) -> None:
        """Records setpoints that the firmware holds.

        Args:
            chunk: Those predicted last; their end, where they came later than expected; their begin, where no more did.
            arrival: The tick in which the firmware got the first of them.
        """
        with self._lock:
            if self._predicted is None or not self._recent:
                return
            start, motion = self._state(), self._predicted.motion
            if not self._predicted.holds(chunk, arrival) and start.tick < chunk.last_tick:
                motion = self._predictor.predict(start, self._held, chunk, arrival)
            self._motion, self._predicted = motion, None
            self._held = self._held.replaced_by(chunk, start.tick)

    def _state(self) -> ArmState:
        """The newest state."""
        tick, position = self._recent[-1].tick, np.array(self._recent[-1].executed, np.float32)
        velocity = self._velocity()
        if self._motion is not None and tick >= self._motion.first_tick:
            row = self._motion.row_of(tick)
            as_predicted = self._motion.positions[row] == position
            velocity = np.where(as_predicted, self._motion.velocities[row], velocity)
        return ArmState(tick, position, velocity)

    def _velocity(self) -> np.ndarray:
        """The velocity of the newest tick from the last three positions, [joints], units per servo step."""
        executed = np.array([telemetry.executed for telemetry in self._recent], np.float32)
        by_tick = np.zeros_like(executed[0])
        if len(executed) == 2:
            by_tick = executed[1] - executed[0]
        elif len(executed) == 3:
            by_tick = np.float32(0.5) * (3 * executed[2] - 4 * executed[1] + executed[0])
        most = self._predictor.max_step
        return np.clip(by_tick / np.float32(self._predictor.servo_steps), -most, most)
