"""What systemd calls when the policy server has failed for good: back to the release before, once.

A release on trial is taken back; then what is committed runs. A committed release is taken back for the one before it,
which has no release before it from then on: when that fails too the service stays down, and the firmware holds the arm.

Whoever else takes a release back asks for the start of the other one before it lets go of the slots. So where the
policy server has been started again by the time that the slots are free, what failed was a release that is gone.
"""

from __future__ import annotations

from pi0_edge.deploy.launcher.bridge import bridge_follows
from pi0_edge.deploy.launcher.journal import write_entry
from pi0_edge.deploy.launcher.layout import Layout
from pi0_edge.deploy.launcher.services import POLICY, TRIAL_END, Services
from pi0_edge.deploy.launcher.slots import Slot, end_trial, read_slots, read_trial, slots_locked, write_slots


def fall_back(layout: Layout, services: Services) -> Slot | None:
    """Takes the failed release back and starts the one before it.

    Returns:
        What runs now; None where nothing can.
    """
    with slots_locked(layout):
        slots, trial, state = read_slots(layout), read_trial(layout), services.state(POLICY)
        reason = state.reason
        if state.waits or state.active not in ("failed", "inactive"):
            write_entry(layout, "left alone", "the policy server was started again before the fallback looked")
            return trial or slots.current
        if trial is not None:
            write_slots(layout, slots.listed_bad(trial, reason))
            end_trial(layout)
            write_entry(layout, "trial ended", reason, release=trial.release, sequence=trial.sequence)
            failed, slot = trial, slots.current
        elif slots.current is not None and slots.previous is not None:
            failed, slot = slots.current, slots.previous
            write_slots(layout, slots.taken_back(reason))
            write_entry(layout, "taken back", reason, release=failed.release, sequence=failed.sequence)
        else:
            release = "" if slots.current is None else slots.current.release
            why = f"{reason}; there is no earlier release on this robot, so the policy server stays down"
            write_entry(layout, "stays down", why, release=release)
            return None
    services.stop(TRIAL_END)
    bridge_follows(layout, services, failed, slot)
    if slot is not None:
        services.start(POLICY)
    return slot


def trial_ran_out(layout: Layout, services: Services) -> None:
    """What a timer calls: the installer that began a trial is gone, so what is committed runs again.

    The release is not listed as bad: nothing is known against it.
    """
    with slots_locked(layout):
        trial = read_trial(layout)
        if trial is None:
            return
        end_trial(layout)
        why = "the installer did not decide in time; what is committed runs again"
        write_entry(layout, "trial ended", why, release=trial.release, sequence=trial.sequence)
        services.restart(POLICY)
    bridge_follows(layout, services, trial, read_slots(layout).current)
