"""Small wheels that are real ones, package folders for pip, and SDK folders of them: seconds instead of minutes."""

from __future__ import annotations

import base64
import hashlib
import sysconfig
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path

import pytest

from pi0_edge.deploy.sdk.lock import REQUIREMENTS, Lock, LockedWheel, sha256, wheel_identity

THIS_PYTHON = sysconfig.get_python_version()
THIS_PROCESSOR = sysconfig.get_platform().rsplit("-", 1)[1]
PURE = "py3-none-any"

PROGRAM = """
from importlib.metadata import version

def main():
    print(version("pi0-edge"))
"""
NO_CONFLICTS = "def version_conflicts():\n    return []\n"


def write_wheel(
    folder: Path,
    name: str,
    version: str = "1.0",
    requires: Iterable[str] = (),
    files: Mapping[str, str] | None = None,
    tag: str = PURE,
    programs: Mapping[str, str] | None = None,
) -> Path:
    """A wheel that pip takes.

    Args:
        folder: That it goes to; it is made.
        name: Of the package.
        version: Of the package.
        requires: Requirements, with conditions.
        files: Content by path; one module where None.
        tag: Of the wheel.
        programs: "module:function" by name.
    """
    folder.mkdir(parents=True, exist_ok=True)
    module = name.replace("-", "_")
    info = f"{module}-{version}.dist-info"
    content = dict(files if files is not None else {f"{module}/__init__.py": f"version = {version!r}\n"})
    needed = "".join(f"Requires-Dist: {requirement}\n" for requirement in requires)
    extras = sorted({text.split("extra == ")[1].strip("'\" ") for text in requires if "extra == " in text})
    needed += "".join(f"Provides-Extra: {extra}\n" for extra in extras)
    content[f"{info}/METADATA"] = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{needed}"
    content[f"{info}/WHEEL"] = f"Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: {tag}\n"
    if programs:
        lines = "".join(f"{program} = {place}\n" for program, place in programs.items())
        content[f"{info}/entry_points.txt"] = f"[console_scripts]\n{lines}"
    digests = {path: base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()) for path, text in content.items()}
    record = [f"{path},sha256={digests[path].rstrip(b'=').decode()},{len(text)}\n" for path, text in content.items()]
    content[f"{info}/RECORD"] = "".join([*record, f"{info}/RECORD,,\n"])
    wheel = folder / f"{module}-{version}-{tag}.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for path, text in content.items():
            archive.writestr(zipfile.ZipInfo(path), text)
    return wheel


def own_wheel(folder: Path, version: str = "0.1.0", requires: Iterable[str] = (), program: str = PROGRAM) -> Path:
    """A pi0-edge that says its version, and nothing else."""
    files = {"pi0_edge/__init__.py": "", "pi0_edge/cli.py": program, "pi0_edge/installed_packages.py": NO_CONFLICTS}
    return write_wheel(folder, "pi0-edge", version, requires, files, programs={"pi0-edge": "pi0_edge.cli:main"})


def pip_wheel(folder: Path) -> Path:
    """The wheel of pip that every Python has for `venv`; a test without one skips."""
    bundled = sorted((Path(sysconfig.get_path("stdlib")) / "ensurepip" / "_bundled").glob("pip-*.whl"))
    bundled += sorted(Path("/usr/share/python-wheels").glob("pip-*.whl"))
    if not bundled:
        pytest.skip("this Python brings no wheel of pip")
    folder.mkdir(parents=True, exist_ok=True)
    place = folder / bundled[0].name
    place.write_bytes(bundled[0].read_bytes())
    return place


def write_lock(
    folder: Path,
    python: str = THIS_PYTHON,
    processor: str = THIS_PROCESSOR,
    glibc: tuple[int, int] = (2, 17),
    system_torch: bool = False,
) -> Path:
    """The list of all wheels in a folder."""
    locked = []
    for wheel in sorted(folder.glob("*.whl")):
        name, version = wheel_identity(wheel) or ("", "")
        locked.append(LockedWheel(name, version, sha256(wheel)))
    lock = Lock("tests", python, processor, glibc, system_torch, tuple(locked))
    (folder / REQUIREMENTS).write_bytes(lock.to_bytes())
    return folder / REQUIREMENTS


def small_sdk(folder: Path, version: str = "0.1.0", others: int = 2, program: str = PROGRAM) -> Path:
    """An SDK folder for this machine: pip, pi0-edge and some packages of one module each."""
    pip_wheel(folder)
    own_wheel(folder, version, program=program)
    for number in range(others):
        write_wheel(folder, f"part-{number}", files={f"part_{number}.py": f"number = {number}\n" * 50})
    write_lock(folder)
    return folder
