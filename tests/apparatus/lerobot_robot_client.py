"""The stock asynchronous client of LeRobot with a robot that goes where it is told: a program of its own.

Called with the address of a server, seconds, and the names of the joints; prints what it did as JSON. One argument
more is the seed of a cube, which the simulated ALOHA then transfers (pi0_edge must be importable). LeRobot's imports
want torchvision, which the client does not use: it is replaced where it is missing. It writes a folder `logs`.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
from absent_torchvision import allow_import

ADDRESS, SECONDS, JOINTS = sys.argv[1], float(sys.argv[2]), sys.argv[3].split(",")
SEED = int(sys.argv[4]) if len(sys.argv) > 4 else None
FPS = 30 if SEED is None else 50
MOST_TICKS = 700


allow_import()

from lerobot.async_inference import robot_client  # noqa: E402  # pyright: ignore[reportMissingImports]
from lerobot.async_inference.configs import RobotClientConfig  # noqa: E402  # pyright: ignore[reportMissingImports]
from lerobot.robots import Robot, RobotConfig  # noqa: E402  # pyright: ignore[reportMissingImports]


@RobotConfig.register_subclass("obedient")
@dataclass
class ObedientConfig(RobotConfig):
    """Of a robot without settings."""


class Obedient(Robot):
    """Reports what it was last told, and pictures of noise."""

    config_class = ObedientConfig
    name = "obedient"
    is_connected = True
    is_calibrated = True

    def __init__(self, config: ObedientConfig) -> None:
        self.config = config
        self.state = dict.fromkeys([f"{joint}.pos" for joint in JOINTS], 0.0)
        self.told: list[tuple[float, dict[str, float]]] = []

    @property
    def observation_features(self) -> dict[str, Any]:
        """Joints and one camera."""
        return {**self.action_features, "top": (480, 640, 3)}

    @property
    def action_features(self) -> dict[str, Any]:
        """The joints."""
        return dict.fromkeys(self.state, float)

    def connect(self, calibrate: bool = True) -> None:
        """Nothing to connect."""

    def disconnect(self) -> None:
        """Nothing was connected."""

    def calibrate(self) -> None:
        """Nothing to calibrate."""

    def configure(self) -> None:
        """Nothing to configure."""

    def get_observation(self) -> dict[str, Any]:
        """Joints and one picture."""
        return {**self.state, "top": np.random.default_rng().integers(0, 255, (480, 640, 3), np.uint8)}

    def send_action(self, action: dict[str, float]) -> dict[str, float]:
        """Goes there at once."""
        self.told.append((time.monotonic(), action))
        self.state.update(action)
        return action


class Transferring(Obedient):
    """The simulated ALOHA, until its left gripper holds the cube."""

    def __init__(self, config: ObedientConfig, seed: int) -> None:
        from pi0_edge.sim.aloha_transfer_cube import AlohaTransferCube

        super().__init__(config)
        self.simulated = AlohaTransferCube()
        self.simulated.reset(seed)

    def get_observation(self) -> dict[str, Any]:
        """Joints and the camera that the shipped policy was trained with."""
        joints = map(float, self.simulated.state)
        return {**dict(zip(self.state, joints, strict=True)), "top": self.simulated.render("top")}

    def send_action(self, action: dict[str, float]) -> dict[str, float]:
        """One tick."""
        self.told.append((time.monotonic(), action))
        self.simulated.step(np.array(list(action.values())))
        if self.simulated.success or len(self.told) >= MOST_TICKS:
            client.shutdown_event.set()
        return action


robot = Obedient(ObedientConfig()) if SEED is None else Transferring(ObedientConfig(), SEED)
robot_client.make_robot_from_config = lambda config: robot
client = robot_client.RobotClient(
    RobotClientConfig(
        policy_type="pi0",
        pretrained_name_or_path="nobody/nothing",
        robot=robot.config,
        actions_per_chunk=50,
        task="Transfer cube",
        server_address=ADDRESS,
        policy_device="cpu",
        client_device="cpu",
        fps=FPS,
        aggregate_fn_name="weighted_average",
    )
)
started = client.start()
if started:
    threading.Thread(target=client.receive_actions, daemon=True).start()
    timer = threading.Timer(SECONDS, client.shutdown_event.set)
    timer.daemon = True
    timer.start()
    client.control_loop(task="Transfer cube")
gaps = np.diff([when for when, _ in robot.told]) * 1e3
print(
    json.dumps(
        {
            "started": started,
            "actions": len(robot.told),
            "success": isinstance(robot, Transferring) and robot.simulated.success,
            "joints": [sorted(action) for _, action in robot.told[:1]],
            "gap_ms": [float(np.percentile(gaps, q)) for q in (50, 100)] if len(gaps) else [],
        }
    )
)
