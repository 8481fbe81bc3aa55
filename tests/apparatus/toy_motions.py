"""Demonstrations of three toy robots of 14, 7 and 18 dimensions, recorded as LeRobotDatasets.

`two_arms` has two arms of 7, `one_arm` has one, `mobile` has two arms and a base of 4: two velocities, a turn and a
lift. A red dot on the camera's picture, and nothing else, tells where a robot goes. Each robot answers it with
directions, amplitudes and a prompt of its own; its base moves at a speed while the arms follow a ramp.
"""

from __future__ import annotations

import json
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pi0_edge.datasets.lerobot_writer import LeRobotWriter
from pi0_edge.model import GemmaConfig, Pi0Config, VisionConfig

SIZE = 32
TICKS = 20
FPS = 50
CAMERA = "top"
BASE = 4
TOY = Pi0Config(
    "pi0",
    VisionConfig(width=32, depth=1, mlp_dim=64, heads=2, patch_size=8, image_size=SIZE),
    GemmaConfig(width=32, depth=2, mlp_dim=64, heads=2, kv_heads=1, head_dim=16),
    GemmaConfig(width=32, depth=2, mlp_dim=64, heads=2, kv_heads=1, head_dim=16),
    vocab_size=330,
    horizon=8,
    max_prompt_tokens=32,
)
"""A few ten thousand numbers; action_dim is 32, as in π0."""


@dataclass(frozen=True)
class ToyRobot:
    """One robot.

    Attributes:
        name: Of its layout.
        dims: Of state and action, the base last.
        base: How many of them are of the base.
        prompt: Of its demonstrations.
        layout_prompt: Default of its layout, as that of a robot whose layout was made for another task.
    """

    name: str
    dims: int
    base: int
    prompt: str
    layout_prompt: str | None = None

    def layout(self, folder: Path) -> str:
        """Writes the layout and returns its path."""
        names = [f"joint_{number}" for number in range(self.dims - self.base)]
        names += ["forward_velocity", "sideways_velocity", "turn_velocity", "lift_velocity"][: self.base]
        content = {
            "name": self.name,
            "state_dim": self.dims,
            "action_dim": self.dims,
            "action_names": names,
            "cameras": {CAMERA: "base_0_rgb"},
            "control_hz": FPS,
        }
        if self.layout_prompt is not None:
            content["default_prompt"] = self.layout_prompt
        path = folder / f"{self.name}.yaml"
        path.write_text(json.dumps(content))
        return str(path)

    def motion(self, dot: NDArray[np.floating]) -> NDArray[np.float32]:
        """Actions [TICKS, dims] that answer a dot at (x, y), each in [-1, 1]."""
        rng = np.random.default_rng(zlib.crc32(self.name.encode()))
        amplitude = rng.uniform(0.5, 2.0) * np.linspace(0.5, 1.5, self.dims)
        direction = rng.uniform(0, 2 * np.pi, self.dims)
        goal = amplitude * (np.cos(direction) * dot[0] + np.sin(direction) * dot[1]) + rng.normal(0, 1, self.dims)
        ramp = np.broadcast_to(np.linspace(0, 1, TICKS)[:, None], (TICKS, self.dims)).copy()
        ramp[:, self.dims - self.base :] = 1.0
        return (ramp * goal).astype(np.float32)

    def record(self, root: Path, episodes: int, seed: int = 0) -> Path:
        """Records episodes with dots at random places."""
        rng = np.random.default_rng((seed, self.dims))
        names = [f"{number}" for number in range(self.dims)]
        with LeRobotWriter(root, FPS, names, {CAMERA: (SIZE, SIZE)}, self.name) as writer:
            for _ in range(episodes):
                dot = rng.uniform(-1, 1, 2)
                frames = np.repeat(picture(dot)[None], TICKS, axis=0)
                writer.add_episode(self.states(TICKS), self.motion(dot), {CAMERA: frames}, self.prompt)
        return root

    def states(self, ticks: int) -> NDArray[np.float32]:
        """States [ticks, dims] that tell how much of the motion is over, and not where it goes."""
        rest = np.linspace(-0.5, 0.5, self.dims)
        return (rest + np.linspace(0, 1, TICKS)[:ticks, None]).astype(np.float32)


TWO_ARMS = ToyRobot("two_arms", 14, 0, "Point at the dot")
ONE_ARM = ToyRobot("one_arm", 7, 0, "Nod to the dot")
MOBILE = ToyRobot("mobile_base", 18, BASE, "Drive to the dot", layout_prompt="Transfer cube")
TOY_ROBOTS = (TWO_ARMS, ONE_ARM, MOBILE)


def picture(dot: NDArray[np.floating]) -> NDArray[np.uint8]:
    """What the camera shows, uint8 [SIZE, SIZE, 3]."""
    column, row = (np.rint((dot + 1) / 2 * (SIZE - 9)) + 4).astype(int)
    image = np.full((SIZE, SIZE, 3), 60, np.uint8)
    image[row - 3 : row + 4, column - 3 : column + 4] = (255, 0, 0)
    return image
