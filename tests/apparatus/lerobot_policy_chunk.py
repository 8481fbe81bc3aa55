"""Runs under LeRobot's interpreter: a policy folder in LeRobot's own π0 or π0.5, and the chunk that it answers.

    python lerobot_policy_chunk.py FOLDER inputs.npz output.npz [sizes.json]

`inputs.npz` has the cameras (uint8 [height, width, 3]), `state`, `tokens` and `noise`. With sizes, LeRobot's network is
built in these instead of the published ones, which it has as constants.
"""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch


class Words:
    """Stands for PaliGemma's tokenizer, which LeRobot would fetch: the tokens that it is given, filled up."""

    def __init__(self, tokens: np.ndarray) -> None:
        self.tokens = torch.from_numpy(tokens)

    def __call__(self, text: list[str], max_length: int, **options: Any) -> dict[str, torch.Tensor]:
        filled = torch.zeros(1, max_length, dtype=torch.int64)
        filled[0, : len(self.tokens)] = self.tokens
        return {"input_ids": filled, "attention_mask": torch.arange(max_length)[None] < len(self.tokens)}


def build_small(module: ModuleType, sizes: dict[str, Any]) -> None:
    """Replaces the sizes that `module` has built in."""
    known = dict(module.CONFIG_MAPPING.items()) if hasattr(module.CONFIG_MAPPING, "items") else module.CONFIG_MAPPING

    def fixed(config: Any, names: tuple[str, ...]) -> None:
        kind = type(config)

        def keep(self: Any, name: str, value: Any) -> None:
            if name not in names:
                super(kind, self).__setattr__(name, value)

        config.__class__ = type(kind.__name__, (kind,), {"__setattr__": keep})

    def paligemma() -> Any:
        config = known["paligemma"]()
        vision = {"hidden_size": "width", "num_hidden_layers": "depth", "num_attention_heads": "heads"}
        vision |= {"patch_size": "patch_size", "intermediate_size": "mlp_dim"}
        for theirs, ours in vision.items():
            setattr(config.vision_config, theirs, sizes["vision"][ours])
        config.vision_config.projection_dim = sizes["prefix"]["width"]
        config.text_config.vocab_size = sizes["vocab_size"]
        fixed(config.vision_config, ("intermediate_size", "projection_dim"))
        fixed(config.text_config, ("vocab_size",))
        return config

    def gemma(**options: Any) -> Any:
        return known["gemma"](**{**options, "vocab_size": sizes["vocab_size"]})

    def gemma_sizes(variant: str) -> Any:
        part = sizes["prefix" if variant == "gemma_2b" else "expert"]
        names = {"num_heads": "heads", "num_kv_heads": "kv_heads"}
        given = {
            theirs: part[names.get(theirs, theirs)] for theirs in ("width", "depth", "mlp_dim", *names, "head_dim")
        }
        return module.GemmaConfig(**given)

    module.CONFIG_MAPPING = {"paligemma": paligemma, "gemma": gemma}  # type: ignore[attr-defined]
    module.get_gemma_config = gemma_sizes  # type: ignore[attr-defined]


def main() -> None:
    """The program."""
    folder, inputs, output = Path(sys.argv[1]), np.load(sys.argv[2]), Path(sys.argv[3])
    variant = json.loads((folder / "config.json").read_text())["type"]
    module = importlib.import_module(f"lerobot.policies.{variant}.modeling_{variant}")
    if len(sys.argv) > 4:
        build_small(module, json.loads(Path(sys.argv[4]).read_text()))
    kind = getattr(module, {"pi0": "PI0Policy", "pi05": "PI05Policy"}[variant])
    policy = kind.from_pretrained(folder)
    factory = importlib.import_module("lerobot.policies.factory")
    overrides = {"tokenizer_processor": {"tokenizer": Words(inputs["tokens"])}}
    before, after = factory.make_pre_post_processors(policy.config, folder, preprocessor_overrides=overrides)
    cameras = [name for name in inputs.files if inputs[name].ndim == 3 and inputs[name].dtype == np.uint8]
    batch = {f"observation.images.{name}": torch.from_numpy(inputs[name]).permute(2, 0, 1) / 255 for name in cameras}
    batch |= {"observation.state": torch.from_numpy(inputs["state"]).float(), "task": "fold the shirt"}
    prepared = before(batch)
    noise = torch.from_numpy(inputs["noise"])
    normalized = policy.predict_action_chunk(prepared, noise=noise)
    actions = after(normalized)
    np.savez(output, normalized=normalized.numpy(), actions=actions.numpy(), prompt=str(prepared.get("task")))


if __name__ == "__main__":
    main()
