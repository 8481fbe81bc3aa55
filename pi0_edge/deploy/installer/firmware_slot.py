"""The board follows the slot: before the bridge starts, the board runs what the chosen release needs.

`python -m pi0_edge.deploy.installer.firmware_slot` runs before the bridge of a robot (ExecStartPre=). A power cut in a
trial boots the committed release, and a fall-back starts the one before: in both the board may still hold the firmware
of the other. It is written again from the image of the release that starts. Where nothing is to do, it takes as long
as asking the board does.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path

from pi0_edge.deploy.installer.firmware import NO_FIRMWARE, Firmware, Place, write_stopped
from pi0_edge.deploy.installer.firmware_command import COMMAND_LIMIT_S
from pi0_edge.deploy.launcher.journal import write_entry
from pi0_edge.deploy.launcher.layout import Layout
from pi0_edge.deploy.launcher.settings import read_settings
from pi0_edge.deploy.launcher.slots import Slot, read_slots, read_trial
from pi0_edge.deploy.release import FIRMWARE_TARGET, Release
from pi0_edge.errors import DeployError


def firmware_of(layout: Layout, slot: Slot | None) -> Firmware:
    """What an installed release says about the microcontroller.

    Args:
        layout: Of the robot's disk.
        slot: Of the release; None asks nothing.

    Raises:
        DeployError: If its statement cannot be read.
    """
    if slot is None:
        return NO_FIRMWARE
    folder = layout.release(slot.release)
    statement = folder / "release.json"
    try:
        release = Release.from_dict(json.loads(statement.read_bytes()))
    except (OSError, ValueError) as error:
        raise DeployError(f"{statement} cannot be read ({error}); flash the release again") from error
    image = folder / FIRMWARE_TARGET
    return Firmware(release.firmware, image if image.is_file() else None)


def follow_slot(layout: Layout, on_reason: Callable[[str], object]) -> None:
    """Makes the board run what the release on trial, or else the committed one, needs. No bridge may run.

    Args:
        layout: Of the robot's disk.
        on_reason: Is called with each decision.

    Raises:
        DeployError: If the board does not come to run it.
    """
    settings = read_settings(layout)
    slot = read_trial(layout) or read_slots(layout).current
    wanted = firmware_of(layout, slot)
    if slot is None or settings.bridge is None or wanted.need is None:
        on_reason("nothing is asked of the firmware")
        return
    place = Place(settings, layout, str(Path(slot.environment) / "bin" / "python"), COMMAND_LIMIT_S)
    try:
        written = write_stopped(place, wanted, NO_FIRMWARE, on_reason)
    except DeployError as error:
        write_entry(layout, "firmware failed", str(error), release=slot.release, sequence=slot.sequence)
        raise
    if written is not None:
        write_entry(layout, "firmware written", written, release=slot.release, sequence=slot.sequence)


def main() -> int:
    """Follows the slot of this robot; returns 1 after an error, which it prints."""
    parser = argparse.ArgumentParser(prog="python -m pi0_edge.deploy.installer.firmware_slot", description=__doc__)
    parser.add_argument("--root", type=Path, default=Path("/"), help="of the file system (default: %(default)s)")
    layout = Layout(parser.parse_args().root)
    try:
        follow_slot(layout, lambda reason: sys.stdout.write(f"{reason}\n"))
    except DeployError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
