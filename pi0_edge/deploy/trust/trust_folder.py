"""The trust folder of a workstation: private keys, and the TUF metadata that they signed.

    trust/
      keys/        root-1.pem … root-3.pem  say which keys count; they belong apart, off the network (--root-key)
                   release.pem              signs releases
      metadata/    1.root.json, 2.root.json, …  every root there was: a robot follows them one by one
                   root.json                    the latest of them, for robots that are provisioned now
                   N.targets.json, N.snapshot.json, timestamp.json  of the last release
      trust.json   what `keys init` was asked for

A root counts as soon as its N.root.json is there, a release as soon as timestamp.json names it.
"""

# pyright: reportPrivateImportUsage=false
# The documented names of python-tuf are not declared as exported.

from __future__ import annotations

import fcntl
import json
import os
import shutil
from calendar import monthrange
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path

from securesystemslib.signer import CryptoSigner
from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import Metadata, MetaFile, Root, Snapshot, Targets, Timestamp

from pi0_edge.deploy.release import METADATA_FOLDER
from pi0_edge.deploy.trust.keys import (
    RELEASE_KEY,
    fingerprint,
    generate_key,
    key_name,
    load_signer,
    root_key_names,
    write_private_key,
)
from pi0_edge.errors import DeployError
from pi0_edge.json_files import read_json_object
from pi0_edge.synced_files import save_synced, sync_folder, write_synced

ROOT_YEARS = 10
"""How long root metadata is valid: robots without a network must outlive it; `keys rotate` renews it."""

DEFAULT_MONTHS = 12
_RELEASE_ROLES = (Targets.type, Snapshot.type, Timestamp.type)
_MOST_ROOT_KEYS = 9
_MOST_MONTHS = 120


@dataclass(frozen=True)
class TrustRequest:
    """What a trust folder was made for.

    Attributes:
        root_keys: How many root keys there are.
        root_threshold: How many of them must sign a new root.
        expires_months: How long a release can be installed, where its signer says nothing else.
    """

    root_keys: int = 3
    root_threshold: int = 2
    expires_months: int = DEFAULT_MONTHS


@dataclass(frozen=True)
class LastRelease:
    """The three metadata files of the last release that was signed."""

    timestamp: Metadata[Timestamp]
    snapshot: Metadata[Snapshot]
    targets: Metadata[Targets]


@dataclass(frozen=True)
class TrustFolder:
    """A trust folder that exists.

    Attributes:
        path: Of the folder.
    """

    path: Path

    @property
    def keys(self) -> Path:
        """Folder of the private keys."""
        return self.path / "keys"

    @property
    def metadata(self) -> Path:
        """Folder of the metadata."""
        return self.path / METADATA_FOLDER

    def request(self) -> TrustRequest:
        """What it was made for.

        Raises:
            DeployError: If it is no trust folder.
        """
        plain = read_json_object(self.path / "trust.json", DeployError, "make a trust folder with `pi0-edge keys init`")
        try:
            return TrustRequest(**{name: int(value) for name, value in plain.items()})
        except (TypeError, ValueError) as error:
            raise DeployError(f"{self.path / 'trust.json'} holds something else than a request ({error})") from error

    def roots(self) -> list[bytes]:
        """Every root, the first one first.

        Raises:
            DeployError: If there is none.
        """
        found: list[bytes] = []
        while (path := self.metadata / f"{len(found) + 1}.root.json").is_file():
            found.append(path.read_bytes())
        if not found:
            raise DeployError(f"{self.path} is no trust folder: it has no {path}; make one with `pi0-edge keys init`")
        return found

    def root(self) -> Metadata[Root]:
        """The latest root."""
        return _parse(self.roots()[-1], f"the latest root in {self.metadata}")

    def last_release(self) -> LastRelease:
        """What was signed last; with no target where nothing was.

        Raises:
            DeployError: If a file is missing or damaged.
        """
        timestamp: Metadata[Timestamp] = self._read("timestamp.json")
        snapshot: Metadata[Snapshot] = self._read(f"{timestamp.signed.snapshot_meta.version}.snapshot.json")
        version = snapshot.signed.meta["targets.json"].version
        return LastRelease(timestamp, snapshot, self._read(f"{version}.targets.json"))

    def signer(self, key_id: str, elsewhere: Path | None = None) -> CryptoSigner:
        """The private half of a key that the latest root names.

        Args:
            key_id: Of the key.
            elsewhere: File of the key; else it is searched for in `keys`.

        Raises:
            DeployError: If the file is another key, or no file here is it.
        """
        signers = [load_signer(elsewhere)] if elsewhere is not None else self.signers()
        for signer in signers:
            if signer.public_key.keyid == key_id:
                return signer
        key = self.root().signed.keys[key_id]
        found = f"{elsewhere} is the key {fingerprint(signers[0].public_key.keyid)}" if elsewhere else "it is not there"
        raise DeployError(
            f"the private key {key_name(key)} ({fingerprint(key_id)}) is needed from {elsewhere or self.keys}, and "
            f"{found}; give the path of its file"
        )

    def signers(self) -> list[CryptoSigner]:
        """The private keys that lie in the folder, one of an interrupted rotation (.pem.new) included."""
        files = sorted(path for path in self.keys.glob("[!.]*") if path.name.endswith((".pem", ".pem.new")))
        return [load_signer(path) for path in files]

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Holds the folder, so that two commands never sign the same version.

        Raises:
            DeployError: If it is no trust folder.
        """
        try:
            file = (self.path / "trust.json").open("rb")
        except OSError as error:
            raise DeployError(
                f"{self.path} is no trust folder ({error.strerror}: {error.filename}); make one with "
                "`pi0-edge keys init`"
            ) from error
        with file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def write(self, name: str, content: bytes) -> None:
        """Puts a metadata file in its place, whole."""
        save_synced(self.metadata / name, content)

    def _read(self, name: str) -> Metadata:
        path = self.metadata / name
        try:
            return _parse(path.read_bytes(), str(path))
        except OSError as error:
            raise DeployError(
                f"{path} cannot be read ({error.strerror}); give a folder that `pi0-edge keys init` made, or copy it "
                "back from where it was saved"
            ) from error


def init_trust(
    folder: Path | str,
    *,
    expires_months: int = DEFAULT_MONTHS,
    root_keys: int = 3,
    root_threshold: int = 2,
) -> TrustFolder:
    """Makes keys and the metadata that says which of them count; one that exists already for the same is left as it is.

    Args:
        folder: To make.
        expires_months: How long a release can be installed, where its signer says nothing else.
        root_keys: How many root keys there are.
        root_threshold: How many of them must sign a new root.

    Raises:
        DeployError: If there is something else in its place, or a number is not possible.
    """
    folder = Path(folder).absolute()
    request = TrustRequest(root_keys, root_threshold, expires_months)
    if not 1 <= root_threshold <= root_keys <= _MOST_ROOT_KEYS:
        raise DeployError(
            f"{root_threshold} of {root_keys} root keys is not possible; expected 1 to {_MOST_ROOT_KEYS} keys, and at "
            "most as many that must sign"
        )
    check_months(expires_months)
    if os.path.lexists(folder):
        return _existing(folder, request)
    partial = folder.with_name(f".{folder.name}.partial")
    try:
        shutil.rmtree(partial, ignore_errors=True)  # of a command that was interrupted: its keys were never used
        partial.mkdir()
        _fill(TrustFolder(partial), request)
        partial.rename(folder)
        sync_folder(folder.parent)
    except OSError as error:
        raise DeployError(f"{folder} cannot be made ({error.strerror}: {error.filename})") from error
    return TrustFolder(folder)


def check_months(months: int) -> None:
    """Refuses what is no time to live.

    Raises:
        DeployError: If it is not 1 to 120.
    """
    if not 1 <= months <= _MOST_MONTHS:
        raise DeployError(f"{months} months until a release expires is not possible; expected 1 to {_MOST_MONTHS}")


def later(moment: datetime, months: int) -> datetime:
    """The same day of the month so many months later, or the last one of a shorter month; whole seconds."""
    year, month = divmod(moment.year * 12 + moment.month - 1 + months, 12)
    day = min(moment.day, monthrange(year, month + 1)[1])
    return moment.replace(year=year, month=month + 1, day=day, microsecond=0)


def version_of(sequence: int) -> int:
    """The version of all metadata of a release; version 1 is that of a trust folder without one.

    It follows from the sequence, so that a trust folder that was copied back from an older state signs what robots
    accept as soon as the sequence is higher than theirs.
    """
    return sequence + 1


def signed_release(signer: CryptoSigner, targets: Targets) -> dict[str, bytes]:
    """The metadata files around a list of targets, the one that makes them count last.

    Args:
        signer: The release key.
        targets: The list, with the version and expiry that the others get too.
    """
    version, expires = targets.version, targets.expires
    signed_targets = _signed(targets, signer)
    listed = {"targets.json": MetaFile.from_data(version, signed_targets, ["sha256"])}
    snapshot = Snapshot(version=version, expires=expires, meta=listed)
    signed_snapshot = _signed(snapshot, signer)
    timestamp = Timestamp(
        version=version,
        expires=expires,
        snapshot_meta=MetaFile.from_data(version, signed_snapshot, ["sha256"]),
    )
    return {
        f"{version}.targets.json": signed_targets,
        f"{version}.snapshot.json": signed_snapshot,
        "timestamp.json": _signed(timestamp, signer),
    }


def _existing(folder: Path, request: TrustRequest) -> TrustFolder:
    found = TrustFolder(folder)
    if not (folder / "trust.json").is_file():
        raise DeployError(f"{folder} exists already and is no trust folder; name another one")
    made_for = found.request()
    if made_for != request:
        raise DeployError(
            f"{folder} is a trust folder already, with {_text(made_for)}, and {_text(request)} was asked for; keys are "
            "never overwritten: name another folder, or leave the options out that differ"
        )
    found.root()
    return found


def _text(request: TrustRequest) -> str:
    return f"{request.root_threshold} of {request.root_keys} root keys and {request.expires_months} months"


def _fill(folder: TrustFolder, request: TrustRequest) -> None:
    folder.keys.mkdir(mode=0o700)
    folder.metadata.mkdir()
    names = root_key_names(request.root_keys)
    signers = {name: generate_key(name) for name in (*names, RELEASE_KEY)}
    for name, signer in signers.items():
        write_private_key(folder.keys / f"{name}.pem", signer)
    now = datetime.now(timezone.utc)
    root = Root(version=1, expires=later(now, 12 * ROOT_YEARS), consistent_snapshot=True)
    for name in names:
        root.add_key(signers[name].public_key, Root.type)
    root.roles[Root.type].threshold = request.root_threshold
    for role in _RELEASE_ROLES:
        root.add_key(signers[RELEASE_KEY].public_key, role)
    metadata = Metadata(root)
    for name in names:
        metadata.sign(signers[name], append=True)
    expires = later(now, request.expires_months)
    files = {"1.root.json": metadata.to_bytes(), "root.json": metadata.to_bytes()}
    files |= signed_release(signers[RELEASE_KEY], Targets(version=version_of(0), expires=expires))
    for name, content in files.items():
        write_synced(folder.metadata / name, content)
    write_synced(folder.path / "trust.json", (json.dumps(asdict(request), indent=2) + "\n").encode())
    for made in (folder.keys, folder.metadata, folder.path):
        sync_folder(made)


def _signed(role: Targets | Snapshot | Timestamp, signer: CryptoSigner) -> bytes:
    metadata = Metadata(role)  # pyright: ignore[reportArgumentType]
    metadata.sign(signer)
    return metadata.to_bytes()


def _parse(content: bytes, origin: str) -> Metadata:
    try:
        return Metadata.from_bytes(content)
    except RepositoryError as error:
        raise DeployError(f"{origin} is no TUF metadata ({error}); copy it back from where it was saved") from error
