"""Writes the weights of a network as LeRobot stores those of its π0 and π0.5.

The names are those that `torch_layout` reads. LeRobot takes a file only where it has every parameter of its network,
so those that no action depends on are written as well: the token heads, the prefix's final norm, and everything of the
last prefix layer but its keys and values. The prefix's token head is the token table, the others are zeros.

LeRobot has the sizes of the published models built in, and nothing else: 0.4.4 and 0.6.1, `get_gemma_config` and
`PaliGemmaWithExpertModel` of `lerobot/policies/pi0/modeling_pi0.py`.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor

from pi0_edge.checkpoints.layout import count_layers
from pi0_edge.checkpoints.torch_layout import TorchLayout
from pi0_edge.checkpoints.torch_parts import PROJECTIONS, Parts
from pi0_edge.errors import CheckpointError, ConfigError
from pi0_edge.model.config import PRESETS, Pi0Config
from pi0_edge.synced_files import replace_synced

_PALIGEMMA = "model.paligemma_with_expert.paligemma."
_EXPERT = "model.paligemma_with_expert.gemma_expert."
_PREFIX_HEAD, _EXPERT_HEAD = f"{_PALIGEMMA}lm_head.weight", f"{_EXPERT}lm_head.weight"
_PARTS = Parts(
    vision=f"{_PALIGEMMA}model.vision_tower.vision_model.",
    projector=f"{_PALIGEMMA}model.multi_modal_projector.linear.",
    prefix=f"{_PALIGEMMA}model.language_model.",
    expert=f"{_EXPERT}model.",
    projections=dict.fromkeys(PROJECTIONS, "model."),
    heads=(_PREFIX_HEAD,),
    unused_heads=(_EXPERT_HEAD,),
)
_LAYOUT = TorchLayout("lerobot", _PARTS, {})

_DTYPES = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}
LISTED = 3
"""How many sizes a message lists."""

_BLOCK_BYTES = 64 * 2**20

Shapes = Mapping[str, tuple[int, ...]]
Dtypes = Mapping[str, torch.dtype]


def check_sizes(config: Pi0Config, origin: str) -> None:
    """Passes where LeRobot has a network of these sizes.

    Args:
        config: The sizes.
        origin: The checkpoint, for the message.

    Raises:
        ConfigError: If it has none; the message says what differs.
    """
    published = PRESETS[config.variant]
    built_in = {"vision": published.vision, "prefix": published.prefix, "expert": published.expert}
    found = [
        f"{part}.{field.name} {size}, expected {expected}"
        for part, sizes in built_in.items()
        for field in dataclasses.fields(sizes)
        if (size := getattr(getattr(config, part), field.name)) != (expected := getattr(sizes, field.name))
        and field.name != "image_size"  # LeRobot's image_resolution
    ]
    if config.vocab_size != published.vocab_size:
        found.append(f"vocab_size {config.vocab_size}, expected {published.vocab_size}")
    if found:
        more = f" and {len(found) - LISTED} more" if len(found) > LISTED else ""
        raise ConfigError(
            f"LeRobot has no network of the sizes of {origin}: {'; '.join(found[:LISTED])}{more}. It has those of the "
            "published models alone; serve this policy with `pi0-edge serve` and let LeRobot ask it (docs/lerobot.md)"
        )


def lerobot_name(name: str) -> str:
    """LeRobot's name of one of our parameters."""
    return _LAYOUT.locate(name).key


def lerobot_dtype(dtypes: Dtypes) -> str:
    """The `dtype` of LeRobot's config.json, float32 or bfloat16, for weights stored as these."""
    return "bfloat16" if dtypes["prefix.layers.0.attention.k.weight"] is torch.bfloat16 else "float32"


def write_lerobot_weights(path: Path, tensors: Iterable[tuple[str, Tensor]], shapes: Shapes, dtypes: Dtypes) -> None:
    """Writes a model.safetensors, one tensor in memory at a time; it appears complete or not at all.

    Args:
        path: Its place.
        tensors: Every parameter of the network under our names, in any order, in the dtype of `dtypes`.
        shapes: Of every parameter, from `parameter_shapes`.
        dtypes: In which each is stored: float32, float16 or bfloat16.

    Raises:
        CheckpointError: If a dtype is another one, or a tensor is missing or not of its shape and dtype.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    described = _described(shapes, dtypes)
    begins, header, size = _header(described)
    absent = set(shapes)
    try:
        with temporary.open("wb") as file:
            file.write(header)
            file.truncate(len(header) + size)  # what is not written below is zero
            for name, tensor in tensors:
                _check(name, tensor, shapes, dtypes)
                absent.discard(name)
                stored = lerobot_name(name)
                for copy in (stored, _PREFIX_HEAD) if stored == _TOKENS else (stored,):
                    file.seek(len(header) + begins[copy])
                    _write(file, tensor)
        if absent:
            raise CheckpointError(f"{len(absent)} parameters are missing, such as {min(absent)}; expected every one")
        replace_synced(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


_TOKENS = lerobot_name("token_embedding.weight")

_Described = dict[str, tuple[tuple[int, ...], torch.dtype]]
"""Shape and dtype by LeRobot's name."""


def _described(shapes: Shapes, dtypes: Dtypes) -> _Described:
    """Everything that is written."""
    stored = {lerobot_name(name): (shape, dtypes[name]) for name, shape in shapes.items()}
    layers = count_layers(stored, f"{_PARTS.prefix}layers.")
    first, last = (f"{_PARTS.prefix}layers.{layer}." for layer in (0, layers - 1))
    (words, width), dtype = stored[_TOKENS]
    expert_width = shapes["action_in_proj.weight"][0]
    unused: _Described = {
        _PREFIX_HEAD: ((words, width), dtype),
        _EXPERT_HEAD: ((words, expert_width), dtype),
        f"{_PARTS.prefix}norm.weight": stored[f"{first}input_layernorm.weight"],
    }
    unused |= {last + key[len(first) :]: value for key, value in stored.items() if key.startswith(first)}
    return {**unused, **stored}


def _header(described: _Described) -> tuple[dict[str, int], bytes, int]:
    """Where each tensor begins behind the header, the header of the safetensors file, and the bytes behind it."""
    unknown = sorted({str(dtype) for _, dtype in described.values() if dtype not in _DTYPES})
    if unknown:
        raise CheckpointError(f"weights are stored as {', '.join(unknown)}, expected {', '.join(_DTYPES.values())}")
    table: dict[str, object] = {"__metadata__": {"format": "pt"}}
    begins: dict[str, int] = {}
    end = 0
    # Wide numbers first: a tensor then begins where numbers of its width may.
    for name, (shape, dtype) in sorted(described.items(), key=lambda item: (-item[1][1].itemsize, item[0])):
        begins[name], end = end, end + math.prod(shape) * dtype.itemsize
        table[name] = {"dtype": _DTYPES[dtype], "shape": list(shape), "data_offsets": [begins[name], end]}
    text = json.dumps(table, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return begins, len(text).to_bytes(8, "little") + text, end


def _check(name: str, tensor: Tensor, shapes: Shapes, dtypes: Dtypes) -> None:
    found = (tuple(tensor.shape), tensor.dtype)
    if found != (shapes.get(name), dtypes.get(name)):
        raise CheckpointError(
            f"{name} is {found[1]} {list(found[0])}, expected {dtypes.get(name)} {list(shapes.get(name, ()))}"
        )


def _write(file: BinaryIO, tensor: Tensor) -> None:
    """The numbers of a tensor, some rows at a time: a stored one may lie in a file and be larger than memory."""
    rows = tensor.shape[0]
    step = max(1, _BLOCK_BYTES * rows // max(1, tensor.nbytes))
    for start in range(0, rows, step):
        block = tensor[start : start + step].detach().cpu().contiguous()
        file.write(block.reshape(-1).view(torch.uint8).numpy().data)
