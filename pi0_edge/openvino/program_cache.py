"""Programs in OpenVINO's own format, kept on the disk: writing one takes seconds to minutes, reading it does not.

    <folder>/<network>/<version of OpenVINO>/attend-2-cameras-20-tokens/program.xml, program.bin, sha256

Compiled code is not kept: it would be tied to the processor, and a warm cache of compiled code has given wrong actions
to others. What is kept is compared with its SHA-256 before it is used, and one that is damaged is written again.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pi0_edge.synced_files import sync_tree

_FILES = ("program.xml", "program.bin")
_DIGEST = "sha256"
_PIECE = 2**24


@dataclass(frozen=True)
class ProgramKey:
    """What a program belongs to.

    Attributes:
        network: SHA-256 of all that makes the program, in hexadecimal.
        version: Of OpenVINO.
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
        """Keeps a program; another process sees all of it or nothing.

        Args:
            key: What it belongs to.
            write: Writes the program to the `.xml` that it is given, and its weights beside it.

        Returns:
            The `.xml`.
        """
        place = self.folder / key.path
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        place.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=place.parent))
        try:
            write(temporary / _FILES[0])
            (temporary / _DIGEST).write_text(_digest(temporary))
            sync_tree(temporary)
            if self.find(key) is None:  # another process may have been faster
                shutil.rmtree(place, ignore_errors=True)
                os.replace(temporary, place)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        return place / _FILES[0]


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
