"""What installed releases say of themselves."""

from __future__ import annotations

import json
from pathlib import Path

from pi0_edge.deploy.installer.firmware import NO_FIRMWARE, Firmware
from pi0_edge.deploy.installer.robot import Robot
from pi0_edge.deploy.launcher.layout import Layout
from pi0_edge.deploy.launcher.slots import Slot, read_slots
from pi0_edge.deploy.release import FIRMWARE_TARGET, STATEMENT, Release
from pi0_edge.errors import DeployError


def read_statement(layout: Layout, release_id: str) -> Release:
    """The statement of an installed release.

    Raises:
        DeployError: If it cannot be read.
    """
    path = layout.release(release_id) / STATEMENT
    try:
        return Release.from_dict(json.loads(path.read_bytes()))
    except (OSError, ValueError) as error:
        raise DeployError(f"{path} cannot be read ({error}); check the disk, and flash the release again") from error


def firmware_in(release: Release, folder: Path, environment: str | None = None) -> Firmware:
    """What a release says about the microcontroller, with the image in its folder."""
    image = folder / FIRMWARE_TARGET
    python = None if environment is None else f"{environment}/bin/python"
    return Firmware(release.firmware, image if image.is_file() else None, python)


def firmware_of(layout: Layout, slot: Slot | None) -> Firmware:
    """What an installed release says about the microcontroller; nothing where there is none.

    Raises:
        DeployError: If its statement cannot be read.
    """
    if slot is None:
        return NO_FIRMWARE
    return firmware_in(read_statement(layout, slot.release), layout.release(slot.release), slot.environment)


def running_firmware(robot: Robot) -> Firmware:
    """Of the release that is committed."""
    return firmware_of(robot.layout, read_slots(robot.layout).current)
