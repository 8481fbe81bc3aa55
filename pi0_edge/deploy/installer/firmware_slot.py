"""The board follows the slot: before the bridge starts, the board runs what the chosen release needs.

`python -m pi0_edge.deploy.installer.firmware_slot` runs before the bridge of a robot, in the unit pi0-edge-firmware. A
power cut in a trial boots the committed release, and a fall-back starts the one before: in both the board may still
hold the firmware of the other. It is written again from the image of the release that starts. Where nothing is to do,
it takes as long as asking the board does.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path

from pi0_edge.deploy.installer.firmware import NO_FIRMWARE, NotRunningError, Place, write_stopped
from pi0_edge.deploy.installer.firmware_command import COMMAND_LIMIT_S
from pi0_edge.deploy.installer.firmware_writing import is_half_written
from pi0_edge.deploy.installer.installed import firmware_of
from pi0_edge.deploy.launcher.journal import write_entry
from pi0_edge.deploy.launcher.layout import Layout
from pi0_edge.deploy.launcher.settings import read_settings
from pi0_edge.deploy.launcher.slots import Slot, read_slots, read_trial
from pi0_edge.errors import DeployError

_MOST_ATTEMPTS = 3


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
    attempts = _attempts(layout, slot)
    if attempts >= _MOST_ATTEMPTS and is_half_written(layout):
        raise DeployError(
            f"the firmware of {slot.release} did not come to run {attempts} times since this computer booted, and a "
            "flash memory wears out: look at cable and power of the board, then flash a release, or reboot"
        )
    place = Place(settings, layout, f"{slot.environment}/bin/python", COMMAND_LIMIT_S)
    try:
        written = write_stopped(place, wanted, NO_FIRMWARE, on_reason)
    except NotRunningError as error:  # the others change nothing, and without a board they come again and again
        _count_attempt(layout, slot, attempts + 1)
        write_entry(layout, "firmware failed", str(error), release=slot.release, sequence=slot.sequence)
        raise
    if written is not None:
        layout.firmware_attempts.unlink(missing_ok=True)
        write_entry(layout, "firmware written", written, release=slot.release, sequence=slot.sequence)


def _attempts(layout: Layout, slot: Slot) -> int:
    """How often an image of this release was tried in vain."""
    try:
        found = json.loads(layout.firmware_attempts.read_bytes())
        return int(found["count"]) if found["release"] == slot.release else 0
    except (OSError, ValueError, KeyError, TypeError):
        return 0


def _count_attempt(layout: Layout, slot: Slot, count: int) -> None:
    layout.runtime.mkdir(parents=True, exist_ok=True)
    layout.firmware_attempts.write_text(json.dumps({"release": slot.release, "count": count}))


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
