"""manifest.json: what the policy of a bundle is, and size and SHA-256 of every other file.

The same content always gives the same bytes: keys are sorted, and it contains neither time nor place.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from types import NoneType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from pi0_edge.bundle.file_list import NORM_STATS, SHARD, TOKENIZERS, FileRecord, check_fields, parse_files
from pi0_edge.errors import BundleError
from pi0_edge.json_files import parse_json_object
from pi0_edge.model.config import Pi0Config, Variant
from pi0_edge.processing.description import ProcessingDescription

FORMAT = "pi0-edge-bundle"
FORMAT_VERSION = 1

LAYOUT = "rows"
"""The only weight layout so far: matrices are row-major [out_features, in_features], values not packed for a kernel.
Packing for a processor is done at load, because it differs from machine to machine."""

_FIELDS: dict[str, tuple[type, ...]] = {
    "format": (str,),
    "format_version": (int,),
    "model": (dict,),
    "scheme": (dict,),
    "robot": (dict,),
    "normalization": (dict,),
    "prompt_style": (str,),
    "settings": (dict,),
    "tokenizer": (str,),
    "weights": (dict,),
    "gate": (dict, NoneType),
    "calibration": (dict, NoneType),
    "source": (dict,),
    "tools": (dict,),
    "files": (dict,),
}


@dataclass(frozen=True)
class GateRecord:
    """What the accuracy gate found.

    Attributes:
        passed: Its verdict.
        reasons: Why it failed, one sentence each.
        report: The whole report in JSON values, {"verdict": {"passed": bool, "reasons": [...]}, ...}.
    """

    passed: bool
    reasons: tuple[str, ...]
    report: dict[str, Any]

    @classmethod
    def from_dict(cls, report: dict[str, Any]) -> GateRecord:
        """Reads the verdict in a report.

        Raises:
            BundleError: If there is none, or it is not of this form.
        """
        verdict = report.get("verdict")
        if not isinstance(verdict, dict) or type(verdict.get("passed")) is not bool:
            raise BundleError(
                'the gate has no verdict; expected {"verdict": {"passed": true or false, "reasons": [...]}}'
            )
        reasons = verdict.get("reasons")
        if not isinstance(reasons, list) or not all(isinstance(reason, str) for reason in reasons):
            raise BundleError(f"the gate gives the reasons {reasons!r:.80}, expected a list of texts")
        return cls(verdict["passed"], tuple(reasons), report)


@dataclass(frozen=True)
class Manifest:
    """What a bundle is.

    Attributes:
        config: Sizes of the network.
        scheme: How its layers are quantized, as `pi0_edge.quant.schemes.Scheme.to_dict` gives it.
        processing: Robot, normalization and settings, as `ObservationProcessor.description` gives them.
        tokenizer: Name of its file.
        gate: Verdict and report of the accuracy gate; None without a gate.
        calibration: What the activations were measured on; None where the scheme needs no calibration.
        source_sha256: Of the checkpoint it was made from.
        tools: Versions of the packages that made it, by name.
        files: Every file but the manifest, its checksums and its signature, by name.
    """

    config: Pi0Config
    scheme: dict[str, Any]
    processing: ProcessingDescription
    tokenizer: str
    gate: GateRecord | None
    calibration: dict[str, Any] | None
    source_sha256: str
    tools: dict[str, str]
    files: dict[str, FileRecord]

    @property
    def shards(self) -> list[str]:
        """Names of the weight files; float32 comes before int8, so that a layer's values are its last tensor."""
        return sorted(name for name in self.files if SHARD.fullmatch(name))

    def to_bytes(self) -> bytes:
        """The file.

        Raises:
            BundleError: If something in it is not a JSON value.
        """
        content = {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "model": dataclasses.asdict(self.config),
            "scheme": self.scheme,
            **self.processing.to_dict(),
            "tokenizer": self.tokenizer,
            "weights": {"layout": LAYOUT},
            "gate": None if self.gate is None else self.gate.report,
            "calibration": self.calibration,
            "source": {"checkpoint_sha256": self.source_sha256},
            "tools": self.tools,
            "files": {name: dataclasses.asdict(record) for name, record in self.files.items()},
        }
        try:
            return (json.dumps(content, indent=2, sort_keys=True, allow_nan=False) + "\n").encode()
        except (TypeError, ValueError) as error:
            raise BundleError(f"the manifest can only hold JSON values without NaN and infinity ({error})") from error


def parse_manifest(content: bytes) -> Manifest:
    """Reads the file; the inverse of `Manifest.to_bytes`.

    Raises:
        BundleError: If it is not a manifest of this format, or a field is missing, unknown or of the wrong type. The
            message starts with what was wrong and does not name the folder.
    """
    plain = parse_json_object(content, "the manifest", BundleError)
    if plain.get("format") != FORMAT:
        raise BundleError(f"the manifest has the format {plain.get('format')!r}, expected {FORMAT!r}")
    found = plain.get("format_version")
    if type(found) is int and found > FORMAT_VERSION:
        raise BundleError(f"the bundle has format version {found}, this pi0-edge reads {FORMAT_VERSION}: update it")
    plain.setdefault("settings", {})  # bundles made before there was a choice
    check_fields(plain, "the manifest", _FIELDS)
    if found != FORMAT_VERSION:
        raise BundleError(f"the bundle has format version {found}, expected {FORMAT_VERSION}: build it again")
    check_fields(plain["weights"], "weights", {"layout": (str,)})
    if plain["weights"]["layout"] != LAYOUT:
        found = plain["weights"]["layout"]
        raise BundleError(f"the weights are laid out as {found!r}, this pi0-edge reads {LAYOUT!r}: build it again")
    if not isinstance(plain["scheme"].get("name"), str):
        raise BundleError("scheme has no name; expected a quantization scheme")
    check_fields(plain["source"], "source", {"checkpoint_sha256": (str,)})
    if not all(isinstance(version, str) for version in plain["tools"].values()):
        raise BundleError(f"tools in the manifest holds {plain['tools']!r:.80}, expected texts")
    files = parse_files(plain["files"])
    if plain["tokenizer"] not in TOKENIZERS or not {plain["tokenizer"], NORM_STATS} <= files.keys():
        raise BundleError(f"the manifest lacks {NORM_STATS} or one of {', '.join(TOKENIZERS)}: build the bundle again")
    return Manifest(
        config=_parse_config(Pi0Config, plain["model"], "model"),
        scheme=plain["scheme"],
        processing=ProcessingDescription.from_dict(plain, "the manifest"),
        tokenizer=plain["tokenizer"],
        gate=None if plain["gate"] is None else GateRecord.from_dict(plain["gate"]),
        calibration=plain["calibration"],
        source_sha256=plain["source"]["checkpoint_sha256"],
        tools=plain["tools"],
        files=files,
    )


def _parse_config(kind: type, plain: Mapping[str, Any], where: str) -> Any:
    """A config dataclass from its fields; a field with a default may be absent."""
    hints, fields = get_type_hints(kind), dataclasses.fields(kind)
    required = {field.name for field in fields if field.default is dataclasses.MISSING}
    if not required <= plain.keys() or not plain.keys() <= hints.keys():
        missing, unknown = sorted(required - plain.keys()), sorted(plain.keys() - hints.keys())
        raise BundleError(f"{where} lacks {missing} and has unknown {unknown}; expected {', '.join(hints)}")
    values = {name: _parse_size(hints[name], value, f"{where}.{name}") for name, value in plain.items()}
    try:
        return kind(**values)
    except ValueError as error:
        raise BundleError(f"the network of the bundle is impossible: {error}") from error


def _parse_size(hint: Any, value: Any, where: str) -> Any:
    if dataclasses.is_dataclass(hint):
        if not isinstance(value, dict):
            raise BundleError(f"{where} is {value!r:.80}, expected an object")
        return _parse_config(hint, value, where)  # pyright: ignore[reportArgumentType]
    if get_origin(hint) is Literal:
        if value not in get_args(hint):
            what = "architecture" if hint == Variant else where
            expected = " or ".join(get_args(hint))
            raise BundleError(f"the {what} is {value!r:.80}, expected {expected}: this pi0-edge has no other")
        return value
    if type(value) is not int or value < 0:
        raise BundleError(f"{where} is {value!r:.80}, expected a whole number")
    return value
