"""The files that a robot gets, as one tar: provision.sh knows their places.

provision.sh
launcher/           main.py, and the modules that it imports, under their own names
launcher.version    SHA-256 of them, cut to 16 digits
files/…             laid out as /: units, udev rules, robot.json, the root of trust
authorized_keys     lines to add
sshd.conf           part of sshd's configuration
enable, disable     names of units
"""

from __future__ import annotations

import ast
import hashlib
import io
import tarfile
from collections.abc import Iterable, Mapping
from pathlib import Path

HERE = Path(__file__).parent
PACKAGE = HERE.parents[1]
UNITS = HERE / "units"

_PLACES = {
    ".service": "/etc/systemd/system",
    ".socket": "/etc/systemd/system",
    ".timer": "/etc/systemd/system",
    ".target": "/etc/systemd/system",
    ".path": "/etc/systemd/system",
    ".slice": "/etc/systemd/system",
    ".rules": "/etc/udev/rules.d",
}
MAIN = '''"""What units of systemd and the account pi0-flash run; `pi0-edge robot provision` wrote it."""

import sys

from pi0_edge.deploy.launcher.command import main

sys.exit(main())
'''
EMPTY_PACKAGE = '"""The part of pi0-edge that runs with the Python of the system: the launcher."""\n'
SSHD = """Match User pi0-flash
    ClientAliveInterval 5
    ClientAliveCountMax 3
    PasswordAuthentication no
    KbdInteractiveAuthentication no
    PermitTTY no
    AllowTcpForwarding no
    AllowAgentForwarding no
    X11Forwarding no
"""
TMPFILES = "d /run/pi0-edge 0755 root root -\n"


def launcher_files() -> dict[str, bytes]:
    """main.py, and every module that the launcher imports, by their paths."""
    files = {"main.py": MAIN.encode(), "pi0_edge/__init__.py": EMPTY_PACKAGE.encode()}
    waiting = [f"pi0_edge.deploy.launcher.{path.stem}" for path in (PACKAGE / "deploy" / "launcher").glob("*.py")]
    while waiting:
        module = waiting.pop()
        for path in _files_of(module):
            name = path.relative_to(PACKAGE.parent).as_posix()
            if name not in files:
                files[name] = path.read_bytes()
                waiting += _own_imports(path)
    return files


def unit_files() -> dict[str, bytes]:
    """Units and rules, by where they lie on a robot; a folder NAME.d has the drop-ins of a unit."""
    found = {}
    for path in sorted(UNITS.rglob("*")):
        if path.is_file() and path.parent != UNITS and path.parent.suffix == ".d":
            found[f"/etc/systemd/system/{path.parent.name}/{path.name}"] = path.read_bytes()
        elif path.is_file() and path.suffix in _PLACES:
            found[f"{_PLACES[path.suffix]}/{path.name}"] = path.read_bytes()
    return found


def units_to_enable(files: Mapping[str, bytes]) -> list[str]:
    """Names of the units that say when they start."""
    units = (name for name in files if name.startswith("/etc/systemd/system/") and name.count("/") == 4)
    return [name.rpartition("/")[2] for name in units if b"\n[Install]" in files[name]]


def make_tar(files: Mapping[str, bytes], lines: Iterable[str], enable: Iterable[str], disable: Iterable[str]) -> bytes:
    """The tar.

    Args:
        files: By their places on the robot.
        lines: For authorized_keys.
        enable: Names of units.
        disable: Names of units.
    """
    launcher = launcher_files()
    content = {f"launcher/{name}": data for name, data in launcher.items()}
    content |= {f"files{name}": data for name, data in files.items()}
    content["files/etc/tmpfiles.d/pi0-edge.conf"] = TMPFILES.encode()
    content |= {
        "launcher.version": version_of(launcher).encode(),
        "provision.sh": (HERE / "provision.sh").read_bytes(),
        "authorized_keys": _listed(lines),
        "sshd.conf": SSHD.encode(),
        "enable": _listed(enable),
        "disable": _listed(disable),
    }
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        for name, data in sorted(content.items()):
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(data), 0o644
            tar.addfile(entry, io.BytesIO(data))
    return stream.getvalue()


def version_of(files: Mapping[str, bytes]) -> str:
    """A name for a set of files."""
    digest = hashlib.sha256()
    for name, data in sorted(files.items()):
        digest.update(f"{name}\0{len(data)}\0".encode() + data)
    return digest.hexdigest()[:16]


def _listed(lines: Iterable[str]) -> bytes:
    return "".join(f"{line}\n" for line in lines).encode()


def _files_of(module: str) -> list[Path]:
    """The file of a module and those of the packages around it; nothing where the name is no module."""
    path = PACKAGE.parent.joinpath(*module.split("."))
    file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    if not file.is_file():
        return []
    parents = [parent / "__init__.py" for parent in file.parents if PACKAGE in parent.parents]
    return [file, *(parent for parent in parents if parent.is_file())]


def _own_imports(file: Path) -> list[str]:
    names = []
    for node in ast.walk(ast.parse(file.read_bytes())):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module is not None and not node.level:
            names += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return [name for name in names if name.startswith("pi0_edge.")]
