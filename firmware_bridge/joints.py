"""The joints of one robot as arrays: what chunks are checked against and quantised with.

Read from `robots/<name>.yaml`, the same file that the firmware's table is made from.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from firmware_bridge.errors import ConfigError
from firmware_bridge.firmware.joint_table import Joint, JointTable, load_joint_table

ROBOTS = Path(__file__).parent / "robots"
_MARGIN = 0.1  # of the range: a policy may overshoot a limit a little and is brought back; more is a mistake


@dataclass(frozen=True)
class RobotJoints:
    """Joints in the order of the actions; every array is float64 [joints], in physical units.

    Attributes:
        name: of the robot.
        names: of the joints.
        lower: smallest position.
        upper: largest position.
        margin: how far beyond a limit an action may lie and still be brought back to it.
        velocity: limit, units per second.
        acceleration: limit, units per second squared.
        home: position after a reset.
        resolution: units of one count on the wire.
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
    limits_hash: int

    @property
    def count(self) -> int:
        """Number of joints."""
        return len(self.names)

    def to_counts(self, positions: NDArray[np.float64]) -> NDArray[np.int16]:
        """The nearest counts that lie within the limits, [..., joints]."""
        lowest, highest = np.ceil(self.lower / self.resolution), np.floor(self.upper / self.resolution)
        return np.clip(np.rint(positions / self.resolution), lowest, highest).astype(np.int16)


def load_robot(name: str) -> RobotJoints:
    """Reads the joints of a robot of this package.

    Raises:
        ConfigError: there is no such robot, or its table is wrong.
    """
    known = sorted(path.stem for path in ROBOTS.glob("*.yaml"))
    if name not in known:
        raise ConfigError(f"unknown robot {name!r}; known are {', '.join(known)}")
    return robot_of(load_joint_table(ROBOTS / f"{name}.yaml"))


def robot_of(table: JointTable) -> RobotJoints:
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
        limits_hash=table.limits_hash,
    )


def _column(joints: tuple[Joint, ...], field: str) -> NDArray[np.float64]:
    return np.array([getattr(joint, field) for joint in joints], dtype=np.float64)
