"""Small processors for the tests: a tokenizer trained here, made-up statistics, a network with the golden sizes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from tokenizers import Tokenizer as JsonTokenizer
from tokenizers import models

from pi0_edge.model import GemmaConfig, Pi0Config, VisionConfig
from pi0_edge.processing import Mode, Normalization, Normalizer, Robot, Tokenizer, load_robot, load_tokenizer
from pi0_edge.processing.processor import ObservationProcessor

DATA = Path(__file__).parents[1] / "data"
RECORDING = DATA / "g1_recording"
"""Two episodes of 80 frames of a Unitree G1, see its README.md."""


def tiny_config(variant: str = "pi0", max_prompt_tokens: int = 48) -> Pi0Config:
    """The golden miniature, which takes 224-pixel images."""
    gemma = {"depth": 3, "heads": 8, "kv_heads": 1, "head_dim": 16}
    return Pi0Config(
        "pi05" if variant == "pi05" else "pi0",
        VisionConfig(48, 2, 112, 4),
        GemmaConfig(width=96, mlp_dim=192, **gemma),
        GemmaConfig(width=64, mlp_dim=128, **gemma),
        vocab_size=512,
        max_prompt_tokens=max_prompt_tokens,
    )


def character_tokenizer(folder: Path) -> Tokenizer:
    """A tokenizer.json with one token per byte-sized character, BOS 2 and the newline 108 as in Gemma."""
    ids = {"<pad>": 0, "<eos>": 1, "<bos>": 2, "<unk>": 3, "\n": 108}
    ids |= {chr(code): 200 + code for code in range(32, 127)}
    model = models.BPE(vocab=ids, merges=[], unk_token="<unk>")
    path = folder / "tokenizer.json"
    JsonTokenizer(model).save(str(path))
    return load_tokenizer(path)


def z_scores(state_dim: int, action_dim: int) -> Normalization:
    """openpi z-scores with different numbers in every dimension."""

    def stats(dims: int) -> dict[str, np.ndarray]:
        return {"mean": np.linspace(-1, 1, dims), "std": np.linspace(0.5, 2, dims)}

    return Normalization(
        Normalizer(Mode.OPENPI_ZSCORE, stats(state_dim)), Normalizer(Mode.OPENPI_ZSCORE, stats(action_dim))
    )


def processor(folder: Path, robot: str | Robot = "aloha", **config: object) -> ObservationProcessor:
    """A processor of the miniature network for one of our robots."""
    layout = robot if isinstance(robot, Robot) else load_robot(robot)
    sizes = tiny_config(str(config.get("variant", "pi0")), int(str(config.get("max_prompt_tokens", 48))))
    statistics = z_scores(layout.state_dim, layout.action_dim)
    return ObservationProcessor(layout, character_tokenizer(folder), statistics, sizes)
