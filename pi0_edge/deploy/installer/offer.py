"""What a robot says to a release that is offered: refuses it, has it already, or names the files that it lacks."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from packaging.specifiers import InvalidSpecifier, SpecifierSet

from pi0_edge.bundle.checksums import MANIFEST
from pi0_edge.bundle.file_list import FileRecord, listed_files
from pi0_edge.bundle.files import read_small_file, verify_file
from pi0_edge.deploy.installer.environments import environment_path, is_complete
from pi0_edge.deploy.installer.robot import Robot
from pi0_edge.deploy.launcher.layout import Layout
from pi0_edge.deploy.launcher.slots import Slots, read_slots, read_trial
from pi0_edge.deploy.release import ANY_HARDWARE, MANIFEST_TARGET, SDK_FOLDER, SDK_TARGET, Release
from pi0_edge.deploy.trust.verification import VerifiedRelease, verify_release
from pi0_edge.errors import BundleError, DeployError
from pi0_edge.progress import Stage

SPARE_SHARE = 0.1
"""Of the disk that stays free: a full disk stops more than flashing."""
ENVIRONMENT_PER_WHEEL = 4
"""Bytes of an installed environment for each byte of its wheels, with the copy that pip unpacks."""

_SHA256 = re.compile(r"[0-9a-f]{64}")
_WHEEL = re.compile(r"[A-Za-z0-9_.+-]+\.whl")


@dataclass(frozen=True)
class Answer:
    """What a robot says.

    Attributes:
        state: `committed` or `trial` where it runs already, else `receive`.
        release: The statement.
        lacking: Size in bytes of every file that must be sent, named relative to the staging folder.
    """

    state: str
    release: Release
    lacking: dict[str, int]


def answer_offer(robot: Robot, manifest_sha256: str, wheels: Mapping[str, int]) -> Answer:
    """Looks at metadata and manifest in staging.

    Args:
        robot: Of this installer.
        manifest_sha256: Of the release that is offered.
        wheels: Size in bytes of each wheel of its SDK folder, as the workstation says; pip checks their hashes.

    Raises:
        TrustError: If it is not signed as it should be, or older than what the robot had.
        DeployError: If this robot cannot run it, it was taken back here before, or the disk has no room.
    """
    verified = verified_offer(robot, manifest_sha256)
    release, slots = verified.release, read_slots(robot.layout)
    trial = read_trial(robot.layout)
    if trial is not None and trial.release == release.id:
        robot.tell(f"nothing to send: {release.id} is on trial")
        return Answer("trial", release, {})
    if slots.current is not None and slots.current.release == release.id:
        robot.tell(f"nothing to send: {release.id} is what runs")
        return Answer("committed", release, {})
    lacking = lacking_files(robot, verified, wheels)
    _check_space(robot, lacking)
    return Answer("receive", release, lacking)


def verified_offer(robot: Robot, manifest_sha256: str) -> VerifiedRelease:
    """The statement of what lies in staging, with every check that needs no more than that.

    Raises:
        TrustError: As `answer_offer`.
        DeployError: As `answer_offer`, but for the room on the disk.
    """
    staged, slots = staging_folder(robot.layout, manifest_sha256), read_slots(robot.layout)
    if not (staged / "bundle" / MANIFEST).is_file():
        raise DeployError(f"no manifest was received for {manifest_sha256[:12]}; run the flash command again")
    verified = verify_release(
        staged,
        robot.layout.trusted_metadata,
        sequence_floor=slots.sequence_floor,
        committed_at=slots.committed_at,
    )
    if verified.release.manifest_sha256 != manifest_sha256:
        raise DeployError(
            f"the signed manifest is {verified.release.manifest_sha256[:12]}, and {manifest_sha256[:12]} was offered"
        )
    for reason in verified.reasons:
        robot.tell(reason)
    _check_fits(robot, verified.release, slots)
    return verified


def staging_folder(layout: Layout, manifest_sha256: str) -> Path:
    """Where a release is received.

    Raises:
        DeployError: If that is not a SHA-256.
    """
    if not _SHA256.fullmatch(manifest_sha256):
        raise DeployError(f"{manifest_sha256!r:.80} is not a SHA-256 in hexadecimal")
    return layout.staging / manifest_sha256


def known_files(layout: Layout) -> dict[FileRecord, Path]:
    """Every file of the installed releases by what it holds: it is linked instead of sent."""
    known: dict[FileRecord, Path] = {}
    for folder in layout.installed():
        manifest = folder / "bundle" / MANIFEST
        if manifest.is_file():
            files = listed_files(manifest.read_bytes()).items()
            known |= {record: path for name, record in files if _size(path := manifest.with_name(name)) == record.size}
    return known


def lacking_files(robot: Robot, verified: VerifiedRelease, wheels: Mapping[str, int]) -> dict[str, int]:
    """Size of every file that is neither installed nor whole in staging, named relative to the staging folder.

    What was received is read: after a power cut a file can have its size, and not its content.
    """
    layout = robot.layout
    staged, place = staging_folder(layout, verified.release.manifest_sha256), layout.release(verified.release.id)
    known = known_files(layout)
    files = listed_files(read_small_file(staged / "bundle" / MANIFEST))
    wanted = {f"bundle/{name}": record for name, record in files.items() if record not in known}
    others = verified.targets.items()
    wanted |= {name: record for name, record in others if name not in (MANIFEST_TARGET, SDK_TARGET)}
    stage, lacking = Stage("comparing", len(wanted), robot.on_progress), {}
    for name, record in wanted.items():
        if _size(place / name) != record.size and not _is_whole(staged / name, record):
            lacking[name] = record.size
        stage.advance()
    lock = staged / SDK_TARGET
    if lock.is_file() and not is_complete(environment_path(layout, lock)):
        if unknown := [name for name in wheels if not _WHEEL.fullmatch(name)]:
            raise DeployError(f"the SDK folder holds {unknown[0]!r:.80}, expected wheels and {SDK_TARGET}")
        for name, size in ((f"{SDK_FOLDER}/{name}", size) for name, size in wheels.items()):
            if size not in (_size(place / name), _size(staged / name)):
                lacking[name] = size
    return lacking


def _check_fits(robot: Robot, release: Release, slots: Slots) -> None:
    settings = robot.settings
    if release.robot != settings.robot:
        raise DeployError(f"the release is for the robot {release.robot!r}, and this is {settings.robot!r}")
    if ANY_HARDWARE not in release.hardware and settings.hardware not in release.hardware:
        raise DeployError(f"the release is for {', '.join(release.hardware)}, and this computer is {settings.hardware}")
    try:
        SpecifierSet(release.sdk)
    except InvalidSpecifier as error:
        raise DeployError(f"the release asks for pi0-edge {release.sdk!r}, which is no range of versions") from error
    if (reason := slots.is_bad(release.id)) is not None:
        raise DeployError(
            f"{release.id} was taken back on this robot ({reason}); where that is mended, sign the bundle again with a "
            "higher sequence"
        )
    robot.tell(f"fits: robot {release.robot}, computer {settings.hardware}, sequence {release.sequence}")


def _check_space(robot: Robot, lacking: Mapping[str, int]) -> None:
    disk = shutil.disk_usage(robot.layout.state)
    wheels = sum(size for name, size in lacking.items() if name.startswith(f"{SDK_FOLDER}/"))
    needed = sum(lacking.values()) + ENVIRONMENT_PER_WHEEL * wheels
    spare = int(SPARE_SHARE * disk.total)
    found = f"{needed / 1e6:.0f} MB to receive, {disk.free / 1e6:.0f} MB free, {spare / 1e6:.0f} MB stay free"
    if needed and needed + spare > disk.free:
        raise DeployError(f"no room: {found}; make room with `pi0-edge flash gc`, or delete other files")
    robot.tell(f"room: {found}")


def _is_whole(path: Path, record: FileRecord) -> bool:
    if _size(path) != record.size:
        return False
    try:
        verify_file(path, record)
    except BundleError:
        return False
    return True


def _size(path: Path) -> int | None:
    try:
        return os.stat(path, follow_symlinks=False).st_size
    except OSError:
        return None
