"""A checkpoint that transformers itself saves: its sizes, its actions, and `pi0-edge verify`."""

from __future__ import annotations

import importlib
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cli_runner import run
from PIL import Image
from processing_builders import character_tokenizer
from safetensors.torch import save_file

from pi0_edge.checkpoints import open_checkpoint
from pi0_edge.errors import CheckpointError, ConfigError
from pi0_edge.model.flow import euler_times

os.environ.setdefault("HF_HUB_OFFLINE", "1")
try:
    transformers = importlib.import_module("transformers")
    PI0Config, PI0 = transformers.PI0Config, transformers.PI0ForConditionalGeneration
except (ImportError, AttributeError) as error:
    pytest.skip(f"no transformers that has PI0 is installed ({error})", allow_module_level=True)

GEMMA = {"model_type": "gemma", "num_hidden_layers": 3, "num_attention_heads": 8, "num_key_value_heads": 1}
VISION = {"model_type": "siglip_vision_model", "hidden_size": 48, "intermediate_size": 112, "num_hidden_layers": 2}
VISION |= {"num_attention_heads": 4, "patch_size": 14, "image_size": 56, "vision_use_head": False}
WORDS, ACTION_DIM, HORIZON = 512, 24, 7


def saved(folder: Path, **changes: Any) -> Any:
    """A small network of transformers with random weights, saved by itself."""
    text = {**GEMMA, "hidden_size": 96, "intermediate_size": 192, "head_dim": 16, "vocab_size": WORDS}
    vlm = {"model_type": "paligemma", "text_config": text, "vision_config": VISION, "projection_dim": 96}
    dit = {**GEMMA, "hidden_size": 64, "intermediate_size": 128, "head_dim": 16}
    sizes = {"chunk_size": HORIZON, "max_state_dim": ACTION_DIM, "max_action_dim": ACTION_DIM, **changes}
    torch.manual_seed(0)
    model = PI0(PI0Config(vlm_config={**vlm, "image_token_id": WORDS}, dit_config=dit, **sizes)).float().eval()
    model.save_pretrained(folder)
    return model


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint, with inputs.npz and expected.safetensors of what transformers makes of one observation."""
    folder = tmp_path_factory.mktemp("transformers")
    model = saved(folder / "checkpoint")
    random = torch.Generator().manual_seed(1)
    images = torch.rand(1, 2, 3, 56, 56, generator=random) * 2 - 1
    tokens = torch.randint(3, WORDS, (1, 6), generator=random)
    state, noise = (torch.randn(shape, generator=random) for shape in ((1, ACTION_DIM), (1, HORIZON, ACTION_DIM)))
    ids = torch.cat((torch.full((1, 2 * 16), WORDS), tokens), 1)
    there = torch.ones(1, 2, dtype=torch.bool)
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "pixel_attention_mask": there}
    actions = model.sample_actions(state=state, pixel_values=images, noise=noise, **inputs)
    cameras = dict(zip(("image.base_0_rgb", "image.left_wrist_0_rgb"), images[0].permute(0, 2, 3, 1), strict=True))
    recorded = {name: image[None].numpy() for name, image in cameras.items()}
    recorded |= {"tokens": tokens.numpy(), "token_mask": np.ones((1, 6), bool)}
    recorded |= {"state": state.numpy(), "noise": noise.numpy()}
    np.savez(folder / "inputs.npz", allow_pickle=False, **recorded)
    times = euler_times(10, "exact")[:, None].contiguous()
    save_file({"actions": actions.contiguous(), "t": times}, folder / "expected.safetensors")
    return folder


def test_sizes_come_from_its_config(folder: Path):
    checkpoint = open_checkpoint(folder / "checkpoint")
    config = checkpoint.infer_config()
    assert checkpoint.layout == "transformers"
    assert (config.vision.heads, config.prefix.heads, config.expert.head_dim) == (4, 8, 16)
    assert (config.action_dim, config.horizon) == (ACTION_DIM, HORIZON)


def test_actions_are_those_of_transformers(folder: Path):
    files = ("--inputs", folder / "inputs.npz", "--expected", folder / "expected.safetensors")
    ran = run("verify", "--checkpoint", folder / "checkpoint", *files, "--tolerance", "1e-5", "--json")
    assert ran.code == 0, ran.out + ran.err


def test_tokenizer_robot_and_statistics_are_all_it_takes(folder: Path, tmp_path: Path):
    character_tokenizer(tmp_path)
    robot = {"name": "bot", "state_dim": 14, "action_dim": 14, "cameras": {"cam": "base_0_rgb"}, "control_hz": 50}
    (tmp_path / "bot.yaml").write_text(json.dumps(robot))
    field = {"mean": [0.0] * 14, "std": [1.0] * 14, "q01": [-2.0] * 14, "q99": [2.0] * 14}
    stats = {"norm_stats": {"state": field, "actions": field}}
    (tmp_path / "norm_stats.json").write_text(json.dumps(stats))
    Image.new("RGB", (56, 56)).save(tmp_path / "cam.png")
    ran = run(
        *("infer", "--checkpoint", folder / "checkpoint", "--robot", tmp_path / "bot.yaml"),
        *("--tokenizer", tmp_path / "tokenizer.json", "--norm-stats", tmp_path / "norm_stats.json"),
        *("--image", f"cam={tmp_path / 'cam.png'}", "--state", " ".join(["0"] * 14), "--prompt", "fold", "--json"),
    )
    assert ran.code == 0, ran.err
    assert np.shape(ran.result["actions"]) == (HORIZON, 14)


def test_another_network_than_ours_is_refused(tmp_path: Path):
    saved(tmp_path, min_period=1e-2)
    with pytest.raises(CheckpointError, match=r"min_period is 0\.01, expected 0\.004; this is not π0's network"):
        open_checkpoint(tmp_path)


def test_a_config_that_contradicts_the_weights_is_refused(tmp_path: Path):
    saved(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "max_action_dim": 32, "max_state_dim": 32}))
    with pytest.raises(ConfigError, match=r"action_dim is given as 32, but .* has 24"):
        open_checkpoint(tmp_path).infer_config()
