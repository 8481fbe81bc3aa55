"""Kinematics of one arm of the simulated ALOHA: where the fingers pinch, and the joint angles that bring them there.

Damped least squares on the arm's own Jacobian turns a waypoint of the gripper into six joint angles.
"""

# pyright: reportAttributeAccessIssue=false
# mujoco's classes come from a compiled module without type stubs.

from __future__ import annotations

from dataclasses import dataclass

import mujoco
import numpy as np
from numpy.typing import NDArray

from pi0_edge.errors import ConfigError
from pi0_edge.sim.aloha import ARM_JOINTS

PINCH_OFFSET = 0.14
"""From the gripper link along the fingers to the point where they hold the cube, metres."""


@dataclass(frozen=True)
class Waypoint:
    """Where one gripper is at a tick, metres and degrees.

    ``tilt`` turns the fingers down from the horizontal, ``roll`` turns them about their own axis, ``yaw`` turns
    both about the vertical.
    """

    tick: int
    pinch: tuple[float, float, float]
    tilt: float
    roll: float
    gripper: float
    yaw: float = 0.0


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
        self._base = model.body(f"vx300s_{side}").id
        joints = [model.joint(f"vx300s_{side}/{name}") for name in ARM_JOINTS]
        self._qpos = np.array([joint.qposadr[0] for joint in joints])
        self._dofs = np.array([joint.dofadr[0] for joint in joints])
        self._range = np.array([joint.range for joint in joints])
        self._facing = np.eye(3) if side == "left" else _rotation(2, 180)

    @property
    def base(self) -> NDArray[np.float64]:
        """Where the arm stands, x and y in metres."""
        return self._model.body_pos[self._base, :2].copy()

    def pinch(self, angles: NDArray[np.float64]) -> NDArray[np.float64]:
        """Where the fingers pinch at these joint angles (6,), metres, shape (3,)."""
        self._data.qpos[self._qpos] = angles
        mujoco.mj_kinematics(self._model, self._data)
        link = self._data.xmat[self._link].reshape(3, 3)
        return self._data.xpos[self._link] + link[:, 0] * PINCH_OFFSET

    def solve(self, waypoint: Waypoint, start: NDArray[np.float64]) -> NDArray[np.float64]:
        """Joint angles (6,) whose pinch point and finger direction meet the waypoint, from a nearby start.

        Raises:
            ConfigError: The waypoint is out of reach.
        """
        orientation = (
            _rotation(2, waypoint.yaw) @ self._facing @ _rotation(1, waypoint.tilt) @ _rotation(0, waypoint.roll)
        )
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
