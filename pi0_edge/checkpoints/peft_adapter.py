"""LoRA adapters of PEFT, as LeRobot writes them, merged into the weights of their base while they are read.

    adapter_config.json         rank, alpha and patterns of both; which model the adapter was trained on
    adapter_model.safetensors   base_model.model.<layer>.lora_A.weight [r, in] and .lora_B.weight [out, r];
                                under the layer's own name whatever was trained whole (modules_to_save, biases)

A merged weight is W + s B A with s = alpha / r, or alpha / sqrt(r) with rsLoRA (arXiv 2312.03732), computed in float32
and rounded to the dtype of W. The layer is the tensor of the base with the same name; a level such as `model.` that
only one of both has is skipped. Refused by name is what is not such a product: DoRA, other adapters than LoRA, factors
of embeddings and convolutions, and initializations that change the base itself (PiSSA, OLoRA, CorDA, LoftQ, LoRA-GA).
"""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from pi0_edge.checkpoints.layout import Entry, TensorSource
from pi0_edge.checkpoints.safetensors_source import SafetensorsSource
from pi0_edge.errors import CheckpointError
from pi0_edge.json_files import read_json_object

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"

_ROOT = "base_model.model."
_REFUSED = {
    "use_dora": "DoRA, whose weights also have a learned norm",
    "fan_in_fan_out": "transposed weights",
    "lora_bias": "biases of the factors",
    "use_qalora": "QALoRA",
    "layer_replication": "replicated layers",
    "target_parameters": "factors of single parameters",
    "trainable_token_indices": "single learned tokens",
    "alora_invocation_tokens": "activated LoRA, which works from a token on",
}
_CHANGE_THE_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Factors:
    """Keys of A and B in the adapter, and their scale."""

    a: str
    b: str
    scale: float


def find_adapter(path: Path) -> Path | None:
    """The folder of an adapter: `path`, or LeRobot's `pretrained_model` below it."""
    return next((folder for folder in (path, path / "pretrained_model") if (folder / WEIGHTS).is_file()), None)


def base_of(folder: Path) -> Path | None:
    """The base that an adapter names, where it is a folder on this machine."""
    name = _config(folder).get("base_model_name_or_path")
    if not isinstance(name, str) or not name:
        return None
    return next((place for place in (Path(name), folder / name) if place.exists()), None)


class AdaptedSource:
    """The arrays of a base with an adapter merged into them.

    Raises:
        CheckpointError: If the adapter is not one that can be merged, or was trained on another base.
    """

    def __init__(self, base: TensorSource, folder: Path) -> None:
        config = _config(folder)
        _refuse_unknown(config, folder)
        self._base = base
        self._adapter = SafetensorsSource(folder / WEIGHTS)
        self._folder = folder
        self._factors: dict[str, _Factors] = {}
        self._whole: dict[str, str] = {}
        self._read: tuple[str, Tensor, Tensor] | None = None
        self._pair(config)
        self.entries: Mapping[str, Entry] = base.entries
        _log.info("%s: factors of %d layers, %d whole tensors", folder, len(self._factors), len(self._whole))

    def read_rows(self, key: str, start: int, stop: int) -> Tensor:
        """Rows of one array, merged."""
        if key in self._whole:
            return self._adapter.read_rows(self._whole[key], start, stop).to(self.entries[key].dtype)
        rows = self._base.read_rows(key, start, stop)
        if key not in self._factors:
            return rows
        factors = self._factors[key]
        if self._read is None or self._read[0] != key:
            a, b = (self._all(name).float() for name in (factors.a, factors.b))
            self._read = key, a, b
        _, a, b = self._read
        return (rows.float() + factors.scale * (b[start:stop] @ a)).to(rows.dtype)

    def release(self) -> None:
        """Forgets the factors read last, and what the base keeps."""
        self._read = None
        self._base.release()

    def files(self) -> list[Path]:
        """Those of the base and of the adapter."""
        return sorted([*self._base.files(), *self._adapter.files()])

    def _all(self, name: str) -> Tensor:
        return self._adapter.read_rows(name, 0, self._adapter.entries[name].shape[0])

    def _pair(self, config: Mapping[str, Any]) -> None:
        """Finds the tensor of the base for everything in the adapter."""
        stored = self._adapter.entries
        for name in stored:
            if "lora_magnitude_vector" in name:
                raise _cannot(self._folder, _REFUSED["use_dora"])
            if "lora_embedding_" in name or (".lora_" in name and len(stored[name].shape) != 2):
                raise _cannot(self._folder, f"factors of an embedding or a convolution ({name})")
            if name.endswith(".lora_A.weight"):
                self._add_factors(name, config)
            elif not name.endswith(".lora_B.weight"):
                self._add_whole(name)
        alone = [
            name
            for name in stored
            if name.endswith(".lora_B.weight") and name.replace(".lora_B.", ".lora_A.") not in stored
        ]
        if alone:
            raise CheckpointError(f"{self._folder}: {alone[0]} lacks its lora_A; copy the adapter again")
        if not self._factors:
            raise CheckpointError(f"{self._folder / WEIGHTS} has no lora_A; expected factors of LoRA")

    def _add_factors(self, a: str, config: Mapping[str, Any]) -> None:
        b, layer = a.replace(".lora_A.", ".lora_B."), a.removesuffix(".lora_A.weight")
        if b not in self._adapter.entries:
            raise CheckpointError(f"{self._folder}: {a} lacks its lora_B; copy the adapter again")
        key = self._key(f"{layer}.weight")
        shapes = self._base.entries[key].shape, self._adapter.entries[a].shape, self._adapter.entries[b].shape
        weight, of_a, of_b = shapes
        if (of_b[0], of_a[1]) != weight or of_a[0] != of_b[1]:
            raise CheckpointError(
                f"{self._folder}: the factors of {key} are {list(of_b)} times {list(of_a)}, but the base has "
                f"{list(weight)}; expected the base that the adapter was trained on"
            )
        self._factors[key] = _Factors(a, b, _scale(config, layer.removeprefix(_ROOT), of_a[0], self._folder))

    def _add_whole(self, name: str) -> None:
        key = self._key(name.replace(".modules_to_save.", ".").replace(".base_layer.", "."))
        found, expected = self._adapter.entries[name].shape, self._base.entries[key].shape
        if found != expected:
            raise CheckpointError(
                f"{self._folder}: {name} has shape {list(found)}, but the base has {list(expected)}; expected the base "
                "that the adapter was trained on"
            )
        self._whole[key] = name

    def _key(self, name: str) -> str:
        """The tensor of the base with this name, but for levels that only one of both has."""
        name = name.removeprefix(_ROOT)
        levels = name.split(".")
        for skipped in (0, 1):
            rest = ".".join(levels[skipped:])
            if rest in self._base.entries:
                return rest
            found = [key for key in self._base.entries if key.endswith(f".{rest}")]
            if len(found) == 1:
                return found[0]
        raise CheckpointError(
            f"{self._folder}: the base has no tensor {name}, which the adapter changes; expected the base that it was "
            f"trained on, under the same names (this one has such as {next(iter(self._base.entries), 'none')})"
        )


def _config(folder: Path) -> dict[str, Any]:
    path = folder / CONFIG
    if not path.is_file():
        raise CheckpointError(
            f"{folder} holds only adapter weights, and no {CONFIG}, without which they cannot be merged: it has "
            "their scale; copy it from where the adapter comes from"
        )
    return read_json_object(path, CheckpointError)


def _refuse_unknown(config: Mapping[str, Any], folder: Path) -> None:
    kind = config.get("peft_type")
    if kind != "LORA":
        raise _cannot(folder, f"an adapter of the type {kind}")
    for name, what in _REFUSED.items():
        if config.get(name):
            raise _cannot(folder, f"{what} ({name})")
    start = config.get("init_lora_weights")
    if isinstance(start, str) and start.lower().startswith(_CHANGE_THE_BASE):
        raise _cannot(
            folder,
            f"factors that were initialized by {start}, which changed the base as well; save it with PEFT's "
            "path_initial_model_for_weight_conversion, which makes it a plain LoRA",
        )


def _cannot(folder: Path, what: str) -> CheckpointError:
    return CheckpointError(
        f"{folder} holds {what}, which cannot be merged here; expected LoRA factors of linear layers. PEFT can: "
        "PeftModel.from_pretrained(policy, folder).merge_and_unload(), then save the policy"
    )


def _scale(config: Mapping[str, Any], layer: str, rank: int, folder: Path) -> float:
    """Alpha / rank as PEFT looks both up: the first pattern that matches the end of the layer's name, else the default.

    Raises:
        CheckpointError: If a value is no number, or the rank is not that of the factors.
    """
    recorded = _looked_up(config, "rank_pattern", "r", layer, folder)
    if recorded != rank:
        raise CheckpointError(f"{folder}: {layer} has factors of rank {rank}, but {CONFIG} says {recorded:g}")
    alpha = _looked_up(config, "alpha_pattern", "lora_alpha", layer, folder)
    return alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)


def _looked_up(config: Mapping[str, Any], patterns: str, default: str, layer: str, folder: Path) -> float:
    known = config.get(patterns) or {}
    value = config.get(default)
    for pattern, of_pattern in known.items():
        try:
            matches = re.match(rf"(.*\.)?({pattern})$", layer)
        except re.error as error:
            raise CheckpointError(
                f"{folder / CONFIG}: {patterns} has {pattern!r}, which is no pattern ({error})"
            ) from error
        if matches:
            value = of_pattern
            break
    if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
        raise CheckpointError(f"{folder / CONFIG}: {default} of {layer} is {value!r}, expected a positive number")
    return float(value)
