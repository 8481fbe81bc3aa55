"""The list of an SDK folder: requirements.txt, in the format of `pip install --require-hashes`, and nothing else in it.

    # pi0-edge SDK: {"target": "linux-aarch64-cpu", "python": "3.11", "processor": "aarch64", …}
    numpy==2.4.6 --hash=sha256:0ab0a9…
    pi0-edge==0.1.0 --hash=sha256:e91249…

Its first line says what the wheels are for; the release signs it with the rest. Whatever else pip would read in such a
file, such as an address to fetch from, is refused. This module needs the standard library alone.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pi0_edge.errors import DeployError
from pi0_edge.progress import ProgressCallback, Stage

REQUIREMENTS = "requirements.txt"
PACKAGE = "pi0-edge"
INSTALLER_PACKAGE = "pip"
"""Lies in the folder too, and installs the others: the robot's own may be missing, and would be of any age."""

_HEADER = "# pi0-edge SDK: "
_ENTRY = re.compile(r"([a-z0-9]+(?:-[a-z0-9]+)*)==([A-Za-z0-9.!+]+) --hash=sha256:([0-9a-f]{64})")
_PYTHON = re.compile(r"3\.\d+")


@dataclass(frozen=True)
class LockedWheel:
    """One line.

    Attributes:
        name: Of the package, as pip normalizes it: lower case, with hyphens.
        version: Of the package.
        sha256: Of the wheel.
    """

    name: str
    version: str
    sha256: str


@dataclass(frozen=True)
class Lock:
    """The list.

    Attributes:
        target: Name of the target that it was made for.
        python: Version of Python that the wheels are for, such as "3.11".
        processor: That they are for, as `uname -m` says it.
        glibc: Version of the C library that they need at least.
        system_torch: Whether torch comes with the robot's system, so that the environment must see its packages.
        wheels: The packages, by name.
    """

    target: str
    python: str
    processor: str
    glibc: tuple[int, int]
    system_torch: bool
    wheels: tuple[LockedWheel, ...]

    @property
    def version(self) -> str:
        """Of pi0-edge."""
        return self.wheel(PACKAGE).version

    def wheel(self, name: str) -> LockedWheel:
        """The line of a package.

        Raises:
            DeployError: If there is none.
        """
        for wheel in self.wheels:
            if wheel.name == name:
                return wheel
        raise DeployError(f"the SDK's list names no {name}; make the folder again: pi0-edge release sdk")

    def requirements(self, leave_out: Collection[str] = ()) -> str:
        """The lines alone, by name.

        Args:
            leave_out: Packages whose lines are not wanted.
        """
        wheels = sorted((wheel for wheel in self.wheels if wheel.name not in leave_out), key=lambda wheel: wheel.name)
        return "".join(f"{wheel.name}=={wheel.version} --hash=sha256:{wheel.sha256}\n" for wheel in wheels)

    def to_bytes(self) -> bytes:
        """The file."""
        header = {
            "target": self.target,
            "python": self.python,
            "processor": self.processor,
            "glibc": list(self.glibc),
            "system_torch": self.system_torch,
        }
        return f"{_HEADER}{json.dumps(header)}\n{self.requirements()}".encode()


def read_lock(path: Path) -> Lock:
    """The list of an SDK folder.

    Raises:
        DeployError: If it cannot be read, or holds anything else than such a list.
    """
    try:
        header, *lines = path.read_bytes().decode("ascii").splitlines()
        if not header.startswith(_HEADER):
            raise ValueError("its first line does not say what it is for")
        plain: dict[str, Any] = json.loads(header.removeprefix(_HEADER))
        major, minor = plain["glibc"]
        lock = Lock(
            target=str(plain["target"]),
            python=str(plain["python"]),
            processor=str(plain["processor"]),
            glibc=(int(major), int(minor)),
            system_torch=bool(plain["system_torch"]),
            wheels=tuple(map(_entry, lines)),
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DeployError(f"{path} is no list of an SDK ({error}); make it again: pi0-edge release sdk") from error
    if not _PYTHON.fullmatch(lock.python):  # it becomes part of the name of a program to run
        raise DeployError(f"{path} is for Python {lock.python!r}, expected such as 3.11; make it again")
    names = [wheel.name for wheel in lock.wheels]
    if len(set(names)) < len(names):
        raise DeployError(f"{path} names a package twice; make it again: pi0-edge release sdk")
    for name in (PACKAGE, INSTALLER_PACKAGE):
        lock.wheel(name)
    return lock


def find_wheels(lock: Lock, folder: Path, on_progress: ProgressCallback | None = None) -> dict[str, Path]:
    """The wheels of a list by package, each with its SHA-256 read from the disk.

    Args:
        lock: The list.
        folder: That they lie in; what the list does not name is not looked at.
        on_progress: Is called with the bytes that are checked.

    Raises:
        DeployError: If one is missing or altered.
    """
    named = {wheel: list(candidates(folder, wheel)) for wheel in lock.wheels}
    if missing := [f"{wheel.name} {wheel.version}" for wheel, paths in named.items() if not paths]:
        raise DeployError(f"{folder} lacks the wheel of {', '.join(missing)}; make it again: pi0-edge release sdk")
    stage = Stage(
        "checking wheels", sum(path.stat().st_size for paths in named.values() for path in paths), on_progress
    )
    found = {}
    for wheel, paths in named.items():
        matching = [path for path in paths if sha256(path, stage) == wheel.sha256]
        if not matching:
            raise DeployError(
                f"{paths[0]} is not the wheel that the list names: its SHA-256 is another than "
                f"{wheel.sha256[:16]}…, so it was altered or damaged; send the SDK again"
            )
        found[wheel.name] = matching[0]
    return found


def candidates(folder: Path, wheel: LockedWheel) -> Iterator[Path]:
    """The files that by their names are a wheel of this package and version."""
    for path in sorted(folder.glob("*.whl")):
        if wheel_identity(path) == (wheel.name, wheel.version):
            yield path


def wheel_identity(path: Path) -> tuple[str, str] | None:
    """Package and version by the name of a wheel; None where it is no such name."""
    parts = path.name.removesuffix(".whl").split("-")
    return (re.sub(r"[-_.]+", "-", parts[0]).lower(), parts[1]) if len(parts) in (5, 6) else None


def sha256(path: Path, stage: Stage | None = None) -> str:
    """The SHA-256 of a file, read piece by piece.

    Args:
        path: The file.
        stage: Is advanced by its bytes.
    """
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(2**20):
            digest.update(piece)
            if stage is not None:
                stage.set(stage.done + len(piece))
    return digest.hexdigest()


def _entry(line: str) -> LockedWheel:
    match = _ENTRY.fullmatch(line)
    if match is None:
        raise ValueError(f"{line[:80]!r} is not name==version --hash=sha256:…")
    return LockedWheel(*match.groups())
