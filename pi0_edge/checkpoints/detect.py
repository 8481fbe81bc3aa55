"""Detects what a path holds, and opens it as a `Checkpoint`.

Looked for, in this order: a safetensors file (or a folder with one, or with a sharded index, also one level down where
LeRobot's training puts `pretrained_model`), then a LoRA adapter of PEFT in these places, then an orbax item (a folder
with `manifest.ocdbt` or zarr arrays, also as `params` below the given folder). Anything pickled is refused: opening it
would run code from the file.
"""

from __future__ import annotations

from pathlib import Path

from pi0_edge.checkpoints.checkpoint import Checkpoint
from pi0_edge.checkpoints.layout import Layout
from pi0_edge.checkpoints.locations import advice_on, checkpoints_below, find_orbax, find_safetensors
from pi0_edge.checkpoints.lora import merged_source
from pi0_edge.checkpoints.native import WEIGHTS, native_layout
from pi0_edge.checkpoints.orbax_layout import OrbaxLayout
from pi0_edge.checkpoints.orbax_source import OrbaxSource
from pi0_edge.checkpoints.peft_adapter import WEIGHTS as ADAPTER
from pi0_edge.checkpoints.peft_adapter import AdaptedSource, base_of, find_adapter
from pi0_edge.checkpoints.recorded_config import RecordedConfig, read_config
from pi0_edge.checkpoints.safetensors_source import INDEX, SafetensorsSource
from pi0_edge.checkpoints.torch_layout import torch_layout
from pi0_edge.errors import CheckpointError

_PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
_EXPECTED = "a .safetensors file, a folder with model.safetensors, or a JAX checkpoint with params/"


def open_checkpoint(path: str | Path, base: str | Path | None = None) -> Checkpoint:
    """Opens a checkpoint of any known layout; reads headers only.

    Args:
        path: A .safetensors file, or a folder of openpi, LeRobot, transformers, JAX/orbax or pi0-edge; or the folder of
            a LoRA adapter of PEFT, which is merged into its base while it is read.
        base: The checkpoint that an adapter was trained on; where None, the one it names if that is on this machine.

    Raises:
        CheckpointError: If nothing is there, it is pickled, truncated, an adapter without its base, or of no known
            layout.
        MissingDependencyError: If it is a JAX checkpoint and tensorstore is not installed.
    """
    given, path = str(path), Path(path)
    if not path.exists():
        raise CheckpointError(f"{given} does not exist; {advice_on(given, _EXPECTED)}")
    _refuse_pickled(path)
    if (adapter := find_adapter(path)) and not find_safetensors(path):
        return _open_adapter(path, adapter, base)
    if base is not None:
        raise CheckpointError(f"{path} is no adapter ({ADAPTER} is missing), so it has no base; leave the base out")
    if weights := find_safetensors(path):
        # A config.json counts only beside a file with the usual name: any other file may be in any folder.
        recorded = read_config(weights.parent) if weights.name in (WEIGHTS, INDEX) else RecordedConfig()
        source = SafetensorsSource(weights)
        return Checkpoint(path, weights.parent, source, _layout(source, path, recorded.writer), recorded.sizes)
    if params := find_orbax(path):
        folder = params.parent if params.name == "params" else params
        source = merged_source(OrbaxSource(params))
        return Checkpoint(path, folder, source, OrbaxLayout(source.entries), read_config(folder).sizes)
    _explain_weights(path)
    if below := checkpoints_below(path):
        raise CheckpointError(f"{path} holds no weights; did you mean {' or '.join(map(str, below))}?")
    _refuse_pickled_files(path)
    raise CheckpointError(f"{path} holds no weights; expected {_EXPECTED}")


def _open_adapter(path: Path, adapter: Path, base: str | Path | None) -> Checkpoint:
    place = base_of(adapter) if base is None else Path(base)
    if place is None:
        raise CheckpointError(
            f"{path} holds only adapter weights; expected a full model: merge them with "
            f"pi0-edge merge --checkpoint {path} --base BASE --output MERGED, where BASE is the checkpoint that they "
            "were trained on"
        )
    weights = find_safetensors(place)
    if weights is None:
        raise CheckpointError(
            f"{place}, the base of the adapter {path}, holds no {WEIGHTS}; expected a checkpoint of LeRobot, openpi "
            "(PyTorch) or transformers under the names that the adapter was trained with"
        )
    of_base = read_config(weights.parent) if weights.name in (WEIGHTS, INDEX) else RecordedConfig()
    own = read_config(adapter)
    plain = SafetensorsSource(weights)
    layout = _layout(plain, place, own.writer or of_base.writer)
    return Checkpoint(path, adapter, AdaptedSource(plain, adapter), layout, {**of_base.sizes, **own.sizes})


def _layout(source: SafetensorsSource, path: Path, writer: str | None) -> Layout:
    keys = source.entries.keys()
    if native := native_layout(keys):
        return native
    if layout := torch_layout(source.entries, path, writer):
        return layout
    first = ", ".join(sorted(keys)[:3]) or "none"
    raise CheckpointError(
        f"{source.path}: the tensor names are of no known π0 layout (first names: {first}); expected names of openpi, "
        "LeRobot, transformers or pi0-edge"
    )


def _refuse_pickled(path: Path) -> None:
    if path.is_file() and path.suffix in _PICKLED:
        raise CheckpointError(
            f"{path} is a pickled file, and opening one can run any code that is in it; expected {_EXPECTED}. "
            "Convert it where you trust it: torch.load(path, weights_only=True), then safetensors.torch.save_file"
        )
    if path.is_file() and path.suffix != ".safetensors" and path.name != INDEX:
        raise CheckpointError(f"{path} is not a checkpoint; expected {_EXPECTED}")


def _explain_weights(path: Path) -> None:
    """Names the reason where a folder holds .safetensors files that are no checkpoint."""
    shards = sorted(path.glob("*-of-*.safetensors"))
    if shards:
        raise CheckpointError(
            f"{path} holds shards ({shards[0].name} and {len(shards) - 1} more) without {INDEX}, which lists their "
            "tensors; expected it beside them: download it from where the shards come from"
        )
    others = sorted(path.glob("*.safetensors"))
    if others:
        raise CheckpointError(
            f"{path} holds no {WEIGHTS}, but {others[0].name}; give that file itself if it is the one"
        )


def _refuse_pickled_files(path: Path) -> None:
    pickled = sorted(file for file in path.iterdir() if file.suffix in _PICKLED)
    if pickled:
        _refuse_pickled(pickled[0])
