"""What LeRobot writes beside the weights: the processor pipelines and the features of config.json.

Statistics are found through `state_file` in the JSON of the normalizer steps, because the number in their names changes
between LeRobot's versions and policies. Base checkpoints come without statistics.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from pi0_edge.errors import ConfigError
from pi0_edge.json_files import read_json_object
from pi0_edge.processing.normalization import LEROBOT_EPS, Mode, Normalization, Normalizer
from pi0_edge.robots import SLOTS, Robot

PREPROCESSOR = "policy_preprocessor.json"
POSTPROCESSOR = "policy_postprocessor.json"
_IMAGES = "observation.images."
_MODES = {
    "MEAN_STD": Mode.LEROBOT_MEAN_STD,
    "MIN_MAX": Mode.LEROBOT_MIN_MAX,
    "QUANTILES": Mode.LEROBOT_QUANTILES,
    "QUANTILE10": Mode.LEROBOT_QUANTILE10,
    "IDENTITY": Mode.IDENTITY,
}


def load_lerobot_normalization(folder: Path) -> Normalization:
    """State statistics of the preprocessor, action statistics of the postprocessor.

    Raises:
        ConfigError: If a pipeline is missing or damaged, or has no statistics.
    """
    return Normalization(
        state=_normalizer(folder, PREPROCESSOR, "normalizer_processor", "STATE", "observation.state"),
        actions=_normalizer(folder, POSTPROCESSOR, "unnormalizer_processor", "ACTION", "action"),
    )


def lerobot_robot(folder: Path) -> Robot:
    """The robot that a LeRobot policy was trained on, from the features of its config.json.

    Its cameras fill π0's slots in the order in which the config lists them. Its control rate is not recorded anywhere.

    Raises:
        ConfigError: If the features are missing, there are more than three cameras, or relative actions are unnamed.
    """
    config = read_json_object(folder / "config.json", ConfigError)
    try:
        cameras = [name.removeprefix(_IMAGES) for name in config["input_features"] if name.startswith(_IMAGES)]
        state_dim = config["input_features"]["observation.state"]["shape"][0]
        action_dim = config["output_features"]["action"]["shape"][0]
    except (KeyError, TypeError, IndexError) as error:
        raise ConfigError(
            f"{folder / 'config.json'} lists no state or action feature ({error}); give a robot"
        ) from error
    if len(cameras) > len(SLOTS):
        raise ConfigError(f"{folder} was trained with {len(cameras)} cameras {cameras}, expected at most {len(SLOTS)}")
    slots: dict[str, str] = dict(zip(cameras, SLOTS, strict=False))
    robot = Robot(f"lerobot:{folder.name}", state_dim, action_dim, slots, control_hz=None)
    return dataclasses.replace(robot, delta_actions=_relative(folder, config, action_dim))


def _step(path: Path, registered: str) -> dict[str, Any] | None:
    """The step of a pipeline with this registry name, or None."""
    steps = read_json_object(path, ConfigError).get("steps")
    if not isinstance(steps, list) or not all(isinstance(step, dict) for step in steps):
        raise ConfigError(f"{path} has no list of steps; expected a LeRobot processor pipeline")
    return next((step for step in steps if step.get("registry_name") == registered), None)


def _normalizer(folder: Path, pipeline: str, registered: str, kind: str, feature: str) -> Normalizer:
    step = _step(folder / pipeline, registered)
    if step is None:
        raise ConfigError(f"{folder / pipeline} has no step {registered}; expected one that normalizes {feature}")
    config = step.get("config", {})
    name = config.get("norm_map", {}).get(kind, "IDENTITY")
    if name not in _MODES:
        raise ConfigError(f"{folder / pipeline} normalizes {feature} by {name!r}, expected one of {', '.join(_MODES)}")
    if _MODES[name] is Mode.IDENTITY:
        return Normalizer(Mode.IDENTITY)
    stats = _statistics(folder, pipeline, step.get("state_file"), feature)
    return Normalizer(_MODES[name], stats, float(config.get("eps", LEROBOT_EPS)))


def _statistics(folder: Path, pipeline: str, state_file: str | None, feature: str) -> Mapping[str, NDArray[np.float64]]:
    if state_file is None:
        raise ConfigError(
            f"{folder / pipeline} comes without statistics (base checkpoints do); give a norm_stats.json of your robot"
        )
    if Path(state_file).name != state_file:
        raise ConfigError(f"{folder / pipeline}: state_file {state_file!r} is outside the folder; expected a file name")
    try:
        with safe_open(folder / state_file, framework="np") as opened:
            names = [key for key in opened.keys() if key.startswith(f"{feature}.")]  # noqa: SIM118 - not a dict
            stats = {name.rpartition(".")[2]: opened.get_tensor(name).astype(np.float64) for name in names}
    except (OSError, SafetensorError) as error:
        raise ConfigError(f"{folder / state_file} cannot be read ({error}); export the checkpoint again") from error
    return {name: values for name, values in stats.items() if values.ndim == 1}


def _relative(folder: Path, config: dict[str, Any], action_dim: int) -> tuple[int, ...]:
    """LeRobot's relative actions as a delta mask: all dimensions whose names contain none of `exclude_joints`."""
    step = _step(folder / PREPROCESSOR, "relative_actions_processor") or {}
    settings = step.get("config", {})
    if not settings.get("enabled"):
        return ()
    names = settings.get("action_names") or config.get("action_feature_names")
    if not names or len(names) != action_dim:
        raise ConfigError(f"{folder} uses relative actions but does not name its {action_dim} actions; give a robot")
    excluded = settings.get("exclude_joints") or ()
    return tuple(-1 if any(word in name for word in excluded) else 1 for name in names)
