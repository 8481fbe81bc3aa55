"""Names and units of LeRobot's joints, and how they map to those of a policy's robot.

What the server of stock asynchronous clients and the policy plugin that runs inside LeRobot have in common. LeRobot
says nowhere in which units a robot reports its joints. Its own arms report degrees, with grippers from 0 (closed) to
100 (open), or a range of -100 to 100, whose meaning only their calibration knows.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from pi0_edge.errors import ConfigError
from pi0_edge.robots import Joint

Units = Literal["robot", "degrees"]
"""What the client's joints are in: the units of the policy's robot, or degrees and grippers of 0 to 100."""

LEROBOT_JOINTS = frozenset(
    (
        *("shoulder_pan", "shoulder_lift", "elbow_flex", "wrist_flex", "wrist_roll"),
        *("shoulder_pitch", "shoulder_yaw", "shoulder_roll", "wrist_yaw", "wrist_pitch"),
        *(f"joint_{number}" for number in range(1, 8)),
    )
)
"""Joints of LeRobot's own arms, which report degrees or a range; a bimanual robot puts `left_` or `right_` before them.
The gripper is not among them: arms of other makers have one too."""


@dataclass(frozen=True)
class JointMap:
    """Between a client's values and the policy's.

    Attributes:
        order: Place of each of the policy's values among the client's.
        scale: Policy's units for one unit of the client, for each of the policy's values.
    """

    order: NDArray[np.intp]
    scale: NDArray[np.float64]

    @classmethod
    def unchanged(cls, count: int) -> JointMap:
        """The client's order and units."""
        return cls(np.arange(count), np.ones(count))

    def to_policy(self, values: NDArray[np.floating]) -> NDArray[np.float64]:
        """The client's values in the policy's order and units.

        Args:
            values: [..., count]; leading dimensions are rows.
        """
        return np.asarray(values, np.float64)[..., self.order] * self.scale

    def to_client(self, values: NDArray[np.floating]) -> NDArray[np.float64]:
        """The inverse of `to_policy`."""
        client = np.empty(values.shape, np.float64)
        client[..., self.order] = values / self.scale
        return client


def check_units(units: str | None) -> Units | None:
    """The name of units, checked.

    Raises:
        ConfigError: If it is unknown.
    """
    if units is not None and units not in get_args(Units):
        raise ConfigError(f"units of LeRobot's client are {units!r}, expected one of {', '.join(get_args(Units))}")
    return units  # pyright: ignore[reportReturnType]


def joint_order(names: Sequence[str], joints: Sequence[str], robot: str) -> NDArray[np.intp]:
    """Place of each of `joints` among the client's names, which may end in `.pos`.

    Args:
        names: Of the client's joints, in its order.
        joints: Of the policy's robot, in its order.
        robot: Its name, for the message.

    Raises:
        ConfigError: If the client's are not the same names.
    """
    given = [name.removesuffix(".pos") for name in names]
    if len(set(given)) != len(given) or set(given) != set(joints):
        raise ConfigError(f"the client has the joints {listed(names)}, and {robot} has {listed(joints)}")
    return np.array([given.index(joint) for joint in joints], np.intp)


def is_of_lerobots_arm(joint: str) -> bool:
    """Whether an arm of LeRobot has a joint of this name."""
    return joint.removeprefix("left_").removeprefix("right_") in LEROBOT_JOINTS


def joint_scales(joints: Sequence[Joint], units: Units | None) -> NDArray[np.float64]:
    """The policy's units for one unit of the client, for each joint.

    Raises:
        ConfigError: If the client has degrees, and a joint is one that no arm of LeRobot has.
    """
    return np.array([_degrees_scale(joint) if units == "degrees" else 1.0 for joint in joints])


def listed(names: Sequence[str]) -> str:
    """Names for a message, cut where a peer sends very many or very long ones."""
    shown = ", ".join(name[:40] for name in names[:32])
    return f"{shown!r}"


def _degrees_scale(joint: Joint) -> float:
    if joint.unit == "rad":
        return math.pi / 180.0
    if joint.unit == "ratio" and (joint.closed, joint.open) in ((0, 1), (None, None)):
        return 0.01
    raise ConfigError(f"the joint {joint.name} is a {joint.unit} that no arm of LeRobot has; leave degrees out")
