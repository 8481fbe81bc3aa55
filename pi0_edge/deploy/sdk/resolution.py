"""Finds versions of all packages that fit together on a robot, on another machine than the robot.

pip itself, asked for another platform, chooses wheels of that platform, but evaluates conditions such as
`platform_machine == "x86_64"` for the machine that it runs on: for a Jetson it then asks for NVIDIA's packages of a
desktop. Here pip only answers which wheel of one package is the newest that fits (`pip install --dry-run --report`);
which packages are needed is decided here, with the robot's own conditions. A version is chosen again where a package
that was found later excludes it; other versions of that later package are not tried.
"""

from __future__ import annotations

import email.parser
import json
import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from pi0_edge.deploy.sdk.lock import INSTALLER_PACKAGE, PACKAGE, wheel_identity
from pi0_edge.deploy.sdk.targets import ROBOT_EXTRAS, Target
from pi0_edge.errors import DeployError

MOST_ROUNDS = 30
_CUDA_PACKAGES = ("nvidia-", "cuda-", "triton")


@dataclass(frozen=True)
class Resolved:
    """A package that was chosen.

    Attributes:
        name: As pip normalizes it.
        version: As the name of its wheel says it.
        requires: What its metadata asks for, with conditions.
        sha256: That the index tells; None where it tells none.
    """

    name: str
    version: str
    requires: tuple[str, ...]
    sha256: str | None


@dataclass(frozen=True)
class _Need:
    """All that is asked of one package."""

    versions: SpecifierSet
    extras: frozenset[str]
    needed_by: frozenset[str]


def resolve(
    target: Target, python: str, wheel: Path, kept: Mapping[str, str], extras: Collection[str] = ROBOT_EXTRAS
) -> list[Resolved]:
    """The packages that a robot needs, pi0-edge's own wheel and pip among them.

    Args:
        target: The kind of computer.
        python: Version of its Python, such as "3.11".
        wheel: That of pi0-edge.
        kept: Versions by package that are taken where they still fit, such as those of the folder before.
        extras: Of pi0-edge.

    Raises:
        DeployError: If pip finds no wheel that fits, or torch is not of the kind that the target can use.
    """
    own = read_own(wheel)
    chosen, wanted = {PACKAGE: own}, {}
    roots = [Requirement(f"{PACKAGE}[{','.join(sorted(extras))}]"), Requirement(INSTALLER_PACKAGE)]
    for _ in range(MOST_ROUNDS):
        needs = _needs(target, python, roots, chosen)
        wanted = {
            name: need
            for name, need in needs.items()
            if name not in chosen or not need.versions.contains(chosen[name].version, prereleases=True)
        }
        if PACKAGE in wanted:
            raise DeployError(f"{own.name} {own.version} is not {wanted[PACKAGE].versions}, which a package asks for")
        if not wanted:
            found = [chosen[name] for name in sorted(needs)]
            _check_torch(target, python, found)
            return found
        chosen |= {package.name: package for package in _ask_pip(target, python, wanted, kept)}
    raise DeployError(f"no versions fit together for {target.name}: {', '.join(sorted(wanted))} changes without end")


def read_own(wheel: Path) -> Resolved:
    """What a wheel of pi0-edge says about itself.

    Raises:
        DeployError: If it is none.
    """
    identity = wheel_identity(wheel)
    if identity is None or identity[0] != PACKAGE or not wheel.is_file():
        raise DeployError(f"{wheel} is no wheel of pi0-edge; `make release` builds it into dist/")
    try:
        with zipfile.ZipFile(wheel) as archive:
            name = next(name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
            metadata = email.parser.BytesParser().parsebytes(archive.read(name))
    except (zipfile.BadZipFile, StopIteration) as error:
        raise DeployError(f"{wheel} is damaged ({error}); build it again: make release") from error
    return Resolved(*identity, tuple(metadata.get_all("Requires-Dist", [])), None)


def marker_environment(target: Target, python: str) -> dict[str, str]:
    """What the conditions in package metadata see on a computer of the target."""
    return {
        "implementation_name": "cpython",
        "implementation_version": f"{python}.0",
        "os_name": "posix",
        "platform_machine": target.processor,
        "platform_python_implementation": "CPython",
        "platform_release": "",
        "platform_system": "Linux",
        "platform_version": "",
        "python_full_version": f"{python}.0",
        "python_version": python,
        "sys_platform": "linux",
    }


def pip(arguments: Iterable[str]) -> str:
    """Runs this environment's pip with its own settings, so that the index is the one that its user has chosen.

    Returns:
        What it printed.

    Raises:
        DeployError: If it failed, with its last words.
    """
    argv = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input", *arguments]
    ran = subprocess.run(argv, capture_output=True, text=True, check=False, env={**os.environ, "PYTHONUTF8": "1"})
    if ran.returncode:
        said = [line for line in ran.stderr.splitlines() if line.startswith("ERROR:")] or ran.stderr.splitlines()
        raise DeployError(f"pip: {' '.join(said[-2:])}. It asks the index of its own settings: see `pip config list`")
    return ran.stdout


def platform_arguments(target: Target, python: str) -> list[str]:
    """Options that make pip choose wheels for a computer of the target."""
    platforms = [word for tag in target.platforms for word in ("--platform", tag)]
    return ["--no-deps", "--only-binary=:all:", "--implementation", "cp", "--python-version", python, *platforms]


def _needs(target: Target, python: str, roots: list[Requirement], chosen: Mapping[str, Resolved]) -> dict[str, _Need]:
    """What the roots and all that was chosen for them ask for."""
    environment = marker_environment(target, python)
    constraints = {str(canonicalize_name(found.name)): found for found in map(Requirement, target.constraints)}
    if target.torch is not None:
        constraints["torch"] = Requirement(f"torch{target.torch}")
    needs: dict[str, _Need] = {}
    waiting = [(requirement, "this command") for requirement in roots]
    while waiting:
        requirement, needed_by = waiting.pop()
        name = str(canonicalize_name(requirement.name))
        if name == "torch" and target.torch is None:
            continue
        known = needs.get(name)
        if known is None:
            allowed = constraints[name].specifier if name in constraints else SpecifierSet()
            known = _Need(allowed, frozenset(), frozenset())
        extras = known.extras | requirement.extras
        needs[name] = _Need(known.versions & requirement.specifier, extras, known.needed_by | {needed_by})
        new = extras - known.extras if known.needed_by else {"", *extras}
        if name in chosen:
            for asked in map(Requirement, chosen[name].requires):
                marker = asked.marker
                if ("" in new and marker is None) or (
                    marker is not None and any(marker.evaluate({**environment, "extra": extra}) for extra in new)
                ):
                    waiting.append((asked, f"{name} {chosen[name].version}"))
    return needs


def _ask_pip(target: Target, python: str, wanted: Mapping[str, _Need], kept: Mapping[str, str]) -> list[Resolved]:
    """The newest wheel of each package that fits."""
    asked = []
    for name, need in wanted.items():
        keep = kept.get(name)
        fits = keep is not None and need.versions.contains(keep, prereleases=True)
        asked.append(f"{name}=={keep}" if fits else f"{name}{need.versions}")
    with tempfile.TemporaryDirectory() as nowhere:  # pip wants a folder for another platform, and writes nothing to it
        options = ["install", "--dry-run", "--ignore-installed", "--quiet", "--report", "-", "--target", nowhere]
        try:
            report = json.loads(pip([*options, *platform_arguments(target, python), *asked]))
        except DeployError as error:
            users = {name: ", ".join(sorted(need.needed_by)) for name, need in wanted.items()}
            said = next((f" ({name} is needed by {by})" for name, by in users.items() if f" {name}" in str(error)), "")
            raise DeployError(f"no wheel fits {target.name} with Python {python}{said}: {error}") from error
    return [_resolved(item) for item in report["install"]]


def _resolved(item: Mapping[str, object]) -> Resolved:
    download, metadata = item["download_info"], item["metadata"]
    assert isinstance(download, dict) and isinstance(metadata, dict)  # noqa: S101 - for the types
    identity = wheel_identity(Path(unquote(urlsplit(download["url"]).path)))
    if identity is None:
        raise DeployError(f"pip chose {metadata['name']} as something else than a wheel, which a robot cannot compile")
    hashes = download.get("archive_info", {}).get("hashes", {})
    return Resolved(*identity, tuple(metadata.get("requires_dist", ())), hashes.get("sha256"))


def _check_torch(target: Target, python: str, found: list[Resolved]) -> None:
    """Refuses a torch that needs CUDA on a computer without it, and one for the CPU where CUDA is there."""
    if target.torch is None:
        return
    torch = next((package for package in found if package.name == "torch"), None)
    if torch is None:
        return
    cuda = any(package.name.startswith(_CUDA_PACKAGES) for package in found)
    if cuda and not target.cuda:
        raise DeployError(
            f"torch {torch.version} of this package index is for CUDA, and {target.name} has none: let pip see a "
            "build for the CPU, for instance PIP_FIND_LINKS=FOLDER with its wheel in it"
        )
    if target.cuda and not cuda:
        raise DeployError(
            f"torch {torch.version} of this package index is for the CPU, expected one for CUDA for {target.name} "
            f"with Python {python}: let pip see such a build, for instance by PIP_FIND_LINKS"
        )
