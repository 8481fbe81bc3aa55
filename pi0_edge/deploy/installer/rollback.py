"""A person takes a release back."""

from __future__ import annotations

import sys

from pi0_edge.deploy.installer.arm import read_arm, require_held
from pi0_edge.deploy.installer.firmware import firmware_is_needed, write_firmware
from pi0_edge.deploy.installer.installed import running_firmware
from pi0_edge.deploy.installer.robot import Robot
from pi0_edge.deploy.launcher.bridge import bridge_follows
from pi0_edge.deploy.launcher.journal import read_entries, write_entry
from pi0_edge.deploy.launcher.services import POLICY, TRIAL_END
from pi0_edge.deploy.launcher.slots import Slot, Slots, end_trial, read_slots, read_trial, slots_locked, write_slots

EVENT = "rolled back"


def roll_back(robot: Robot, reason: str) -> Slot | None:
    """Ends a trial, or goes back to the release before; asked again, it changes nothing more.

    Args:
        robot: Of this installer.
        reason: For the journal.

    Returns:
        What runs now; None where a trial was ended on a robot without a release.

    Raises:
        DeployError: If the arm is not held, or there is no release before.
    """
    reason = reason or "a person took it back"
    with slots_locked(robot.layout):
        slots, trial = read_slots(robot.layout), read_trial(robot.layout)
        back = trial or slots.current
        if trial is None and slots.previous is None and _was_rolled_back(robot, slots):
            robot.tell("nothing to do: the release before runs already, and there is none before it")
            return slots.current
        robot.tell(require_held(robot.settings))
        if trial is not None:
            write_slots(robot.layout, slots.listed_bad(trial, reason))
            end_trial(robot.layout)
        else:
            write_slots(robot.layout, slots.taken_back(reason))
        now = read_slots(robot.layout).current
        if back is not None:
            write_entry(robot.layout, EVENT, reason, release=back.release, sequence=back.sequence)
        if now is None:
            robot.services.stop(POLICY)
        else:
            robot.services.restart(POLICY)  # before the slots are free: see `launcher.fallback`
    robot.services.stop(TRIAL_END)
    if now is None:
        robot.tell("the trial ended; this robot has no release")
        return None
    robot.tell(f"{now.release} runs: {reason}")
    if not _bring_firmware_back(robot):
        bridge_follows(robot.layout, robot.services, back, now)
    return now


def _bring_firmware_back(robot: Robot) -> bool:
    """Writes the image of the release that runs now, where the microcontroller holds another one.

    Returns:
        Whether that was necessary; the bridge was started again then.

    Raises:
        DeployError: If it does not come to run; the policy server is the right one then, and the bridge refuses to
            start.
    """
    firmware = running_firmware(robot)
    python = firmware.python or sys.executable
    if firmware.need is None or firmware_is_needed(firmware.need, read_arm(robot.settings, python)) is None:
        return False
    write_firmware(
        robot.settings, firmware.image, firmware.need, robot.services, robot.tell, layout=robot.layout, python=python
    )
    return True


def _was_rolled_back(robot: Robot, slots: Slots) -> bool:
    """Whether the last change of what runs was a rollback.

    A power cut can come between the slots and their line in the journal: then a later release than the current one was
    committed once.
    """
    if slots.current is not None and slots.sequence_floor > slots.current.sequence:
        return True
    changes = [entry["event"] for entry in read_entries(robot.layout) if entry["event"] in (EVENT, "committed")]
    return bool(changes) and changes[-1] == EVENT
