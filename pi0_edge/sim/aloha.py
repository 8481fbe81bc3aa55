"""The two arms of gym-aloha, stepped by joint setpoints and rendered only on request; each task adds its scene.

The physics and the asset files are gym-aloha's own. Two things differ, on purpose:

* gym-aloha renders three 640x480 images per step inside ``get_observation``; here an image costs time only
  when :meth:`SimulatedAloha.render` is called.
* The camera of the policy is ``top``, defined here as :data:`POLICY_VIEW`: gym-aloha's own ``top`` spends most of
  its pixels on the empty table, so the cube would be three pixels wide in a 112x112 image.

It deliberately does not wrap gymnasium: there is one action space and no truncation.
"""

# pyright: reportAttributeAccessIssue=false
# mujoco's and dm_control's classes come from compiled modules without type stubs.

from __future__ import annotations

import atexit
import weakref
from abc import ABC, abstractmethod
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from pi0_edge.errors import ConfigError, MissingDependencyError, ObservationError
from pi0_edge.sim.opengl import opengl_errors

try:
    with opengl_errors():
        import mujoco
        from dm_control import mujoco as dm_mujoco
        from dm_control.rl import control
        from gym_aloha.constants import ASSETS_DIR, DT, START_ARM_POSE, normalize_puppet_gripper_position
        from gym_aloha.tasks import sim as gym_aloha_sim
        from gym_aloha.utils import sample_box_pose  # noqa: F401 - for the cube; what is missing is said once
except ModuleNotFoundError as error:
    raise MissingDependencyError(
        f"the simulated ALOHA needs gym-aloha, dm_control and mujoco ({error}): pip install 'pi0-edge[sim]'"
    ) from error

PhysicsError = control.PhysicsError
"""What `SimulatedAloha.step` raises where the simulation breaks down, as it can under setpoints that are noise."""

SCENE = ASSETS_DIR / "bimanual_viperx_transfer_cube.xml"
"""gym-aloha's scene: table, both arms and a cube."""

CONTROL_HZ = round(1 / DT)
"""Ticks per second: one setpoint is executed per tick."""

ARM_JOINTS = ("waist", "shoulder", "elbow", "forearm_roll", "wrist_angle", "wrist_rotate")
JOINT_NAMES = tuple(f"{side}_{joint}" for side in ("left", "right") for joint in (*ARM_JOINTS, "gripper"))
"""Order of states and setpoints: radians for the arm joints, grippers 0 (closed) to 1 (open)."""


@dataclass(frozen=True)
class View:
    """A camera, given by the point that it looks at and its position around that point.

    Attributes:
        lookat: Point in the middle of the image, metres.
        distance: From the camera to ``lookat``, metres.
        azimuth: Degrees; 90 looks along +y, from the operator's side.
        elevation: Degrees; -90 looks straight down.
        fovy: Vertical field of view, degrees.
    """

    lookat: tuple[float, float, float]
    distance: float
    azimuth: float
    elevation: float
    fovy: float


POLICY_VIEW = View(lookat=(0.0, 0.5, 0.13), distance=0.95, azimuth=90.0, elevation=-52.0, fovy=34.0)
"""The camera ``top`` of the policy: the scene and both grippers stay in view through all phases of a task."""

CAMERAS = ("top", "angle", "left_pillar", "right_pillar", "front_close")
"""``top`` is :data:`POLICY_VIEW`; the others are gym-aloha's."""


def _joint_state(qpos: NDArray[np.float64]) -> NDArray[np.float64]:
    """The 14 joint values from the 16 of the two arms (two finger slides per gripper become one number)."""
    arms = [(*arm[:6], normalize_puppet_gripper_position(arm[6])) for arm in (qpos[:8], qpos[8:16])]
    return np.array(arms).reshape(14)


HOME: NDArray[np.float32] = _joint_state(np.array(START_ARM_POSE)).astype(np.float32)
"""Setpoint that holds the start pose, shape (14,)."""


class BlindTask(gym_aloha_sim.BimanualViperXTask):
    """What the setpoints of gym-aloha mean to its actuators, without the three images per step and without a reward."""

    def get_observation(self, physics: Any) -> OrderedDict[str, Any]:
        """Nothing: states and images are read from outside."""
        return OrderedDict()

    def get_reward(self, physics: Any) -> float:
        """None: the environment of the task knows its stage."""
        return 0.0


class _Renderer(mujoco.Renderer):
    """A renderer that can be thrown away where its construction failed."""

    _gl_context = None
    _mjr_context = None


def _open_renderer(model: mujoco.MjModel, height: int, width: int) -> mujoco.Renderer:
    with opengl_errors():
        renderer = _Renderer(model, height, width)
    atexit.unregister(_close_environments)  # the first renderer registers mujoco's own clean-up; run before it
    atexit.register(_close_environments)
    renderer.scene.flags[mujoco.mjtRndFlag.mjRND_SHADOW] = 0
    renderer.scene.flags[mujoco.mjtRndFlag.mjRND_REFLECTION] = 0
    return renderer


_open_environments: weakref.WeakSet[SimulatedAloha] = weakref.WeakSet()


def _close_environments() -> None:
    """Free what is still open at exit while OpenGL is still there; mujoco's own destructors come too late."""
    for environment in list(_open_environments):
        environment.close()


class SimulatedAloha(ABC):
    """One simulated pair of arms in the scene of a task.

    Attributes:
        joints: Those of :data:`JOINT_NAMES` that a policy sees and moves; the others are held at home.

    Raises:
        MissingDependencyError: Where no OpenGL context can be made (on the first render).
    """

    joints: ClassVar[slice] = slice(0, len(JOINT_NAMES))

    def __init__(self, model: mujoco.MjModel, task: BlindTask) -> None:
        physics = dm_mujoco.Physics.from_model(dm_mujoco.wrapper.MjModel(model))
        physics.model.vis.quality.offsamples = 0
        self._physics = physics
        self._env = control.Environment(physics, task, control_timestep=DT)
        self._renderers: dict[tuple[int, int], mujoco.Renderer] = {}
        _open_environments.add(self)

    @classmethod
    def joint_names(cls) -> tuple[str, ...]:
        """Order of its states and setpoints."""
        return JOINT_NAMES[cls.joints]

    @classmethod
    def arm_joints(cls) -> list[int]:
        """Which of `joint_names` are in radians: all but the grippers."""
        return [index for index, name in enumerate(cls.joint_names()) if not name.endswith("gripper")]

    @abstractmethod
    def reset(self, seed: int) -> None:
        """Put the arms home and the scene where ``seed`` says."""

    @property
    @abstractmethod
    def reward(self) -> float:
        """The stage of the task that is reached now; the highest is success."""

    @property
    @abstractmethod
    def success(self) -> bool:
        """True while the task is done."""

    @property
    @abstractmethod
    def failed(self) -> bool:
        """True where the episode can no longer succeed, whatever follows."""

    def step(self, setpoint: NDArray[np.floating[Any]]) -> None:
        """Execute one setpoint, one number for each of `joint_names`, for one tick of 20 ms.

        Raises:
            ObservationError: Wrong shape or a value that is not finite.
            PhysicsError: The simulation broke down; only `reset` helps.
        """
        setpoint = np.asarray(setpoint, dtype=np.float64)
        count = len(self.joint_names())
        if setpoint.shape != (count,) or not np.isfinite(setpoint).all():
            raise ObservationError(f"a setpoint is {count} finite numbers, found shape {setpoint.shape}: {setpoint}")
        both = HOME.astype(np.float64)
        both[self.joints] = setpoint
        self._stepped(self._env.step(both).reward or 0.0)

    @abstractmethod
    def _stepped(self, reward: float) -> None:
        """Takes what the task of gym-aloha said after a step."""

    @property
    def state(self) -> NDArray[np.float32]:
        """Measured joints, in the order of `joint_names`."""
        return _joint_state(self._physics.data.qpos)[self.joints].astype(np.float32)

    def render(self, camera: str | View = "top", height: int = 112, width: int = 112) -> NDArray[np.uint8]:
        """An image, uint8, shape (height, width, 3), without shadows, reflections or multisampling.

        Args:
            camera: One of :data:`CAMERAS`, or a view of its own.
            height: Pixels.
            width: Pixels.

        Raises:
            ConfigError: Unknown camera.
            MissingDependencyError: No off-screen OpenGL on this machine.
        """
        if not isinstance(camera, View) and camera not in CAMERAS:
            raise ConfigError(f"unknown camera {camera!r}; the simulated ALOHA has {', '.join(CAMERAS)}")
        renderer = self._renderer(height, width)
        renderer.update_scene(self._physics.data.ptr, self._viewpoint(camera))
        return renderer.render()

    def _viewpoint(self, camera: str | View) -> str | mujoco.MjvCamera:
        view = POLICY_VIEW if camera == "top" else camera
        if isinstance(view, str):
            return view
        self._physics.model.ptr.vis.global_.fovy = view.fovy
        viewpoint = mujoco.MjvCamera()
        viewpoint.type = mujoco.mjtCamera.mjCAMERA_FREE
        viewpoint.lookat[:] = view.lookat
        viewpoint.distance = view.distance
        viewpoint.azimuth = view.azimuth
        viewpoint.elevation = view.elevation
        return viewpoint

    def _renderer(self, height: int, width: int) -> mujoco.Renderer:
        if (height, width) not in self._renderers:
            model = self._physics.model.ptr
            model.vis.global_.offheight = max(height, model.vis.global_.offheight)
            model.vis.global_.offwidth = max(width, model.vis.global_.offwidth)
            self._renderers[height, width] = _open_renderer(model, height, width)
        return self._renderers[height, width]

    def close(self) -> None:
        """Free the OpenGL contexts."""
        for renderer in self._renderers.values():
            renderer.close()
        self._renderers.clear()
