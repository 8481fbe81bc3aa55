"""The files of a bundle against their manifest: nothing missing, nothing more, every byte as it was written."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from pi0_edge.bundle.file_list import FileRecord
from pi0_edge.errors import BundleError

MISSING = "is missing; the bundle is incomplete, copy it again"
SMALL_FILE = 16 * 2**20
"""More than any manifest, checksum or signature has; a larger one is not read."""

_BLOCK = 2**20
_THREADS = 8


def verify_files(
    folder: Path, records: Mapping[str, FileRecord], allowed_extra: Collection[str]
) -> dict[str, os.stat_result]:
    """Checks every file of the folder: names, kinds and sizes first, then all SHA-256 in parallel.

    Args:
        folder: Of the bundle.
        records: What the manifest says of each file.
        allowed_extra: Names of files that may be there besides.

    Returns:
        What each file was when it was read, for `refuse_changed`.

    Raises:
        BundleError: If a file is missing, surplus, not a plain file, of another size or changed.
    """
    found = {entry.name: entry for entry in os.scandir(folder)}
    for name, entry in found.items():
        if not stat.S_ISREG(entry.stat(follow_symlinks=False).st_mode):
            raise BundleError(f"{name} is a link, folder or device, expected plain files only")
    if surplus := sorted(found.keys() - records.keys() - set(allowed_extra)):
        raise BundleError(f"{surplus[0]} is not in the manifest; a bundle holds nothing else, remove it")
    if missing := sorted(records.keys() - found.keys()):
        raise BundleError(f"{missing[0]} {MISSING}")
    for name, record in records.items():
        size = found[name].stat(follow_symlinks=False).st_size
        if size != record.size:
            what = "truncated" if size < record.size else "too long"
            raise BundleError(f"{name} is {what}: it has {size} bytes, expected {record.size}; copy the bundle again")
    largest_first = sorted(records, key=lambda name: -records[name].size)
    with ThreadPoolExecutor(min(_THREADS, os.cpu_count() or 1)) as pool:
        return dict(
            zip(largest_first, pool.map(lambda n: verify_file(folder / n, records[n]), largest_first), strict=True)
        )


def refuse_changed(folder: Path, verified: Mapping[str, os.stat_result]) -> None:
    """Call it after files were used: were they still the ones that were verified?

    Raises:
        BundleError: If one was replaced or written to since then.
    """
    for name, before in verified.items():
        try:
            now = os.stat(folder / name, follow_symlinks=False)
        except OSError as error:
            raise BundleError(f"{name} disappeared while it was used ({error.strerror})") from error
        if _identity(now) != _identity(before):
            raise BundleError(f"{name} was changed while it was used; load the bundle again")


def read_small_file(path: Path) -> bytes:
    """The content of a plain file of at most `SMALL_FILE` bytes.

    Raises:
        BundleError: If it is something else or cannot be read.
    """
    try:
        with _open(path) as file:
            size = os.fstat(file.fileno()).st_size
            if size > SMALL_FILE:
                raise BundleError(f"{path.name} has {size} bytes, expected at most {SMALL_FILE}")
            return file.read()
    except OSError as error:
        raise BundleError(f"{path.name} cannot be read ({error.strerror}); expected a plain file") from error


def verify_file(path: Path, record: FileRecord) -> os.stat_result:
    """Reads one plain file and compares its SHA-256.

    Returns:
        What the file was when it was read.

    Raises:
        BundleError: If it cannot be read or was changed.
    """
    digest, block = hashlib.sha256(), memoryview(bytearray(_BLOCK))
    try:
        with _open(path) as file:
            before = os.fstat(file.fileno())
            while read := file.readinto(block):
                digest.update(block[:read])
    except OSError as error:
        raise BundleError(f"{path.name} cannot be read ({error.strerror}); check the disk") from error
    if digest.hexdigest() != record.sha256:
        raise BundleError(
            f"{path.name} was changed after the bundle was made: its SHA-256 is {digest.hexdigest()}, expected "
            f"{record.sha256}; copy the bundle again"
        )
    return before


def _open(path: Path):  # noqa: ANN202 - a raw binary file
    """Opens a file that is not a link, and does not wait for a pipe."""
    return os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb", buffering=0)


def _identity(status: os.stat_result) -> tuple[int, ...]:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
