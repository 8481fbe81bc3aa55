"""The joints of one robot as arrays: chunks are checked against them and rounded to counts with them.

They come from the same robot file as the firmware's joint table.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from firmware_bridge.errors import StateError
from firmware_bridge.firmware.joint_table import Joint, JointTable, load_joint_table
from pi0_edge.protos.serial_link import State

ACTIVE_STATES = (State.ARMED, State.RUNNING, State.STARVED)
"""States in which the arm may move; `safety_is_active` of the firmware."""

_MARGIN = 0.1  # of the range: a policy may overshoot a limit a little and is brought back; more is a mistake


@dataclass(frozen=True)
class RobotJoints:
    """Joints in the order of the actions; every array is float64 [joints], in physical units.

    Attributes:
        name: Of the robot.
        names: Of the joints.
        lower: Smallest position.
        upper: Largest position.
        margin: How far beyond a limit an action may lie and still be brought back to it.
        velocity: Limit, units per second.
        acceleration: Limit, units per second squared.
        home: Position that a joint without encoder is taken to have after a reset.
        resolution: Units of one count on the wire.
        following_error: Largest distance from the commanded position before the firmware stops; 0 where it does not.
        current: Largest current, A; 0 where the firmware does not watch it.
        control_hz: Setpoints per second.
        servo_hz: Servo steps per second.
        limits_hash: CRC-32 of the table, as the firmware reports it.
    """

    name: str
    names: tuple[str, ...]
    lower: NDArray[np.float64]
    upper: NDArray[np.float64]
    margin: NDArray[np.float64]
    velocity: NDArray[np.float64]
    acceleration: NDArray[np.float64]
    home: NDArray[np.float64]
    resolution: NDArray[np.float64]
    following_error: NDArray[np.float64]
    current: NDArray[np.float64]
    control_hz: int
    servo_hz: int
    limits_hash: int

    @property
    def count(self) -> int:
        """Number of joints."""
        return len(self.names)

    def joint_name(self, number: int) -> str:
        """The joint with this number in a message of the firmware; empty where it names none."""
        return self.names[number] if number < self.count else ""

    def to_counts(self, positions: NDArray[np.float64]) -> NDArray[np.int16]:
        """The nearest counts that lie within the limits, [..., joints]."""
        lowest, highest = np.ceil(self.lower / self.resolution), np.floor(self.upper / self.resolution)
        return np.clip(np.rint(positions / self.resolution), lowest, highest).astype(np.int16)

    def of_counts(self, counts: NDArray[np.int16]) -> NDArray[np.float64]:
        """The positions that the firmware computes from counts, each a float32 value, [..., joints]."""
        return (counts.astype(np.float32) * self.resolution.astype(np.float32)).astype(np.float64)


def load_joints(robot: str | Path) -> RobotJoints:
    """Reads the joints of a robot.

    Args:
        robot: A name of `pi0_edge.robots.robot_names`, or the path of a robot file.

    Raises:
        ConfigError: If there is no such robot, its file is wrong, or the firmware cannot drive it.
    """
    return joints_of(load_joint_table(robot))


def check_joint_names(names: Sequence[str], robot: RobotJoints) -> None:
    """Compares the joints that a client's chunks command with those of the robot.

    Raises:
        StateError: If they differ in number, name or order, or the client names none.
    """
    found = tuple(names)
    if found == robot.names:
        return
    if not found:
        raise StateError(
            "joint_names is empty; name what each action of your chunks commands, in order. Serve a policy whose robot "
            f"names no actions with a robot file that does. The joints of {robot.name} are {', '.join(robot.names)}"
        )
    pairs = itertools.zip_longest(found, robot.names, fillvalue="nothing")
    place, (theirs, ours) = next((place, pair) for place, pair in enumerate(pairs) if pair[0] != pair[1])
    raise StateError(
        f"action {place} of your chunks commands {theirs}, but joint {place} of {robot.name} is {ours}; names and "
        "order must be the same: serve the policy with the robot file that the bridge was started with"
    )


def joints_of(table: JointTable) -> RobotJoints:
    """The joints of a table."""
    lower, upper = _column(table.joints, "minimum"), _column(table.joints, "maximum")
    return RobotJoints(
        name=table.robot,
        names=tuple(joint.name for joint in table.joints),
        lower=lower,
        upper=upper,
        margin=_MARGIN * (upper - lower),
        velocity=_column(table.joints, "velocity"),
        acceleration=_column(table.joints, "acceleration"),
        home=_column(table.joints, "home"),
        resolution=_column(table.joints, "resolution"),
        following_error=_column(table.joints, "following_error"),
        current=_column(table.joints, "current"),
        control_hz=table.control_hz,
        servo_hz=table.servo_hz,
        limits_hash=table.limits_hash,
    )


def _column(joints: tuple[Joint, ...], field: str) -> NDArray[np.float64]:
    return np.array([getattr(joint, field) for joint in joints], dtype=np.float64)
