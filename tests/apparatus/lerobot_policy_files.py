"""Runs under LeRobot's interpreter: the config and the pipelines of a policy folder, without its network.

    python lerobot_policy_files.py FOLDER inputs.npz output.npz

`inputs.npz` has `image` (uint8 [height, width, 3]) of the camera `top`, `state`, and a normalized chunk `actions`.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch


def no_words(text: list[str], max_length: int, **options: Any) -> dict[str, torch.Tensor]:
    """Stands for PaliGemma's tokenizer, which LeRobot would fetch."""
    return {name: torch.zeros(1, max_length, dtype=torch.int64) for name in ("input_ids", "attention_mask")}


def main() -> None:
    """The program."""
    folder, inputs, output = Path(sys.argv[1]), np.load(sys.argv[2]), Path(sys.argv[3])
    for module in ("lerobot.policies.pi0", "lerobot.policies.pi05"):
        importlib.import_module(module)
    config = importlib.import_module("lerobot.configs.policies").PreTrainedConfig.from_pretrained(folder)
    factory = importlib.import_module("lerobot.policies.factory")
    # The step refuses to be made without transformers, of which only the tokenizer would be used.
    vars(importlib.import_module("lerobot.processor.tokenizer_processor"))["_transformers_available"] = True
    overrides = {"tokenizer_processor": {"tokenizer": no_words}}
    before, after = factory.make_pre_post_processors(config, folder, preprocessor_overrides=overrides)
    image, state = torch.from_numpy(inputs["image"]).permute(2, 0, 1) / 255, torch.from_numpy(inputs["state"]).float()
    prepared = before({"observation.images.top": image, "observation.state": state, "task": "fold the shirt"})
    actions = after(torch.from_numpy(inputs["actions"])[None])
    np.savez(output, state=prepared["observation.state"].numpy(), actions=actions.numpy(), horizon=config.chunk_size)


if __name__ == "__main__":
    main()
