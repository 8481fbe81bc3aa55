"""Writes what LeRobot reads beside the weights, config.json and the pipelines; the inverse of `lerobot_files`.

LeRobot's network is fed by steps of its own. What a policy needs and these steps cannot do is refused; what they do
otherwise, so that the network gets slightly other inputs than in training, is listed by `differences`.

Two releases are written, because a file of one does not open in the other: `0.4`, and `0.6` for 0.5.1 and later, which
knows relative actions.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save

from pi0_edge.errors import ConfigError
from pi0_edge.processing.actions import delta_mask
from pi0_edge.processing.lerobot_files import POSTPROCESSOR, PREPROCESSOR
from pi0_edge.processing.normalization import OPENPI_EPS, Mode, Normalizer
from pi0_edge.processing.processor import ObservationProcessor
from pi0_edge.processing.prompts import PromptStyle
from pi0_edge.processing.settings import BLACK, LEROBOT_04_PADDING, ResizeFilter, StillJoints
from pi0_edge.robots import Robot, place_of_slot

Release = Literal["0.4", "0.6"]
RELEASES: tuple[Release, ...] = ("0.4", "0.6")

_STATE, _ACTION, _IMAGES = "observation.state", "action", "observation.images."
_TOKENIZER = "google/paligemma-3b-pt-224"
_STILL_WIDTH = 1e9
"""Divided by this, what is measured of a joint that is shown as trained does not matter."""

_MODES = {
    Mode.OPENPI_ZSCORE: ("MEAN_STD", ("mean", "std")),
    Mode.LEROBOT_MEAN_STD: ("MEAN_STD", ("mean", "std")),
    Mode.OPENPI_QUANTILE: ("QUANTILES", ("q01", "q99")),
    Mode.LEROBOT_QUANTILES: ("QUANTILES", ("q01", "q99")),
    Mode.LEROBOT_QUANTILE10: ("QUANTILE10", ("q10", "q90")),
    Mode.LEROBOT_MIN_MAX: ("MIN_MAX", ("min", "max")),
    Mode.IDENTITY: ("IDENTITY", ()),
}
"""LeRobot's name of a formula, and its statistics: what is subtracted, and what ends or is the width."""

_Stats = dict[str, NDArray[np.float32]]
_Step = dict[str, Any]


def lerobot_files(processor: ObservationProcessor, dtype: str, release: Release) -> dict[str, bytes]:
    """The files by name.

    Args:
        processor: Of the policy.
        dtype: In which LeRobot is to keep the weights, float32 or bfloat16.
        release: Which LeRobot is to read them, of `RELEASES`.

    Raises:
        ConfigError: If the policy needs what LeRobot's steps cannot do.
    """
    _refuse(processor, release)
    relative = None if release == "0.4" else _relative(processor.robot)
    config = _config(processor, dtype, relative)
    before, after = _steps(processor, config, relative)
    files = {"config.json": config}
    states: dict[str, bytes] = {}
    for name, steps in ((PREPROCESSOR, before), (POSTPROCESSOR, after)):
        pipeline = name.removesuffix(".json")
        for place, step in enumerate(steps):
            stats: _Stats | None = step.pop("stats", None)
            if stats:
                step["state_file"] = f"{pipeline}_step_{place}_{step['registry_name']}.safetensors"
                states[step["state_file"]] = save(stats)
        files[name] = {"name": pipeline, "steps": steps}
    return {name: (json.dumps(content, indent=2) + "\n").encode() for name, content in files.items()} | states


def differences(processor: ObservationProcessor, release: Release) -> list[str]:
    """What LeRobot will do otherwise than this policy was trained with, each a sentence."""
    settings, found = processor.settings, []
    padding = LEROBOT_04_PADDING if release == "0.4" else BLACK
    if settings.resize_filter is not ResizeFilter.TORCH:
        found.append("it scales images without antialiasing; give it images of the network's size where that matters")
    if settings.padding_value != padding:
        found.append(
            f"it fills up images that are not square with {padding:g}, the policy was trained with "
            f"{settings.padding_value:g}; give it square images"
        )
    if settings.prompt_cleaning and settings.prompt_style is PromptStyle.TEXT:
        found.append("it does not take blanks around a prompt, underscores and newlines out of it; give it none")
    if processor.config.trained_delay:
        found.append(f"it cannot freeze the {processor.config.trained_delay} actions that the policy can continue")
    if processor.robot.default_prompt is not None:
        found.append(f"it has no default prompt; give the task, such as {processor.robot.default_prompt!r}")
    return found


def _refuse(processor: ObservationProcessor, release: Release) -> None:
    config, robot, settings = processor.config, processor.robot, processor.settings
    of_05 = config.variant == "pi05"
    style = PromptStyle.TEXT_AND_STATE if of_05 else PromptStyle.TEXT
    if robot.joint_convention != "none":
        raise ConfigError(
            f"{robot.name} has the joint convention {robot.joint_convention}, which LeRobot does not have; only a "
            "policy that was trained on the robot's own joint values can be written for it"
        )
    if settings.prompt_style is not style:
        raise ConfigError(
            f"the policy takes prompts of the style {settings.prompt_style.value}, and LeRobot's {config.variant} "
            f"{style.value}; it cannot be written for LeRobot"
        )
    if of_05 and settings.prompt_state_padded != (release == "0.4"):
        other = "0.4" if settings.prompt_state_padded else "0.6"
        raise ConfigError(
            f"prompt_state_padded is {str(settings.prompt_state_padded).lower()}, and LeRobot {release} writes the "
            f"state into the prompt otherwise; write the policy for {other}"
        )
    if release == "0.4" and any(run > 0 for run in robot.delta_actions):
        raise ConfigError(f"{robot.name} has relative actions, which LeRobot 0.4 does not know; write it for 0.6")


def _relative(robot: Robot) -> dict[str, Any]:
    """LeRobot's step for relative actions.

    Raises:
        ConfigError: If its rule, names that contain certain words are absolute, cannot tell these from the others.
    """
    mask = np.zeros(robot.action_dim, np.bool_)
    runs = delta_mask(robot.delta_actions)
    mask[: len(runs)] = runs
    names = list(robot.action_names)
    if not mask.any():
        return {"enabled": False, "exclude_joints": [], "action_names": names or None}
    absolute = [name for name, is_relative in zip(names, mask, strict=bool(names)) if not is_relative]
    by_rule = [not any(word.lower() in name.lower() for word in absolute) for name in names]
    if not mask.all() and by_rule != mask.tolist():
        raise ConfigError(
            f"LeRobot tells absolute actions from relative ones by their names, and those of {robot.name} are "
            f"{', '.join(names) or 'not given'}; give action_names in which no relative one contains an absolute one"
        )
    return {"enabled": True, "exclude_joints": absolute, "action_names": names or None}


def _config(processor: ObservationProcessor, dtype: str, relative: Mapping[str, Any] | None) -> dict[str, Any]:
    sizes, robot = processor.config, processor.robot
    cameras = sorted(robot.cameras, key=lambda name: place_of_slot(robot.cameras[name]) or 0)
    image = {"type": "VISUAL", "shape": [3, sizes.vision.image_size, sizes.vision.image_size]}
    config = {
        "type": sizes.variant,
        "n_obs_steps": 1,
        "input_features": {f"{_IMAGES}{name}": image for name in cameras}
        | {_STATE: {"type": "STATE", "shape": [robot.state_dim]}},
        "output_features": {_ACTION: {"type": "ACTION", "shape": [robot.action_dim]}},
        "device": "cpu",
        "push_to_hub": False,
        "paligemma_variant": "gemma_2b",
        "action_expert_variant": "gemma_300m",
        "dtype": dtype,
        "chunk_size": sizes.horizon,
        "n_action_steps": sizes.horizon,
        "max_state_dim": sizes.action_dim,
        "max_action_dim": sizes.action_dim,
        "num_inference_steps": processor.settings.euler_steps,
        "image_resolution": [sizes.vision.image_size] * 2,
        "tokenizer_max_length": sizes.max_prompt_tokens,
        "normalization_mapping": _formulas(processor),
    }
    if relative is None:
        return config
    return config | {
        "use_relative_actions": relative["enabled"],
        "relative_exclude_joints": relative["exclude_joints"],
        "action_feature_names": relative["action_names"],
    }


def _formulas(processor: ObservationProcessor) -> dict[str, str]:
    normalization = processor.normalization
    state, actions = (_MODES[field.mode][0] for field in (normalization.state, normalization.actions))
    return {"VISUAL": "IDENTITY", "STATE": state, "ACTION": actions}


def _steps(
    processor: ObservationProcessor, config: Mapping[str, Any], relative: Mapping[str, Any] | None
) -> tuple[list[_Step], list[_Step]]:
    """The steps before and after the network, in the order in which LeRobot's policy of the variant has them."""
    normalization, robot = processor.normalization, processor.robot
    still = normalization.state.still[: robot.state_dim]
    shown = still & (processor.settings.still_joints is StillJoints.AS_TRAINED)
    stats = _statistics(_STATE, normalization.state, robot.state_dim, shown)
    actions = _statistics(_ACTION, normalization.actions, robot.action_dim, None)
    features = {**config["input_features"], **config["output_features"]}
    formulas = config["normalization_mapping"]
    device = _step("device_processor", device="cpu", float_dtype=None)
    tokens = _step(
        "tokenizer_processor",
        max_length=config["tokenizer_max_length"],
        task_key="task",
        padding_side="right",
        padding="max_length",
        truncation=True,
        tokenizer_name=_TOKENIZER,
    )
    normalize = [] if relative is None else [_step("relative_actions_processor", **relative)]
    normalizer = _step("normalizer_processor", eps=_eps(normalization.state), features=features, norm_map=formulas)
    normalize.append(normalizer | {"stats": stats | actions})
    before = [_step("rename_observations_processor", rename_map={}), _step("to_batch_processor")]
    if processor.config.variant == "pi0":
        before += [_step("pi0_new_line_processor"), tokens, device, *normalize]
    else:
        before += [*normalize, _step("pi05_prepare_state_tokenizer_processor_step"), tokens, device]
    unnormalizer = _step(
        "unnormalizer_processor",
        eps=_eps(normalization.actions),
        features=config["output_features"],
        norm_map=formulas,
    )
    after = [unnormalizer | {"stats": stats | actions}]
    after += [] if relative is None else [_step("absolute_actions_processor", enabled=relative["enabled"])]
    return before, [*after, device]


def _step(name: str, **config: Any) -> _Step:
    return {"registry_name": name, "config": config}


def _eps(normalizer: Normalizer) -> float:
    """Of LeRobot's formula; that of openpi is part of the statistics that are written."""
    return 0.0 if normalizer.mode is Mode.OPENPI_ZSCORE else normalizer.eps


def _statistics(feature: str, normalizer: Normalizer, dims: int, shown: NDArray[np.bool_] | None) -> _Stats:
    """Statistics with which LeRobot's formula is that of the policy, as LeRobot keeps them: in float32.

    Args:
        feature: LeRobot's name of what is normalized.
        normalizer: Of it.
        dims: How many of its dimensions the robot has.
        shown: Which of them the network is shown as they were in training, wherever they are; bool [dims].
    """
    names = _MODES[normalizer.mode][1]
    if not names:
        return {}
    first, second = (np.array(normalizer.stats[name][:dims], np.float64) for name in names)
    if normalizer.mode in (Mode.OPENPI_ZSCORE, Mode.OPENPI_QUANTILE):
        second += OPENPI_EPS
    if shown is not None:
        second[shown] = _STILL_WIDTH + (0.0 if normalizer.is_z_score else first[shown])
    return {f"{feature}.{name}": values.astype(np.float32) for name, values in zip(names, (first, second), strict=True)}
