"""The trial: the release runs as the real service while the arm is held, and is committed or taken back.

A trial stands in /run alone, so that a power cut ends it. Its installer may die: a timer then ends it, and systemd
itself takes back a release that crashes, hangs or is late, through the launcher's fallback.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

from pi0_edge.deploy.installer.arm import require_held
from pi0_edge.deploy.installer.firmware import Firmware, await_bridge, require_held_or_half_written, write_firmware
from pi0_edge.deploy.installer.installed import running_firmware
from pi0_edge.deploy.installer.robot import Robot
from pi0_edge.deploy.installer.self_test import run_self_test
from pi0_edge.deploy.launcher.bridge import bridge_follows, restart_bridge
from pi0_edge.deploy.launcher.services import BRIDGE, POLICY, TRIAL_END, ServiceState
from pi0_edge.deploy.launcher.slots import (
    Slot,
    begin_trial,
    end_trial,
    prove_trial,
    read_proof,
    read_slots,
    read_trial,
    slots_locked,
    write_slots,
)
from pi0_edge.deploy.release import Release
from pi0_edge.errors import DeployError
from pi0_edge.progress import Stage

_POLL_S = 0.1
_POLL_SHARE = 0.1
"""Of the time that passes, at most: a slow computer needs its processor for what is awaited."""


def try_release(
    robot: Robot, release: Release, slot: Slot, budget_ms: float | None, firmware: Firmware | None = None
) -> str:
    """Runs a release on trial; in the end it still is on trial, and has proved itself.

    Args:
        robot: Of this installer.
        release: The statement.
        slot: As it would be committed.
        budget_ms: Longest time that a chunk may take.
        firmware: To write to the microcontroller first; None leaves it as it is.

    Returns:
        What it proved, in one sentence.

    Raises:
        DeployError: If it failed; what is committed then runs again.
    """
    robot.tell(require_held_or_half_written(robot.settings, robot.layout))
    begin_trial(robot.layout, slot)
    robot.record("trial", "the service starts with this release; a power cut ends it", release)
    try:
        robot.services.restart(TRIAL_END)  # one that is just ending a trial before would not be started
        if firmware is not None and firmware.need is not None:
            _write(robot, firmware, slot)
        elif restart_bridge(robot.layout, robot.services, read_slots(robot.layout).current, slot):
            await_bridge(robot.settings, release.firmware, robot.services)
            robot.tell("the bridge of this release runs")
        robot.services.restart(POLICY)
        _await_ready(robot, slot)
        begun = robot.services.state(POLICY)
        found = run_self_test(
            robot,
            robot.layout.bundle(slot.release),
            slot.environment,
            budget_ms=budget_ms,
            server=robot.settings.policy_listen,
        )
        robot.services.restart(TRIAL_END)
        _watch(robot, slot, begun.restarts)
    except DeployError as error:
        reason = _why_ended(robot, slot) or _with_state(robot, str(error))
        take_back_trial(robot, release, reason, is_bad=not isinstance(error, _DisturbedError))
        if firmware is not None:
            _bring_back(robot, slot)
        else:
            bridge_follows(robot.layout, robot.services, slot, read_slots(robot.layout).current)
        raise DeployError(f"{release.id} was taken back: {reason}") from error
    chunks = found.get("latency_ms", {}).get("n", 0)
    proof = f"{chunks} chunks answered by the service, and {robot.settings.trial_s:g} s without a fault"
    prove_trial(robot.layout, slot, proof)
    robot.services.stop(TRIAL_END)
    return proof


class _DisturbedError(DeployError):
    """A trial was ended by something that is not the fault of its release."""


def _write(robot: Robot, firmware: Firmware, slot: Slot) -> None:
    """Writes the microcontroller's image while the trial is that of its release: its bridge is then that one's."""
    assert firmware.need is not None  # noqa: S101 - the caller looked
    write_firmware(
        robot.settings,
        firmware.image,
        firmware.need,
        robot.services,
        robot.tell,
        running=running_firmware(robot),
        layout=robot.layout,
        python=firmware.python or f"{slot.environment}/bin/python",
    )


def _bring_back(robot: Robot, slot: Slot) -> None:
    """After a trial that failed: the microcontroller runs what the committed release needs, under its own bridge."""
    before = running_firmware(robot)
    if before.need is not None:
        _write(robot, before, slot)
    robot.services.restart(BRIDGE)


def _with_state(robot: Robot, reason: str) -> str:
    """The reason of a failure, and what systemd says where the service does not run any more."""
    state = robot.services.state(POLICY)
    return reason if state.active == "active" or state.reason in reason else f"{state.reason}: {reason}"


def take_back_trial(robot: Robot, release: Release, reason: str, *, is_bad: bool = True) -> None:
    """Ends a trial that failed, where the fallback has not done so already.

    Args:
        robot: Of this installer.
        release: That is on trial.
        reason: Why it ends.
        is_bad: Whether the release is to blame and is listed as bad.
    """
    with slots_locked(robot.layout):
        trial = read_trial(robot.layout)
        if trial is None or trial.release != release.id:
            return
        slots = read_slots(robot.layout)
        if is_bad:
            write_slots(robot.layout, slots.listed_bad(trial, reason))
        end_trial(robot.layout)
        if slots.current is None:
            robot.services.stop(POLICY)
        else:
            robot.services.restart(POLICY)  # before the slots are free: see `launcher.fallback`
    robot.record("trial ended", reason, release)
    robot.services.stop(TRIAL_END)


def commit_trial(robot: Robot) -> Slot:
    """Makes what is on trial what runs from now on: the only step of a flash that lasts.

    Raises:
        DeployError: If nothing is on trial, or it has not proved itself.
    """
    with slots_locked(robot.layout):
        trial, slots = read_trial(robot.layout), read_slots(robot.layout)
        if trial is None:
            raise DeployError("no release is on trial on this robot; `pi0-edge flash status` says what runs")
        if read_proof(robot.layout) is None:
            raise DeployError(
                f"{trial.release} has not come to the end of its trial; flash it again, which tries it anew"
            )
        write_slots(robot.layout, slots.committed(trial))
        end_trial(robot.layout)
    robot.services.stop(TRIAL_END)
    return trial


def _await_ready(robot: Robot, slot: Slot) -> None:
    """Waits for READY; the unit's own time limit ends a service that never is."""
    stage = Stage("starting", None, robot.on_progress)
    for state in _states(robot):
        if state.active == "active":
            return
        if _why_ended(robot, slot) is not None or (state.active in ("failed", "inactive") and not state.waits):
            raise DeployError(f"the policy server did not become ready: {state.reason}")
        stage.advance()


def _watch(robot: Robot, slot: Slot, restarts: int) -> None:
    """Watches the service for the time of a trial."""
    stage = Stage("on trial (s)", round(robot.settings.trial_s), robot.on_progress)
    begun = time.monotonic()
    for state in _states(robot):
        if read_trial(robot.layout) != slot or state.active != "active" or state.restarts != restarts:
            raise DeployError(f"the policy server failed on trial: {state.reason}")
        try:
            require_held(robot.settings)
        except DeployError as error:
            raise _DisturbedError(f"the trial was ended, which is not the fault of the release: {error}") from error
        passed = time.monotonic() - begun
        stage.set(round(min(passed, robot.settings.trial_s)))
        if passed >= robot.settings.trial_s:
            return


def _states(robot: Robot) -> Iterator[ServiceState]:
    """How the policy server is, again and again, without an end."""
    pause_s = 0.0
    while True:
        time.sleep(pause_s)
        begun = time.monotonic()
        state = robot.services.state(POLICY)
        pause_s = max(_POLL_S, (time.monotonic() - begun) * (1 / _POLL_SHARE - 1))
        yield state


def _why_ended(robot: Robot, slot: Slot) -> str | None:
    """Why the fallback ended this trial; None where it has not."""
    if read_trial(robot.layout) == slot:
        return None
    return read_slots(robot.layout).is_bad(slot.release) or "the trial was ended on the robot"
