"""A chunk as points with due times, and these as `trajectory_msgs/JointTrajectory`.

Action k of a chunk is due k + 1 control periods after its observation. The header carries the time of the observation
and every point its distance from that, so that a chunk that comes late is entered at the action that is due. Actions
that are past due are left out: a controller then moves from where the arm is to the first action that is sent, and does
not go back.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pi0_edge.errors import ServingError

NANOSECONDS = 1_000_000_000


@dataclass(frozen=True)
class DuePositions:
    """Positions and when they are due.

    Attributes:
        observed_ns: Time of the observation that they answer, ns of the clock of the messages.
        due_ns: int64 [points], strictly increasing, ns of the same clock.
        positions: float64 [points, joints].
    """

    observed_ns: int
    due_ns: NDArray[np.int64]
    positions: NDArray[np.float64]

    def since(self, time_ns: int) -> DuePositions:
        """What is due at this time or later."""
        later = self.due_ns >= time_ns
        return DuePositions(self.observed_ns, self.due_ns[later], self.positions[later])


@dataclass(frozen=True)
class MessageClasses:
    """What makes the messages; those of ROS in the node.

    Attributes:
        trajectory: `trajectory_msgs/JointTrajectory`.
        point: `trajectory_msgs/JointTrajectoryPoint`.
    """

    trajectory: Callable[[], Any]
    point: Callable[[], Any]


def due_positions(chunk: Any, joints: int, observed_ns: int, control_hz: float) -> DuePositions:
    """All actions of a chunk with their due times.

    Args:
        chunk: The answer of the policy server.
        joints: How many joints the robot has.
        observed_ns: Time of the observation, ns.
        control_hz: Actions per second.

    Raises:
        ServingError: If it has another number of joints, no actions, or one that is not a finite number.
    """
    positions = np.array(chunk.actions, np.float64)
    if chunk.action_dim != joints or not chunk.horizon or positions.size != chunk.horizon * joints:
        raise ServingError(
            f"the policy server answered {positions.size} values as {chunk.horizon} actions of {chunk.action_dim}, "
            f"expected actions of {joints} joints; is it still the policy that the node was configured with?"
        )
    if not np.isfinite(positions).all():
        raise ServingError("the policy server answered an action that is not a finite number")
    after = np.rint(np.arange(1, chunk.horizon + 1) * (NANOSECONDS / control_hz)).astype(np.int64)
    return DuePositions(observed_ns, observed_ns + after, positions.reshape(-1, joints))


def write_trajectory(classes: MessageClasses, names: Sequence[str], due: DuePositions) -> Any:
    """The message for these positions.

    Args:
        classes: Of the messages.
        names: Of the joints, in the order of the positions.
        due: At least one point.
    """
    message = classes.trajectory()
    message.header.stamp.sec, message.header.stamp.nanosec = divmod(due.observed_ns, NANOSECONDS)
    message.joint_names = list(names)
    points = []
    for due_ns, positions in zip(due.due_ns.tolist(), due.positions.tolist(), strict=True):
        point = classes.point()
        point.positions = positions
        point.time_from_start.sec, point.time_from_start.nanosec = divmod(due_ns - due.observed_ns, NANOSECONDS)
        points.append(point)
    message.points = points
    return message
