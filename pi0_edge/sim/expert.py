"""A scripted expert for the cube transfer: gripper waypoints from the cube pose, joint setpoints by kinematics.

Each arm passes through a few waypoints (where its fingertips pinch, which way they point, how far they are open).
Damped least squares on the arm's own Jacobian turns each waypoint into six joint angles; between waypoints every
joint follows a minimum-jerk curve (Flash & Hogan 1985), so setpoints are smooth, start and stop at rest, and are a
function of the cube pose alone. Playing them needs nothing but position control, as on the real arms.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pi0_edge.sim.aloha import HOME
from pi0_edge.sim.aloha_transfer_cube import AlohaTransferCube, transfer_cube_model
from pi0_edge.sim.arm_kinematics import ArmKinematics, Waypoint, minimum_jerk

MEETING_POINT = (0.0, 0.5, 0.25)
"""Where the cube changes hands, metres."""

GRASP_SHIFT = 0.005
"""The right fingers pinch the cube this far beyond its centre, which leaves more of it to the left ones, metres."""

REACH_PAST = 0.015
"""The left fingers reach this far past the meeting point, metres."""

OPEN, CLOSED = 1.0, 0.07
EPISODE_TICKS = 340


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


class TransferCubeExpert:
    """Makes the setpoints of one demonstration from the pose of the cube."""

    def __init__(self) -> None:
        model = transfer_cube_model()
        self._left, self._right = ArmKinematics(model, "left"), ArmKinematics(model, "right")

    def ways(self, env: AlohaTransferCube) -> tuple[NDArray[np.float32], ...]:
        """The one way to transfer the cube from where it lies."""
        x, y = env.cube_pose[:2]
        return (self.setpoints((float(x), float(y))),)

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
