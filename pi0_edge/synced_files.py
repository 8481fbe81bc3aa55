"""Files that survive a power cut as the old or as the new, never as neither.

A file is written beside its place, synchronized with the disk, renamed, and then its folder is synchronized: without
the first a rename can outlive the content, without the second the rename itself can be lost. A folder is replaced by
another in one step, too: both change their names at once.
"""

from __future__ import annotations

import ctypes
import errno
import os
from pathlib import Path

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2


def write_synced(path: Path, content: bytes) -> None:
    """Writes a new file whose content is on the disk when this returns."""
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def replace_synced(temporary: Path, path: Path) -> None:
    """Puts a complete file in the place of another.

    Args:
        temporary: The file, on the same file system; by then everything is written to it.
        path: Its place; a file that is there is replaced.
    """
    sync_file(temporary)
    os.replace(temporary, path)
    sync_folder(path.parent)


def save_synced(path: Path, content: bytes) -> None:
    """Writes a file whole, in the place of one that is there.

    Raises:
        OSError: If it cannot be written; what was there is there still, and nothing else.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        write_synced(temporary, content)
        replace_synced(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def create_synced(path: Path, content: bytes, mode: int = 0o644) -> None:
    """Writes a file whole, where there is none.

    Args:
        path: Its place.
        content: Of the file.
        mode: Permissions of the file from its first byte on, less the umask.

    Raises:
        FileExistsError: If there is something at `path`, which stays as it is.
        OSError: If it cannot be written; nothing is left behind then.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.unlink(missing_ok=True)
    try:
        with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        _rename_to_free_place(temporary, path)
        sync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def exchange_synced(first: Path, second: Path) -> bool:
    """Lets two files or folders of one file system change places, in one step.

    Both are complete by then, and what is in them is on the disk.

    Returns:
        False where the file system cannot do this (FAT, exFAT, NFS and some FUSE file systems): nothing was changed.

    Raises:
        OSError: If one of the two does not exist, or cannot be renamed.
    """
    try:
        _renameat2(first, second, _RENAME_EXCHANGE)
    except OSError as error:
        if error.errno in (errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP):
            return False
        raise
    for folder in {first.parent, second.parent}:
        sync_folder(folder)
    return True


def make_folder_synced(folder: Path) -> None:
    """Makes a folder and those above it that are missing; their names are on the disk when this returns."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for made in missing:
        sync_folder(made.parent)


def sync_file(path: Path) -> None:
    """Brings the content of a file to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sync_folder(folder: Path) -> None:
    """Brings the names in a folder to the disk."""
    sync_file(folder)


def sync_tree(folder: Path) -> None:
    """Brings a folder with all files and folders in it to the disk; links in it are not followed."""
    for parent, _, files in os.walk(folder):
        for path in (Path(parent, name) for name in files):
            if not path.is_symlink():
                sync_file(path)
        sync_folder(Path(parent))


def _rename_to_free_place(temporary: Path, path: Path) -> None:
    """Renames without replacing; a file system without links (FAT) may replace what appears at the same moment."""
    try:
        os.link(temporary, path)
    except FileExistsError:
        raise
    except OSError:
        if os.path.lexists(path):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path)) from None
        temporary.rename(path)


def _renameat2(first: Path, second: Path, flags: int) -> None:
    """The system call that `os` does not have."""
    try:
        call = ctypes.CDLL(None, use_errno=True).renameat2
    except AttributeError:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS)) from None
    if call(_AT_FDCWD, os.fsencode(first), _AT_FDCWD, os.fsencode(second), ctypes.c_uint(flags)):
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), str(first), None, str(second))
