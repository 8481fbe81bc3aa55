"""Writes a bundle: all files into a hidden folder next to the final one, then one rename.

The hidden folder `.NAME.partial-…` is on the disk before it changes places with the bundle that was there: a power cut
leaves the old bundle or the new one. What an interrupted write left is removed by the next write of that bundle.

Where a file system cannot exchange two folders (FAT, exFAT, NFS), replacing is two renames: the old bundle becomes
`.NAME.before-…`, then the new one gets its name. A power cut between them leaves no bundle, but both whole, beside it.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

from torch import Tensor

from pi0_edge.bundle.checksums import MANIFEST, MANIFEST_FILES, read_manifest_to_sign, write_checksums
from pi0_edge.bundle.file_list import GATE_REPORT, NORM_STATS, SELF_TEST, TOKENIZERS, TRAINING_PROFILE, FileRecord
from pi0_edge.bundle.files import verify_files
from pi0_edge.bundle.manifest import GateRecord, Manifest, parse_manifest
from pi0_edge.bundle.self_test_vectors import SelfTestVectors, parse_self_test
from pi0_edge.bundle.shards import write_shards
from pi0_edge.errors import BundleError
from pi0_edge.model.config import Pi0Config
from pi0_edge.processing.description import ProcessingDescription
from pi0_edge.processing.norm_stats import save_norm_stats
from pi0_edge.quant.schemes import Scheme
from pi0_edge.robots import parse_robot
from pi0_edge.synced_files import exchange_synced, make_folder_synced, sync_file, sync_folder, write_synced
from pi0_edge.training_profile import TrainingProfile

_TOOLS = ("pi0-edge", "torch", "safetensors", "numpy")


def write_bundle(
    folder: Path,
    *,
    state: Mapping[str, Tensor],
    config: Pi0Config,
    scheme: Scheme,
    processing: ProcessingDescription,
    source_sha256: str,
    gate: Mapping[str, Any] | None = None,
    report_html: Path | None = None,
    calibration: Mapping[str, Any] | None = None,
    training_profile: TrainingProfile | None = None,
    self_test: SelfTestVectors | None = None,
    private_key: Path | None = None,
    replace: bool = False,
) -> Manifest:
    """Writes a bundle; the same inputs always give the same bytes.

    The folder appears complete or not at all: until the last moment all files are in a hidden folder next to it.

    Args:
        folder: Where it shall appear.
        state: The quantized network's tensors by name. The mapping may compute them when they are asked for: each is
            asked for once, in the order of names, and at most one shard (256 MiB) per dtype is held.
        config: Sizes of the network.
        scheme: How it was quantized.
        processing: From `ObservationProcessor.description`, with statistics and tokenizer.
        source_sha256: Of the checkpoint it was made from.
        gate: Report of the accuracy gate, with {"verdict": {"passed": bool, "reasons": [str, ...]}} in it. Without a
            passed verdict the bundle is not served unless its user says so by name.
        report_html: The gate's report for people.
        calibration: What the activations were measured on.
        training_profile: What the training data looked like, for the mismatch guard.
        self_test: Observations with the chunks of fp32, for the self-test on a robot.
        private_key: Signs the bundle, see `pi0_edge.bundle.keys`.
        replace: Whether a bundle that is there already may be replaced. Anything else in its place never is.

    Raises:
        BundleError: If the folder exists, cannot be written, or something given does not belong into a bundle.
        MissingDependencyError: If it shall be signed and `cryptography` is not installed.
    """
    folder = Path(os.path.abspath(folder))
    check_free(folder, replace)
    if library := next((rule.library for rule in scheme.rules if rule.library is not None), None):
        raise BundleError(f"{scheme.name} leaves weights to the library {library}, which a bundle cannot hold")
    if processing.norm_stats is None or processing.tokenizer is None:
        raise BundleError("the processing has no statistics or tokenizer; expected ObservationProcessor.description()")
    with _appearing(folder, replace) as partial:
        files = write_shards(partial, state)
        save_norm_stats(partial / NORM_STATS, processing.norm_stats)
        tokenizer = _copy_tokenizer(processing.tokenizer, partial)
        small = [NORM_STATS, tokenizer]
        if report_html is not None:
            _copy_report(report_html, partial)
            small.append(GATE_REPORT)
        if training_profile is not None:
            write_synced(partial / TRAINING_PROFILE, training_profile.to_bytes())
            small.append(TRAINING_PROFILE)
        if self_test is not None:
            content = self_test.to_bytes()
            parse_self_test(content, config, parse_robot(processing.robot, "the robot"))
            write_synced(partial / SELF_TEST, content)
            small.append(SELF_TEST)
        files |= {name: _record(partial / name) for name in small}
        manifest = Manifest(
            config=config,
            scheme=scheme.to_dict(),
            processing=processing,
            tokenizer=tokenizer,
            gate=None if gate is None else GateRecord.from_dict(dict(gate)),
            calibration=None if calibration is None else dict(calibration),
            source_sha256=source_sha256,
            tools={tool: version(tool) for tool in _TOOLS},
            files=files,
        )
        content = manifest.to_bytes()
        parsed = parse_manifest(content)  # what could not be loaded is not written
        write_synced(partial / MANIFEST, content)
        write_checksums(partial, content, private_key)
    return parsed


def sign_bundle(folder: Path, private_key: Path) -> None:
    """Signs a bundle that is there, in place of an earlier signature. All its files are checked first.

    Signature and checksums change in one step, because the signed bundle takes the place of the unsigned one.

    Raises:
        BundleError: If the bundle is not complete and unchanged, or the key cannot be read.
        MissingDependencyError: If `cryptography` is not installed.
    """
    resolved = folder.resolve()
    try:
        content = read_manifest_to_sign(resolved)
        files = parse_manifest(content).files
        verify_files(resolved, files, allowed_extra=MANIFEST_FILES)
        with _appearing(resolved, replace=True) as partial:
            for name in (MANIFEST, *files):
                _link_or_copy(resolved / name, partial / name)
            write_checksums(partial, content, private_key)
            shutil.copymode(resolved, partial)
    except (BundleError, OSError) as error:
        raise BundleError(f"{folder} was not signed: {error}") from error


@contextmanager
def _appearing(folder: Path, replace: bool) -> Iterator[Path]:
    """A hidden folder that becomes `folder` in the end, or disappears where anything fails."""
    partial = _hidden(folder, "partial")
    try:
        make_folder_synced(folder.parent)
        _remove_leftovers(folder)
        partial.mkdir()
        with _locked(partial):
            yield partial
            sync_folder(partial)
            check_free(folder, replace)  # again: the writing took its time
            _put_in_place(partial, folder)
    except OSError as error:
        raise BundleError(f"the bundle {folder} cannot be written: {error.strerror or error}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)  # by now, this may be the bundle that was replaced
    _remove_leftovers(folder)


def _put_in_place(partial: Path, folder: Path) -> None:
    if not folder.exists():
        partial.rename(folder)  # fails where something was put there meanwhile
    elif not exchange_synced(partial, folder):
        before = _hidden(folder, "before")
        folder.rename(before)
        try:
            partial.rename(folder)
        except OSError:
            before.rename(folder)
            raise
    sync_folder(folder.parent)


def _remove_leftovers(folder: Path) -> None:
    """Removes what interrupted writes of a bundle left beside it, but nothing that is being written now.

    Without a bundle in its place, the one that was there before is the only one, and stays.
    """
    kinds = "partial|before" if folder.exists() else "partial"
    leftover = re.compile(rf"\.{re.escape(folder.name)}\.({kinds})-[0-9a-f]{{8}}")
    for path in folder.parent.iterdir():
        if leftover.fullmatch(path.name) and path.is_dir() and not path.is_symlink():
            with suppress(OSError), _locked(path):
                shutil.rmtree(path)


def _hidden(folder: Path, kind: str) -> Path:
    return folder.with_name(f".{folder.name}.{kind}-{secrets.token_hex(4)}")


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """A folder that no other process removes as a leftover.

    Raises:
        BlockingIOError: If another process writes into it.
    """
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(handle)


def _link_or_copy(source: Path, target: Path) -> None:
    """The same file under another name; a copy on the disk where the file system has no links."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
        sync_file(target)


def check_free(folder: Path, replace: bool) -> None:
    """Raises `BundleError` where a folder holds a bundle that may not be replaced, or anything else."""
    if not os.path.lexists(folder):
        return
    if not (folder / MANIFEST).is_file() or folder.is_symlink():
        raise BundleError(f"{folder} exists and is no bundle, so it is never replaced; name another folder")
    if not replace:
        raise BundleError(f"{folder} holds a bundle already; name another folder, or ask for it to be replaced")


def _copy_tokenizer(source: Path, folder: Path) -> str:
    name = f"tokenizer{source.suffix}"
    if name not in TOKENIZERS or not source.is_file():
        raise BundleError(f"the tokenizer {source} is not a .model or .json file; a bundle needs one of these")
    write_synced(folder / name, source.read_bytes())
    return name


def _copy_report(source: Path, folder: Path) -> None:
    content = source.read_bytes()
    if b"<script" in content.lower():
        raise BundleError(f"the report {source} contains a script; nothing in a bundle is executable")
    write_synced(folder / GATE_REPORT, content)


def _record(path: Path) -> FileRecord:
    content = path.read_bytes()
    return FileRecord(hashlib.sha256(content).hexdigest(), len(content))
