"""From staging, which the sending account owns, to `releases`, which nobody writes again.

A folder is first moved to where only root comes, then made root's own, then searched for whoever still has a file of it
open to write, and only then read back from the disk and compared. What is installed already is linked in.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import stat
from pathlib import Path

from pi0_edge.bundle.checksums import MANIFEST, MANIFEST_FILES, read_manifest
from pi0_edge.bundle.file_list import listed_files
from pi0_edge.bundle.files import read_small_file, verify_file, verify_files
from pi0_edge.deploy.installer.environments import environment_path, is_complete
from pi0_edge.deploy.installer.garbage import delete_release
from pi0_edge.deploy.installer.offer import known_files, staging_folder
from pi0_edge.deploy.installer.robot import Robot
from pi0_edge.deploy.launcher.slots import read_slots
from pi0_edge.deploy.release import MANIFEST_TARGET, METADATA_FOLDER, SDK_FOLDER, SDK_TARGET, STATEMENT
from pi0_edge.deploy.sdk.lock import find_wheels, read_lock
from pi0_edge.deploy.trust.verification import VerifiedRelease
from pi0_edge.errors import BundleError, DeployError
from pi0_edge.progress import Stage
from pi0_edge.synced_files import make_folder_synced, sync_folder, write_synced

_FOLDERS = ("bundle", METADATA_FOLDER, SDK_FOLDER)


def take_release(robot: Robot, verified: VerifiedRelease) -> Path:
    """Verifies what was received, and installs it.

    Args:
        robot: Of this installer.
        verified: What `verify_release` says of it.

    Returns:
        The folder of the release; where it was installed already, it is verified again and left as it is.

    Raises:
        DeployError: If a byte is missing or another, or somebody still writes to a file. What was received is then
            deleted, the good files of it too where it is not known which are bad.
    """
    release, layout = verified.release, robot.layout
    place = layout.release(release.id)
    if place.exists():
        _verify_installed(place, verified, robot)
        robot.tell(f"verified: {release.id} is installed already, every byte as it was signed")
        return place
    incoming = layout.incoming / release.id
    staged = staging_folder(layout, release.manifest_sha256)
    make_folder_synced(layout.incoming)
    layout.incoming.chmod(0o700)
    if staged.exists():
        shutil.rmtree(incoming, ignore_errors=True)
        os.rename(staged, incoming)
    if not incoming.exists():
        raise DeployError(f"nothing was received of {release.id}; run the flash command again")
    try:
        make_own(incoming)
        linked = _link_known(robot, incoming)
        _verify(incoming, verified, robot)
    except DeployError:
        shutil.rmtree(incoming, ignore_errors=True)
        raise
    statement = json.dumps(release.to_dict(), indent=2) + "\n"
    write_synced(incoming / STATEMENT, statement.encode())
    (incoming / STATEMENT).chmod(0o444)
    _close(incoming)
    make_folder_synced(layout.releases)
    os.rename(incoming, place)
    sync_folder(layout.releases)
    sync_folder(layout.incoming)
    robot.record("installed", f"every byte read back from the disk; {linked} files linked from other releases", release)
    return place


def make_own(folder: Path) -> None:
    """Makes all of a received folder root's own and read-only, from the outside in, so that nothing in it can change.

    Raises:
        DeployError: If it holds anything but folders and plain files, or a file is open to write.
    """
    signal.signal(signal.SIGIO, signal.SIG_IGN)  # says that somebody wanted to write during the check, and cannot
    for path, folders, files, handle in os.fwalk(folder, follow_symlinks=False):
        os.fchmod(handle, 0o755)
        _chown(handle)
        for name in folders:
            if not stat.S_ISDIR(os.stat(name, dir_fd=handle, follow_symlinks=False).st_mode):
                raise DeployError(f"{path}/{name} is a link, expected folders and plain files only")
        for name in files:
            _make_file_own(name, handle, Path(path) / name)


def _make_file_own(name: str, folder: int, shown: Path) -> None:
    try:
        file = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=folder)
    except OSError as error:
        raise DeployError(f"{shown} is a link or cannot be read, expected folders and plain files only") from error
    try:
        status = os.fstat(file)
        if not stat.S_ISREG(status.st_mode) or status.st_nlink != 1:
            raise DeployError(f"{shown} is a device, pipe or second name of a file, expected plain files only")
        _chown(file)
        os.fchmod(file, 0o444)
        try:  # the kernel grants a read lease only where nobody has the file open, or mapped, to write
            fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_RDLCK)
        except BlockingIOError as error:
            raise DeployError(f"{shown} is still being written to; end the other transfer, then run again") from error
        fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    finally:
        os.close(file)


def _chown(handle: int) -> None:
    if os.geteuid() == 0:
        os.fchown(handle, 0, 0)


def _link_known(robot: Robot, incoming: Path) -> int:
    """Gives the bundle the files that another release has; returns how many."""
    known, linked = known_files(robot.layout), 0
    for name, record in listed_files(_read(incoming / "bundle" / MANIFEST)).items():
        place = incoming / "bundle" / name
        if record in known and not place.exists():
            os.link(known[record], place)
            linked += 1
    return linked


def _verify_installed(place: Path, verified: VerifiedRelease, robot: Robot) -> None:
    """Looks at a release that is installed already; one that the disk damaged is deleted, so that it can be sent."""
    try:
        _verify(place, verified, robot)
    except DeployError as error:
        slots = read_slots(robot.layout)
        if place.name in {slot.release for slot in (slots.current, slots.previous) if slot is not None}:
            raise
        delete_release(robot.layout, place.name)
        why = f"{place.name} was installed and is damaged on the disk ({error})"
        robot.record("deleted", why, verified.release)
        raise DeployError(f"{why}; it was deleted: check the disk, then run the flash command again") from error


def _verify(folder: Path, verified: VerifiedRelease, robot: Robot) -> None:
    """Reads every file back from the disk and compares it with what was signed."""
    try:
        manifest = read_manifest(folder / "bundle", None)
        files = listed_files(manifest)
        stage = Stage("verifying", len(files) + 1, robot.on_progress)
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                _drop_from_cache(path)
        stage.advance()
        verify_files(folder / "bundle", files, allowed_extra=MANIFEST_FILES)
        stage.set(len(files) + 1)
        others = {name: record for name, record in verified.targets.items() if name != MANIFEST_TARGET}
        for name, record in others.items():
            verify_file(folder / name, record)
    except BundleError as error:
        raise DeployError(f"what was received is not what was signed: {error}") from error
    lock = folder / SDK_TARGET
    if SDK_TARGET in others and not is_complete(environment_path(robot.layout, lock)):
        find_wheels(read_lock(lock), folder / SDK_FOLDER, robot.on_progress)
    allowed = {*_FOLDERS, *others, STATEMENT}
    if surplus := sorted({path.name for path in folder.iterdir()} - allowed):
        raise DeployError(f"{surplus[0]} was received and is no part of the release")


def _drop_from_cache(path: Path) -> None:
    """Makes the next read of a file come from the disk: what is only in memory would prove nothing."""
    file = os.open(path, os.O_RDONLY)
    try:
        os.fsync(file)
        os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(file)


def _close(folder: Path) -> None:
    """Brings the names of a complete release to the disk, and takes the right to add any."""
    for path, _, _, handle in os.fwalk(folder, topdown=False):
        os.fchmod(handle, 0o755 if Path(path) == folder else 0o555)
        os.fsync(handle)


def _read(path: Path) -> bytes:
    try:
        return read_small_file(path)
    except BundleError as error:
        raise DeployError(f"{path.name} was not received: {error}; run the flash command again") from error
