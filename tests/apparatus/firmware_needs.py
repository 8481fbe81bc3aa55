"""What firmware a robot needs, computed from its file as bridge and firmware compute it."""

from __future__ import annotations

from pathlib import Path

from firmware_bridge.firmware.joint_table import load_joint_table
from pi0_edge.deploy.release import FirmwareNeed
from pi0_edge.errors import ConfigError, DeployError
from pi0_edge.protos.serial_link import VERSION


def firmware_need(robot: str | Path, board: str = "") -> FirmwareNeed:
    """What the microcontroller must run for a robot.

    Args:
        robot: A name of `pi0_edge.robots.robot_names`, or the path of a robot file.
        board: That the image of the release is for; empty where it has none.

    Raises:
        DeployError: If there is no such robot, its file is wrong, or the firmware cannot drive it.
    """
    try:
        table = load_joint_table(robot)
    except ConfigError as error:
        raise DeployError(f"{error}; sign the bundle without a need of firmware, or correct the robot file") from error
    return FirmwareNeed(protocol_version=VERSION, limits_hash=table.limits_hash, board=board)
