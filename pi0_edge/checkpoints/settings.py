"""The config.json beside the weights: what it records of the sizes that the weights cannot tell."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pi0_edge.checkpoints.sizes import Sizes, parse_sizes
from pi0_edge.errors import CheckpointError

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
