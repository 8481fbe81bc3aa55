"""The bimanual cube transfer of gym-aloha: the right arm picks the cube up and hands it to the left one.

The scene and the reward are gym-aloha's own. The cube pose comes from an explicit seed: gym-aloha hands it over through
a module variable and falls back to the operating system's entropy where no seed is given.
"""

# pyright: reportAttributeAccessIssue=false
# mujoco's and dm_control's classes come from compiled modules without type stubs.

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pi0_edge.sim.aloha import SCENE, BlindTask, SimulatedAloha, gym_aloha_sim, mujoco, sample_box_pose


def transfer_cube_model() -> mujoco.MjModel:
    """gym-aloha's scene of the cube transfer."""
    return mujoco.MjModel.from_xml_path(str(SCENE))


class _BlindTransferCube(gym_aloha_sim.TransferCubeTask, BlindTask):
    """gym-aloha's task, with its reward and without the three images per step."""


class AlohaTransferCube(SimulatedAloha):
    """One simulated pair of arms and one cube."""

    def __init__(self) -> None:
        super().__init__(transfer_cube_model(), _BlindTransferCube())
        self._reward = 0.0

    def reset(self, seed: int) -> None:
        """Put the arms home and the cube where ``seed`` says (x in [0, 0.2] m, y in [0.4, 0.6] m)."""
        box_pose: list[Any] = gym_aloha_sim.BOX_POSE
        box_pose[0] = sample_box_pose(seed)
        self._env.reset()
        self._reward = 0.0

    def _stepped(self, reward: float) -> None:
        self._reward = float(reward)

    @property
    def cube_pose(self) -> NDArray[np.float64]:
        """Position (m) and quaternion (wxyz) of the cube, shape (7,): for the expert, never for the policy."""
        return self._physics.data.qpos[16:].copy()

    @property
    def reward(self) -> float:
        """gym-aloha's stage of the task: 1 right touches, 2 lifted, 3 left touches, 4 transferred."""
        return self._reward

    @property
    def success(self) -> bool:
        """True while the left gripper holds the cube off the table."""
        return self._reward == 4

    @property
    def failed(self) -> bool:
        """Never: a cube that was dropped can be picked up again."""
        return False
