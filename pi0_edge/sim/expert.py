"""A scripted expert for the cube transfer: gripper waypoints from the cube pose, joint setpoints by kinematics.

Each arm passes through a few waypoints (where its fingertips pinch, which way they point, how far they are open).
Damped least squares on the arm's own Jacobian turns each waypoint into six joint angles; between waypoints every
joint follows a minimum-jerk curve (Flash & Hogan 1985), so setpoints are smooth, start and stop at rest, and are a
function of the cube pose alone. Playing them needs nothing but position control, as on the real arms.
"""

# pyright: reportAttributeAccessIssue=false
# mujoco's classes come from a compiled module without type stubs.

from __future__ import annotations

from dataclasses import dataclass

import mujoco
import numpy as np
from numpy.typing import NDArray

from pi0_edge.errors import ConfigError
from pi0_edge.sim.aloha_transfer_cube import ARM_JOINTS, ASSETS_DIR, HOME

PINCH_OFFSET = 0.14
"""From the gripper link along the fingers to the point where they hold the cube, metres."""

MEETING_POINT = (0.0, 0.5, 0.25)
"""Where the cube changes hands, metres."""

GRASP_SHIFT = 0.005
"""The right fingers pinch the cube this far beyond its centre, which leaves more of it to the left ones, metres."""

REACH_PAST = 0.015
"""The left fingers reach this far past the meeting point, metres."""

OPEN, CLOSED = 1.0, 0.07
EPISODE_TICKS = 340


@dataclass(frozen=True)
class Waypoint:
    """Where one gripper is at a tick, metres and degrees.

    ``tilt`` turns the fingers down from the horizontal, ``roll`` turns them about their own axis.
    """

    tick: int
    pinch: tuple[float, float, float]
    tilt: float
    roll: float
    gripper: float


def right_waypoints(x: float, y: float) -> list[Waypoint]:
    """Pick the cube at (x, y), carry it to the meeting point, let go, retreat."""
    mx, my, mz = MEETING_POINT
    x += GRASP_SHIFT
    return [
        Waypoint(70, (x, y, 0.12), 60, 0, OPEN),
        Waypoint(105, (x, y, 0.025), 60, 0, OPEN),
        Waypoint(112, (x, y, 0.025), 60, 0, OPEN),
        Waypoint(140, (x, y, 0.025), 60, 0, CLOSED),
        Waypoint(145, (x, y, 0.025), 60, 0, CLOSED),
        Waypoint(210, (mx, my, mz), 20, 0, CLOSED),
        Waypoint(270, (mx, my, mz), 20, 0, CLOSED),
        Waypoint(295, (mx, my, mz), 20, 0, OPEN),
        Waypoint(330, (mx + 0.12, my, mz), 20, 0, OPEN),
    ]


def left_waypoints() -> list[Waypoint]:
    """Wait beside the meeting point with the fingers above and below, take the cube, draw back."""
    mx, my, mz = MEETING_POINT
    return [
        Waypoint(110, (mx - 0.12, my, mz), 0, 90, OPEN),
        Waypoint(200, (mx - 0.12, my, mz), 0, 90, OPEN),
        Waypoint(240, (mx + REACH_PAST, my, mz), 0, 90, OPEN),
        Waypoint(265, (mx + REACH_PAST, my, mz), 0, 90, CLOSED),
        Waypoint(295, (mx + REACH_PAST, my, mz), 0, 90, CLOSED),
        Waypoint(335, (mx - 0.06, my, mz), 0, 90, CLOSED),
    ]


def _rotation(axis: int, degrees: float) -> NDArray[np.float64]:
    cosine, sine = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    matrix = np.eye(3)
    i, j = (axis + 1) % 3, (axis + 2) % 3
    matrix[[i, j], [i, j]] = cosine
    matrix[i, j], matrix[j, i] = -sine, sine
    return matrix


class ArmKinematics:
    """Inverse kinematics of one arm of the pair, on a private copy of the model."""

    def __init__(self, model: mujoco.MjModel, side: str) -> None:
        self._model, self._data = model, mujoco.MjData(model)
        self._link = model.body(f"vx300s_{side}/gripper_link").id
        joints = [model.joint(f"vx300s_{side}/{name}") for name in ARM_JOINTS]
        self._qpos = np.array([joint.qposadr[0] for joint in joints])
        self._dofs = np.array([joint.dofadr[0] for joint in joints])
        self._range = np.array([joint.range for joint in joints])
        self._facing = np.eye(3) if side == "left" else _rotation(2, 180)

    def solve(self, waypoint: Waypoint, start: NDArray[np.float64]) -> NDArray[np.float64]:
        """Joint angles (6,) whose pinch point and finger direction meet the waypoint, from a nearby start.

        Raises:
            ConfigError: The waypoint is out of reach.
        """
        orientation = self._facing @ _rotation(1, waypoint.tilt) @ _rotation(0, waypoint.roll)
        angles = start.copy()
        target = np.array(waypoint.pinch)
        for _ in range(200):
            error, jacobian = self._error(angles, target, orientation)
            if np.abs(error).max() < 1e-6:
                return angles
            step = jacobian.T @ np.linalg.solve(jacobian @ jacobian.T + 1e-4 * np.eye(6), error)
            angles = np.clip(angles + np.clip(step, -0.1, 0.1), self._range[:, 0], self._range[:, 1])
        left = np.abs(self._error(angles, target, orientation)[0]).max()
        raise ConfigError(f"{waypoint} is out of reach: {left:.4f} m or rad remain; move it closer")

    def _error(
        self, angles: NDArray[np.float64], pinch: NDArray[np.float64], orientation: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        data = self._data
        data.qpos[self._qpos] = angles
        mujoco.mj_kinematics(self._model, data)
        mujoco.mj_comPos(self._model, data)
        link = data.xmat[self._link].reshape(3, 3)
        point = data.xpos[self._link] + link[:, 0] * PINCH_OFFSET
        jacobian = np.zeros((6, self._model.nv))
        mujoco.mj_jac(self._model, data, jacobian[:3], jacobian[3:], point, self._link)
        turn, quaternion = np.zeros(3), np.zeros(4)
        mujoco.mju_mat2Quat(quaternion, (orientation @ link.T).ravel())
        mujoco.mju_quat2Vel(turn, quaternion, 1.0)
        return np.concatenate([pinch - point, turn]), jacobian[:, self._dofs]


def minimum_jerk(start: NDArray[np.floating], stop: NDArray[np.floating], ticks: int) -> NDArray[np.float64]:
    """Setpoints after ``start`` up to and including ``stop``, shape (ticks, channels), at rest at both ends.

    The fifth-order polynomial of Flash and Hogan (1985).
    """
    phase = np.arange(1, ticks + 1)[:, None] / ticks
    return start + (stop - start) * (10 * phase**3 - 15 * phase**4 + 6 * phase**5)


class TransferCubeExpert:
    """Makes the setpoints of one demonstration from the pose of the cube."""

    def __init__(self) -> None:
        model = mujoco.MjModel.from_xml_path(str(ASSETS_DIR / "bimanual_viperx_transfer_cube.xml"))
        self._left, self._right = ArmKinematics(model, "left"), ArmKinematics(model, "right")

    def setpoints(self, cube_xy: tuple[float, float]) -> NDArray[np.float32]:
        """All setpoints of an episode, shape (EPISODE_TICKS, 14)."""
        left = self._arm(self._left, HOME[:7], left_waypoints())
        right = self._arm(self._right, HOME[7:], right_waypoints(*cube_xy))
        return np.concatenate([left, right], axis=1).astype(np.float32)

    @staticmethod
    def _arm(kinematics: ArmKinematics, home: NDArray[np.float32], waypoints: list[Waypoint]) -> NDArray[np.float64]:
        tick, last = 0, home.astype(np.float64)
        segments = []
        for waypoint in waypoints:
            target = np.append(kinematics.solve(waypoint, last[:6]), waypoint.gripper)
            segments.append(minimum_jerk(last, target, waypoint.tick - tick))
            tick, last = waypoint.tick, target
        segments.append(np.repeat(last[None], EPISODE_TICKS - tick, axis=0))
        return np.concatenate(segments)
