"""Reads what an account that is not trusted put into a folder: plain files only, of limited size, through no link."""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from pathlib import Path

from pi0_edge.errors import TrustError


def read_staged(folder: Path, parts: Sequence[str], limit: int) -> bytes:
    """The content of a file.

    Every folder on the way is opened in the one before, so that none can be swapped for a link meanwhile.

    Args:
        folder: That was received.
        parts: Names of the folders in it that lead to the file, and of the file.
        limit: Most bytes.

    Raises:
        FileNotFoundError: If there is no such file.
        TrustError: If it is a link, no plain file, too large or cannot be read.
    """
    name = "/".join(parts)
    handles: list[int] = []
    try:
        handles.append(os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW))
        for part in parts[:-1]:
            handles.append(os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=handles[-1]))
        handles.append(os.open(parts[-1], os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=handles[-1]))
        status = os.fstat(handles[-1])
        if not stat.S_ISREG(status.st_mode):
            raise TrustError(f"{name} of the release is no plain file; nothing of it is used, send it again")
        if status.st_size > limit:
            raise TrustError(
                f"{name} of the release has {status.st_size} bytes, expected at most {limit}; it is refused"
            )
        return _read(handles[-1], limit, name)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise TrustError(
            f"{name} of the release cannot be read ({error.strerror}); expected a plain file, no link: send it again"
        ) from error
    finally:
        for handle in reversed(handles):
            os.close(handle)


def _read(handle: int, limit: int, name: str) -> bytes:
    pieces, left = [], limit + 1
    while left and (piece := os.read(handle, left)):
        pieces.append(piece)
        left -= len(piece)
    if not left:
        raise TrustError(f"{name} of the release grew while it was read; it is refused")
    return b"".join(pieces)
