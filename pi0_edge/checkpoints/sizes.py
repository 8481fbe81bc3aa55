"""The sizes of a network, read from the shapes of its parameters.

Shapes tell almost everything. What they cannot tell is asked for in this order: the sizes a layout or a config.json
records, the sizes the user gives, and, where the widths are those of the published models, their presets. Nothing is
guessed beyond that, with one exception that is logged: a checkpoint of published size that records no horizon gets 50.

A SIZES file (YAML or JSON) gives any of these, nested or joined by a dot or an underscore; nothing is required, and
what the weights themselves tell may be left out (what is given must then agree with them)::

    variant: pi0            # or pi05
    vision:  {width: 1152, depth: 27, mlp_dim: 4304, heads: 16, patch_size: 14, image_size: 224}
    prefix:  {width: 2048, depth: 18, mlp_dim: 16384, heads: 8, kv_heads: 1, head_dim: 256}
    expert:  {width: 1024, depth: 18, mlp_dim: 4096}      # depth, heads, kv_heads and head_dim are the prefix's
    vocab_size: 257152
    action_dim: 32
    horizon: 50
    max_prompt_tokens: 48
    trained_delay: 0        # longest frozen prefix of training-time RTC

The names other projects use are understood as well (`siglip`, `paligemma`, `num_heads`, `intermediate_size`,
`action_horizon`, `chunk_size`, …); an unknown name is an error that offers the nearest known one. At the top level,
`depth`, `heads`, `kv_heads` and `head_dim` speak of both experts, `patch_size` and `image_size` of the vision tower.

MERGED: The config.json beside the weights: what it records of the sizes that the weights cannot tell.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import logging
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from pi0_edge.errors import CheckpointError, ConfigError
from pi0_edge.model.config import PRESETS, GemmaConfig, Pi0Config, Variant, VisionConfig

Sizes = dict[str, "int | str"]
"""Flat: "vision.width" -> 1152, …, "variant" -> "pi0"."""

SHARED = ("depth", "heads", "kv_heads", "head_dim")
"""Sizes in which prefix and expert must agree, because they attend to each other."""

_GEMMA = ("width", "depth", "mlp_dim", "heads", "kv_heads", "head_dim")
_FIELDS = {
    "vision": ("width", "depth", "mlp_dim", "heads", "patch_size", "image_size"),
    "prefix": _GEMMA,
    "expert": _GEMMA,
    "": ("variant", "vocab_size", "action_dim", "horizon", "max_prompt_tokens", "trained_delay"),
}
_SECTION_ALIASES = {
    "vision": ("vision", "siglip", "vit", "vision_tower", "vision_encoder", "image_encoder", "img"),
    "prefix": ("prefix", "vlm", "paligemma", "gemma", "language", "language_model", "llm", "gemma_2b"),
    "expert": ("expert", "action_expert", "gemma_expert", "gemma_300m", "dit"),
}
_FIELD_ALIASES = {
    "width": ("width", "hidden_size", "dim", "embed_dim"),
    "depth": ("depth", "layers", "num_layers", "n_layers", "num_hidden_layers"),
    "mlp_dim": ("mlp_dim", "mlp", "mlp_width", "intermediate_size", "ffn", "ffn_dim"),
    "heads": ("heads", "num_heads", "n_heads", "num_attention_heads"),
    "kv_heads": ("kv_heads", "num_kv_heads", "n_kv_heads", "num_key_value_heads"),
    "head_dim": ("head_dim", "head_size", "head_width"),
    "patch_size": ("patch_size", "patch"),
    "image_size": ("image_size", "img_size", "resolution", "image_resolution"),
    "variant": ("variant", "type", "model_type", "model"),
    "vocab_size": ("vocab_size", "vocab", "vocabulary", "vocabulary_size"),
    "action_dim": ("action_dim", "max_action_dim"),
    "horizon": ("horizon", "action_horizon", "chunk_size", "chunk", "chunk_length"),
    "max_prompt_tokens": ("max_prompt_tokens", "max_token_len", "tokenizer_max_length", "prompt_tokens"),
    "trained_delay": ("trained_delay", "rtc_training_max_delay"),
}
_VARIANTS = {"pi0": "pi0", "π0": "pi0", "pi05": "pi05", "pi0.5": "pi05", "pi0_5": "pi05", "π0.5": "pi05"}


def load_sizes(path: Path) -> Sizes:
    """Reads a SIZES file.

    Raises:
        ConfigError: If the file is missing, is not a mapping, or has an unknown name or an impossible value.
    """
    try:
        content = yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{path} cannot be read as YAML ({error}); expected a mapping of sizes") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path} holds a {type(content).__name__}, expected a mapping such as vision: {{heads: 16}}")
    return parse_sizes(content, str(path))


def parse_sizes(content: Mapping[str, Any], origin: str = "the given sizes") -> Sizes:
    """Flattens a nested or flat mapping into canonical names.

    Args:
        content: As described at the top of this module.
        origin: Named in errors.

    Raises:
        ConfigError: For an unknown name, a name given twice with two values, or a value that is not a positive integer.
    """
    sizes: Sizes = {}
    for name, value in _leaves(content):
        for key in _canonical(name, origin):
            checked = _checked(key, name, value, origin)
            if sizes.setdefault(key, checked) != checked:
                raise ConfigError(f"{origin}: {key} is given twice, as {sizes[key]} and {checked}; keep one")
    return sizes


def with_shared(sizes: Sizes) -> Sizes:
    """Fills what is given for one expert and must be the same in the other."""
    filled = dict(sizes)
    for field in SHARED:
        for one, other in (("prefix", "expert"), ("expert", "prefix")):
            if f"{one}.{field}" in filled:
                filled.setdefault(f"{other}.{field}", filled[f"{one}.{field}"])
    return filled


def _leaves(content: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in content.items():
        full = f"{above}{name}"
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{full}.")
        else:
            yield full, value


def _canonical(name: str, origin: str) -> list[str]:
    """All canonical names that `name` stands for (two for a size both experts share)."""
    lowered = name.lower().replace("-", "_")
    if lowered == "pi05":
        return ["variant"]
    known = _known_names()
    for form in (lowered, lowered.replace(".", "_")):
        if form in known:
            return known[form]
    near = difflib.get_close_matches(lowered.replace(".", "_"), known, n=1, cutoff=0.0)
    raise ConfigError(f"{origin}: {name!r} is not a size; did you mean {' and '.join(known[near[0]])}?")


def _known_names() -> dict[str, list[str]]:
    known: dict[str, list[str]] = {}
    for section, fields in _FIELDS.items():
        for field in fields:
            canonical = f"{section}.{field}" if section else field
            for alias in _FIELD_ALIASES[field]:
                for prefix in _SECTION_ALIASES.get(section, ()) or ("",):
                    known[f"{prefix}_{alias}" if prefix else alias] = [canonical]
    for field in SHARED:
        known |= {alias: [f"prefix.{field}", f"expert.{field}"] for alias in _FIELD_ALIASES[field]}
    for field in ("patch_size", "image_size"):
        known |= {alias: [f"vision.{field}"] for alias in _FIELD_ALIASES[field]}
    return known


def _checked(key: str, name: str, value: Any, origin: str) -> int | str:
    if key == "variant":
        return _variant(name, value, origin)
    if key == "vision.image_size" and isinstance(value, (list, tuple)) and len(set(value)) == 1:
        value = value[0]
    least = 0 if key == "trained_delay" else 1
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ConfigError(f"{origin}: {name} is {value!r}, expected {'a positive integer' if least else '0 or more'}")
    return value


def _variant(name: str, value: Any, origin: str) -> str:
    if isinstance(value, bool) and name.lower() == "pi05":
        return "pi05" if value else "pi0"
    variant = _VARIANTS.get(str(value).lower())
    if variant is None:
        raise ConfigError(f"{origin}: {name} is {value!r}, expected pi0 or pi05")
    return variant


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


FORMAT = "pi0-edge"
"""Value of "format" in our own config.json."""


def read_config_json(folder: Path) -> dict[str, Any]:
    """The content of config.json, or an empty mapping where there is none.

    Raises:
        CheckpointError: If it is not a JSON mapping.
    """
    path = folder / "config.json"
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text())
    except (ValueError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path} is not valid JSON ({error}); copy or export it again") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds a {type(content).__name__}, expected a JSON object")
    return content


def is_lerobot(config: dict[str, Any]) -> bool:
    """LeRobot writes the policy type and its features; openpi writes neither."""
    return "type" in config and "input_features" in config


def recorded_sizes(config: dict[str, Any], path: Path) -> Sizes:
    """The sizes in a config.json of ours, of LeRobot or of openpi.

    Raises:
        CheckpointError: If it is a LeRobot configuration of another policy, or of a PEFT adapter.
    """
    if config.get("format") == FORMAT:
        return parse_sizes(config.get("config", {}), str(path))
    if is_lerobot(config):
        return _lerobot_sizes(config, path)
    return parse_sizes({key: config[key] for key in ("action_dim", "action_horizon") if key in config}, str(path))


def _lerobot_sizes(config: dict[str, Any], path: Path) -> Sizes:
    if config["type"] not in ("pi0", "pi05"):
        raise CheckpointError(f"{path}: the policy type is {config['type']!r}, expected pi0 or pi05")
    names = ("type", "max_action_dim", "chunk_size", "tokenizer_max_length", "image_resolution")
    names += ("rtc_training_max_delay",)
    return parse_sizes({key: config[key] for key in names if config.get(key) is not None}, str(path))
