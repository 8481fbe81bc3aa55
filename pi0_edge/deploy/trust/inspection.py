"""What the statement beside a bundle says, which keys made it, and until when robots install it."""

# pyright: reportPrivateImportUsage=false
# The documented names of python-tuf are not declared as exported.

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

from tuf.api.metadata import Root, Targets

from pi0_edge.bundle.file_list import FileRecord
from pi0_edge.deploy.release import METADATA_FOLDER, Release, release_folder
from pi0_edge.deploy.trust.keys import fingerprint, key_name
from pi0_edge.deploy.trust.staged_files import read_staged
from pi0_edge.deploy.trust.tuf_client import LARGEST_METADATA, refresh
from pi0_edge.deploy.trust.verification import check_manifest, read_statement
from pi0_edge.errors import TrustError

_NEVER = datetime.fromtimestamp(0, timezone.utc)


@dataclass(frozen=True)
class SignedRelease:
    """A statement and its signatures.

    Attributes:
        release: The statement.
        targets: Every file that is signed, by name.
        expires: Until when robots install it.
        timestamp_version: Grows with every release of a trust folder.
        root_version: Grows with every key that is replaced.
        root_threshold: How many root keys must sign a new root.
        root_keys: Fingerprints of the root keys, by name.
        release_keys: Fingerprints of the keys that sign releases, by name.
    """

    release: Release
    targets: dict[str, FileRecord]
    expires: datetime
    timestamp_version: int
    root_version: int
    root_threshold: int
    root_keys: dict[str, str]
    release_keys: dict[str, str]

    @property
    def is_expired(self) -> bool:
        """Whether robots with the right time refuse it."""
        return datetime.now(timezone.utc) >= self.expires


def read_release(bundle: Path | str, root: bytes | None = None) -> SignedRelease:
    """Reads and verifies the statement beside a bundle, expired or not.

    Args:
        bundle: Its folder; only the manifest of it is read.
        root: A root that is trusted; without one the statement is compared with the root that it brings itself, which
            shows that it is whole and not who made it.

    Raises:
        TrustError: If there is no statement, or it is not whole.
    """
    bundle = Path(bundle)
    folder = release_folder(bundle)
    if not folder.is_dir():
        raise TrustError(f"{bundle} is not signed: there is no {folder}; run `pi0-edge release sign`")

    def read(name: str) -> bytes:
        return read_staged(folder, (METADATA_FOLDER, name), LARGEST_METADATA)

    try:
        first = read("1.root.json") if root is None else root
    except FileNotFoundError as error:
        raise TrustError(f"{folder} has no 1.root.json; run `pi0-edge release sign` again") from error
    with tempfile.TemporaryDirectory(prefix="pi0-edge-tuf-") as client:
        found = refresh(Path(client), first, read, _NEVER)
    release, targets = read_statement(found.targets)
    check_manifest(bundle.resolve(), found.targets, release)
    return SignedRelease(
        release=release,
        targets=targets,
        expires=min(found.root.expires, found.timestamp.expires, found.snapshot.expires, found.targets.expires),
        timestamp_version=found.timestamp.version,
        root_version=found.root.version,
        root_threshold=found.root.roles[Root.type].threshold,
        root_keys=keys_of(found.root, Root.type),
        release_keys=keys_of(found.root, Targets.type),
    )


def keys_of(root: Root, role: str) -> dict[str, str]:
    """Fingerprints of the keys of a role, by name."""
    return {key_name(root.keys[key_id]): fingerprint(key_id) for key_id in root.roles[role].keyids}
