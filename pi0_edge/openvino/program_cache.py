"""Programs in OpenVINO's own format, kept on the disk: writing one takes seconds to minutes, reading it does not.

    <folder>/<network>/<versions>/attend-2-cameras-20-tokens/program.xml, program.bin, sha256

Compiled code is not kept: it would be tied to the processor, and a warm cache of compiled code has given wrong actions
to others. What is kept is compared with its SHA-256 before it is used, and one that is damaged is written again.

Nothing of another network or version is deleted here: whoever owns the folder may, all of it or any folder in it.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pi0_edge.synced_files import exchange_synced, sync_tree

_FILES = ("program.xml", "program.bin")
_DIGEST = "sha256"
_PIECE = 2**24
_TEMPORARY = "tmp"
"""What `tempfile` starts names with: no program is called so."""
_STALE_S = 24 * 3600.0
_TRIES = 5


@dataclass(frozen=True)
class ProgramKey:
    """What a program belongs to.

    Attributes:
        network: SHA-256 of all that makes the program, in hexadecimal.
        version: Of OpenVINO and of the packages that write what it reads.
        program: Its name with its shape.
    """

    network: str
    version: str
    program: str

    @property
    def path(self) -> Path:
        """Below the folder of the cache."""
        return Path(self.network) / re.sub(r"[^A-Za-z0-9.]+", "-", self.version) / self.program


class ProgramCache:
    """A folder of programs; only its owner may enter it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def find(self, key: ProgramKey) -> Path | None:
        """The `.xml` of a program, or None where there is none or a file is damaged."""
        place = self.folder / key.path
        try:
            expected = (place / _DIGEST).read_text()
            whole = _digest(place) == expected
        except (OSError, UnicodeDecodeError):
            return None
        return place / _FILES[0] if whole else None

    def add(self, key: ProgramKey, write: Callable[[Path], None]) -> Path:
        """Keeps a program; another process sees all of it or nothing, and a whole one is not taken from it.

        Args:
            key: What it belongs to.
            write: Writes the program to the `.xml` that it is given, and its weights beside it.

        Returns:
            The `.xml`.

        Raises:
            OSError: If it cannot be written.
        """
        place = self.folder / key.path
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        place.parent.mkdir(parents=True, exist_ok=True)
        self._remove_stale()
        temporary = Path(tempfile.mkdtemp(prefix=_TEMPORARY, dir=place.parent))
        try:
            write(temporary / _FILES[0])
            (temporary / _DIGEST).write_text(_digest(temporary))
            sync_tree(temporary)
            self._put(key, temporary, place)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        return place / _FILES[0]

    def _put(self, key: ProgramKey, temporary: Path, place: Path) -> None:
        """Gives a whole program its place, unless another process was faster.

        What lies there is exchanged and never deleted at its place: by then it may be the whole program of another
        process, which is about to read it.
        """
        for _ in range(_TRIES):
            if self.find(key) is not None:
                return
            try:
                os.replace(temporary, place)
                return
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                    raise
            with contextlib.suppress(FileNotFoundError):  # somebody deleted it
                if exchange_synced(temporary, place):
                    return
                aside = Path(tempfile.mkdtemp(prefix=_TEMPORARY, dir=place.parent))
                os.replace(place, aside)  # where a file system cannot exchange: in two steps
                shutil.rmtree(aside, ignore_errors=True)
        raise OSError(errno.EBUSY, "other processes keep replacing it", str(place))

    def _remove_stale(self) -> None:
        """Deletes what killed processes left half written; none that lives writes for a day."""
        for path in self.folder.glob(f"*/*/{_TEMPORARY}*"):
            try:
                if time.time() - path.stat().st_mtime > _STALE_S:
                    shutil.rmtree(path, ignore_errors=True)
            except OSError:  # its process has just finished
                continue


def default_folder() -> Path:
    """`$XDG_CACHE_HOME/pi0-edge/openvino`, with `~/.cache` where that is not set."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "pi0-edge" / "openvino"


def _digest(folder: Path) -> str:
    digest = hashlib.sha256()
    for name in _FILES:
        with (folder / name).open("rb") as file:
            digest.update(f"{name} {os.fstat(file.fileno()).st_size}\n".encode())
            while piece := file.read(_PIECE):
                digest.update(piece)
    return digest.hexdigest()
