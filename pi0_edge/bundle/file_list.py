"""The files that a bundle may have, and what its manifest says of each; nothing here needs torch."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pi0_edge.errors import BundleError
from pi0_edge.json_files import parse_json_object

NORM_STATS = "norm_stats.json"
GATE_REPORT = "gate_report.html"
TRAINING_PROFILE = "training_profile.json"
"""Optional: without it the mismatch guard has nothing to compare a robot with."""
SELF_TEST = "self_test.safetensors"
"""Optional: without it the self-test on a robot cannot judge the accuracy there."""
TOKENIZERS = ("tokenizer.json", "tokenizer.model")
SHARD = re.compile(r"weights-[a-z0-9_]+-\d{5}\.safetensors")

_KINDS = {str: "a text", int: "a whole number", dict: "an object", list: "a list", bool: "true or false"}
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class FileRecord:
    """One file of the bundle: its SHA-256 in hexadecimal and its size in bytes."""

    sha256: str
    size: int


def check_fields(content: Mapping[str, Any], where: str, fields: Mapping[str, tuple[type, ...]]) -> None:
    """Refuses missing and unknown fields, and values of another type."""
    if content.keys() != fields.keys():
        missing, unknown = sorted(fields.keys() - content.keys()), sorted(content.keys() - fields.keys())
        raise BundleError(f"{where} lacks {missing} and has unknown {unknown}; expected {', '.join(fields)}")
    for name, kinds in fields.items():
        if type(content[name]) not in kinds:
            raise BundleError(f"{name} in {where} is {content[name]!r:.80}, expected {_KINDS[kinds[0]]}")


def parse_files(plain: Mapping[str, Any]) -> dict[str, FileRecord]:
    """The field `files` of a manifest.

    Raises:
        BundleError: If a name is none of this format, or a record has no size and SHA-256.
    """
    files: dict[str, FileRecord] = {}
    for name, record in plain.items():
        if name not in (NORM_STATS, GATE_REPORT, TRAINING_PROFILE, SELF_TEST, *TOKENIZERS) and not SHARD.fullmatch(
            name
        ):
            raise BundleError(f"the manifest names the file {name!r:.80}, which is none of this format")
        if not isinstance(record, dict):
            raise BundleError(f"{name} in files is {record!r:.80}, expected an object")
        check_fields(record, name, {"sha256": (str,), "size": (int,)})
        if not _SHA256.fullmatch(record["sha256"]) or record["size"] < 0:
            raise BundleError(f"{name} in files has no SHA-256 in hexadecimal, or a negative size")
        files[name] = FileRecord(record["sha256"], record["size"])
    return files


def listed_files(manifest: bytes) -> dict[str, FileRecord]:
    """The files that a manifest lists, whatever else it says.

    Raises:
        BundleError: If it has no such list.
    """
    plain = parse_json_object(manifest, "the manifest", BundleError)
    if not isinstance(plain.get("files"), dict):
        raise BundleError("the manifest has no list of files; expected the manifest.json of a bundle")
    return parse_files(plain["files"])
