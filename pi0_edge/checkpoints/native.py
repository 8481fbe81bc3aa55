"""Our own layout: a folder with everything a policy needs, under our own names.

    model.safetensors     the parameters of `pi0_edge.model.Pi0`
    config.json           {"format": "pi0-edge", "format_version": 1, "config": sizes, "processing": {...}}
    norm_stats.json       statistics of state and actions, in openpi's format
    tokenizer.json/.model the tokenizer

"processing" is written here, and read by `pi0_edge.processing.loading`.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from pi0_edge.checkpoints.layout import Location, count_layers
from pi0_edge.checkpoints.sizes import FORMAT
from pi0_edge.errors import ConfigError
from pi0_edge.model.config import Pi0Config
from pi0_edge.processing.description import ProcessingDescription
from pi0_edge.synced_files import replace_synced, save_synced

WEIGHTS = "model.safetensors"
FORMAT_VERSION = 1
_PREFIX_LAYER = re.compile(r"((?:.*\.)?)prefix\.layers\.\d+\.(?:attention|mlp)")
_TOKENIZERS = (".json", ".model")


class NativeLayout:
    """Our own names: every parameter is stored as itself, below one root."""

    name = FORMAT

    def __init__(self, keys: Collection[str], root: str = "") -> None:
        """Root is what a wrapper of torch put before every name, such as "module."."""
        self._keys = keys
        self._root = root

    def locate(self, name: str) -> Location:
        """The name below the root."""
        return Location(self._root + name)

    def unused(self, key: str, prefix_depth: int) -> bool:
        """We write nothing that is not needed."""
        return False

    def layers(self, tower: str) -> int:
        """How many layers of `tower` are stored."""
        return count_layers(self._keys, f"{self._root}{tower}.layers.")

    def sizes(self) -> Mapping[str, int | str]:
        """Nothing beyond the shapes; config.json has the rest."""
        return {}


def native_layout(keys: Collection[str]) -> NativeLayout | None:
    """Our layout where all keys are our names below one root, else None."""
    roots = {match[1] for key in keys if (match := _PREFIX_LAYER.match(key))}
    found = len(roots) == 1 and all(key.startswith(tuple(roots)) for key in keys)
    return NativeLayout(keys, roots.pop()) if found else None


def save_checkpoint(
    folder: Path, model_state: Mapping[str, Tensor], config: Pi0Config, processing: ProcessingDescription | None = None
) -> None:
    """Writes a checkpoint in our own layout, replacing one that is already there.

    The weights are put in place last and in one step, so a folder with a model.safetensors is complete.

    Args:
        folder: Created if needed.
        model_state: The state dict of a `Pi0`, in the dtypes to store.
        config: Its sizes.
        processing: From `ObservationProcessor.description`; its tokenizer is copied.

    Raises:
        ConfigError: If a file to copy is missing or not of a known kind.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if processing is not None and processing.norm_stats is not None:
        _write_json(folder / "norm_stats.json", {"norm_stats": processing.norm_stats})
    if processing is not None and processing.tokenizer is not None:
        copy_tokenizer(processing.tokenizer, folder)
    content = {"format": FORMAT, "format_version": FORMAT_VERSION, "config": dataclasses.asdict(config)}
    _write_json(folder / "config.json", {**content, "processing": {} if processing is None else processing.to_dict()})
    _write_weights(folder / WEIGHTS, model_state)


def _write_weights(path: Path, state: Mapping[str, Tensor]) -> None:
    partial = path.with_suffix(".tmp")
    save_file({name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}, partial)
    replace_synced(partial, path)


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    save_synced(path, (json.dumps(content, indent=2) + "\n").encode())


def copy_tokenizer(source: Path, folder: Path) -> None:
    """Puts a tokenizer into the folder of a checkpoint, as `tokenizer` with its suffix.

    Raises:
        ConfigError: If it is not there, or neither a .model nor a .json file.
    """
    if source.suffix not in _TOKENIZERS:
        raise ConfigError(f"the tokenizer {source} is neither a .model nor a .json file; give one of these")
    if not source.is_file():
        raise ConfigError(f"the tokenizer {source} does not exist; expected a file to put into the checkpoint")
    target = folder / f"tokenizer{source.suffix}"
    if source.resolve() != target.resolve():
        save_synced(target, source.read_bytes())
