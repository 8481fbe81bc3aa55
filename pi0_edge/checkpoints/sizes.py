"""How large a network is: its `Pi0Config`, from shapes, config.json and the sizes that a user gives.

The shapes of the parameters show almost everything. What they do not show is taken from, in this order: the user, the
config.json beside the weights, and, where the widths are those of the published models, their presets. Nothing else is
assumed, with one exception that is logged: a checkpoint of published size that records no horizon gets 50. A size that
is given and also shown by the weights must agree with them.

A SIZES file (YAML or JSON) gives any of these, nested or joined by a dot or an underscore; nothing is required::

    variant: pi0            # or pi05
    vision:  {width: 1152, depth: 27, mlp_dim: 4304, heads: 16, patch_size: 14, image_size: 224}
    prefix:  {width: 2048, depth: 18, mlp_dim: 16384, heads: 8, kv_heads: 1, head_dim: 256}
    expert:  {width: 1024, depth: 18, mlp_dim: 4096}      # depth, heads, kv_heads and head_dim are the prefix's
    vocab_size: 257152
    action_dim: 32
    horizon: 50
    max_prompt_tokens: 48
    trained_delay: 0        # longest frozen prefix of training-time RTC
    head: flow              # or rt2, octo, tinyvla, mse: see pi0_edge.heads
    real_dims: 0            # leading action dimensions that such a head gives; 0 is all
    decoding: greedy        # or sampled: how the rt2 head chooses a token

and any setting of `pi0_edge.processing.settings`, such as `discrete_state_input: false`, which is handed on.

The names of other projects are understood as well (`siglip`, `paligemma`, `num_heads`, `intermediate_size`,
`action_horizon`, `chunk_size`, …); an unknown name is an error that offers the nearest known one. At the top level,
`depth`, `heads`, `kv_heads` and `head_dim` apply to both experts, `patch_size` and `image_size` to the vision tower.
"""

from __future__ import annotations

import dataclasses
import difflib
import logging
import math
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, get_args

import yaml

from pi0_edge.checkpoints.layout import StoredParameters
from pi0_edge.errors import CheckpointError, ConfigError
from pi0_edge.model.config import PRESETS, Decoding, GemmaConfig, Head, Pi0Config, Variant, VisionConfig
from pi0_edge.processing.settings import parse_settings, setting_names, settings_in, sizes_in

_log = logging.getLogger(__name__)

Sizes = dict[str, "int | str"]
"""Flat: "vision.width" -> 1152, …, "variant" -> "pi0"."""

FORMAT = "pi0-edge"
"""Value of "format" in our own config.json."""

SHARED = ("depth", "heads", "kv_heads", "head_dim")
"""Sizes in which prefix and expert must agree, because they attend to each other."""

_GEMMA = ("width", "depth", "mlp_dim", "heads", "kv_heads", "head_dim")
_FIELDS = {
    "vision": ("width", "depth", "mlp_dim", "heads", "patch_size", "image_size"),
    "prefix": _GEMMA,
    "expert": _GEMMA,
    "": (
        *("variant", "vocab_size", "action_dim", "horizon", "max_prompt_tokens", "trained_delay"),
        *("head", "real_dims", "decoding"),
    ),
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
    "head": ("head", "action_head"),
    "real_dims": ("real_dims",),
    "decoding": ("decoding",),
}
_VARIANTS = {"pi0": "pi0", "π0": "pi0", "pi05": "pi05", "pi0.5": "pi05", "pi0_5": "pi05", "π0.5": "pi05"}
_SECTIONS = {"vision": VisionConfig, "prefix": GemmaConfig, "expert": GemmaConfig}
_TOP_LEVEL = ("vocab_size", "action_dim", "horizon", "max_prompt_tokens", "trained_delay", "real_dims")
_CHOICES: dict[str, tuple[str, ...]] = {"head": get_args(Head), "decoding": get_args(Decoding)}
_DEFAULTS: Sizes = {"trained_delay": 0, "head": "flow", "real_dims": 0, "decoding": "greedy"}

_SHAPE_EVIDENCE: dict[str, tuple[tuple[str, int], ...]] = {
    "vision.width": (("vision.layers.{i}.norm1.weight", 0), ("vision.patch_embedding.weight", 0)),
    "vision.patch_size": (("vision.patch_embedding.weight", 2), ("vision.patch_embedding.weight", 3)),
    "vision.mlp_dim": (("vision.layers.{i}.mlp.fc1.weight", 0), ("vision.layers.{i}.mlp.fc1.bias", 0)),
    "tokens": (("vision.position_embedding", 0),),
    "prefix.width": (("prefix.layers.{i}.attention.k.weight", 1), ("prefix.layers.{i}.attention_norm.weight", 0)),
    "prefix.mlp_dim": (("prefix.layers.{i}.mlp.gate.weight", 0), ("prefix.layers.{i}.mlp.up.weight", 0)),
    "expert.width": (("expert.layers.{i}.attention.q.weight", 1), ("action_in_proj.weight", 0)),
    "expert.mlp_dim": (("expert.layers.{i}.mlp.gate.weight", 0), ("expert.layers.{i}.mlp.up.weight", 0)),
    "vocab_size": (("token_embedding.weight", 0),),
    "action_dim": (
        *(("action_in_proj.weight", 1), ("action_out_proj.weight", 0), ("action_out_proj.bias", 0)),
        ("state_proj.weight", 1),
    ),
    "query": (("expert.layers.{i}.attention.q.weight", 0),),
    "key": (("expert.layers.{i}.attention.k.weight", 0), ("prefix.layers.{i}.attention.k.weight", 0)),
}
"""Which axis of which parameters shows a size; {i} is every layer."""

_ASSUMED_HORIZON = (
    "%s records no horizon; assuming %d as in the base models (pi0_droid has 10, pi05_droid 15, pi05_libero 10: "
    "give horizon in a SIZES file)"
)


def load_sizes(path: Path) -> dict[str, Any]:
    """Reads a SIZES file.

    Returns:
        Its sizes as `parse_sizes` gives them, and its settings of the processing as they are written.

    Raises:
        ConfigError: If the file is missing, is not a mapping, or has an unknown name or an impossible value.
    """
    try:
        content = yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{path} cannot be read as YAML ({error}); expected a mapping of sizes") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path} holds a {type(content).__name__}, expected a mapping such as vision: {{heads: 16}}")
    settings = settings_in(content)
    parse_settings(settings, str(path))
    return {**parse_sizes(content, str(path)), **settings}


def parse_sizes(content: Mapping[str, Any], origin: str = "the given sizes") -> Sizes:
    """Flattens a nested or flat mapping into canonical names.

    Args:
        content: As described at the top of this module; settings of the processing are left out.
        origin: Named in errors.

    Raises:
        ConfigError: For an unknown name, a name given twice with two values, or a value that is not a positive integer.
    """
    sizes: Sizes = {}
    for name, value in _leaves(sizes_in(content)):
        for key in _canonical(name, origin):
            checked = _checked(key, name, value, origin)
            if sizes.setdefault(key, checked) != checked:
                raise ConfigError(f"{origin}: {key} is given twice, as {sizes[key]} and {checked}; keep one")
    return sizes


def infer_config(
    stored: StoredParameters, variant: Variant, recorded: Sizes, overrides: Mapping[str, Any]
) -> Pi0Config:
    """The configuration of the network whose parameters are stored.

    Args:
        stored: The parameters, for their shapes.
        variant: Detected from the keys.
        recorded: Sizes in the config.json.
        overrides: Sizes that the user gives, as in a SIZES file.

    Raises:
        ConfigError: If a size is missing, contradicts the weights, or the sizes do not fit together.
        CheckpointError: If a parameter whose shape shows a size is missing.
    """
    given = {**recorded, **parse_sizes(overrides)}
    return complete(sizes_from_shapes(stored), given, variant, stored.origin)


def sizes_from_shapes(stored: StoredParameters) -> Sizes:
    """What shapes and layer counts show, and the rows of q and k as "query" and "key".

    A size is what the majority of the parameters shows that have it as an axis, so that one wrongly shaped tensor does
    not change it but is found by `Checkpoint.check` afterwards.

    Raises:
        CheckpointError: If no parameter that shows a size is stored, or the images are not square.
    """
    layout = stored.layout
    gemma_depth = max(layout.layers("prefix"), layout.layers("expert"))
    sizes: Sizes = {"vision.depth": layout.layers("vision"), "prefix.depth": gemma_depth, "expert.depth": gemma_depth}
    for size, evidence in _SHAPE_EVIDENCE.items():
        found = _majority(stored, evidence, layout.layers("vision") if size.startswith("vision") else gemma_depth)
        if found is not None:
            sizes[size] = found
        elif size != "prefix.mlp_dim":
            absent = layout.locate(evidence[0][0].format(i=0)).key
            raise CheckpointError(
                f"{stored.origin} lacks {absent}, expected in every π0 checkpoint; copy or export it again"
            )
    tokens = int(sizes.pop("tokens"))
    if math.isqrt(tokens) ** 2 != tokens:
        raise CheckpointError(f"{stored.origin}: the position embedding has {tokens} rows, expected a square number")
    sizes["vision.image_size"] = math.isqrt(tokens) * int(sizes["vision.patch_size"])
    return {**sizes, **layout.sizes()}


def complete(measured: Sizes, given: Sizes, variant: Variant, origin: str) -> Pi0Config:
    """Joins measured, given and preset sizes into a configuration.

    Args:
        measured: From `sizes_from_shapes`.
        given: From a config.json and the user.
        variant: Detected from the keys.
        origin: The checkpoint, for error messages.

    Raises:
        ConfigError: If a size is missing, contradicts the weights, or the sizes do not fit together.
    """
    given = _with_shared(given)
    _refuse_contradictions({**measured, "variant": variant}, given, origin)
    sizes = {**_DEFAULTS, **measured, **_published(measured, variant), **given}
    sizes |= _heads(sizes, origin)
    sizes.setdefault("max_prompt_tokens", PRESETS[variant].max_prompt_tokens)
    config = _build(sizes, variant, origin)
    if "horizon" not in given:
        _log.warning(_ASSUMED_HORIZON, origin, config.horizon)
    return config


def _leaves(content: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in content.items():
        full = f"{above}{name}"
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{full}.")
        else:
            yield full, value


def _canonical(name: str, origin: str) -> list[str]:
    """All canonical names that `name` means (two for a size both experts share)."""
    lowered = name.lower().replace("-", "_")
    if lowered == "pi05":
        return ["variant"]
    known = _known_names()
    for form in (lowered, lowered.replace(".", "_")):
        if form in known:
            return known[form]
    meant = {**known, **{setting: [setting] for setting in setting_names()}}
    near = difflib.get_close_matches(lowered.replace(".", "_"), meant, n=1, cutoff=0.0)
    raise ConfigError(f"{origin}: {name!r} is not a size; did you mean {' and '.join(meant[near[0]])}?")


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
    if key in _CHOICES:
        if value not in _CHOICES[key]:
            raise ConfigError(f"{origin}: {name} is {value!r}, expected one of {', '.join(_CHOICES[key])}")
        return value
    if key == "vision.image_size" and isinstance(value, (list, tuple)) and len(set(value)) == 1:
        value = value[0]
    least = 0 if _DEFAULTS.get(key) == 0 else 1
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


def _majority(stored: StoredParameters, evidence: tuple[tuple[str, int], ...], depth: int) -> int | None:
    """The length that most of the stored parameters show, or None where none is stored."""
    lengths: Counter[int] = Counter()
    for template, axis in evidence:
        for name in dict.fromkeys(template.format(i=layer) for layer in range(depth)):
            shape = stored.shape(name)
            if shape is not None and axis < len(shape):
                lengths[shape[axis]] += 1
    return lengths.most_common(1)[0][0] if lengths else None


def _with_shared(sizes: Sizes) -> Sizes:
    """Fills what is given for one expert and must be the same in the other."""
    filled = dict(sizes)
    for field in SHARED:
        for one, other in (("prefix", "expert"), ("expert", "prefix")):
            if f"{one}.{field}" in filled:
                filled.setdefault(f"{other}.{field}", filled[f"{one}.{field}"])
    return filled


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
    rest: dict[str, Any] = {key: int(sizes[key]) for key in _TOP_LEVEL} | {key: sizes[key] for key in _CHOICES}
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
