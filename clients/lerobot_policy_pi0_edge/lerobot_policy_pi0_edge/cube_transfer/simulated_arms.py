# pyright: reportMissingImports=false
"""The simulated arms of the cube transfer as a robot of `lerobot-rollout` and `lerobot-record`."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

import numpy as np
from lerobot.robots import Robot, RobotConfig

from pi0_edge.sim.aloha import JOINT_NAMES
from pi0_edge.sim.aloha_transfer_cube import AlohaTransferCube

logger = logging.getLogger(__name__)


@RobotConfig.register_subclass("pi0_edge_cube")
@dataclass
class SimulatedArmsConfig(RobotConfig):
    """Settings of the simulated arms.

    Attributes:
        seed: Pose of the cube.
    """

    seed: int = 10_000


class SimulatedArms(Robot):
    """Two simulated arms; each action is one tick of 20 ms, however long it takes."""

    config_class = SimulatedArmsConfig
    name = "pi0_edge_cube"

    def __init__(self, config: SimulatedArmsConfig) -> None:
        super().__init__(config)
        self.cameras: dict[str, Any] = {"top": None}  # LeRobot counts them
        self._seed = config.seed
        self._simulated: AlohaTransferCube | None = None
        self._ticks = 0
        self._transferred = False

    @property
    def observation_features(self) -> dict[str, Any]:
        """The joints and the camera of the policy."""
        return {**self.action_features, "top": (112, 112, 3)}

    @property
    def action_features(self) -> dict[str, Any]:
        """The joints."""
        return {f"{joint}.pos": float for joint in JOINT_NAMES}

    @property
    def is_connected(self) -> bool:
        """Whether the simulation runs."""
        return self._simulated is not None

    @property
    def is_calibrated(self) -> bool:
        """Always: there is nothing to calibrate."""
        return True

    def connect(self, calibrate: bool = True) -> None:
        """Starts the simulation."""
        self._simulated = AlohaTransferCube()
        self._simulated.reset(self._seed)

    def disconnect(self) -> None:
        """Ends the simulation, and says in the log whether the cube was transferred."""
        logger.info("cube transferred: %s, after %d ticks", "yes" if self._transferred else "no", self._ticks)
        if self._simulated is not None:
            self._simulated.close()
        self._simulated = None

    def calibrate(self) -> None:
        """Nothing to calibrate."""

    def configure(self) -> None:
        """Nothing to configure."""

    def get_observation(self) -> dict[str, Any]:
        """The joints and one image.

        Raises:
            RuntimeError: If the robot is not connected.
        """
        simulated = self._connected()
        joints = zip(self.action_features, map(float, simulated.state), strict=True)
        return {**dict(joints), "top": simulated.render("top")}

    def send_action(self, action: dict[str, float]) -> dict[str, float]:
        """Executes one setpoint, until the cube is transferred; then the arms stay.

        Raises:
            RuntimeError: If the robot is not connected.
        """
        simulated = self._connected()
        if not self._transferred:
            simulated.step(np.array([action[name] for name in self.action_features]))
            self._ticks += 1
            self._transferred = simulated.success
        return action

    def _connected(self) -> AlohaTransferCube:
        if self._simulated is None:
            raise RuntimeError("the simulated arms are not connected; call connect()")
        return self._simulated
