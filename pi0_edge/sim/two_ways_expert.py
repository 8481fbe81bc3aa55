"""A scripted expert for the two ways: one curve of the gripper on each side of the post, joint setpoints by kinematics.

The fingers turn down and sink while the gripper moves towards the target and bends out to one side, all by minimum-jerk
phases (Flash and Hogan 1985). Both ways cross the line beside the post at the same tick and equally far from the post,
so that their average runs through its middle. The gripper points away from the arm's base throughout, which leaves the
forearm's roll and the wrist's at rest.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pi0_edge.sim.aloha import HOME
from pi0_edge.sim.aloha_two_ways import WAYS, AlohaTwoWays, two_ways_model
from pi0_edge.sim.arm_kinematics import ArmKinematics, Waypoint, minimum_jerk

CLEARANCE = 0.08
"""From the middle of the post to the pinch point beside it, metres."""

EPISODE_TICKS = 90
ARRIVAL_TICK = 65
"""The gripper is at rest above the target from here on."""

SINK_TICKS = 38
"""In which the fingers turn down and sink to the height of the target; the post is passed about then."""

TILT = (-5.73, 85.0)
"""Of the fingers at home and from `SINK_TICKS` on, degrees below the horizontal."""


class TwoWaysExpert:
    """Makes the setpoints of both ways from the places of post and target."""

    def __init__(self) -> None:
        self._arm = ArmKinematics(two_ways_model(), "right")
        self._home = self._arm.pinch(HOME[7:13].astype(np.float64))

    def ways(self, env: AlohaTwoWays) -> tuple[NDArray[np.float32], ...]:
        """All setpoints of an episode for each of :data:`WAYS`, float32 (EPISODE_TICKS, joints of `env`).

        Raises:
            ConfigError: The target or the post is out of reach.
        """
        sides = [1 if way == "far" else -1 for way in WAYS]
        return tuple(self._setpoints(env.post, env.target, side)[:, env.joints] for side in sides)

    def _setpoints(self, post: NDArray[np.float64], target: NDArray[np.float64], side: int) -> NDArray[np.float32]:
        zero, one = np.zeros(1), np.ones(1)
        forward = minimum_jerk(zero, one, ARRIVAL_TICK)[:, 0]
        sunk = np.ones(ARRIVAL_TICK)
        sunk[:SINK_TICKS] = minimum_jerk(zero, one, SINK_TICKS)[:, 0]
        passing = (post[0] - self._home[0]) / (target[0] - self._home[0])
        straight = self._home[1] + passing * (target[1] - self._home[1])
        sideways = (post[1] + side * CLEARANCE - straight) / _bend(np.array(passing))
        places = self._home + (target - self._home) * np.stack([forward, forward, sunk], axis=1)
        places[:, 1] += sideways * _bend(forward)
        angles, path = HOME[7:13].astype(np.float64), np.tile(HOME, (EPISODE_TICKS, 1))
        for tick, (place, share) in enumerate(zip(places, sunk, strict=True)):
            tilt = TILT[0] + (TILT[1] - TILT[0]) * share
            x, y, z = place.tolist()
            yaw = np.degrees(np.arctan2(self._arm.base[1] - y, self._arm.base[0] - x))
            angles = self._arm.solve(Waypoint(tick, (x, y, z), tilt, 0, 0.0, yaw), angles)
            path[tick, 7:13] = angles
        path[ARRIVAL_TICK:, 7:13] = angles
        return path


def _bend(forward: NDArray[np.float64]) -> NDArray[np.float64]:
    """How far to the side: 0 at both ends with no slope, 1 in the middle."""
    return (4 * forward * (1 - forward)) ** 2
