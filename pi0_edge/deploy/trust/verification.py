"""On the robot: is this release one that its keys signed, and not older than what it has had?

The client's folder on the robot:

    provisioned.root.json     where trust begins; written once, when the robot is provisioned
    root_history/N.root.json  the roots that followed
    timestamp.json, snapshot.json, targets.json  of the newest release that was verified: older ones are refused

python-tuf works in a copy of that folder, because it writes without synchronizing. Afterwards each file that changed is
put in its place whole: roots in any case, because a key that was replaced must not be believed again, and the rest only
when everything about the release was in order. After a power cut any mixture of old and new files works, and so do
missing ones; what then is forgotten, the sequence floor of the slots still knows.
"""

# pyright: reportPrivateImportUsage=false
# The documented names of python-tuf are not declared as exported.

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from tuf.api.exceptions import LengthOrHashMismatchError, RepositoryError
from tuf.api.metadata import Metadata, Root, Targets

from pi0_edge.bundle.file_list import FileRecord
from pi0_edge.bundle.files import SMALL_FILE
from pi0_edge.deploy.release import MANIFEST_TARGET, METADATA_FOLDER, Release
from pi0_edge.deploy.trust.keys import fingerprint
from pi0_edge.deploy.trust.staged_files import read_staged
from pi0_edge.deploy.trust.trusted_time import reference_time
from pi0_edge.deploy.trust.tuf_client import LARGEST_METADATA, MOST_ROOTS, Verified, refresh
from pi0_edge.errors import DeployError, TrustError
from pi0_edge.synced_files import make_folder_synced, save_synced

PROVISIONED = "provisioned.root.json"
BUNDLE_FOLDER = "bundle"

_HISTORY = "root_history"
_NEWEST = ("timestamp.json", "snapshot.json", "targets.json")


@dataclass(frozen=True)
class VerifiedRelease:
    """A release that the keys of this robot signed.

    Attributes:
        release: The signed statement.
        targets: Every file that TUF signs, by name: manifest.json, perhaps firmware.bin and sdk/requirements.txt.
        reasons: One line for each decision.
    """

    release: Release
    targets: dict[str, FileRecord]
    reasons: tuple[str, ...]


def trust_root(trusted: Path, root: bytes) -> None:
    """Provisions a robot: from now on it believes the keys of this root, and those that follow from it.

    Args:
        trusted: Folder of the client; is made where it is missing.
        root: metadata/root.json of a trust folder, or 1.root.json.

    Raises:
        TrustError: If it is no root, or the robot trusts another one already. One that the robot has followed to, or
            that is the next one after its latest, is fine.
    """
    try:
        new = _parse_root(root)
    except (RepositoryError, ValueError) as error:
        raise TrustError(
            f"the robot cannot trust this root ({error}); give metadata/root.json of a trust folder"
        ) from error
    provisioned = trusted / PROVISIONED
    if not provisioned.exists():
        make_folder_synced(trusted)
        save_synced(provisioned, root)
        return
    latest = new
    for latest in _known_roots(trusted):
        if _says_the_same(root, latest):
            return
    if not _follows(latest.signed, new):
        raise TrustError(
            f"this robot trusts root {latest.signed.version} ({_root_keys(latest.signed)}), and root "
            f"{new.signed.version} ({_root_keys(new.signed)}) does not follow it directly; give it 1.root.json of its "
            "own trust folder, or flash a release: it brings every root. For a robot of another owner, remove its "
            f"{trusted} first"
        )
    _keep(trusted / _HISTORY / f"{new.signed.version}.root.json", root)


def verify_release(
    staged: Path, trusted: Path, *, sequence_floor: int, committed_at: float, clock: float | None = None
) -> VerifiedRelease:
    """Verifies what was received, up to the list of the bundle's files; files are the caller's to compare with it.

    Whoever may write to `staged` may also write after this returns: read its files again and compare them with
    `targets`, manifest.json included, when they are out of reach.

    Args:
        staged: Holds metadata/ and bundle/manifest.json, as received.
        trusted: Folder of the client.
        sequence_floor: Highest sequence that this robot ever committed; that one itself may come again.
        committed_at: When it did, in Unix time; 0 where it never did.
        clock: Unix time; else that of this computer.

    Raises:
        TrustError: If the release is refused; the message says what happened.
    """
    provisioned = trusted / PROVISIONED
    if not provisioned.is_file():
        raise TrustError(
            f"this robot trusts no keys yet, {provisioned} is missing; run `pi0-edge robot provision` for it"
        )
    now = time.time() if clock is None else clock
    _check_beginning(staged, trusted)
    try:
        with tempfile.TemporaryDirectory(prefix="pi0-edge-tuf-") as scratch:
            return _verify(staged, trusted, Path(scratch), reference_time(now, committed_at), sequence_floor)
    except OSError as error:
        raise TrustError(f"the release cannot be verified here ({error.strerror}: {error.filename})") from error


def _verify(
    staged: Path, trusted: Path, client: Path, moment: tuple[datetime, str], sequence_floor: int
) -> VerifiedRelease:
    _copy(trusted, client)
    try:
        root = (trusted / PROVISIONED).read_bytes()
        found = refresh(client, root, lambda name: _metadata(staged, name), *moment)
    finally:
        _keep_roots(client, trusted)
    _check_same(staged, client, found)
    release, targets = read_statement(found.targets)
    _check_sequence(release, sequence_floor)
    check_manifest(staged / BUNDLE_FOLDER, found.targets, release)
    for name in _NEWEST:
        _keep(trusted / name, (client / name).read_bytes())
    return VerifiedRelease(release, targets, (moment[1], *_reasons(found, release, targets, sequence_floor)))


def _known_roots(trusted: Path) -> Iterator[Metadata[Root]]:
    """The provisioned root, and those that followed as far as they are there."""
    try:
        root = _parse_root((trusted / PROVISIONED).read_bytes())
    except (OSError, RepositoryError, ValueError) as error:
        raise TrustError(
            f"{trusted / PROVISIONED}, which this robot was provisioned with, is damaged ({error}): check the disk, "
            f"remove {trusted} and provision the robot again"
        ) from error
    while True:
        yield root
        try:
            root = _parse_root((trusted / _HISTORY / f"{root.signed.version + 1}.root.json").read_bytes())
        except (OSError, RepositoryError, ValueError):  # torn by a power cut: the next release brings it again
            return


def _check_beginning(staged: Path, trusted: Path) -> None:
    """A release of another trust folder is told by its roots, before its other signatures are looked at.

    What is signed is compared and not the bytes of the files: whoever sends a root can add a signature that counts for
    nothing, and the robot must not refuse the true file for that later.
    """
    for root in _known_roots(trusted):
        name = f"{root.signed.version}.root.json"
        try:
            content = _metadata(staged, name)
        except FileNotFoundError:
            continue
        if not _says_the_same(content, root):
            raise TrustError(
                f"{name} of the release is not the root {root.signed.version} that this robot trusts "
                f"({_root_keys(root.signed)}): the release was signed with the keys of another trust folder, or a byte "
                "was altered"
            )


def _metadata(staged: Path, name: str) -> bytes:
    return read_staged(staged, (METADATA_FOLDER, name), LARGEST_METADATA)


def _check_same(staged: Path, client: Path, found: Verified) -> None:
    """Looks at files that the client did not have to read, because it has had the same versions before."""
    names = {
        "timestamp.json": "timestamp.json",
        "snapshot.json": f"{found.snapshot.version}.snapshot.json",
        "targets.json": f"{found.targets.version}.targets.json",
    }
    for kept, name in names.items():
        try:
            content = _metadata(staged, name)
        except FileNotFoundError as error:
            raise TrustError(f"{name} of the release is missing; send the release again") from error
        known = Metadata.from_bytes((client / kept).read_bytes())
        if not _says_the_same(content, known) or not _is_signed(content, found.root):
            raise TrustError(
                f"{name} of the release is not the one of the same version that this robot has had: it was altered, "
                "or the trust folder was copied back from an older state; send it again, or sign the bundle again"
            )


def _says_the_same(content: bytes, known: Metadata) -> bool:
    try:
        return Metadata.from_bytes(content).signed_bytes == known.signed_bytes
    except RepositoryError:
        return False


def _is_signed(content: bytes, root: Root) -> bool:
    metadata = Metadata.from_bytes(content)
    role: str = metadata.signed.type
    return bool(root.get_verification_result(role, metadata.signed_bytes, metadata.signatures))


def read_statement(signed: Targets) -> tuple[Release, dict[str, FileRecord]]:
    """The statement that a list of targets signs, and the files in it.

    Raises:
        TrustError: If there is none, or it contradicts itself.
    """
    if MANIFEST_TARGET not in signed.targets:
        raise TrustError(f"the signed list of the release has no {MANIFEST_TARGET}; sign the bundle again")
    records = {}
    for name, target in signed.targets.items():
        if "sha256" not in target.hashes:
            raise TrustError(f"{name} is signed without its SHA-256; sign the bundle again")
        records[name] = FileRecord(target.hashes["sha256"], target.length)
    try:
        release = Release.from_dict(signed.targets[MANIFEST_TARGET].custom)
    except DeployError as error:
        raise TrustError(str(error)) from error
    if release.manifest_sha256 != records[MANIFEST_TARGET].sha256:
        raise TrustError(f"the statement is about another bundle than the signed {MANIFEST_TARGET}; sign it again")
    return release, records


def _check_sequence(release: Release, floor: int) -> None:
    if release.sequence < floor:
        raise TrustError(
            f"the release has the sequence {release.sequence} and is older than what this robot committed, {floor}; to "
            "go back on purpose, sign its bundle again with a higher sequence"
        )


def check_manifest(bundle: Path, signed: Targets, release: Release) -> None:
    """Compares the manifest in a folder with what was signed.

    Raises:
        TrustError: If it is missing or another one.
    """
    target = signed.targets[MANIFEST_TARGET]
    try:
        manifest = read_staged(bundle, (MANIFEST_TARGET,), SMALL_FILE)
        target.verify_length_and_hashes(manifest)
    except FileNotFoundError as error:
        raise TrustError(f"{MANIFEST_TARGET} of the bundle is missing; send the release again") from error
    except LengthOrHashMismatchError as error:
        raise TrustError(
            f"{MANIFEST_TARGET} is not the one that release {release.id} signs ({error}): the bundle is another one, "
            "or a byte was altered; send it again, or sign it"
        ) from error


def _reasons(found: Verified, release: Release, targets: dict[str, FileRecord], floor: int) -> list[str]:
    keys = ", ".join(map(fingerprint, found.root.roles[Targets.type].keyids))
    expires = min(found.timestamp.expires, found.snapshot.expires, found.targets.expires)
    return [
        f"keys: root {found.root.version}, {_root_keys(found.root)}",
        f"signed: release key {keys}, timestamp version {found.timestamp.version}, expires {expires.date()}",
        f"bundle: release {release.id}, {', '.join(sorted(targets))} signed",
        f"sequence: {release.sequence}, and {floor} is the highest that was committed here",
    ]


def _root_keys(root: Root) -> str:
    role = root.roles[Root.type]
    return f"{role.threshold} of the keys {', '.join(map(fingerprint, role.keyids))}"


def _parse_root(content: bytes) -> Metadata[Root]:
    metadata = Metadata[Root].from_bytes(content)
    if metadata.signed.type != Root.type:
        raise ValueError(f"{metadata.signed.type} metadata, expected root")
    metadata.signed.verify_delegate(Root.type, metadata.signed_bytes, metadata.signatures)
    return metadata


def _follows(latest: Root, new: Metadata[Root]) -> bool:
    signed_by_latest = latest.get_verification_result(Root.type, new.signed_bytes, new.signatures)
    return new.signed.version == latest.version + 1 and bool(signed_by_latest)


def _copy(trusted: Path, client: Path) -> None:
    """What the client had before, for it to judge; a file that is missing or damaged is one it never had."""
    for name in _NEWEST:
        if (trusted / name).is_file():
            shutil.copyfile(trusted / name, client / name)
    (client / _HISTORY).mkdir()
    for path in (trusted / _HISTORY).glob("*.root.json"):
        shutil.copyfile(path, client / _HISTORY / path.name)


def _keep_roots(client: Path, trusted: Path) -> None:
    for version in range(1, MOST_ROOTS + 2):
        path = client / _HISTORY / f"{version}.root.json"
        if path.is_file():
            _keep(trusted / _HISTORY / path.name, path.read_bytes())


def _keep(path: Path, content: bytes) -> None:
    """Puts a file of the client in its place, on the disk when this returns."""
    make_folder_synced(path.parent)
    if not path.is_file() or path.read_bytes() != content:
        save_synced(path, content)
