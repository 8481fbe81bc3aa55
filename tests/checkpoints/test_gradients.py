"""`pi0-edge verify` of gradients: against transformers' own PI0, and on faults."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from checkpoint_builders import SIZES, golden_path, golden_state, jax_arrays, write_orbax
from cli_runner import run
from safetensors.torch import load_file, save_file
from torch import Tensor

from pi0_edge.errors import ConfigError, ObservationError
from pi0_edge.model import ModelInputs, Pi0, Pi0Config
from pi0_edge.quant.scheme_files import load_scheme
from pi0_edge.verification import verify

os.environ.setdefault("HF_HUB_OFFLINE", "1")
GEMMA = {"model_type": "gemma", "num_hidden_layers": 3, "num_attention_heads": 8, "num_key_value_heads": 1}
VISION = {"model_type": "siglip_vision_model", "hidden_size": 48, "intermediate_size": 112, "num_hidden_layers": 2}
VISION |= {"num_attention_heads": 4, "patch_size": 14, "image_size": 28, "vision_use_head": False}
WORDS, ACTION_DIM, HORIZON, BATCH = 200, 24, 7, 3


def recorded(seed: int, size: int = 28, horizon: int = HORIZON, dims: int = ACTION_DIM) -> dict[str, np.ndarray]:
    """Inputs with actions and time, of two cameras."""
    rng = np.random.default_rng(seed)
    arrays = {
        f"image.{slot}": rng.uniform(-1, 1, (BATCH, size, size, 3)) for slot in ("base_0_rgb", "left_wrist_0_rgb")
    }
    arrays |= {name: rng.normal(size=(BATCH, horizon, dims)) for name in ("noise", "actions")}
    arrays |= {"state": rng.normal(size=(BATCH, dims)), "time": rng.uniform(0.01, 1, BATCH)}
    floats = {name: array.astype(np.float32) for name, array in arrays.items()}
    tokens = rng.integers(3, WORDS, (BATCH, 6))
    return {**floats, "tokens": tokens, "token_mask": np.ones((BATCH, 6), bool)}


def of_transformers(folder: Path, seed: int) -> dict[str, Tensor]:
    """Saves a small network of transformers and gives the gradients of its mean loss by its tensors' names."""
    transformers = pytest.importorskip("transformers")
    if not hasattr(transformers, "PI0ForConditionalGeneration"):
        pytest.skip("this transformers has no PI0")
    text = {**GEMMA, "hidden_size": 96, "intermediate_size": 192, "head_dim": 16, "vocab_size": WORDS}
    vlm = {"model_type": "paligemma", "text_config": text, "vision_config": VISION, "projection_dim": 96}
    dit = {**GEMMA, "hidden_size": 64, "intermediate_size": 128, "head_dim": 16}
    sizes: dict[str, Any] = {"chunk_size": HORIZON, "max_state_dim": ACTION_DIM, "max_action_dim": ACTION_DIM}
    torch.manual_seed(seed)
    config = transformers.PI0Config(vlm_config={**vlm, "image_token_id": WORDS}, dit_config=dit, **sizes)
    model = transformers.PI0ForConditionalGeneration(config).float().eval()
    model.save_pretrained(folder / "checkpoint")
    arrays = {name: torch.from_numpy(array) for name, array in recorded(seed).items()}
    np.savez(folder / "inputs.npz", allow_pickle=False, **recorded(seed))
    images = torch.stack([arrays[f"image.{slot}"] for slot in ("base_0_rgb", "left_wrist_0_rgb")], 1)
    ids = torch.cat((torch.full((BATCH, 2 * 4), WORDS), arrays["tokens"]), 1)
    out = model(
        state=arrays["state"],
        noise=arrays["noise"],
        actions=arrays["actions"],
        timestep=arrays["time"],
        pixel_values=images.permute(0, 1, 4, 2, 3),
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        pixel_attention_mask=torch.ones(BATCH, 2, dtype=torch.bool),
    )
    out.loss.mean().backward()
    # Saved by transformers too, which gives the tensors other names in files than they have in memory.
    gradients = {name: torch.zeros_like(p) if p.grad is None else p.grad for name, p in model.named_parameters()}
    model.save_pretrained(folder / "gradients", state_dict=gradients)
    return load_file(folder / "gradients/model.safetensors")


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (1, 2))])
def test_gradients_are_those_of_transformers(tmp_path: Path, seed: int):
    gradients = of_transformers(tmp_path, seed)
    assert len(gradients) > 80
    expected = {f"grad.{name}": gradient.contiguous() for name, gradient in gradients.items()}
    save_file(expected, tmp_path / "expected.safetensors")
    files = ("--inputs", tmp_path / "inputs.npz", "--expected", tmp_path / "expected.safetensors")
    ran = run("verify", "--checkpoint", tmp_path / "checkpoint", *files, "--json")
    assert ran.code == 0, ran.out + ran.err
    assert len(ran.result["outputs"]) == len(expected)
    name = next(name for name in expected if name.endswith("mlp.up_proj.weight"))
    expected[name] *= 1.001
    save_file(expected, tmp_path / "expected.safetensors")
    ran = run("verify", "--checkpoint", tmp_path / "checkpoint", *files, "--json")
    failed = [output for output, found in ran.result["outputs"].items() if not found["passed"]]
    assert ran.code == 1 and failed == [name]


def expected_of(state: dict[str, Tensor], config: Pi0Config, arrays: dict[str, np.ndarray]) -> dict[str, Tensor]:
    """Gradients of our own network by our names; only their names and arrangement are under test then."""
    model = Pi0(config)
    model.load_state_dict(state)
    given = {name: torch.from_numpy(array) for name, array in arrays.items()}
    images = torch.stack([given[f"image.{slot}"] for slot in ("base_0_rgb", "left_wrist_0_rgb")], 1)
    inputs = ModelInputs(
        images.permute(0, 1, 4, 2, 3).contiguous(),
        torch.ones(BATCH, 2, dtype=torch.bool),
        given["tokens"],
        given["token_mask"],
        given["state"],
    )
    model.loss(inputs, given["actions"], given["noise"], given["time"]).mean().backward()
    return {n: torch.zeros_like(p) if p.grad is None else p.grad for n, p in model.named_parameters()}


@pytest.mark.parametrize("variant", ["pi0", "pi05"])
def test_gradients_of_stacked_and_turned_arrays_are_found(tmp_path: Path, variant: str):
    pytest.importorskip("tensorstore")
    state, config = golden_state(variant)
    arrays = recorded(0, config.vision.image_size, 50, config.action_dim)
    np.savez(tmp_path / "inputs.npz", allow_pickle=False, **arrays)
    checkpoint = write_orbax(tmp_path / "jax", jax_arrays(state, config), True)
    gradients = jax_arrays(expected_of(state, config, arrays), config)
    tensors = {f"grad.{name}": torch.from_numpy(np.ascontiguousarray(array)) for name, array in gradients.items()}
    save_file(tensors, tmp_path / "expected.safetensors")
    found = verify(
        checkpoint, tmp_path / "inputs.npz", tmp_path / "expected.safetensors", None, "reference", None, None
    )
    assert {one.output for one in found} == tensors.keys()
    assert all(one.passed for one in found), max(found, key=lambda one: one.largest)


@pytest.mark.parametrize(
    ("gradient", "lost", "scheme", "message"),
    [
        ("state_proj.weight", "time", None, "the inputs file lacks actions or time"),
        ("state_proj.wait", "", None, r"no tensor state_proj\.wait; its names are such as"),
        ("state_proj.bias", "", None, r"grad\.state_proj\.bias has shape \[\d+, \d+\], expected that of the tensor"),
        ("state_proj.weight", "", "bf16", "scheme bf16, which has no gradients"),
    ],
)
def test_gradients_that_cannot_be_compared_are_refused(
    tmp_path: Path, gradient: str, lost: str, scheme: str | None, message: str
):
    state, config = golden_state("pi0")
    arrays = recorded(0, config.vision.image_size, 50, config.action_dim)
    np.savez(tmp_path / "inputs.npz", allow_pickle=False, **{n: a for n, a in arrays.items() if n != lost})
    save_file({f"grad.{gradient}": torch.zeros_like(state["state_proj.weight"])}, tmp_path / "expected.safetensors")
    sizes = tmp_path / "sizes.json"
    sizes.write_text(json.dumps(SIZES))
    files = (golden_path("pi0"), tmp_path / "inputs.npz", tmp_path / "expected.safetensors", sizes)
    with pytest.raises((ConfigError, ObservationError), match=message):
        verify(*files, "cpu" if scheme else "reference", load_scheme(scheme) if scheme else None, None)
