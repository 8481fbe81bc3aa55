"""What the configuration files beside the weights record: who wrote them, and the sizes of the network.

pi0-edge      config.json with "format": "pi0-edge"
LeRobot       config.json of the policy; train_config.json has the same under "policy"
transformers  config.json with "model_type", one configuration inside for each part
openpi        config.json of a converted checkpoint, which tells action_dim and action_horizon

A size that is recorded and also shown by the weights must agree with them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pi0_edge.checkpoints.sizes import FORMAT, Sizes, parse_sizes
from pi0_edge.errors import CheckpointError
from pi0_edge.json_files import read_json_object
from pi0_edge.model.flow import MAX_PERIOD, MIN_PERIOD

_LEROBOT_SIZES = (
    "type",
    "max_action_dim",
    "chunk_size",
    "tokenizer_max_length",
    "image_resolution",
    "rtc_training_max_delay",
)
_POLICIES = ("pi0", "pi05")
_PARTS = {"vision": ("vlm_config", "vision_config"), "prefix": ("vlm_config", "text_config"), "expert": ("dit_config",)}
_GEMMA = ("hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads", "head_dim")
_VISION = ("hidden_size", "intermediate_size", "num_attention_heads", "patch_size", "image_size")
_CONSTANTS: dict[str, tuple[object, ...]] = {
    "hidden_act": ("gelu_pytorch_tanh",),
    "hidden_activation": (None, "gelu_pytorch_tanh"),
    "rms_norm_eps": (1e-6,),
    "layer_norm_eps": (1e-6,),
    "rope_theta": (10000, 10000.0),
    "attention_bias": (False,),
    "min_period": (MIN_PERIOD,),
    "max_period": (MAX_PERIOD,),
}
"""What LeRobot and transformers let one choose and our network has built in."""


@dataclass(frozen=True)
class RecordedConfig:
    """What is recorded.

    Attributes:
        sizes: Sizes of the network.
        writer: "pi0-edge", "lerobot", "transformers" or "openpi"; None where nothing is recorded.
    """

    sizes: Sizes = dataclasses.field(default_factory=dict)
    writer: str | None = None


def read_config(folder: Path) -> RecordedConfig:
    """Reads the configuration in a folder of weights; an empty one where there is none.

    Raises:
        CheckpointError: If a file is not a JSON object, or describes another policy or another network than ours.
        ConfigError: If a size in it is not a positive integer.
    """
    path = folder / "config.json"
    if not path.is_file():
        return _of_training(folder / "train_config.json")
    config = read_json_object(path, CheckpointError)
    if config.get("format") == FORMAT:
        return RecordedConfig(parse_sizes(config.get("config", {}), str(path)), "pi0-edge")
    if "type" in config and "input_features" in config:
        return RecordedConfig(_lerobot_sizes(config, path), "lerobot")
    if "model_type" in config:
        return RecordedConfig(_transformers_sizes(config, path), "transformers")
    openpi = {key: config[key] for key in ("action_dim", "action_horizon") if key in config}
    return RecordedConfig(parse_sizes(openpi, str(path)), "openpi" if openpi else None)


def _of_training(path: Path) -> RecordedConfig:
    policy = read_json_object(path, CheckpointError).get("policy") if path.is_file() else None
    if not isinstance(policy, dict) or "type" not in policy:
        return RecordedConfig()
    return RecordedConfig(_lerobot_sizes(policy, path), "lerobot")


def _lerobot_sizes(config: Mapping[str, Any], path: Path) -> Sizes:
    if config["type"] not in _POLICIES:
        raise CheckpointError(f"{path}: the policy type is {config['type']!r}, expected pi0 or pi05")
    _refuse_other_constants(config, path)
    _refuse_two_widths(config, path)
    return parse_sizes({key: config[key] for key in _LEROBOT_SIZES if config.get(key) is not None}, str(path))


def _transformers_sizes(config: dict[str, Any], path: Path) -> Sizes:
    if config["model_type"] not in _POLICIES:
        raise CheckpointError(f"{path}: the model_type is {config['model_type']!r}, expected pi0 or pi05")
    _refuse_other_constants(config, path)
    _refuse_two_widths(config, path)
    found: dict[str, Any] = {"variant": config["model_type"]}
    found |= {key: config[key] for key in ("chunk_size", "max_action_dim") if config.get(key) is not None}
    for part, levels in _PARTS.items():
        inner: Any = config
        for level in levels:
            inner = inner.get(level) if isinstance(inner, dict) else None
        if isinstance(inner, dict):
            names = _VISION if part == "vision" else _GEMMA
            found[part] = {name: inner[name] for name in names if inner.get(name) is not None}
    return parse_sizes(found, str(path))


def _refuse_two_widths(config: Mapping[str, Any], path: Path) -> None:
    state, action = config.get("max_state_dim"), config.get("max_action_dim")
    if None not in (state, action) and state != action:
        raise CheckpointError(
            f"{path}: max_state_dim is {state} and max_action_dim {action}; expected one width for both, as in "
            "openpi: train it with the larger of them"
        )


def _refuse_other_constants(config: Mapping[str, Any], path: Path, above: str = "") -> None:
    for name, value in config.items():
        if isinstance(value, dict):
            _refuse_other_constants(value, path, f"{above}{name}.")
        elif name in _CONSTANTS and value not in _CONSTANTS[name]:
            raise CheckpointError(
                f"{path}: {above}{name} is {value!r}, expected {_CONSTANTS[name][-1]!r}; this is not π0's network, and "
                "its actions would be wrong"
            )
