"""The processor that belongs to a checkpoint folder, with everything it records filled in.

    pi0-edge       config.json "processing", norm_stats.json, tokenizer.*
    LeRobot        policy_preprocessor.json, policy_postprocessor.json, config.json, perhaps tokenizer/, norm_stats.json
    openpi         norm_stats.json or assets/<asset id>/norm_stats.json; the robot must be named
    transformers   config.json with its network alone; as openpi

What the caller gives goes before what the folder records. Nothing is assumed in silence: without statistics, tokenizer
or robot the error says what to give, and a setting that no file records is named in a warning (see `settings`).
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pi0_edge.errors import ConfigError
from pi0_edge.json_files import read_json_object
from pi0_edge.model.config import Pi0Config
from pi0_edge.processing.description import ProcessingDescription
from pi0_edge.processing.lerobot_files import (
    PREPROCESSOR,
    lerobot_robot,
    lerobot_settings,
    load_lerobot_normalization,
    recorded_euler_steps,
)
from pi0_edge.processing.norm_stats import FieldStats, find_norm_stats, load_norm_stats
from pi0_edge.processing.normalization import LEROBOT_EPS, Mode, Normalization, Normalizer
from pi0_edge.processing.processor import ObservationProcessor
from pi0_edge.processing.settings import EulerTimes, ProcessingSettings, parse_settings
from pi0_edge.processing.tokenizer import find_tokenizer, load_tokenizer
from pi0_edge.robots import Robot, load_robot, parse_robot

logger = logging.getLogger(__name__)


def load_processor(
    folder: str | Path,
    config: Pi0Config,
    robot: str | Path | None = None,
    tokenizer: str | Path | None = None,
    norm_stats: str | Path | None = None,
    asset_id: str | None = None,
    settings: Mapping[str, Any] | None = None,
) -> ObservationProcessor:
    """Builds the processor of a policy.

    Args:
        folder: `Checkpoint.folder`.
        config: Sizes of the network.
        robot: Name or .yaml of the robot, where the folder does not record it or another one is meant.
        tokenizer: Tokenizer file, where the folder has none.
        norm_stats: A norm_stats.json (or folder with assets), instead of the folder's own statistics. The formulas stay
            those that the folder records.
        asset_id: Which statistics of several.
        settings: Choices that weights do not show, by name (see `pi0_edge.processing.settings`), instead of what the
            folder records.

    Raises:
        ConfigError: If robot, tokenizer or statistics are neither recorded nor given, do not fit together, or a setting
            is not known.
    """
    folder = Path(folder)
    recorded = _recorded(folder)
    layout = load_robot(robot) if robot is not None else _robot(folder, recorded)
    mode = parse_settings(settings or {}).get("normalization")
    return ObservationProcessor(
        robot=layout,
        tokenizer=load_tokenizer(tokenizer if tokenizer is not None else _tokenizer(folder)),
        normalization=_normalization(folder, recorded, config, layout, norm_stats, asset_id, mode),
        config=config,
        settings=load_settings(folder, config, settings),
    )


def load_settings(folder: Path, config: Pi0Config, given: Mapping[str, Any] | None = None) -> ProcessingSettings:
    """The settings of a policy; a warning is logged for each that is neither recorded nor given.

    Args:
        folder: `Checkpoint.folder`.
        config: Sizes of the network.
        given: Settings by name, instead of what the folder records.

    Raises:
        ConfigError: If a setting is not known, or the folder records one that cannot be had here.
    """
    parsed = parse_settings(given or {})
    parsed.pop("normalization", None)
    return dataclasses.replace(_settings(folder, _recorded(folder), config, parsed), **parsed)


def restore_processor(folder: Path, recorded: ProcessingDescription, config: Pi0Config) -> ObservationProcessor:
    """The processor that `ObservationProcessor.description` described.

    Args:
        folder: Where its norm_stats.json is, and its tokenizer where the description names none.
        recorded: The description.
        config: Sizes of the network.

    Raises:
        ConfigError: If something in it is unknown, or robot, statistics and network do not fit together.
        MissingDependencyError: If the package that reads this kind of tokenizer is not installed.
    """
    return ObservationProcessor(
        robot=parse_robot(recorded.robot, "the recorded robot"),
        tokenizer=load_tokenizer(recorded.tokenizer or _tokenizer(folder)),
        normalization=_native_normalization(folder, recorded.normalization, "the description"),
        config=config,
        settings=restore_settings(recorded),
    )


def _recorded(folder: Path) -> ProcessingDescription | None:
    """The processing that our own config.json records; None for other layouts, and where it records none."""
    path = folder / "config.json"
    content = read_json_object(path, ConfigError) if path.is_file() else {}
    processing = content.get("processing") if content.get("format") == "pi0-edge" else None
    return ProcessingDescription.from_dict(processing, str(path)) if processing else None


def restore_settings(recorded: ProcessingDescription, origin: str = "the description") -> ProcessingSettings:
    """The settings in a description; `origin` is its file, for error messages.

    Raises:
        ConfigError: If one of them is unknown.
    """
    found = parse_settings({"prompt_style": recorded.prompt_style, **recorded.settings}, origin)
    if "normalization" in found:
        raise ConfigError(
            f"{origin} records a normalization among the settings, expected it beside them; save it again"
        )
    return dataclasses.replace(ProcessingSettings(), **found)


def _settings(
    folder: Path, recorded: ProcessingDescription | None, config: Pi0Config, given: Mapping[str, Any]
) -> ProcessingSettings:
    """What the folder records, with a warning for each setting that it does not record and the user does not give."""
    if recorded is not None:
        return restore_settings(recorded, f"{folder}/config.json")
    content = read_json_object(folder / "config.json", ConfigError) if (folder / "config.json").is_file() else {}
    if "input_features" in content:
        return lerobot_settings(folder, config.variant, given)
    of_openpi = ProcessingSettings.of_openpi(config.variant)
    if config.variant == "pi05" and "prompt_style" not in given:
        logger.warning(
            "%s does not say whether the state is in the prompt; discrete_state_input: true is taken, the default of "
            "π0.5 (pi05_libero was trained without: give discrete_state_input: false in a SIZES file)",
            folder,
        )
    if "model_type" not in content:  # which transformers alone writes
        return of_openpi
    unsaid = [name for name in ("prompt_cleaning", "resize_filter", "padding_value") if name not in given]
    steps = recorded_euler_steps(folder / "config.json")
    of_transformers = dataclasses.replace(
        of_openpi, prompt_cleaning=False, euler_steps=steps, euler_times=EulerTimes.EXACT
    )
    if unsaid:
        taken = of_transformers.to_dict()
        logger.warning(
            "%s was saved by transformers, which does not record how the policy was trained to be given its inputs; "
            "taken are %s. Give others in a SIZES file",
            folder,
            ", ".join(f"{name}: {str(taken[name]).lower()}" for name in unsaid),
        )
    return of_transformers


def _robot(folder: Path, recorded: ProcessingDescription | None) -> Robot:
    if recorded is not None:
        return parse_robot(recorded.robot, f"the robot in {folder}/config.json")
    if (folder / PREPROCESSOR).is_file():
        return lerobot_robot(folder)
    raise ConfigError(
        f"{folder} does not record its robot; give one (see `pi0_edge.processing.robot_names()`) or a .yaml"
    )


def _tokenizer(folder: Path) -> Path:
    found = find_tokenizer(folder)
    if found is None:
        raise ConfigError(
            f"{folder} has no tokenizer; give PaliGemma's tokenizer.model, or a tokenizer.json of PaliGemma or Gemma"
        )
    return found


def _normalization(
    folder: Path,
    recorded: ProcessingDescription | None,
    config: Pi0Config,
    robot: Robot,
    norm_stats: str | Path | None,
    asset_id: str | None,
    mode: Mode | None,
) -> Normalization:
    given = None if norm_stats is None else load_norm_stats(norm_stats, asset_id)
    if mode is not None:
        stats = load_norm_stats(folder, asset_id) if given is None else given
        return Normalization(Normalizer(mode, stats["state"]), Normalizer(mode, stats["actions"]))
    if recorded is not None:
        return _native_normalization(folder, recorded.normalization, f"{folder}/config.json", given)
    if (folder / PREPROCESSOR).is_file():
        return load_lerobot_normalization(folder, given)
    if given is not None:
        return Normalization.of_openpi(given, config.variant)
    several = len(list(folder.glob("assets/**/norm_stats.json"))) > 1
    chosen = asset_id if asset_id is not None or not several else robot.asset_id
    return Normalization.of_openpi(load_norm_stats(folder, chosen), config.variant)


def _native_normalization(
    folder: Path, recorded: dict[str, Any], origin: str, given: Mapping[str, FieldStats] | None = None
) -> Normalization:
    has_stats = given is None and find_norm_stats(folder, None) is not None
    stats = given or (load_norm_stats(folder) if has_stats else {"state": {}, "actions": {}})
    try:
        fields = {name: (Mode(recorded[name]["mode"]), recorded[name].get("eps", LEROBOT_EPS)) for name in stats}
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigError(f"{origin} records an unknown normalization ({error}); save it again") from error
    normalizers = {name: Normalizer(mode, stats[name], eps) for name, (mode, eps) in fields.items()}
    return Normalization(normalizers["state"], normalizers["actions"])
