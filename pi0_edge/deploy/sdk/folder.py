"""Makes an SDK folder: the wheels, fetched with the list that names each by its SHA-256.

    sdk/requirements.txt      the list (`lock`), written last: a folder without it is not complete
    sdk/numpy-2.4.6-….whl     …

Run again, it goes on: what is there and right is not fetched again, and versions of an earlier list are kept as long as
they fit, so that a new pi0-edge comes with the packages that were tested with the one before. To take the newest of
everything, make another folder.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from pi0_edge.deploy.sdk.lock import PACKAGE, REQUIREMENTS, Lock, LockedWheel, candidates, read_lock, sha256
from pi0_edge.deploy.sdk.resolution import Resolved, pip, platform_arguments, resolve
from pi0_edge.deploy.sdk.targets import KERNELS, Target
from pi0_edge.errors import DeployError
from pi0_edge.progress import ProgressCallback, Stage
from pi0_edge.synced_files import replace_synced, write_synced

_PARTIAL = ".partial"
_NAMED_GLIBC = {"manylinux1_": (2, 5), "manylinux2010_": (2, 12), "manylinux2014_": (2, 17)}


@dataclass(frozen=True)
class SdkFolder:
    """What was made.

    Attributes:
        path: The folder.
        lock: Its list.
        sizes: Bytes of each wheel, by package.
        fetched: Packages whose wheels were not there before.
    """

    path: Path
    lock: Lock
    sizes: dict[str, int]
    fetched: tuple[str, ...]


def make_sdk_folder(
    target: Target,
    output: Path,
    wheel: Path,
    python: str | None = None,
    on_reason: Callable[[str], object] = lambda reason: None,
    on_progress: ProgressCallback | None = None,
) -> SdkFolder:
    """Makes a folder, or brings one up to date.

    Args:
        target: The kind of computer.
        output: The folder.
        wheel: That of pi0-edge for the target's processor.
        python: Version of the computer's Python; the target's first where None.
        on_reason: Is called with each decision.
        on_progress: Is called with each wheel.

    Raises:
        DeployError: If versions do not fit together, pip cannot fetch a wheel, or the folder holds another target.
    """
    python = target.python(python)
    kept = _kept(target, python, output)
    on_reason(
        f"{target.name}, Python {python}: choosing versions" + (", those of the list before first" if kept else "")
    )
    packages = resolve(target, python, wheel, kept)
    on_reason(f"{len(packages)} packages fit together")
    if target.cuda and not has_kernels(wheel, target):
        on_reason(
            f"{wheel.name} has no CUDA kernels, so that {target.name} can only run the CPU engine: make "
            "kernels-jetson, then make release, then this command again"
        )
    output.mkdir(parents=True, exist_ok=True)
    with _alone(output):
        sizes, fetched, lock = _fill(target, python, output, wheel, packages, on_reason, on_progress)
    return SdkFolder(output, lock, sizes, tuple(fetched))


def _fill(
    target: Target,
    python: str,
    output: Path,
    wheel: Path,
    packages: list[Resolved],
    on_reason: Callable[[str], object],
    on_progress: ProgressCallback | None,
) -> tuple[dict[str, int], list[str], Lock]:
    """Fetches what is missing, writes the list, and removes what it does not name."""
    stage = Stage("fetching wheels", len(packages), on_progress)
    locked, sizes, fetched = [], {}, []
    for package in packages:
        path, was_there = _wheel(target, python, output, wheel, package)
        locked.append(LockedWheel(package.name, package.version, sha256(path)))
        sizes[package.name] = path.stat().st_size
        fetched += [] if was_there else [package.name]
        stage.advance(f"{path.name} {sizes[package.name] / 1e6:.1f} MB")
    shutil.rmtree(output / _PARTIAL, ignore_errors=True)
    glibc = max(needed_glibc(path) for wheel in locked for path in candidates(output, wheel))
    lock = Lock(target.name, python, target.processor, glibc, target.torch is None, tuple(locked))
    content, place = lock.to_bytes(), output / REQUIREMENTS
    if not place.exists() or place.read_bytes() != content:
        write_synced(output / f".{REQUIREMENTS}.new", content)
        replace_synced(output / f".{REQUIREMENTS}.new", place)
    for path in _unlisted(output, lock):
        on_reason(f"{path.name} is no longer in the list: removed")
        path.unlink()
    return sizes, fetched, lock


def has_kernels(wheel: Path, target: Target) -> bool:
    """Whether a wheel of pi0-edge holds the CUDA kernels for a target's processor.

    Raises:
        DeployError: If it is no wheel.
    """
    try:
        with zipfile.ZipFile(wheel) as archive:
            return KERNELS.format(processor=target.processor) in archive.namelist()
    except (OSError, zipfile.BadZipFile) as error:
        raise DeployError(f"{wheel} is no wheel: {error}; make release builds one") from error


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Holds a folder against a second command; the lock ends with the process."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError as error:
        raise DeployError(f"another command fills {folder}; wait for it, and run this one again") from error
    finally:
        os.close(handle)


def needed_glibc(wheel: Path) -> tuple[int, int]:
    """The oldest version of the C library that a wheel loads with, by its tags; (2, 0) where it says none."""
    tag = wheel.name.removesuffix(".whl").rsplit("-", 1)[1]
    found = [(int(major), int(minor)) for major, minor in re.findall(r"manylinux_(\d+)_(\d+)_", tag)]
    found += [version for name, version in _NAMED_GLIBC.items() if name in tag]
    return min(found, default=(2, 0))


def _kept(target: Target, python: str, output: Path) -> dict[str, str]:
    """The versions of the list that is there."""
    if not (output / REQUIREMENTS).exists():
        return {}
    before = read_lock(output / REQUIREMENTS)
    if (before.target, before.python) != (target.name, python):
        raise DeployError(
            f"{output} is for {before.target} with Python {before.python}, not for {target.name} with Python {python}; "
            "name another folder"
        )
    return {wheel.name: wheel.version for wheel in before.wheels}


def _wheel(target: Target, python: str, output: Path, own: Path, package: Resolved) -> tuple[Path, bool]:
    """The wheel of a package in the folder, and whether it was there; what was interrupted never has its name."""
    expected = sha256(own) if package.name == PACKAGE else package.sha256
    for path in candidates(output, LockedWheel(package.name, package.version, "")):
        if expected is None or sha256(path) == expected:
            return path, True
    partial = output / _PARTIAL
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    if package.name == PACKAGE:
        shutil.copy(own, partial)
    else:
        options = ["download", "--quiet", "--dest", str(partial), *platform_arguments(target, python)]
        pip([*options, f"{package.name}=={package.version}"])
    path = next(partial.glob("*.whl"))
    if expected is not None and sha256(path) != expected:
        _refuse_hash(path)
    for older in candidates(output, LockedWheel(package.name, package.version, "")):
        older.unlink()
    replace_synced(path, output / path.name)
    return output / path.name, False


def _refuse_hash(path: Path) -> NoReturn:
    raise DeployError(
        f"{path.name} is not what the index said a moment ago: its SHA-256 is another one; run the command again"
    )


def _unlisted(folder: Path, lock: Lock) -> list[Path]:
    listed = {path for wheel in lock.wheels for path in candidates(folder, wheel)}
    return [path for path in sorted(folder.glob("*.whl")) if path not in listed]
