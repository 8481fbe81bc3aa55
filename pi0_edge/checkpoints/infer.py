"""The sizes of a network, read from the shapes of its parameters.

Shapes tell almost everything. What they cannot tell is asked for in this order: the sizes a layout or a config.json
records, the sizes the user gives, and, where the widths are those of the published models, their presets. Nothing is
guessed beyond that, with one exception that is logged: a checkpoint of published size that records no horizon gets 50.
"""

from __future__ import annotations

import dataclasses
import logging
import math
from collections import Counter
from collections.abc import Callable, Mapping

from pi0_edge.checkpoints.sizes import Sizes, with_shared
from pi0_edge.errors import CheckpointError, ConfigError
from pi0_edge.model.config import PRESETS, GemmaConfig, Pi0Config, Variant, VisionConfig

ShapeOf = Callable[[str], "tuple[int, ...] | None"]
LayersOf = Callable[[str], int]

_WITNESSES: dict[str, tuple[tuple[str, int], ...]] = {
    "vision.width": (("vision.layers.{i}.norm1.weight", 0), ("vision.patch_embedding.weight", 0)),
    "vision.patch_size": (("vision.patch_embedding.weight", 2), ("vision.patch_embedding.weight", 3)),
    "vision.mlp_dim": (("vision.layers.{i}.mlp.fc1.weight", 0), ("vision.layers.{i}.mlp.fc1.bias", 0)),
    "tokens": (("vision.position_embedding", 0),),
    "prefix.width": (("prefix.layers.{i}.attention.k.weight", 1), ("prefix.layers.{i}.attention_norm.weight", 0)),
    "prefix.mlp_dim": (("prefix.layers.{i}.mlp.gate.weight", 0), ("prefix.layers.{i}.mlp.up.weight", 0)),
    "expert.width": (("expert.layers.{i}.attention.q.weight", 1), ("action_in_proj.weight", 0)),
    "expert.mlp_dim": (("expert.layers.{i}.mlp.gate.weight", 0), ("expert.layers.{i}.mlp.up.weight", 0)),
    "vocab_size": (("token_embedding.weight", 0),),
    "action_dim": (("action_in_proj.weight", 1), ("action_out_proj.weight", 0), ("action_out_proj.bias", 0)),
    "query": (("expert.layers.{i}.attention.q.weight", 0),),
    "key": (("expert.layers.{i}.attention.k.weight", 0), ("prefix.layers.{i}.attention.k.weight", 0)),
}
"""Which axis of which parameters shows a size; {i} stands for every layer."""


_ASSUMED_HORIZON = (
    "%s records no horizon; assuming %d as in the base models (pi0_droid has 10, pi05_droid 15, pi05_libero 10: "
    "give horizon in a SIZES file)"
)
_SECTIONS = {"vision": VisionConfig, "prefix": GemmaConfig, "expert": GemmaConfig}
_TOP_LEVEL = ("vocab_size", "action_dim", "horizon", "max_prompt_tokens", "trained_delay")
_log = logging.getLogger(__name__)


def measure(shape: ShapeOf, layers: LayersOf, key: Callable[[str], str], origin: str) -> Sizes:
    """What shapes and layer counts tell, under the names of `sizes` (and the rows of q and k as "query" and "key").

    Every size is put to the vote of all parameters that show it, so that one wrongly shaped tensor is not taken for
    the truth but found by `Checkpoint.check` afterwards.

    Raises:
        CheckpointError: If a size has no witness left, or the picture is not square.
    """
    depths = {"vision": layers("vision"), "gemma": max(layers("prefix"), layers("expert"))}
    sizes: Sizes = {"vision.depth": depths["vision"], "prefix.depth": depths["gemma"], "expert.depth": depths["gemma"]}
    for size, witnesses in _WITNESSES.items():
        found = _vote(shape, witnesses, depths["vision" if size.startswith("vision") else "gemma"])
        if found is not None:
            sizes[size] = found
        elif size != "prefix.mlp_dim":
            absent = key(witnesses[0][0].format(i=0))
            raise CheckpointError(f"{origin} lacks {absent}, expected in every π0 checkpoint; copy or export it again")
    tokens = int(sizes.pop("tokens"))
    if math.isqrt(tokens) ** 2 != tokens:
        raise CheckpointError(f"{origin}: the position embedding has {tokens} rows, expected a square number")
    sizes["vision.image_size"] = math.isqrt(tokens) * int(sizes["vision.patch_size"])
    return sizes


def _vote(shape: ShapeOf, witnesses: tuple[tuple[str, int], ...], depth: int) -> int | None:
    """The length that most witnesses show, or None without witnesses."""
    votes: Counter[int] = Counter()
    for template, axis in witnesses:
        for name in dict.fromkeys(template.format(i=layer) for layer in range(depth)):
            found = shape(name)
            if found is not None and axis < len(found):
                votes[found[axis]] += 1
    return votes.most_common(1)[0][0] if votes else None


def complete(measured: Sizes, given: Sizes, variant: Variant, origin: str) -> Pi0Config:
    """Joins measured, given and preset sizes into a configuration.

    Args:
        measured: From `measure`.
        given: From the layout, its config.json and the user.
        variant: Told from the keys.
        origin: The checkpoint, named in errors.

    Raises:
        ConfigError: If a size is missing, contradicts the weights, or the sizes do not fit together.
    """
    given = with_shared(given)
    _refuse_contradictions({**measured, "variant": variant}, given, origin)
    sizes = {**measured, **_published(measured, variant), **given}
    sizes |= _heads(sizes, origin)
    sizes.setdefault("max_prompt_tokens", PRESETS[variant].max_prompt_tokens)
    sizes.setdefault("trained_delay", 0)
    config = _build(sizes, variant, origin)
    if "horizon" not in given:
        _log.warning(_ASSUMED_HORIZON, origin, config.horizon)
    return config


def _refuse_contradictions(measured: Mapping[str, int | str], given: Sizes, origin: str) -> None:
    """Depths are left to `Checkpoint.check`, which can name the layers that are missing."""
    for key, value in given.items():
        if not key.endswith(".depth") and measured.get(key, value) != value:
            raise ConfigError(f"{key} is given as {value}, but {origin} has {measured[key]}; correct or remove it")


def _published(measured: Sizes, variant: Variant) -> Sizes:
    """The sizes of the published models, for the towers that have their widths; a tower cut short then lacks layers."""
    preset = PRESETS[variant]
    sizes: Sizes = {}
    if measured["vision.width"] == preset.vision.width:
        sizes |= {"vision.heads": preset.vision.heads, "vision.depth": preset.vision.depth}
    if (measured["prefix.width"], measured["expert.width"]) == (preset.prefix.width, preset.expert.width):
        sizes |= {"prefix.depth": preset.prefix.depth, "expert.depth": preset.expert.depth, "horizon": preset.horizon}
    return sizes


def _heads(sizes: Sizes, origin: str) -> Sizes:
    """Splits the rows of q and k into heads; all published checkpoints share one k/v head (multi-query attention)."""
    query, key = int(sizes["query"]), int(sizes["key"])
    head_dim = sizes.get("prefix.head_dim")
    kv_heads = sizes.get("prefix.kv_heads", key // int(head_dim) if head_dim else 1)
    head_dim = head_dim or key // int(kv_heads)
    heads = sizes.get("prefix.heads", query // max(1, int(head_dim)))
    if int(heads) * int(head_dim) != query or int(kv_heads) * int(head_dim) != key:
        raise ConfigError(
            f"{origin}: heads {heads}, kv_heads {kv_heads} and head_dim {head_dim} do not fit {query} query rows and "
            f"{key} key rows; give prefix.heads, prefix.kv_heads and prefix.head_dim that multiply to these"
        )
    found: Sizes = {"heads": heads, "kv_heads": kv_heads, "head_dim": head_dim}
    return {f"{tower}.{field}": value for tower in ("prefix", "expert") for field, value in found.items()}


def _build(sizes: Sizes, variant: Variant, origin: str) -> Pi0Config:
    sections = {section: _fields(section, kind) for section, kind in _SECTIONS.items()}
    _refuse_unknown([*(key for keys in sections.values() for key in keys), *_TOP_LEVEL], sizes, origin)
    vision, prefix, expert = ({key.split(".")[1]: int(sizes[key]) for key in keys} for keys in sections.values())
    rest = {key: int(sizes[key]) for key in _TOP_LEVEL}
    try:
        return Pi0Config(variant, VisionConfig(**vision), GemmaConfig(**prefix), GemmaConfig(**expert), **rest)
    except ValueError as error:
        raise ConfigError(f"{origin}: the sizes do not fit together: {error}") from error


def _fields(section: str, config: type[VisionConfig] | type[GemmaConfig]) -> list[str]:
    return [f"{section}.{field.name}" for field in dataclasses.fields(config)]


def _refuse_unknown(keys: list[str], sizes: Sizes, origin: str) -> None:
    absent = [key for key in keys if key not in sizes]
    if absent:
        raise ConfigError(
            f"{' and '.join(absent)} cannot be read from the weights of {origin}; give them in a SIZES file, for "
            f"example {'; '.join(map(_example, absent))}"
        )


def _example(key: str) -> str:
    section, _, field = key.rpartition(".")
    return f"{section}: {{{field}: 4}}" if section else f"{field}: 50"
