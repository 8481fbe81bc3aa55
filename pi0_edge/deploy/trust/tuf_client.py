"""python-tuf's client on a folder instead of a network, and what its refusals mean."""

# pyright: reportPrivateImportUsage=false
# The documented names of python-tuf are not declared as exported.

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from tuf.api.exceptions import (
    BadVersionNumberError,
    DownloadError,
    DownloadHTTPError,
    ExpiredMetadataError,
    LengthOrHashMismatchError,
    RepositoryError,
    UnsignedMetadataError,
)
from tuf.api.metadata import Metadata, Root, Signed, Snapshot, Targets, Timestamp
from tuf.ngclient import FetcherInterface, Updater, UpdaterConfig

from pi0_edge.deploy.trust.keys import fingerprint
from pi0_edge.errors import TrustError

LARGEST_METADATA = 128 * 1024
"""Bytes; a hundred times what a release has."""

MOST_ROOTS = 256
"""Rotations that a robot can be behind."""

_NAME = re.compile(r"(?:(\d{1,19})\.)?(root|timestamp|snapshot|targets)\.json")
_KEY_ID = re.compile(r"[0-9a-f]{16,}")
_NOT_FOUND = 404


@dataclass(frozen=True)
class Verified:
    """The metadata that the keys signed, from a root that was trusted before."""

    root: Root
    timestamp: Timestamp
    snapshot: Snapshot
    targets: Targets


class _Refused(DownloadError):
    """A file that is there and is not read; the message is for people."""


class _FolderFetcher(FetcherInterface):
    """Gives the client files of a folder.

    Attributes:
        delivered: What was given, by name.
        last: Name of the file that was asked for last.
    """

    def __init__(self, read: Callable[[str], bytes]) -> None:
        self._read_file = read
        self.delivered: dict[str, bytes] = {}
        self.last = ""

    def _fetch(self, url: str) -> Iterator[bytes]:
        self.last = url.rpartition("/")[2]
        if not _NAME.fullmatch(self.last):
            raise _Refused(f"the release asks for the file {self.last!r:.80}, which no release has")
        try:
            content = self._read_file(self.last)
        except FileNotFoundError as error:
            raise DownloadHTTPError(f"{self.last} is missing", _NOT_FOUND) from error
        except TrustError as error:
            raise _Refused(str(error)) from error
        self.delivered[self.last] = content
        return iter((content,))


def refresh(
    client: Path, root: bytes, read: Callable[[str], bytes], reference: datetime, time_reason: str = ""
) -> Verified:
    """Verifies new metadata, and keeps it in the folder of the client.

    Args:
        client: Folder of python-tuf's client, which it writes without care for power cuts.
        root: The root that is trusted whatever lies in that folder.
        read: Gives a file of the release by name; raises FileNotFoundError and TrustError.
        reference: The time that expiries are compared with.
        time_reason: Why it is that time.

    Raises:
        TrustError: If anything is refused; the message says what happened.
    """
    fetcher = _FolderFetcher(read)
    limits = UpdaterConfig(
        max_root_rotations=MOST_ROOTS,
        root_max_length=LARGEST_METADATA,
        timestamp_max_length=LARGEST_METADATA,
        snapshot_max_length=LARGEST_METADATA,
        targets_max_length=LARGEST_METADATA,
    )
    try:
        updater = Updater(str(client), "folder:", fetcher=fetcher, config=limits, bootstrap=root)
    except (RepositoryError, ValueError) as error:
        raise TrustError(
            f"the root metadata that this robot was provisioned with is damaged ({error}); provision it again"
        ) from error
    known = updater._trusted_set
    # python-tuf takes the time of the clock and has no argument for another one; a test fails where this changes.
    known.reference_time = reference
    try:
        updater.refresh()
    except (RepositoryError, DownloadError, ValueError) as error:
        roles = {role.type: role for role in known}
        if isinstance(error, ExpiredMetadataError):
            raise TrustError(f"{_explain_expiry(fetcher, roles, reference)} ({time_reason})") from error
        raise TrustError(_explain(error, fetcher, known.root)) from error
    return Verified(known.root, known.timestamp, known.snapshot, known.targets)


def _explain(error: Exception, fetcher: _FolderFetcher, root: Root) -> str:
    """What a refusal of python-tuf means to people."""
    name = fetcher.last
    if isinstance(error, _Refused):
        return str(error)
    if isinstance(error, DownloadHTTPError):
        return f"{name} of the release is missing; send the release again"
    if isinstance(error, UnsignedMetadataError):
        return _explain_signature(name, fetcher.delivered.get(name, b""), root, str(error))
    if name.endswith("root.json"):
        return f"{name} of the release does not follow root {root.version} ({error}): the chain of roots is broken"
    if isinstance(error, BadVersionNumberError) and name == "timestamp.json":
        return (
            f"the release is older than what this robot has had already ({error}); to go back on purpose, sign its "
            "bundle again with a higher sequence"
        )
    if isinstance(error, BadVersionNumberError):
        return f"{name} is of another release than timestamp.json ({error}): parts of two releases are mixed"
    if isinstance(error, LengthOrHashMismatchError | DownloadError):
        return _explain_other_bytes(name, fetcher.delivered.get(name, b""), root)
    return f"{name} of the release is no metadata that can be used ({error}): it was altered or damaged; send it again"


def _explain_expiry(fetcher: _FolderFetcher, known: dict[str, Signed], reference: datetime) -> str:
    expired = [role for role in known.values() if role.is_expired(reference)]
    if not expired:  # the list of targets, which the client does not keep then
        expired = [Metadata.from_bytes(fetcher.delivered[fetcher.last]).signed]
    role = expired[0]
    cure = "renew it with `pi0-edge keys rotate` and sign" if role.type == Root.type else "sign"
    return (
        f"{role.type} metadata of the release expired on {role.expires.date()}, and it is {reference.date()} for this "
        f"robot: the release is too old to install, or was held back; {cure} its bundle again"
    )


def _explain_signature(name: str, content: bytes, root: Root, said: str) -> str:
    metadata = _parse(content)
    number, role = (_NAME.fullmatch(name) or re.match("()(.*)", name)).groups()  # pyright: ignore[reportOptionalMemberAccess]
    if role == Root.type:
        return (
            f"{name} of the release does not follow root {root.version} ({said}): too few of the keys that must sign "
            f"it have, or a byte was altered; the chain of roots is broken at {number}"
        )
    allowed = root.roles[role].keyids if role in root.roles else []
    signers = [] if metadata is None else [key_id for key_id in metadata.signatures if key_id not in allowed]
    if signers:
        other = fingerprint(signers[0]) if _KEY_ID.fullmatch(signers[0]) else "of no name that can be printed"
        return (
            f"{name} of the release was signed by another key, {other}, and root {root.version} of "
            f"this robot names {', '.join(map(fingerprint, allowed))}; a replaced key comes with a new root"
        )
    return f"the signature of {name} of the release is wrong: a byte of it was altered; send the release again"


def _explain_other_bytes(name: str, content: bytes, root: Root) -> str:
    """The file has other bytes than those that the file before it names."""
    metadata = _parse(content)
    role = name.removesuffix(".json").rpartition(".")[2]
    if metadata is None or role not in root.roles:
        signed = False
    else:
        signed = bool(root.get_verification_result(role, metadata.signed_bytes, metadata.signatures))
    if signed:
        return f"{name} is signed and of another release than the rest: parts of two releases are mixed"
    return f"{name} of the release has other bytes than were signed: it was altered or damaged; send the release again"


def _parse(content: bytes) -> Metadata | None:
    try:
        return Metadata.from_bytes(content)
    except RepositoryError:
        return None
