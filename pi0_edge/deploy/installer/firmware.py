"""The firmware of the microcontroller follows the release: checked before anything changes, written, seen to run.

An image is written only while the arm is held and no bridge runs. Before, a file says so on the disk; it goes when the
board was seen to run what is needed. So a board that a power cut left without firmware is known from one with a loose
cable, and running the same command again goes on. Where the new image does not come to run, that of the running
release is written back.
"""

from __future__ import annotations

import contextlib
import dataclasses
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pi0_edge.deploy.installer.arm import ArmState, BridgeDownError, ask_board, ask_bridge, check_held, read_arm
from pi0_edge.deploy.installer.firmware_command import COMMAND_LIMIT_S, firmware_command, run_firmware_command
from pi0_edge.deploy.installer.firmware_writing import alone_with_board, begin_writing, end_writing, is_half_written
from pi0_edge.deploy.launcher.layout import Layout
from pi0_edge.deploy.launcher.services import BRIDGE, Services
from pi0_edge.deploy.launcher.settings import RobotSettings
from pi0_edge.deploy.launcher.slots import read_trial
from pi0_edge.deploy.release import FirmwareNeed
from pi0_edge.errors import DeployError
from pi0_edge.protos.serial_link import SCHEMA_HASH, VERSION

_STOP_LIMIT_S = 2.5  # no joint table lets an arm take longer than 2 s to stop
_START_LIMIT_S = 20.0  # of a board that was written, until it answers
_LINK_LIMIT_S = 30.0  # of the bridge, until its link is up
_POLL_S = 0.3
_RESTARTS = 3  # of the bridge by systemd, after which it will not come up


@dataclass(frozen=True)
class Firmware:
    """What a release says about the microcontroller, and its image.

    Attributes:
        need: What the board must run; None where the release asks nothing.
        image: The file; None where the release has none.
        python: Interpreter of its SDK environment, whose messages the board must speak; None is that of the place.
    """

    need: FirmwareNeed | None
    image: Path | None = None
    python: str | None = None


NO_FIRMWARE = Firmware(None)


class NotRunningError(DeployError):
    """Writing an image began, and it did not come to run."""


ROBOT = Layout()


@dataclass(frozen=True)
class Place:
    """Where the board is and who speaks with it.

    Attributes:
        settings: Of the robot.
        layout: Of its disk.
        python: Interpreter of the SDK environment of the release: its messages are those that the board must speak.
        command_limit_s: Longest time that writing an image may take.
    """

    settings: RobotSettings
    layout: Layout
    python: str
    command_limit_s: float = COMMAND_LIMIT_S


def firmware_is_needed(need: FirmwareNeed | None, arm: ArmState | None) -> str | None:
    """Compares what a release needs with what the board runs.

    Args:
        need: Of the release; None asks nothing.
        arm: What was read; None is a robot without a bridge, whose board is nobody's to write.

    Returns:
        Why the board must be written; None where it runs what is needed.
    """
    if need is None or arm is None:
        return None
    if not arm.link_up:
        return f"nobody can tell what the board runs: {arm.problem}"
    if arm.protocol_version != need.protocol_version:
        found = (
            f"other messages than this SDK (protocol {VERSION}, schema {SCHEMA_HASH:#010x})"
            if arm.protocol_version is None
            else f"protocol {arm.protocol_version}"
        )
        return f"the board speaks {found}, the release needs protocol {need.protocol_version}"
    if arm.limits_hash != need.limits_hash:
        found = "an unknown joint table" if arm.limits_hash is None else f"joint table {arm.limits_hash:#010x}"
        return f"the board holds {found}, the release needs {need.limits_hash:#010x}"
    return None


def check_firmware(settings: RobotSettings, wanted: Firmware, running: Firmware, arm: ArmState | None) -> str | None:
    """Decides before anything changes whether the board must be written and can be.

    Args:
        settings: Of the robot.
        wanted: Of the release that is to run.
        running: Of the release that runs now; without need where none does.
        arm: What `read_arm` said.

    Returns:
        Why the board must be written; None where it runs what is needed.

    Raises:
        DeployError: If it must be written and cannot be, or could not be brought back afterwards.
    """
    reason = firmware_is_needed(wanted.need, arm)
    if reason is None or wanted.need is None:
        return None
    if wanted.image is None:
        raise DeployError(f"{reason}, and it carries no image: sign it with --firmware-image")
    firmware_command(settings, wanted.need.board, wanted.image)
    if running.need is not None and _may_run(running.need, arm):
        if running.image is None:
            raise DeployError(
                f"{reason}, and the release that runs carries no image, so that the board could not be brought back; "
                "sign that bundle again with --firmware-image and flash it first"
            )
        if running.need.board and running.need.board != wanted.need.board:
            raise DeployError(
                f"the image of the release is for {wanted.need.board}, and the board of this robot is a "
                f"{running.need.board}, says the release that runs; sign it with the image for that board"
            )
    return reason


def _may_run(need: FirmwareNeed, arm: ArmState | None) -> bool:
    """Whether the board may run this firmware; messages that this SDK does not know may be those of another one."""
    if arm is None or arm.limits_hash != need.limits_hash:
        return False
    return arm.protocol_version in (None, need.protocol_version)


def write_firmware(
    settings: RobotSettings,
    image: Path | None,
    need: FirmwareNeed,
    services: Services,
    on_reason: Callable[[str], object],
    *,
    running: Firmware = NO_FIRMWARE,
    layout: Layout = ROBOT,
    python: str = sys.executable,
    command_limit_s: float = COMMAND_LIMIT_S,
) -> None:
    """Makes the board run what a release needs. Run again, it goes on where a power cut ended it.

    The bridge is stopped meanwhile, and started again as its unit starts it: begin the trial of the release before, so
    that it is the bridge of that release. After an error in a trial the bridge stays stopped: end the trial, start it.

    Args:
        settings: Of the robot.
        image: Of the release that is to run; None where it has none.
        need: Of that release.
        services: Of the robot's computer.
        on_reason: Is called with each decision.
        running: Of the release that runs now, to write back where the new image does not come to run.
        layout: Of the robot's disk.
        python: Interpreter of the SDK environment of the new release.
        command_limit_s: Longest time that writing an image may take.

    Raises:
        DeployError: If the arm is not held, or the board does not come to run what is needed; says what it runs now.
    """
    if settings.bridge is None:
        return
    place = Place(settings, layout, python, command_limit_s)
    wanted = Firmware(need, image)
    _check_through_bridge(place, wanted, running, on_reason)
    services.stop(BRIDGE)
    on_reason("the bridge is stopped, so that the board can be asked and written")
    try:
        write_stopped(place, wanted, running, on_reason)
        services.start(BRIDGE)
        await_bridge(settings, need, services)
    except DeployError as error:
        services.stop(BRIDGE)
        found = _write_back(place, running, on_reason, str(error))
        if read_trial(layout) is None:  # else the unit would write the image of the trial again
            services.start(BRIDGE)
        raise DeployError(found) from error
    on_reason("the bridge runs again, and its board is the one that the release needs")


def _check_through_bridge(
    place: Place, wanted: Firmware, running: Firmware, on_reason: Callable[[str], object]
) -> None:
    """Refuses before the bridge is stopped what can be refused then."""
    try:
        arm = read_arm(place.settings, place.python)
    except DeployError:
        if is_half_written(place.layout):
            return  # a board without firmware is silent
        raise
    if arm is not None and arm.link_up:
        check_firmware(place.settings, wanted, running, arm)
        on_reason(check_held(arm))


def write_stopped(place: Place, wanted: Firmware, running: Firmware, on_reason: Callable[[str], object]) -> str | None:
    """As `write_firmware` while no bridge runs; leaves the board as it is where it runs what is needed.

    Returns:
        What was written and why; None where nothing was.

    Raises:
        DeployError: If the arm is not held, or the board does not come to run what is needed.
    """
    with alone_with_board(place.layout):
        return _write_where_needed(place, wanted, running, on_reason)


def _write_where_needed(
    place: Place, wanted: Firmware, running: Firmware, on_reason: Callable[[str], object]
) -> str | None:
    arm = _ask_until_still(place)
    if arm is None:
        reason = "the board does not answer, because writing it was cut off"
        if wanted.image is None:
            raise DeployError(f"{reason}, and the release carries no image; flash one that does")
    else:
        reason = check_firmware(place.settings, wanted, running, arm)
        if reason is None:
            on_reason("the board runs what the release needs")
            end_writing(place.layout)
            return None
        on_reason(check_held(arm))
    on_reason(f"{reason}: the image of the release is written")
    return f"{reason}; {_write(place, wanted, on_reason)}"


def await_bridge(settings: RobotSettings, need: FirmwareNeed | None, services: Services) -> None:
    """Waits until the bridge has a link to a board that runs what is needed.

    Args:
        settings: Of the robot.
        need: Of the release whose bridge it is; None asks nothing of the board.
        services: Of the robot's computer.

    Raises:
        DeployError: If it fails or takes too long.
    """
    deadline = time.monotonic() + _LINK_LIMIT_S
    found = "it did not answer"
    while time.monotonic() < deadline:
        state = services.state(BRIDGE)
        if state.active == "failed" or state.restarts >= _RESTARTS:
            raise DeployError(f"{BRIDGE} does not stay up: {state.reason}; `journalctl -u {BRIDGE}` says more")
        with contextlib.suppress(BridgeDownError):
            arm = ask_bridge(settings)
            reason = firmware_is_needed(need, arm)
            if arm.link_up and reason is not None:
                raise DeployError(f"the bridge has another robot than the release: {reason}")
            if arm.link_up:
                return
            found = arm.problem
        time.sleep(_POLL_S)
    raise DeployError(f"the link of the bridge was not up within {_LINK_LIMIT_S:.0f} s: {found}")


def require_held_or_half_written(settings: RobotSettings, layout: Layout) -> str:
    """As `require_held`; a board without firmware, because writing it was cut off, moves nothing either."""
    try:
        arm = read_arm(settings)
    except DeployError:
        if not is_half_written(layout):
            raise
        arm = None
    if is_half_written(layout) and (arm is None or not arm.link_up):
        return "the board does not answer, because writing it was cut off: it moves nothing"
    return "this robot has no bridge, so that no arm can move" if arm is None else check_held(arm)


def _write_back(place: Place, running: Firmware, on_reason: Callable[[str], object], why: str) -> str:
    """Brings the board back to the running release where it was changed; returns what is to be said."""
    try:
        with alone_with_board(place.layout):
            return f"{why}; {_bring_back(_for(place, running), running, on_reason)}"
    except DeployError as second:
        return (
            f"{why}; writing the image of the running release back failed, too: {second}. No bridge can arm the arm "
            "now: look at cable and power of the board, then run the command again"
        )


def _bring_back(place: Place, running: Firmware, on_reason: Callable[[str], object]) -> str:
    arm = _ask_until_still(place)
    if arm is not None and running.need is not None and firmware_is_needed(running.need, arm) is None:
        end_writing(place.layout)
        return "the board runs what it ran before"
    if running.image is None:
        return "the release that runs has no image, so that nothing was written back"
    on_reason("the image of the running release is written back")
    _write(place, running, on_reason)
    return "the image of the running release was written back and runs"


def _for(place: Place, firmware: Firmware) -> Place:
    """The place with the interpreter that speaks with this firmware."""
    return place if firmware.python is None else dataclasses.replace(place, python=firmware.python)


def _write(place: Place, firmware: Firmware, on_reason: Callable[[str], object]) -> str:
    """Writes an image and waits until the board runs it; returns what is to be said."""
    need, image = firmware.need, firmware.image
    if need is None or image is None:
        raise DeployError("the release has no image")
    command = firmware_command(place.settings, need.board, image)
    begin_writing(place.layout, image)
    begun = time.monotonic()
    try:
        run_firmware_command(command, place.command_limit_s)
        _await_need(place, need)
    except DeployError as error:
        raise NotRunningError(str(error)) from error
    end_writing(place.layout)
    done = (
        f"{command[0]} wrote {image.stat().st_size / 1e3:.0f} kB, and the board holds joint table "
        f"{need.limits_hash:#010x} and speaks protocol {need.protocol_version}: {time.monotonic() - begun:.1f} s"
    )
    on_reason(done)
    return done


def _await_need(place: Place, need: FirmwareNeed) -> None:
    """Waits until a board that has just been written says that it is what is needed."""
    deadline = time.monotonic() + _START_LIMIT_S
    while True:
        try:
            reason = firmware_is_needed(need, ask_board(place.settings, place.python))
        except DeployError as error:
            reason = f"the board does not answer: {error}"
        if reason is None:
            return
        if time.monotonic() > deadline or not reason.startswith("the board does not answer"):
            raise DeployError(f"after the image was written, {reason}")
        time.sleep(_POLL_S)


def _ask_until_still(place: Place) -> ArmState | None:
    """What the board says once its arm stands; None where it is silent because it is half written."""
    deadline = time.monotonic() + _STOP_LIMIT_S
    while True:
        try:
            arm = ask_board(place.settings, place.python)
        except DeployError:
            if is_half_written(place.layout):
                return None
            raise
        if (arm.held and not arm.moving) or time.monotonic() > deadline:
            return arm
        time.sleep(_POLL_S)
