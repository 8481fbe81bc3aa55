"""The firmware of the microcontroller follows the release: checked before anything changes, written, seen to run.

An image is written only while the arm is held and no bridge runs. Before, a file says so on the disk; it goes when the
board was seen to run what is needed. So a board that a power cut left without firmware is known from one with a loose
cable, and running the same command again goes on. Where the new image does not come to run, that of the running
release is written back.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pi0_edge.deploy.installer.arm import ArmState, BridgeDownError, ask_board, ask_bridge, check_held, read_arm
from pi0_edge.deploy.installer.firmware_command import COMMAND_LIMIT_S, firmware_command, run_firmware_command
from pi0_edge.deploy.launcher.layout import Layout
from pi0_edge.deploy.launcher.services import BRIDGE, Services
from pi0_edge.deploy.launcher.settings import RobotSettings
from pi0_edge.deploy.release import FirmwareNeed
from pi0_edge.errors import DeployError
from pi0_edge.protos.serial_link import SCHEMA_HASH, VERSION
from pi0_edge.synced_files import replace_synced, sync_folder, write_synced

_STOP_LIMIT_S = 2.5  # no joint table lets an arm take longer than 2 s to stop
_START_LIMIT_S = 20.0  # of a board that was written, until it answers
_LINK_LIMIT_S = 30.0  # of the bridge, until its link is up
_POLL_S = 0.3


@dataclass(frozen=True)
class Firmware:
    """What a release says about the microcontroller, and its image.

    Attributes:
        need: What the board must run; None where the release asks nothing.
        image: The file; None where the release has none.
    """

    need: FirmwareNeed | None
    image: Path | None = None


NO_FIRMWARE = Firmware(None)
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
    if running.need is not None and firmware_is_needed(running.need, arm) is None:
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
    that it is the bridge of that release. After an error, end the trial and restart the bridge.

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
        await_bridge(place, need, services)
    except DeployError as error:
        services.stop(BRIDGE)
        found = _write_back(place, running, on_reason, str(error))
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
    arm = _ask_until_still(place)
    if arm is None:
        reason = "the board does not answer, because writing it was cut off"
        if wanted.image is None:
            raise DeployError(f"{reason}, and the release carries no image; flash one that does")
    else:
        reason = check_firmware(place.settings, wanted, running, arm)
        if reason is None:
            on_reason("the board runs what the release needs")
            _end_writing(place.layout)
            return None
        on_reason(check_held(arm))
    on_reason(f"{reason}: its image is written")
    return f"{reason}; {_write(place, wanted, on_reason)}"


def await_bridge(place: Place, need: FirmwareNeed, services: Services) -> None:
    """Waits until the bridge has a link to a board that runs what is needed.

    Raises:
        DeployError: If it fails or takes too long.
    """
    deadline = time.monotonic() + _LINK_LIMIT_S
    found = "it did not answer"
    while time.monotonic() < deadline:
        if services.state(BRIDGE).active in ("failed", "inactive"):
            raise DeployError(f"{BRIDGE} did not stay up; `journalctl -u {BRIDGE}` says why")
        with contextlib.suppress(BridgeDownError):
            arm = ask_bridge(place.settings)
            if (reason := firmware_is_needed(need, arm)) is None:
                return
            if arm.link_up:
                raise DeployError(f"the bridge has another robot than the release: {reason}")
            found = reason
        time.sleep(_POLL_S)
    raise DeployError(f"the link of the bridge was not up within {_LINK_LIMIT_S:.0f} s: {found}")


def is_half_written(layout: Layout) -> bool:
    """Whether writing an image has begun and the board was not seen to run it."""
    return layout.firmware_writing.exists()


def _write_back(place: Place, running: Firmware, on_reason: Callable[[str], object], why: str) -> str:
    """Brings the board back to the running release where it was changed; returns what is to be said."""
    try:
        arm = _ask_until_still(place)
        if arm is not None and running.need is not None and firmware_is_needed(running.need, arm) is None:
            _end_writing(place.layout)
            return f"{why}; the board runs what it ran before"
        if running.image is None:
            return f"{why}; the release that runs has no image, so that nothing was written back"
        on_reason(f"{why}; the image of the running release is written back")
        _write(place, running, on_reason)
    except DeployError as second:
        return (
            f"{why}; writing the image of the running release back failed, too: {second}. No bridge can arm the arm "
            "now: look at cable and power of the board, then run the command again"
        )
    return f"{why}; the image of the running release was written back and runs"


def _write(place: Place, firmware: Firmware, on_reason: Callable[[str], object]) -> str:
    """Writes an image and waits until the board runs it; returns what is to be said."""
    need, image = firmware.need, firmware.image
    if need is None or image is None:
        raise DeployError("the release has no image")
    command = firmware_command(place.settings, need.board, image)
    _begin_writing(place.layout, firmware)
    begun = time.monotonic()
    run_firmware_command(command, place.command_limit_s)
    _await_need(place, need)
    _end_writing(place.layout)
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


def _begin_writing(layout: Layout, firmware: Firmware) -> None:
    need = None if firmware.need is None else dataclasses.asdict(firmware.need)
    content = {"at": round(time.time(), 3), "need": need, "image": str(firmware.image)}
    temporary = layout.firmware_writing.with_name(f".{layout.firmware_writing.name}.new")
    try:
        layout.state.mkdir(parents=True, exist_ok=True)
        write_synced(temporary, (json.dumps(content) + "\n").encode())
        replace_synced(temporary, layout.firmware_writing)
    except OSError as error:
        raise DeployError(
            f"{layout.firmware_writing} cannot be written ({error}); free space or mend the disk"
        ) from error


def _end_writing(layout: Layout) -> None:
    if layout.firmware_writing.exists():
        layout.firmware_writing.unlink()
        sync_folder(layout.firmware_writing.parent)
