"""SDK environments on a robot: one Python environment for each locked list of packages, whole or not at all.

/opt/pi0-edge/sdk/ID/            a virtual environment; ID is the SHA-256 of its requirements.txt, cut to 16 digits
/opt/pi0-edge/sdk/ID/.complete   written last

A virtual environment cannot be made under another name and renamed: the first line of each of its programs is the
absolute path of its interpreter. So it is made in its place, and a file says when it is complete. What has no such file
was interrupted: nothing uses it, and the next installation begins it again.

No network, no compiler and no pip of the robot are needed: the folder has a pip of its own. This module needs the
standard library alone until `find_environment` compares versions, so that the first environment of a robot can be made
by the Python of its system, from the wheel itself (`sdk` is the folder, WHEEL the one of pi0-edge in it):

    PYTHONPATH=sdk/WHEEL python3 -m pi0_edge.deploy.installer.environments sdk
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path

from pi0_edge.deploy.launcher.layout import Layout
from pi0_edge.deploy.launcher.settings import read_settings
from pi0_edge.deploy.sdk.lock import INSTALLER_PACKAGE, PACKAGE, REQUIREMENTS, Lock, find_wheels, read_lock, sha256
from pi0_edge.errors import DeployError
from pi0_edge.progress import ProgressCallback, Stage
from pi0_edge.synced_files import replace_synced, sync_folder, write_synced

ID_LENGTH = 16
"""Hexadecimal digits of the list's SHA-256 that name an environment."""
COMPLETE = ".complete"
STAGE = "installing the SDK"
SPARE = 0.1
"""Share of its size that must stay free besides."""

_CONFLICTS = "from pi0_edge.installed_packages import version_conflicts; print(*version_conflicts(), sep='; ')"


def environment_id(requirements: Path) -> str:
    """The name of the environment that a list gives."""
    return sha256(requirements)[:ID_LENGTH]


def environment_path(layout: Layout, requirements: Path) -> Path:
    """Where the environment of a list lies, or would lie."""
    return layout.environments / environment_id(requirements)


def is_complete(environment: Path) -> bool:
    """Whether an environment was installed to its end, and the interpreter that it was made with is still there."""
    return (environment / COMPLETE).is_file() and (environment / "bin/python").exists()


def install_environment(
    layout: Layout,
    sdk_folder: Path,
    on_reason: Callable[[str], object] = lambda reason: None,
    on_progress: ProgressCallback | None = None,
) -> Path:
    """Makes the environment of an SDK folder; one that is complete is left as it is.

    Whoever calls it holds the installer's lock. The folder's list must be the one that was signed: everything that is
    run here is checked against it first.

    Args:
        layout: Of the robot.
        sdk_folder: requirements.txt and wheels.
        on_reason: Is called with each decision.
        on_progress: Is called with each step.

    Returns:
        Its path; its programs are in `bin`.

    Raises:
        DeployError: If the folder is not for this computer, a wheel is missing or altered, the space does not suffice,
            or pip or the program that it installed fails. Nothing is left then.
    """
    requirements = sdk_folder / REQUIREMENTS
    lock = read_lock(requirements)
    environment = environment_path(layout, requirements)
    if is_complete(environment):
        on_reason(f"SDK environment {environment.name}: pi0-edge {lock.version} is installed already")
        return environment
    interpreter = _fitting_interpreter(lock)
    wheels = find_wheels(lock, sdk_folder, on_progress)
    if environment.exists():
        on_reason(f"SDK environment {environment.name}: an interrupted installation is removed")
        _remove(environment)
    _check_space(layout, wheels.values(), on_reason)
    on_reason(f"SDK environment {environment.name}: {len(wheels)} wheels, pi0-edge {lock.version}, {interpreter}")
    stage = Stage(STAGE, 4, on_progress)
    try:
        _make(lock, environment, interpreter, stage)
        _install(lock, sdk_folder, environment, wheels[INSTALLER_PACKAGE], stage)
        _try(lock, environment, stage)
        # Thousands of files: one call for all that their file system still has to write.
        _run(["sync", "--file-system", str(environment)], "writing the SDK to the disk")
    except DeployError:
        _remove(environment)
        raise
    _mark_complete(lock, environment)
    stage.advance("on the disk")
    on_reason(f"SDK environment {environment.name}: pi0-edge {lock.version} is complete")
    return environment


def find_environment(layout: Layout, sdk_range: str) -> Path | None:
    """The environment with the newest pi0-edge of the versions asked for; the later one of two of the same version.

    Args:
        layout: Of the robot.
        sdk_range: Versions, such as ">=0.1,<0.2".

    Returns:
        Its path, among them the one of the robot's settings, that came with its system; None where there is none.

    Raises:
        DeployError: If `sdk_range` is no such range, or the robot's settings cannot be read.
    """
    from packaging.specifiers import InvalidSpecifier, SpecifierSet
    from packaging.version import Version

    try:
        versions = SpecifierSet(sdk_range)
    except InvalidSpecifier as error:
        raise DeployError(f'the release asks for SDK {sdk_range!r}, expected versions such as ">=0.1,<0.2"') from error
    fitting = [
        (Version(version), completed_at, environment)
        for environment, version, completed_at in _environments(layout)
        if versions.contains(Version(version).base_version, prereleases=True)
    ]
    return max(fitting)[2] if fitting else None


def installed_version(environment: Path) -> str | None:
    """The version of pi0-edge in a Python environment; None where it holds none."""
    folders = [str(path) for path in environment.glob("lib/python3*/site-packages")]
    found = next(iter(metadata.distributions(name=PACKAGE, path=folders)), None)
    return _said_version(environment) if found is None else found.version


def _said_version(environment: Path) -> str | None:
    """What the interpreter of an environment says that came with the system, and has its packages elsewhere."""
    argv = [
        str(environment / "bin/python"),
        "-c",
        f"from importlib.metadata import version; print(version('{PACKAGE}'))",
    ]
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        return subprocess.run(argv, capture_output=True, text=True, timeout=60, check=True).stdout.strip() or None
    return None


def remove_environments(layout: Layout, keep: set[str]) -> list[str]:
    """Removes environments, interrupted ones too.

    Args:
        layout: Of the robot.
        keep: IDs of those that stay.

    Returns:
        The IDs that are gone.
    """
    if not layout.environments.is_dir():
        return []
    unwanted = [path for path in sorted(layout.environments.iterdir()) if path.is_dir() and path.name not in keep]
    for path in unwanted:
        _remove(path)
    return [path.name for path in unwanted]


def _environments(layout: Layout) -> Iterator[tuple[Path, str, float]]:
    """Path, version and time of all that can be used; that of the system counts as the oldest."""
    if layout.environments.is_dir():
        for path in filter(is_complete, layout.environments.iterdir()):
            try:
                about = json.loads((path / COMPLETE).read_bytes())
                yield path, str(about["version"]), float(about["completed_at"])
            except (OSError, ValueError, KeyError, TypeError):
                continue  # nothing here writes such a file: it is of no installation that ended
    if layout.settings.exists():
        brought = Path(read_settings(layout).environment)
        version = installed_version(brought)
        if version is not None and (brought / "bin/python").exists() and brought.parent != layout.environments:
            yield brought, version, 0.0


def _fitting_interpreter(lock: Lock) -> Path:
    """The Python that the wheels are for, on a computer that they are for."""
    machine = platform.machine()
    if machine != lock.processor:
        raise DeployError(
            f"this SDK is for {lock.target} ({lock.processor}), this computer is {machine}; make one for it: "
            "pi0-edge release sdk --target …"
        )
    glibc = _glibc()
    if glibc < lock.glibc:
        raise DeployError(
            f"this SDK is for {lock.target} and needs the C library {_dotted(lock.glibc)}, that of this computer is "
            f"{_dotted(glibc)}; make an SDK for its target"
        )
    own = Path(getattr(sys, "_base_executable", sys.executable))
    paths = [own] if lock.python == _dotted(sys.version_info[:2]) else []
    paths += [Path(f"/usr/bin/python{lock.python}"), Path(shutil.which(f"python{lock.python}") or "")]
    for path in paths:
        if path.is_file() and (found := _is_python(path, lock.python)):
            return found
    raise DeployError(
        f"this SDK is for {lock.target} with Python {lock.python}, which this computer does not have (its own is "
        f"{platform.python_version()}); make an SDK for it: pi0-edge release sdk --target … --python "
        f"{_dotted(sys.version_info[:2])}"
    )


def _is_python(path: Path, version: str) -> Path | None:
    """The interpreter itself behind a name, if it is of this version and can make environments.

    Its own name has its version in it: where an update of the operating system replaces it by another one, the
    environment has no interpreter any more, and `is_complete` sees that.
    """
    code = "import sys, venv; print(*sys.version_info[:2], sep='.'); print(sys._base_executable)"
    ran = subprocess.run([path, "-I", "-c", code], capture_output=True, text=True, check=False)
    if ran.returncode or ran.stdout.splitlines()[0] != version:
        return None
    return Path(ran.stdout.splitlines()[1]).resolve()


def _check_space(layout: Layout, wheels: Iterable[Path], on_reason: Callable[[str], object]) -> None:
    needed = 0
    for wheel in wheels:
        with zipfile.ZipFile(wheel) as archive:
            for entry in archive.infolist():
                # Each module is there twice: pip compiles it, so that a read-only system starts as fast.
                needed += entry.file_size * (2 if entry.filename.endswith(".py") else 1) + 4096
    layout.environments.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(layout.environments).free
    wanted = int(needed * (1 + SPARE))
    on_reason(f"space for the SDK: {wanted / 1e6:.0f} MB needed, {free / 1e6:.0f} MB free")
    if free < wanted:
        raise DeployError(
            f"{layout.environments} has {free / 1e6:.0f} MB free, and the SDK needs {wanted / 1e6:.0f} MB; free some "
            "with `pi0-edge flash gc`"
        )


def _make(lock: Lock, environment: Path, interpreter: Path, stage: Stage) -> None:
    options = ["--system-site-packages"] if lock.system_torch else []
    # Without pip: the system's own may be missing (python3-venv) or old. The one of the folder runs from its wheel.
    _run([str(interpreter), "-I", "-m", "venv", "--without-pip", *options, str(environment)], "making the environment")
    stage.advance("environment made")


def _install(lock: Lock, sdk_folder: Path, environment: Path, pip: Path, stage: Stage) -> None:
    """Unpacks the wheels by the folder's own pip, which checks each SHA-256 once more, as it opens it."""
    options = ["--no-index", "--find-links", str(sdk_folder), "--require-hashes", "--no-cache-dir", "--no-input"]
    # The list is complete. Dependencies would bring torch in where the system has it; and what the system has of the
    # rest is not taken, so that an update of the system leaves the environment as it is.
    options += [
        "--no-deps",
        "--ignore-installed",
        "--disable-pip-version-check",
        "--quiet",
        "--root-user-action=ignore",
    ]
    argv = [str(environment / "bin/python"), "-I", f"{pip}/pip", "install", *options, "--requirement", "/dev/stdin"]
    _run(argv, "installing the wheels", lock.requirements(leave_out=(INSTALLER_PACKAGE,)))
    stage.advance("wheels installed")


def _try(lock: Lock, environment: Path, stage: Stage) -> None:
    """Starts what was installed; the self-test of the release does more."""
    said = _run([str(environment / "bin/pi0-edge"), "--version"], "starting pi0-edge").strip()
    if said != lock.version:
        raise DeployError(f"the SDK names itself pi0-edge {said!r}, expected {lock.version}; make it again")
    python = str(environment / "bin/python")
    if lock.system_torch and not _answers([python, "-I", "-c", "import torch"]):
        raise DeployError(
            f"this SDK takes torch from the system ({lock.target}), and `import torch` fails there: install JetPack's "
            "torch for the system's Python, or send an SDK with torch in it"
        )
    if conflicts := _run([python, "-I", "-c", _CONFLICTS], "comparing versions").strip():
        raise DeployError(f"the packages of the SDK do not fit together: {conflicts}; make another SDK")
    stage.advance("pi0-edge starts")


def _mark_complete(lock: Lock, environment: Path) -> None:
    about = {"version": lock.version, "target": lock.target, "python": lock.python, "completed_at": time.time()}
    temporary = environment / f"{COMPLETE}.new"
    write_synced(temporary, (json.dumps(about) + "\n").encode())
    replace_synced(temporary, environment / COMPLETE)
    sync_folder(environment.parent)


def _remove(environment: Path) -> None:
    """Removes an environment so that at no moment a part of it counts as complete."""
    (environment / COMPLETE).unlink(missing_ok=True)
    if environment.is_dir():
        sync_folder(environment)
        shutil.rmtree(environment)


def _run(argv: Sequence[str], what: str, given: str = "") -> str:
    """What a program prints that is given a text.

    Raises:
        DeployError: If it fails, with its last words.
    """
    ran = subprocess.run(_tied(argv), input=given, capture_output=True, text=True, check=False, env=_environment())
    if ran.returncode:
        raise DeployError(f"{what} failed: {_reason(ran.stdout + ran.stderr) or f'exit code {ran.returncode}'}")
    return ran.stdout


def _answers(argv: Sequence[str]) -> bool:
    return not subprocess.run(_tied(argv), capture_output=True, check=False, env=_environment()).returncode


def _tied(argv: Sequence[str]) -> list[str]:
    """Ends with this process, however that ends: a pip that is left over would write into the next installation."""
    setpriv = shutil.which("setpriv")
    return [*([setpriv, "--pdeathsig", "KILL", "--"] if setpriv else []), *argv]


def _environment() -> Mapping[str, str]:
    """Without settings of a user that would change what pip or Python does."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PIP_", "PYTHON", "VIRTUAL_ENV"))}
    return {**kept, "PIP_CONFIG_FILE": os.devnull, "PYTHONUTF8": "1"}


def _reason(said: str) -> str:
    """The lines of pip's that name what is wrong, in our words where they are known."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    if unsupported := re.search(r"(\S+\.whl) is not a supported wheel on this platform", said):
        return f"{unsupported[1]} does not fit this computer's Python; make an SDK for its target"
    if missing := re.search(r"No matching distribution found for (\S+)", said):
        return f"no wheel of {missing[1]} in the folder fits this computer's Python; make an SDK for its target"
    if "DO NOT MATCH THE HASHES" in said:
        return "a wheel changed while it was installed; send the SDK again"
    return " ".join(line for line in lines if line.startswith("ERROR:")) or " ".join(lines[-2:])


def _glibc() -> tuple[int, int]:
    found = re.search(r"(\d+)\.(\d+)", os.confstr("CS_GNU_LIBC_VERSION") or "")
    return (int(found[1]), int(found[2])) if found else (0, 0)


def _dotted(numbers: Sequence[int]) -> str:
    return ".".join(map(str, numbers))


def _main() -> int:
    """Installs the environment of the folder that the command line names, and prints its path."""
    if len(sys.argv) != 2:
        sys.stderr.write("usage: python3 -m pi0_edge.deploy.installer.environments SDK_FOLDER\n")
        return 2
    try:
        environment = install_environment(Layout(), Path(sys.argv[1]), lambda reason: print(reason, file=sys.stderr))
    except DeployError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    print(environment)
    return 0


if __name__ == "__main__":
    sys.exit(_main())
