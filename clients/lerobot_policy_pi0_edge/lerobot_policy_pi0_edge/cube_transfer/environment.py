# pyright: reportMissingImports=false
"""The cube transfer as an environment of `lerobot-eval`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import gymnasium
import numpy as np
from lerobot.configs.types import FeatureType, PolicyFeature
from lerobot.envs.configs import EnvConfig
from numpy.typing import NDArray

from pi0_edge.sim.aloha import CONTROL_HZ
from pi0_edge.sim.aloha_transfer_cube import AlohaTransferCube

PIXELS = (112, 112, 3)
"""What the shipped policy was trained with."""

JOINTS = 14


class CubeTransfer(gymnasium.Env):
    """One episode: an image and the joints in, setpoints out, ended when the left gripper holds the cube."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": CONTROL_HZ}  # noqa: RUF012 - gymnasium's own form
    observation_space = gymnasium.spaces.Dict(
        {
            "pixels": gymnasium.spaces.Dict({"top": gymnasium.spaces.Box(0, 255, PIXELS, np.uint8)}),
            "agent_pos": gymnasium.spaces.Box(-np.inf, np.inf, (JOINTS,), np.float64),
        }
    )
    action_space = gymnasium.spaces.Box(-np.inf, np.inf, (JOINTS,), np.float32)
    task = task_description = "Transfer cube"

    def __init__(self, render_mode: str = "rgb_array") -> None:
        self.render_mode = render_mode
        self._simulated = AlohaTransferCube()

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[dict[str, Any], dict]:
        """Puts the cube where the seed says; anywhere where it is None."""
        super().reset(seed=seed)
        self._simulated.reset(int(self.np_random.integers(1 << 31)) if seed is None else seed)
        return self._observation(), {"is_success": False}

    def step(self, action: NDArray[np.floating]) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        """Executes one setpoint for one tick of 20 ms."""
        self._simulated.step(action)
        done = self._simulated.success
        return self._observation(), self._simulated.reward, done, False, {"is_success": done}

    def render(self) -> NDArray[np.uint8]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """The image of the policy's camera."""
        return self._simulated.render("top")

    def _observation(self) -> dict[str, Any]:
        return {"pixels": {"top": self.render()}, "agent_pos": self._simulated.state.astype(np.float64)}


@EnvConfig.register_subclass("pi0_edge_cube")
@dataclass
class CubeTransferConfig(EnvConfig):
    """Settings of the environment.

    Attributes:
        episode_length: Most ticks of an episode.
    """

    task: str | None = "CubeTransfer-v0"
    fps: int = CONTROL_HZ
    episode_length: int = 700
    features: dict[str, PolicyFeature] = field(
        default_factory=lambda: {
            "action": PolicyFeature(type=FeatureType.ACTION, shape=(JOINTS,)),
            "agent_pos": PolicyFeature(type=FeatureType.STATE, shape=(JOINTS,)),
            "pixels/top": PolicyFeature(type=FeatureType.VISUAL, shape=PIXELS),
        }
    )
    features_map: dict[str, str] = field(
        default_factory=lambda: {
            "action": "action",
            "agent_pos": "observation.state",
            "pixels/top": "observation.images.top",
        }
    )

    @property
    def gym_kwargs(self) -> dict[str, Any]:
        """What gymnasium makes the environment with."""
        return {"max_episode_steps": self.episode_length}


gymnasium.register("gym_pi0_edge_cube/CubeTransfer-v0", entry_point=f"{__name__}:{CubeTransfer.__name__}")
