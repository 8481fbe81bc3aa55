"""The workspace of a bridge: follows what the arm does, and refuses chunks whose path leaves the boxes of a file."""

from __future__ import annotations

import logging
from pathlib import Path

from firmware_bridge.bridge.workspace.boxes import rules
from firmware_bridge.bridge.workspace.follower import ArmFollower
from firmware_bridge.bridge.workspace.kinematics import Kinematics
from firmware_bridge.bridge.workspace.path_check import PathCheck
from firmware_bridge.bridge.workspace.settings import load_settings
from firmware_bridge.errors import ChunkError
from firmware_bridge.robot import RobotJoints
from firmware_bridge.splice import Plan
from pi0_edge.protos.serial_link import Telemetry

_OLDEST_S = 0.5  # a prediction from an older state says little about the arm

logger = logging.getLogger(__name__)


class Workspace:
    """Checks the chunks of one robot. One thread plays chunks, another may report telemetry."""

    def __init__(self, path: Path, robot: RobotJoints) -> None:
        """Reads the file of a workspace and its model.

        Args:
            path: The file, see `firmware_bridge.bridge.workspace.settings`.
            robot: The joints that the bridge drives.

        Raises:
            ConfigError: File or model are wrong, or do not fit the robot; the message lists every mistake.
            MissingDependencyError: MuJoCo is not installed.
        """
        settings = load_settings(path, robot.name, robot.names)
        self._tick_s = 1.0 / robot.control_hz
        self._follower = ArmFollower(robot)
        self._check = PathCheck(Kinematics(settings, robot), tuple(rules(settings)), robot)
        for what in self._check.outside(robot.home):
            logger.warning("the home position of %s is outside of the workspace: %s", robot.name, what)

    def on_telemetry(self, telemetry: Telemetry) -> None:
        """Takes a tick. Called in the link's reader thread."""
        self._follower.on_telemetry(telemetry)

    def check(self, chunk: Plan, observed_tick: int, now: float, arrival: int | None = None) -> None:
        """Passes a chunk that stays in the workspace, or leads back into it.

        Args:
            chunk: The setpoints as they are to be sent, of `RobotJoints.of_counts`.
            observed_tick: Tick of the observation that it answers; its action k is due at this tick + 1 + k.
            now: The present time in ticks.
            arrival: The tick in which the firmware is expected to get its first setpoints; so early that it does not
                matter where None.

        Raises:
            ChunkError: It leaves the workspace, or it is not known where the arm is.
        """
        newest = self._follower.newest_tick
        if newest is None or (now - newest) * self._tick_s > _OLDEST_S:
            raise ChunkError(
                f"workspace: the arm has not reported a tick for {_OLDEST_S:g} s, so that the path from where it is "
                "cannot be checked; wait for telemetry"
            )
        motion = self._follower.predict(chunk, arrival)
        excursion = None if motion is None else self._check.excursion(motion)
        if excursion is not None:
            action, ahead_s = excursion.tick - observed_tick - 1, (excursion.tick - now) * self._tick_s
            raise ChunkError(
                f"workspace: {excursion.what}, first at action {action} (tick {excursion.tick}, in {ahead_s:.2f} s)"
            )

    def accepted(self, chunk: Plan, arrival: int) -> None:
        """Records what the firmware holds of the chunk checked last, and the tick in which it got it."""
        self._follower.accepted(chunk, arrival)
