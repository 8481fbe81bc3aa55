"""A policy with random weights, smaller than the shipped one, as an ordinary checkpoint folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from pi0_edge.checkpoints import save_checkpoint
from pi0_edge.model import GemmaConfig, Pi0, Pi0Config, VisionConfig
from pi0_edge.processing import Mode, Normalization, Normalizer, Observation, ObservationProcessor, load_robot
from pi0_edge.processing.tokenizer import load_tokenizer
from pi0_edge.training.run import write_prompt_tokenizer

CONFIG = Pi0Config(
    "pi0",
    VisionConfig(width=32, depth=1, mlp_dim=48, heads=2, patch_size=14, image_size=28),
    GemmaConfig(width=32, depth=2, mlp_dim=48, heads=2, kv_heads=1, head_dim=16),
    GemmaConfig(width=32, depth=2, mlp_dim=48, heads=2, kv_heads=1, head_dim=16),
    vocab_size=300,
    horizon=10,
    max_prompt_tokens=12,
)
PROMPT = "Transfer cube"
DIMS = 14


def write_checkpoint(
    folder: Path,
    robot: str = "aloha_sim",
    stats: dict[str, Any] | None = None,
    seed: int = 0,
    config: Pi0Config = CONFIG,
) -> Path:
    """A checkpoint folder with weights (of this seed), statistics (`mean` and `std`), tokenizer and robot."""
    torch.manual_seed(seed)
    folder.mkdir(parents=True)
    write_prompt_tokenizer([PROMPT], config.vocab_size, folder / "tokenizer.json")
    stats = stats or {"mean": np.linspace(-0.5, 0.5, DIMS), "std": np.linspace(0.1, 0.5, DIMS)}
    z_score = Normalizer(Mode.OPENPI_ZSCORE, stats)
    tokenizer = load_tokenizer(folder / "tokenizer.json")
    processor = ObservationProcessor(load_robot(robot), tokenizer, Normalization(z_score, z_score), config)
    save_checkpoint(folder, Pi0(config).state_dict(), config, processor.description())
    return folder


def observation(seed: int = 0, prompt: str | None = PROMPT) -> Observation:
    """One image of the only camera that is there, and a state."""
    rng = np.random.default_rng(seed)
    return Observation({"top": rng.integers(0, 256, (40, 60, 3), np.uint8)}, rng.normal(0, 0.3, DIMS), prompt)
