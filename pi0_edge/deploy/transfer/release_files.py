"""What of a release lies where on this machine, by the names that it has in the staging folder of a robot.

bundle/…                     from the bundle's folder
metadata/…, firmware.bin, sdk/…   from the folder beside it
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from pi0_edge.bundle.checksums import MANIFEST_FILES, read_manifest
from pi0_edge.bundle.file_list import listed_files
from pi0_edge.deploy.release import FIRMWARE_TARGET, METADATA_FOLDER, SDK_FOLDER, SDK_TARGET, release_folder
from pi0_edge.errors import BundleError, DeployError

BUNDLE_PREFIX = "bundle"


@dataclass(frozen=True)
class ReleaseFiles:
    """A release on this machine.

    Attributes:
        bundle: Its folder.
        beside: Folder with metadata, firmware and SDK.
        manifest_sha256: Of the bundle's manifest: names the release.
        sizes: Of every file that a robot could lack, by its name there.
        first: Names of what a robot reads before it can say what it lacks.
    """

    bundle: Path
    beside: Path
    manifest_sha256: str
    sizes: dict[str, int]
    first: tuple[str, ...]

    @property
    def wheels(self) -> dict[str, int]:
        """Names and sizes of the wheels of its SDK environment; the robot picks those that it lacks."""
        prefix = f"{SDK_FOLDER}/"
        return {
            name.removeprefix(prefix): size
            for name, size in self.sizes.items()
            if name.startswith(prefix) and name != SDK_TARGET
        }

    def groups(self, names: Iterable[str]) -> Iterator[tuple[Path, list[str], str]]:
        """Files in groups that one rsync can send: source, names there, and folder below the staging folder.

        Raises:
            DeployError: If there is no such file here.
        """
        wanted = sorted(set(names))
        if missing := [name for name in wanted if name not in self.sizes]:
            raise DeployError(
                f"the robot lacks {', '.join(missing)}, and {self.beside} has no such file; sign it again"
            )
        inside = [name.partition("/")[2] for name in wanted if name.startswith(f"{BUNDLE_PREFIX}/")]
        outside = [name for name in wanted if not name.startswith(f"{BUNDLE_PREFIX}/")]
        if outside:
            yield self.beside, outside, self.manifest_sha256
        if inside:
            yield self.bundle, inside, f"{self.manifest_sha256}/{BUNDLE_PREFIX}"


def find_release(bundle: Path) -> ReleaseFiles:
    """Looks at a bundle and its statement, whose bytes the robot will check.

    Raises:
        BundleError: If it is no bundle, or a file is missing or of another size.
        DeployError: If it was not signed.
    """
    try:
        manifest = read_manifest(bundle, None)
    except BundleError as error:
        raise BundleError(f"{bundle} is no whole bundle: {error}") from error
    beside = release_folder(bundle)
    metadata = beside / METADATA_FOLDER
    if not metadata.is_dir() or not any(metadata.iterdir()):
        raise DeployError(f"{bundle} has no signed statement in {beside}: `pi0-edge release sign` makes it")
    sizes = {}
    for name, record in listed_files(manifest).items():
        file = bundle / name
        if file.is_symlink() or not file.is_file() or file.stat().st_size != record.size:
            found = "is missing or no plain file" if file.is_symlink() or not file.is_file() else "has another size"
            raise BundleError(f"{name} of {bundle} {found}; copy the bundle again")
        sizes[f"{BUNDLE_PREFIX}/{name}"] = record.size
    first = [f"{BUNDLE_PREFIX}/{name}" for name in MANIFEST_FILES if (bundle / name).exists()]
    sizes |= {name: (bundle / name.partition("/")[2]).stat().st_size for name in first}
    for file in _plain_files(metadata):
        first.append(name := file.relative_to(beside).as_posix())
        sizes[name] = file.stat().st_size
    for file in (beside / FIRMWARE_TARGET, *_plain_files(beside / SDK_FOLDER)):
        if file.is_file():
            sizes[file.relative_to(beside).as_posix()] = file.stat().st_size
    first += [SDK_TARGET] if SDK_TARGET in sizes else []
    return ReleaseFiles(bundle, beside, hashlib.sha256(manifest).hexdigest(), sizes, tuple(first))


def _plain_files(folder: Path) -> list[Path]:
    return sorted(file for file in folder.rglob("*") if file.is_file() and not file.is_symlink())
