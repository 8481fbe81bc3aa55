"""Whether the Python packages of this environment have the versions that pi0-edge declares.

An environment that is shared with other projects pins what these need, and a package that is too old fails late and in
its own words. What counts is what the installed `pi0-edge` declares, and what its packages declare of each other,
such as grpcio-health-checking of protobuf.

    conflicts = version_conflicts()         # all that are installed, of whatever extra
    check_versions(("grpcio", "protobuf"))  # raises

A package that is not installed is no conflict: the import that needs it says so. Pre-releases and local builds count as
the release they are named after, as the vendors of boards build torch as 2.5.0a0+nv24.8.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec

from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

from pi0_edge.errors import MissingDependencyError

DISTRIBUTION = "pi0-edge"
DEVELOPMENT = ("dev", "docs", "fuzz")
"""Extras that only who changes pi0-edge needs."""

_EXTRA = re.compile(r"""extra == ["']([^"']+)["']""")


@dataclass(frozen=True)
class Conflict:
    """A package of another version than one that needs it declares.

    Attributes:
        package: Its name.
        found: The version that is installed.
        needed: The versions that fit, such as ">=6.31.1,<8".
        needed_by: Name and version of the package that declares it.
        for_users: Whether more than the development of pi0-edge needs it.
    """

    package: str
    found: str
    needed: str
    needed_by: str
    for_users: bool = True

    def __str__(self) -> str:
        return f"{self.package} {self.found} is installed, {self.needed_by} needs {self.package}{self.needed}"


@dataclass(frozen=True)
class _Requirement:
    name: str
    versions: str
    extra: str


def version_conflicts(names: Collection[str] | None = None) -> list[Conflict]:
    """The packages that are installed in a version which does not fit.

    Args:
        names: Only these packages, and only what they and pi0-edge need; None for all that pi0-edge declares.
    """
    declared = list(_requirements(DISTRIBUTION))
    known = {requirement.name for requirement in declared}
    users = [DISTRIBUTION, *sorted(known if names is None else known & set(names))]
    found: dict[tuple[str, str], Conflict] = {}
    for user in users:
        for requirement in declared if user == DISTRIBUTION else _requirements(user):
            asked = requirement.name in known and (names is None or requirement.name in names)
            if not asked or (user != DISTRIBUTION and requirement.extra):
                continue
            version = _installed(requirement.name)
            if version is not None and not fits(version, requirement.versions):
                needed_by = f"{user} {_installed(user) or ''}".strip()
                for_users = requirement.extra not in DEVELOPMENT
                conflict = Conflict(requirement.name, version, requirement.versions, needed_by, for_users)
                found.setdefault((requirement.name, requirement.versions), conflict)
    return list(found.values())


def check_versions(names: Collection[str]) -> None:
    """Passes where those of `names` that are installed fit each other and pi0-edge.

    Raises:
        MissingDependencyError: If one does not.
    """
    if conflicts := version_conflicts(names):
        raise MissingDependencyError(describe(conflicts))


def describe(conflicts: Collection[Conflict]) -> str:
    """All of them in one line, with the command that ends them."""
    command = f"{upgrade(conflicts)}, or install pi0-edge into an environment of its own"
    return f"{'; '.join(map(str, conflicts))}. Run: {command}"


def upgrade(conflicts: Collection[Conflict]) -> str:
    """The command that brings all packages involved to versions that fit."""
    involved = {conflict.package for conflict in conflicts}
    involved |= {conflict.needed_by.split()[0] for conflict in conflicts} - {DISTRIBUTION}
    declared = {requirement.name: requirement.versions for requirement in _requirements(DISTRIBUTION)}
    wanted = {name: declared.get(name, "") for name in sorted(involved)}
    return "pip install --upgrade " + " ".join(f"'{name}{versions}'" for name, versions in wanted.items())


def foreign_fault(error: Exception) -> str | None:
    """What to do about an error of another package that comes from its version; None where it does not.

    Args:
        error: Not one of pi0-edge's own.
    """
    said = f"({type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'without a message'})"
    if conflicts := [conflict for conflict in version_conflicts() if conflict.for_users]:
        return f"{describe(conflicts)} {said}"
    if isinstance(error, RuntimeError) and "Numpy is not available" in str(error):
        return numpy_advice()
    if type(error).__module__ == "google.protobuf.runtime_version":
        return (
            f"protobuf does not fit the packages that use it {said}. Run: pip install --upgrade 'protobuf>=6.31.1,<8'"
        )
    return None


def numpy_advice() -> str:
    """What to do where torch was built for another major version of numpy than the one that is installed."""
    return (
        f"torch {_installed('torch')} was built for another numpy than {_installed('numpy')} and cannot use it. "
        "Run: pip install 'numpy<2', or install a torch that was built for numpy 2"
    )


def pyserial_advice() -> str:
    """What to do where `import serial` does not give pyserial."""
    spec = find_spec("serial")
    if spec is None:
        return "pyserial is not installed, and the serial port needs it: pip install 'pi0-edge[bridge]'"
    origin = spec.origin or next(iter(spec.submodule_search_locations or ["?"]))
    return (
        f"the Python package `serial` here ({origin}) is another one than pyserial. Run: pip uninstall --yes serial "
        "pyserial && pip install 'pyserial>=3.5'; or rename your own file or folder, if it is one"
    )


def fits(version: str, versions: str) -> bool:
    """Whether a version is one of `versions`, such as ">=6.31.1,<8"; empty allows all."""
    try:
        return SpecifierSet(versions).contains(Version(version).base_version, prereleases=True)
    except (InvalidSpecifier, InvalidVersion):
        return True


def _installed(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _requirements(distribution: str) -> Iterator[_Requirement]:
    """What a distribution declares for this interpreter and machine; nothing where it is not installed."""
    try:
        declared = metadata.requires(distribution) or []
    except metadata.PackageNotFoundError:
        return
    for text in declared:
        try:
            requirement = Requirement(text)
        except InvalidRequirement:
            continue
        extra = _EXTRA.search(str(requirement.marker or ""))
        named = "" if extra is None else extra[1]
        if requirement.marker is None or requirement.marker.evaluate({"extra": named}):
            yield _Requirement(canonicalize_name(requirement.name), str(requirement.specifier), named)
