"""What LeRobot writes beside the weights: the processor pipelines and config.json.

Statistics are found through `state_file` in the JSON of the normalizer steps, because the number in their names changes
between LeRobot's versions and policies. Base checkpoints come without statistics.

The files do not say which version wrote them, and versions differ in what they give the network. A config.json with
`use_relative_actions`, or a pipeline with a step for them, is of 0.5.1 or later; without, it is of 0.4 or 0.5.0, which
cannot be told apart: 0.4 is taken, and a warning says so.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from pi0_edge.errors import ConfigError
from pi0_edge.json_files import read_json_object
from pi0_edge.model.config import Variant
from pi0_edge.model.flow import EULER_STEPS
from pi0_edge.processing.norm_stats import FieldStats, find_norm_stats, load_norm_stats
from pi0_edge.processing.normalization import LEROBOT_EPS, Mode, Normalization, Normalizer
from pi0_edge.processing.prompts import PromptStyle
from pi0_edge.processing.settings import BLACK, LEROBOT_04_PADDING, EulerTimes, ProcessingSettings, ResizeFilter
from pi0_edge.robots import Robot, slot_of_place

logger = logging.getLogger(__name__)

PREPROCESSOR = "policy_preprocessor.json"
POSTPROCESSOR = "policy_postprocessor.json"
_IMAGES = "observation.images."
_EMPTY = "empty_camera_"
_RELATIVE = ("relative_actions_processor", "delta_actions_processor")
"""The step that makes actions relative; 0.5.2 called it the second name."""

_KNOWN_STEPS = (
    "rename_observations_processor",
    "to_batch_processor",
    "pi0_new_line_processor",
    "pi05_prepare_state_tokenizer_processor_step",
    "tokenizer_processor",
    "device_processor",
    "normalizer_processor",
    "unnormalizer_processor",
    "absolute_actions_processor",
    *_RELATIVE,
)
_TOKENIZERS = ("google/paligemma-3b-pt-224", "tokenizer")
_MODES = {
    "MEAN_STD": Mode.LEROBOT_MEAN_STD,
    "MIN_MAX": Mode.LEROBOT_MIN_MAX,
    "QUANTILES": Mode.LEROBOT_QUANTILES,
    "QUANTILE10": Mode.LEROBOT_QUANTILE10,
    "IDENTITY": Mode.IDENTITY,
}


def load_lerobot_normalization(folder: Path, given: Mapping[str, FieldStats] | None = None) -> Normalization:
    """State statistics of the preprocessor, action statistics of the postprocessor; formulas of the pipelines.

    Args:
        folder: Of the checkpoint.
        given: Statistics in openpi's format, instead of those in the pipelines. Where there are neither, those of a
            norm_stats.json in the folder are taken.

    Raises:
        ConfigError: If a pipeline is missing or damaged, or there are no statistics.
    """
    return Normalization(
        state=_normalizer(folder, PREPROCESSOR, "normalizer_processor", "STATE", "observation.state", given),
        actions=_normalizer(folder, POSTPROCESSOR, "unnormalizer_processor", "ACTION", "action", given),
    )


def lerobot_robot(folder: Path) -> Robot:
    """The robot that a LeRobot policy was trained on, from the features of its config.json.

    Its cameras fill π0's slots in the order in which the config lists them. Where the preprocessor renames them, they
    have the names under which the robot recorded them, and the policy's own names are understood as well. Its control
    rate is not recorded anywhere.

    Raises:
        ConfigError: If the features are missing, relative actions are unnamed, or a renaming is ambiguous.
    """
    config = read_json_object(folder / "config.json", ConfigError)
    try:
        features = [name.removeprefix(_IMAGES) for name in config["input_features"] if name.startswith(_IMAGES)]
        state_dim = config["input_features"]["observation.state"]["shape"][0]
        action_dim = config["output_features"]["action"]["shape"][0]
    except (KeyError, TypeError, IndexError) as error:
        raise ConfigError(
            f"{folder / 'config.json'} lists no state or action feature ({error}); give a robot"
        ) from error
    present = [feature for feature in features if not feature.startswith(_EMPTY)]  # `empty_cameras` are always masked
    recorded = {feature: feature for feature in present} | _recorded_names(folder, present)
    return Robot(
        f"lerobot:{folder.name}",
        state_dim,
        action_dim,
        cameras={recorded[feature]: slot_of_place(place) for place, feature in enumerate(present)},
        control_hz=None,
        camera_aliases={feature: name for feature, name in recorded.items() if feature != name},
        delta_actions=_relative(folder, config, action_dim),
    )


def lerobot_settings(folder: Path, variant: Variant, given: Mapping[str, Any]) -> ProcessingSettings:
    """How LeRobot prepares the inputs of a policy that it saved.

    Args:
        folder: Of the checkpoint.
        variant: Of the network.
        given: Settings that the user gives, from `parse_settings`; they go before what the files say, and no warning
            is logged about them.

    Raises:
        ConfigError: If the files ask for something that cannot be done here.
    """
    config = read_json_object(folder / "config.json", ConfigError)
    _warn_of_unknown_steps(folder)
    pipeline = folder / PREPROCESSOR
    # Earlier versions knew no relative actions.
    of_later = "use_relative_actions" in config or (pipeline.is_file() and _step(pipeline, *_RELATIVE) is not None)
    if not of_later:
        _warn_of_unknown_version(folder, variant, given)
    return ProcessingSettings(
        prompt_style=PromptStyle.TEXT if variant == "pi0" else PromptStyle.TEXT_AND_STATE,
        prompt_cleaning=False,  # π0.5 cleans, as every prompt with the state is
        prompt_state_padded=not of_later and variant == "pi05",
        resize_filter=ResizeFilter.TORCH,
        padding_value=BLACK if of_later else LEROBOT_04_PADDING,
        euler_steps=recorded_euler_steps(folder / "config.json"),
        euler_times=EulerTimes.EXACT,
    )


def recorded_euler_steps(path: Path) -> int:
    """How many Euler steps a config.json of LeRobot or transformers asks for, which name them alike; 10 if it does not.

    Raises:
        ConfigError: If it is not a whole number above 0.
    """
    config = read_json_object(path, ConfigError)
    steps = config.get("num_inference_steps", EULER_STEPS)
    if type(steps) is not int or steps < 1:
        raise ConfigError(f"{path}: num_inference_steps is {steps!r}, expected a whole number >= 1")
    return steps


def _warn_of_unknown_version(folder: Path, variant: Variant, given: Mapping[str, Any]) -> None:
    if "padding_value" not in given:
        logger.warning(
            "%s does not say which LeRobot wrote it, 0.4 or 0.5.0; padding_value: -3, that of 0.4, is taken for images "
            "that are not square. Give padding_value: -1 in a SIZES file if it was trained with 0.5.0 or by openpi",
            folder,
        )
    if variant == "pi05" and "prompt_state_padded" not in given:
        logger.warning(
            "%s does not say which LeRobot wrote it, 0.4 or 0.5.0; prompt_state_padded: true, as of 0.4, is taken for "
            "the state in the prompt. Give prompt_state_padded: false in a SIZES file if it was trained with 0.5.0",
            folder,
        )


def _warn_of_unknown_steps(folder: Path) -> None:
    """A step of one's own would have to be done by whoever makes the observations."""
    for pipeline in (PREPROCESSOR, POSTPROCESSOR):
        for step in _steps(folder / pipeline) if (folder / pipeline).is_file() else ():
            name = step.get("registry_name") or step.get("class")
            if name not in _KNOWN_STEPS:
                logger.warning("%s has the step %s, which is not done here; do it yourself", folder / pipeline, name)
            tokenizer = step.get("config", {}).get("tokenizer_name")
            if name == "tokenizer_processor" and tokenizer not in (None, *_TOKENIZERS):
                logger.warning("%s was trained with the tokenizer %s; is it the one that is used?", folder, tokenizer)


def _recorded_names(folder: Path, features: list[str]) -> dict[str, str]:
    """The policy's camera -> the name that the preprocessor renames to it."""
    step = _step(folder / PREPROCESSOR, "rename_observations_processor") if (folder / PREPROCESSOR).is_file() else None
    renamed = (step or {}).get("config", {}).get("rename_map") or {}
    if not isinstance(renamed, dict) or not all(isinstance(name, str) for pair in renamed.items() for name in pair):
        raise ConfigError(f"{folder / PREPROCESSOR}: rename_map is {renamed!r:.80}, expected names mapped to names")
    pairs = [(old.removeprefix(_IMAGES), new.removeprefix(_IMAGES)) for old, new in renamed.items()]
    found = {new: old for old, new in pairs if new in features}
    several = [new for new in found if sum(new == other for _, other in pairs) > 1]
    if several:
        raise ConfigError(
            f"{folder / PREPROCESSOR}: rename_map gives the name {several[0]} to several cameras; give a robot"
        )
    return found


def _steps(path: Path) -> list[dict[str, Any]]:
    steps = read_json_object(path, ConfigError).get("steps")
    if not isinstance(steps, list) or not all(isinstance(step, dict) for step in steps):
        raise ConfigError(f"{path} has no list of steps; expected a LeRobot processor pipeline")
    return steps


def _step(path: Path, *registered: str) -> dict[str, Any] | None:
    """The step of a pipeline with one of these registry names, or None."""
    return next((step for step in _steps(path) if step.get("registry_name") in registered), None)


def _normalizer(
    folder: Path, pipeline: str, registered: str, kind: str, feature: str, given: Mapping[str, FieldStats] | None
) -> Normalizer:
    step = _step(folder / pipeline, registered)
    if step is None:
        raise ConfigError(f"{folder / pipeline} has no step {registered}; expected one that normalizes {feature}")
    config = step.get("config", {})
    name = config.get("norm_map", {}).get(kind, "IDENTITY")
    if name not in _MODES:
        raise ConfigError(f"{folder / pipeline} normalizes {feature} by {name!r}, expected one of {', '.join(_MODES)}")
    if _MODES[name] is Mode.IDENTITY:
        return Normalizer(Mode.IDENTITY)
    file = step.get("state_file")
    if given is None and file is None and find_norm_stats(folder, None) is not None:
        given = load_norm_stats(folder)
    of_field = {"STATE": "state", "ACTION": "actions"}[kind]
    stats = _statistics(folder, pipeline, file, feature) if given is None else given[of_field]
    return Normalizer(_MODES[name], stats, float(config.get("eps", LEROBOT_EPS)))


def _statistics(folder: Path, pipeline: str, state_file: str | None, feature: str) -> Mapping[str, NDArray[np.float64]]:
    if state_file is None:
        raise ConfigError(
            f"{folder / pipeline} comes without statistics (base checkpoints do); give a norm_stats.json of your robot "
            "(--norm-stats, or norm_stats= in Python), or put it into the folder"
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
    step = _step(folder / PREPROCESSOR, *_RELATIVE) or {}
    settings = step.get("config", {})
    if not settings.get("enabled"):
        if config.get("use_relative_actions"):
            raise ConfigError(
                f"{folder / 'config.json'} says that actions are relative, {PREPROCESSOR} that they are not; give a "
                "robot whose delta_actions say which"
            )
        return ()
    names = settings.get("action_names") or config.get("action_feature_names")
    if not names or len(names) != action_dim:
        raise ConfigError(f"{folder} uses relative actions but does not name its {action_dim} actions; give a robot")
    excluded = settings.get("exclude_joints") or ()
    return tuple(-1 if any(word in name for word in excluded) else 1 for name in names)
