"""Miniature policies whose settings are those of LeRobot, for the tests of policy folders."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
from checkpoint_builders import golden_state
from processing_builders import character_tokenizer

from pi0_edge.checkpoints import save_checkpoint
from pi0_edge.processing import Mode, Normalization, Normalizer, Observation, Robot
from pi0_edge.processing.processor import ObservationProcessor
from pi0_edge.processing.prompts import PromptStyle
from pi0_edge.processing.settings import EulerTimes, ProcessingSettings, ResizeFilter

SIZES = {"vision": {"heads": 4}}
"""What neither the shapes of a miniature nor LeRobot's config.json tell."""

NAMES = tuple(f"joint_{place}" for place in range(6))
ROBOT = Robot("bot", 6, 6, {"top": "base_0_rgb", "wrist": "right_wrist_0_rgb"}, control_hz=30, action_names=NAMES)
STATISTICS = {
    Mode.OPENPI_ZSCORE: ("mean", "std"),
    Mode.LEROBOT_MEAN_STD: ("mean", "std"),
    Mode.OPENPI_QUANTILE: ("q01", "q99"),
    Mode.LEROBOT_QUANTILES: ("q01", "q99"),
    Mode.LEROBOT_QUANTILE10: ("q10", "q90"),
    Mode.LEROBOT_MIN_MAX: ("min", "max"),
}


def normalizer(mode: Mode, dims: int = 6) -> Normalizer:
    first, second = STATISTICS[mode]
    low, width = np.arange(dims) / 8 - 0.5, np.arange(dims) / 4 + 0.5  # which float32 holds, as LeRobot keeps them
    return Normalizer(mode, {first: low, second: width if first == "mean" else low + width})


def of_lerobot(variant: str, **changes: Any) -> ProcessingSettings:
    """Settings that are what LeRobot 0.6 does."""
    style = PromptStyle.TEXT if variant == "pi0" else PromptStyle.TEXT_AND_STATE
    its = ProcessingSettings(style, prompt_cleaning=False, resize_filter=ResizeFilter.TORCH)
    return dataclasses.replace(its, euler_steps=3, euler_times=EulerTimes.EXACT, **changes)


def processor(
    folder: Path, variant: str = "pi0", robot: Robot = ROBOT, mode: Mode | None = None, **changes: Any
) -> ObservationProcessor:
    mode = mode or (Mode.OPENPI_ZSCORE if variant == "pi0" else Mode.OPENPI_QUANTILE)
    normalization = Normalization(normalizer(mode), normalizer(mode))
    config = dataclasses.replace(golden_state(variant)[1], max_prompt_tokens=60)
    return ObservationProcessor(
        robot, character_tokenizer(folder), normalization, config, of_lerobot(variant, **changes)
    )


def saved(folder: Path, variant: str = "pi0", **changes: Any) -> Path:
    """A miniature checkpoint in our layout."""
    made = processor(folder, variant, **changes)
    save_checkpoint(folder / "ours", golden_state(variant)[0], made.config, made.description())
    return folder / "ours"


def observation() -> Observation:
    random = np.random.default_rng(3)
    images = {name: random.integers(0, 256, (48, 64, 3), np.uint8) for name in ROBOT.cameras}
    return Observation(images, random.normal(size=6), "fold the shirt")
