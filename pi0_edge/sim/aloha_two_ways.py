"""A task with two equally good ways: the right gripper reaches a target behind a post, on either side of the post.

gym-aloha's two arms, without its cube. A blue post stands between the right gripper and a green target on the table;
where both are follows from the seed. The gripper may pass between the post and the operator ("near") or beyond the post
("far"). A policy that answers with the average of both ways runs into the post, and an episode in which anything of the
robot touches the post has failed.
"""

# pyright: reportAttributeAccessIssue=false
# mujoco's classes come from a compiled module without type stubs.

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from pi0_edge.sim.aloha import SCENE, START_ARM_POSE, BlindTask, SimulatedAloha, mujoco
from pi0_edge.sim.arm_kinematics import PINCH_OFFSET

POST_RADIUS = 0.02
"""Metres."""

POST_HEIGHT = 0.1
"""Metres: the fingers have to go round it, the gripper itself and the forearm pass over it."""

TARGET_HEIGHT = 0.05
"""Where the fingers are to pinch, metres above the middle of the green disc."""

TARGET_LIMIT = 0.03
"""How near the pinch point has to come to the target, metres."""

WAYS = ("near", "far")
"""Sides of the post: towards the operator (smaller y) and away from the operator."""


def two_ways_model() -> mujoco.MjModel:
    """gym-aloha's scene with a post and a target, which are moved by mocap, instead of the cube."""
    scene = mujoco.MjSpec.from_file(str(SCENE))
    for key in list(scene.keys):  # they have the cube's coordinates
        key.delete()
    scene.detach_body(scene.body("box"))
    cylinder = mujoco.mjtGeom.mjGEOM_CYLINDER
    post = scene.worldbody.add_body(name="post", mocap=True)
    half = POST_HEIGHT / 2
    post.add_geom(
        name="post", type=cylinder, size=[POST_RADIUS, half, 0], pos=[0, 0, half], rgba=[0.1, 0.3, 1, 1], condim=4
    )
    target = scene.worldbody.add_body(name="target", mocap=True)
    target.add_geom(
        name="target", type=cylinder, size=[0.02, 0.002, 0], rgba=[0.1, 0.9, 0.1, 1], contype=0, conaffinity=0
    )
    return scene.compile()


class _FromHome(BlindTask):
    """Starts with both arms at home."""

    def initialize_episode(self, physics: Any) -> None:
        with physics.reset_context():
            physics.data.qpos[:] = START_ARM_POSE
            physics.data.ctrl[:] = START_ARM_POSE
        super().initialize_episode(physics)


class AlohaTwoWays(SimulatedAloha):
    """One simulated pair of arms, a post and a target."""

    def __init__(self) -> None:
        model = two_ways_model()
        super().__init__(model, _FromHome())
        self._post = model.geom("post").id
        self._gripper = model.body("vx300s_right/gripper_link").id
        self._mocap = {name: model.body(name).mocapid[0] for name in ("post", "target")}
        self._touched = False
        self._way: str | None = None

    def reset(self, seed: int) -> None:
        """Put the arms home, the post and the target where ``seed`` says.

        The post is at x in [0.03, 0.09] m, y in [0.46, 0.54] m; the target is 0.09 to 0.12 m behind it and up to 0.03 m
        to either side.
        """
        rng = np.random.default_rng(seed)
        post = np.array([rng.uniform(0.03, 0.09), rng.uniform(0.46, 0.54)])
        target = post + np.array([-rng.uniform(0.09, 0.12), rng.uniform(-0.03, 0.03)])
        self._env.reset()
        data = self._physics.data
        data.mocap_pos[self._mocap["post"], :2] = post
        data.mocap_pos[self._mocap["target"], :2] = target
        self._physics.forward()
        self._touched, self._way = False, None

    def _stepped(self, reward: float) -> None:
        data = self._physics.data
        contacts = data.contact
        self._touched |= bool(np.any((contacts.geom1 == self._post) | (contacts.geom2 == self._post)))
        if self._way is None and not self._touched and self.pinch[0] < self.post[0]:
            self._way = WAYS[int(self.pinch[1] > self.post[1])]

    @property
    def post(self) -> NDArray[np.float64]:
        """Middle of the post on the table, x and y in metres: for the expert, never for the policy."""
        return self._physics.data.mocap_pos[self._mocap["post"], :2].copy()

    @property
    def target(self) -> NDArray[np.float64]:
        """Where the fingers are to pinch, metres, shape (3,): for the expert, never for the policy."""
        x, y = self._physics.data.mocap_pos[self._mocap["target"], :2]
        return np.array([x, y, TARGET_HEIGHT])

    @property
    def pinch(self) -> NDArray[np.float64]:
        """Where the right fingers pinch, metres, shape (3,)."""
        data = self._physics.data
        return data.xpos[self._gripper] + data.xmat[self._gripper].reshape(3, 3)[:, 0] * PINCH_OFFSET

    @property
    def way(self) -> str | None:
        """The side of the post on which the pinch point passed it, see :data:`WAYS`; None before, or after a touch."""
        return None if self._touched else self._way

    @property
    def reward(self) -> float:
        """1 where the post was passed, 2 at the target; 0 before, and after a touch."""
        if self.way is None:
            return 0.0
        return 2.0 if np.linalg.norm(self.pinch - self.target) < TARGET_LIMIT else 1.0

    @property
    def success(self) -> bool:
        """True while the fingers are at the target, after passing the post without touching it."""
        return self.reward == 2

    @property
    def failed(self) -> bool:
        """True once anything of the robot has touched the post."""
        return self._touched


class AlohaTwoWaysOneArm(AlohaTwoWays):
    """The same scene for a robot that has the right arm alone: 7 dimensions; the left arm is scenery."""

    joints: ClassVar[slice] = slice(7, 14)
