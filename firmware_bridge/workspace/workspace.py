"""The workspace of a bridge: follows what the arm does, and refuses chunks whose path leaves the boxes of a file."""

from __future__ import annotations

import logging
import threading
from pathlib import Path

import numpy as np

from firmware_bridge.errors import ChunkError
from firmware_bridge.robot import ACTIVE_STATES, RobotJoints
from firmware_bridge.splice import NOTHING, Plan
from firmware_bridge.workspace.boxes import rules
from firmware_bridge.workspace.kinematics import Kinematics
from firmware_bridge.workspace.motion import PAST_TICKS, ArmState, MotionPredictor
from firmware_bridge.workspace.path_check import Excursion, PathCheck
from firmware_bridge.workspace.settings import load_settings
from pi0_edge.protos.serial_link import Telemetry

_OLDEST_S = 0.5  # a prediction from an older state says little about the arm

logger = logging.getLogger(__name__)


class Workspace:
    """Checks the chunks of one robot. One thread plays chunks, another may report telemetry."""

    def __init__(self, path: Path, robot: RobotJoints) -> None:
        """Reads the file of a workspace and its model.

        Args:
            path: The file, see `firmware_bridge.workspace.settings`.
            robot: The joints that the bridge drives.

        Raises:
            ConfigError: File or model are wrong, or do not fit the robot; the message lists every mistake.
            MissingDependencyError: MuJoCo is not installed.
        """
        settings = load_settings(path, robot.name, robot.names)
        self._robot = robot
        self._predictor = MotionPredictor(robot)
        self._check = PathCheck(Kinematics(settings, robot), tuple(rules(settings)), robot)
        self._recent: tuple[Telemetry, ...] = ()  # of consecutive ticks, the newest last
        self._plan = NOTHING
        self._lock = threading.Lock()
        self._warn_of_home()

    def on_telemetry(self, telemetry: Telemetry) -> None:
        """Takes a tick. Called in the link's reader thread."""
        with self._lock:
            follows = bool(self._recent) and telemetry.tick == self._recent[-1].tick + 1
            self._recent = (*(self._recent[-2:] if follows else ()), telemetry)
            if telemetry.state not in ACTIVE_STATES:
                self._plan = NOTHING

    def check(self, chunk: Plan, observed_tick: int, now: float) -> None:
        """Passes a chunk that stays in the workspace, or leads back into it.

        Args:
            chunk: The setpoints as they are to be sent, of `RobotJoints.of_counts`.
            observed_tick: Tick of the observation that it answers; its action k is due at this tick + 1 + k.
            now: The present time in ticks.

        Raises:
            ChunkError: It leaves the workspace, or it is not known where the arm is.
        """
        with self._lock:
            recent, plan = self._recent, self._plan
        tick_s = 1.0 / self._robot.control_hz
        if not recent or (now - recent[-1].tick) * tick_s > _OLDEST_S:
            raise ChunkError(
                f"workspace: the arm has not reported a tick for {_OLDEST_S:g} s, so that the path from where it is "
                "cannot be checked; wait for telemetry"
            )
        start = self._state(recent)
        planned = chunk.since(start.tick + 1)
        if not len(planned.setpoints):
            return
        motion = self._predictor.predict(start, plan, planned).since(planned.first_tick)
        if (excursion := self._check.excursion(motion)) is not None:
            action, ahead_s = excursion.tick - observed_tick - 1, (excursion.tick - now) * tick_s
            raise ChunkError(
                f"workspace: {excursion.what}, first at action {action} (tick {excursion.tick}, in {ahead_s:.2f} s)"
            )

    def accepted(self, chunk: Plan) -> None:
        """Records setpoints that the firmware holds from their first tick on."""
        with self._lock:
            newest = self._recent[-1].tick if self._recent else chunk.first_tick
            self._plan = self._plan.since(newest - PAST_TICKS).followed_by(chunk)

    def _state(self, recent: tuple[Telemetry, ...]) -> ArmState:
        """The newest state; its velocity is that of the parabola through the last three ticks."""
        executed = np.array([telemetry.executed for telemetry in recent], np.float32)
        velocity = np.zeros_like(executed[0])
        if len(executed) == 2:
            velocity = executed[1] - executed[0]
        elif len(executed) == 3:
            velocity = np.float32(0.5) * (3 * executed[2] - 4 * executed[1] + executed[0])
        velocity = velocity / np.float32(self._predictor.servo_steps)
        most = self._predictor.max_step
        return ArmState(recent[-1].tick, executed[-1], np.clip(velocity, -most, most))

    def _warn_of_home(self) -> None:
        excursion = self.excursion_at(self._robot.home)
        if excursion is not None:
            logger.warning("the home position of %s is outside of the workspace: %s", self._robot.name, excursion.what)

    def excursion_at(self, positions: np.ndarray) -> Excursion | None:
        """What is wrong with an arm at rest, [joints], in physical units; None where it is inside."""
        state = ArmState(0, positions.astype(np.float32), np.zeros(self._robot.count, np.float32))
        at_rest = Plan(1, positions[None])
        return self._check.excursion(self._predictor.predict(state, NOTHING, at_rest))
