"""What others see of an image that is being written: a file that outlives a power cut, and a lock that does not."""

from __future__ import annotations

import contextlib
import fcntl
import json
import time
from collections.abc import Iterator
from pathlib import Path

from pi0_edge.deploy.launcher.layout import Layout
from pi0_edge.errors import DeployError
from pi0_edge.synced_files import replace_synced, sync_folder, write_synced

_LOCK_LIMIT_S = 300.0  # that another one may take to write the board
_POLL_S = 0.3


def begin_writing(layout: Layout, image: Path) -> None:
    """Says on the disk that the board may be half written from now on.

    Raises:
        DeployError: If the disk takes no file.
    """
    content = json.dumps({"at": round(time.time(), 3), "image": str(image)}) + "\n"
    temporary = layout.firmware_writing.with_name(f".{layout.firmware_writing.name}.new")
    try:
        layout.state.mkdir(parents=True, exist_ok=True)
        write_synced(temporary, content.encode())
        replace_synced(temporary, layout.firmware_writing)
    except OSError as error:
        raise DeployError(
            f"{layout.firmware_writing} cannot be written ({error}); free space or mend the disk"
        ) from error


def end_writing(layout: Layout) -> None:
    """Says on the disk that the board runs a whole image."""
    if layout.firmware_writing.exists():
        layout.firmware_writing.unlink()
        sync_folder(layout.firmware_writing.parent)


def is_half_written(layout: Layout) -> bool:
    """Whether writing an image has begun and the board was not seen to run it."""
    return layout.firmware_writing.exists()


@contextlib.contextmanager
def alone_with_board(layout: Layout) -> Iterator[None]:
    """Waits until nobody else asks or writes the board: a flash, or what runs before the bridge.

    Raises:
        DeployError: If that takes longer than writing an image may.
    """
    layout.runtime.mkdir(parents=True, exist_ok=True)
    with layout.firmware_lock.open("a") as lock:
        deadline = time.monotonic() + _LOCK_LIMIT_S
        while not _taken(lock.fileno()):
            if time.monotonic() > deadline:
                raise DeployError(
                    "another process is writing the board and does not end; `systemctl status pi0-edge-firmware` says "
                    "more"
                )
            time.sleep(_POLL_S)
        yield


def _taken(lock: int) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
