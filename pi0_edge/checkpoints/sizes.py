"""Sizes that a user states: the SIZES.yaml format, and the flat form in which the rest of this package handles them.

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
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from pi0_edge.errors import ConfigError

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
