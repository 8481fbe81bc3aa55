"""The manifest's own checksums, which every bundle has, and its signature, which a bundle may have.

`manifest.sha256` is a list as `sha256sum -c` reads it. It covers the manifest, which covers every other file, and the
signature, so that no byte of a bundle can change unnoticed even where signatures are not checked. It protects against
accidents; only a signature, checked with a public key that was received another way, protects against attackers.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from pi0_edge.bundle.files import MISSING, read_small_file
from pi0_edge.bundle.keys import check_signature, make_signature
from pi0_edge.errors import BundleError
from pi0_edge.synced_files import write_synced

MANIFEST = "manifest.json"
SUMS = "manifest.sha256"
SIGNATURE = "manifest.sig"
MANIFEST_FILES = (MANIFEST, SUMS, SIGNATURE)
"""The files of a bundle that the manifest does not list."""


def write_checksums(folder: Path, manifest: bytes, private_key: Path | None) -> None:
    """Writes signature and checksums of a manifest into a folder that is no bundle yet.

    Raises:
        BundleError: If the key cannot be read.
        MissingDependencyError: If there is a key, and the package that signs is not installed.
    """
    covered = {MANIFEST: manifest}
    if private_key is not None:
        covered[SIGNATURE] = make_signature(manifest, private_key)
        write_synced(folder / SIGNATURE, covered[SIGNATURE])
    write_synced(folder / SUMS, _sums(covered))


def read_manifest(folder: Path, public_key: Path | None) -> bytes:
    """The bytes of the manifest, checked.

    Args:
        folder: Of the bundle.
        public_key: Whose signature is required; without one a signature is not needed, and not checked if present.

    Raises:
        BundleError: If manifest or checksum is missing, changed, or not signed as required.
        MissingDependencyError: If there is a key, and the package that checks it is not installed.
    """
    covered = {MANIFEST: _read(folder, MANIFEST)}
    if os.path.lexists(folder / SIGNATURE):
        covered[SIGNATURE] = _read(folder, SIGNATURE)
    if _read(folder, SUMS) != _sums(covered):
        raise BundleError(f"{' or '.join((*covered, SUMS))} was changed after the bundle was made; copy it again")
    if public_key is not None:
        if SIGNATURE not in covered:
            raise BundleError(f"the bundle is not signed, and the signature of {public_key} is required")
        check_signature(covered[MANIFEST], covered[SIGNATURE], public_key)
    return covered[MANIFEST]


def read_manifest_to_sign(folder: Path) -> bytes:
    """The bytes of the manifest, checked, whatever state an earlier signature is in."""
    manifest = _read(folder, MANIFEST)
    if not _read(folder, SUMS).startswith(_sums({MANIFEST: manifest})):
        raise BundleError(f"{MANIFEST} or {SUMS} was changed after the bundle was made; nothing was signed")
    return manifest


def _sums(covered: dict[str, bytes]) -> bytes:
    return "".join(f"{hashlib.sha256(content).hexdigest()}  {name}\n" for name, content in covered.items()).encode()


def _read(folder: Path, name: str) -> bytes:
    if not os.path.lexists(folder / name):
        raise BundleError(f"{name} {MISSING}")
    return read_small_file(folder / name)
