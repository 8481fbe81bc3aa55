"""Files that survive a power cut as the old or as the new, never as neither.

A file is written beside its place, synchronized with the disk, renamed, and then its folder is synchronized: without
the first a rename can outlive the content, without the second the rename itself can be lost.
"""

from __future__ import annotations

import os
from pathlib import Path


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
    _sync(temporary)
    os.replace(temporary, path)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Brings the names in a folder to the disk."""
    _sync(folder)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
