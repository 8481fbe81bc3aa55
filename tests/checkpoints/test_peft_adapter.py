"""LoRA adapters: those that PEFT itself writes, `pi0-edge merge`, and what is refused.

PEFT is not a dependency; where it is installed, its own `merge_and_unload` is the reference, else the formula.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from checkpoint_builders import (
    golden_state,
    golden_tensors,
    jax_arrays,
    lerobot_config,
    write_orbax,
    write_safetensors,
)
from cli_runner import run
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from pi0_edge.checkpoints import open_checkpoint
from pi0_edge.errors import CheckpointError

LAYER = "paligemma_with_expert.gemma_expert.model.layers.0.self_attn.q_proj"
OTHER = "paligemma_with_expert.paligemma.model.language_model.layers.1.mlp.down_proj"
OURS = "expert.layers.0.attention.q.weight"
CONFIG: dict[str, Any] = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "down_proj"]}
SIZES = {"vision": {"heads": 4}, "horizon": 50}


def base(folder: Path) -> Path:
    """A checkpoint of openpi in PyTorch's layout."""
    return write_safetensors(folder, golden_tensors("pi0"))


def factors(layers: tuple[str, ...] = (LAYER, OTHER), rank: int = 4) -> dict[str, Tensor]:
    """Random ones, as LeRobot's adapters name them: its policy has a level `model.` more than openpi."""
    generator = torch.Generator().manual_seed(3)
    found = {}
    for layer in layers:
        rows, columns = golden_tensors("pi0")[f"{layer}.weight"].shape
        root = f"base_model.model.model.{layer}"
        found[f"{root}.lora_A.weight"] = torch.randn(rank, columns, generator=generator)
        found[f"{root}.lora_B.weight"] = torch.randn(rows, rank, generator=generator)
    return found


def adapter(folder: Path, tensors: dict[str, Tensor] | None = None, **changes: Any) -> Path:
    """An adapter folder."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file(factors() if tensors is None else tensors, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps({**CONFIG, **changes}))
    return folder


def merged(folder: Path, plain: Path) -> dict[str, Tensor]:
    """Every parameter under our names."""
    return {name: tensor.clone() for name, tensor in open_checkpoint(folder, plain).tensors(golden_state("pi0")[0])}


@pytest.mark.parametrize(
    ("changes", "scales"),
    [
        ({}, (2.0, 2.0)),
        ({"use_rslora": True}, (4.0, 4.0)),
        ({"alpha_pattern": {"down_proj": 2}}, (2.0, 0.5)),
        ({"alpha_pattern": {r"layers\.0\.self_attn\.q_proj": 16}}, (4.0, 2.0)),
        ({"r": 8, "rank_pattern": {"q_proj": 4, "down_proj": 4}}, (2.0, 2.0)),
    ],
)
def test_a_weight_gets_its_product_and_all_others_stay(
    tmp_path: Path, changes: dict[str, Any], scales: tuple[float, ...]
):
    plain, state, found = base(tmp_path / "base"), golden_state("pi0")[0], factors()
    result = merged(adapter(tmp_path / "adapter", **changes), plain)
    names = {OURS: LAYER, "prefix.layers.1.mlp.down.weight": OTHER}
    for (ours, theirs), scale in zip(names.items(), scales, strict=True):
        root = f"base_model.model.model.{theirs}"
        product = found[f"{root}.lora_B.weight"] @ found[f"{root}.lora_A.weight"]
        torch.testing.assert_close(result[ours], state[ours] + scale * product)
        assert not torch.allclose(result[ours], state[ours])
    for name in state.keys() - names.keys():
        assert torch.equal(result[name], state[name]), name


def test_what_was_trained_whole_replaces_the_base(tmp_path: Path):
    whole = torch.randn(golden_tensors("pi0")["state_proj.weight"].shape)
    tensors = {**factors(), "base_model.model.model.state_proj.weight": whole}
    result = merged(adapter(tmp_path / "adapter", tensors), base(tmp_path / "base"))
    assert torch.equal(result["state_proj.weight"], whole)


def test_the_base_is_found_where_the_adapter_says(tmp_path: Path):
    plain = base(tmp_path / "base")
    folder = adapter(tmp_path / "run/pretrained_model", base_model_name_or_path=str(plain))
    (folder / "config.json").write_text(json.dumps(lerobot_config()))
    opened = open_checkpoint(tmp_path / "run")
    assert (opened.layout, opened.folder) == ("lerobot", folder)
    assert OURS in dict(opened.tensors([OURS]))
    assert sorted(opened.source_hashes())[-1] == "adapter_model.safetensors" and len(opened.source_hashes()) == 2


def test_merge_writes_a_checkpoint_of_ours(tmp_path: Path):
    plain = base(tmp_path / "base")
    sizes = tmp_path / "sizes.json"
    sizes.write_text(json.dumps(SIZES))
    folder = adapter(tmp_path / "adapter")
    files = ("--checkpoint", folder, "--base", plain, "--output", tmp_path / "merged", "--config", sizes)
    assert run("merge", *files).code == 2, "without a robot, only weights can be written"
    ran = run("merge", *files, "--weights-only", "--json")
    assert ran.code == 0, ran.err
    opened = open_checkpoint(tmp_path / "merged")
    wanted = merged(folder, plain)
    assert opened.layout == "pi0-edge" and opened.infer_config() == golden_state("pi0")[1]
    for name, tensor in opened.tensors(wanted):
        assert torch.equal(tensor, wanted[name]), name
    ran = run("merge", "--checkpoint", folder, "--base", plain, "--output", plain, "--weights-only")
    assert ran.code == 2 and "is the checkpoint or its base" in ran.err
    assert load_file(plain / "model.safetensors").keys() == golden_tensors("pi0").keys()


def _without(word: str) -> Callable[[dict[str, Tensor]], dict[str, Tensor]]:
    return lambda tensors: {name: tensor for name, tensor in tensors.items() if word not in name}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"use_dora": True}, "DoRA.*cannot be merged"),
        ({"peft_type": "IA3"}, "an adapter of the type IA3"),
        ({"init_lora_weights": "pissa_niter_4"}, "pissa_niter_4, which changed the base"),
        ({"fan_in_fan_out": True}, "transposed weights"),
        ({"r": 8}, r"rank 4, but adapter_config\.json says 8"),
        ({"lora_alpha": None}, "lora_alpha of .* is None, expected a positive number"),
        ({"alpha_pattern": {"(": 2}}, "which is no pattern"),
    ],
)
def test_what_is_not_a_plain_product_is_refused(tmp_path: Path, changes: dict[str, Any], message: str):
    with pytest.raises(CheckpointError, match=message):
        open_checkpoint(adapter(tmp_path / "adapter", **changes), base(tmp_path / "base"))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_without("lora_B"), "lacks its lora_B"),
        (_without("lora_A"), "lacks its lora_A"),
        (_without("lora"), "has no lora_A"),
        (lambda t: {**t, f"base_model.model.{LAYER}.lora_magnitude_vector": torch.ones(2)}, "DoRA"),
        (lambda t: {**t, "base_model.model.x.lora_embedding_A": torch.ones(2, 2)}, "factors of an embedding"),
        (lambda t: {name.replace("gemma_expert", "other"): one for name, one in t.items()}, "the base has no tensor"),
        (
            lambda t: {n: one[:, :-1] if "lora_A" in n else one for n, one in t.items()},
            "but the base has .* trained on",
        ),
        (lambda t: {**t, "base_model.model.state_proj.weight": torch.ones(3, 3)}, "state_proj.weight has shape"),
    ],
)
def test_an_adapter_of_another_base_or_a_damaged_one_is_refused(
    tmp_path: Path, damage: Callable[[dict[str, Tensor]], dict[str, Tensor]], message: str
):
    tensors = {name: tensor.contiguous() for name, tensor in damage(factors()).items()}
    with pytest.raises(CheckpointError, match=message):
        open_checkpoint(adapter(tmp_path / "adapter", tensors), base(tmp_path / "base"))


def test_an_adapter_without_its_base_says_how_to_merge_it(tmp_path: Path):
    folder = adapter(tmp_path / "adapter", base_model_name_or_path="lerobot/pi0_base")
    with pytest.raises(CheckpointError, match=r"only adapter weights.*pi0-edge merge --checkpoint .* --base BASE"):
        open_checkpoint(folder)
    (folder / "adapter_config.json").unlink()
    with pytest.raises(CheckpointError, match=r"only adapter weights, and no adapter_config\.json"):
        open_checkpoint(folder)
    with pytest.raises(CheckpointError, match="is no adapter"):
        open_checkpoint(base(tmp_path / "base"), folder)


class Policy(nn.Module):
    """Linear layers under the names of a checkpoint, for PEFT to put factors into."""

    def __init__(self, tensors: dict[str, Tensor]) -> None:
        super().__init__()
        for name in (f"model.{LAYER}", f"model.{OTHER}", "model.state_proj"):
            weight = tensors[f"{name.removeprefix('model.')}.weight"]
            levels, module = name.split("."), self
            for level in levels[:-1]:
                if level not in dict(module.named_children()):
                    module.add_module(level, nn.Module())
                module = module.get_submodule(level)
            linear = nn.Linear(weight.shape[1], weight.shape[0], bias=levels[-1] == "state_proj")
            linear.weight = nn.Parameter(weight.clone())
            module.add_module(levels[-1], linear)


@pytest.mark.parametrize(
    "changes", [{}, {"use_rslora": True}, {"alpha_pattern": {"down_proj": 3}, "rank_pattern": {"q_proj": 2}}]
)
def test_merged_weights_are_those_of_peft_itself(tmp_path: Path, changes: dict[str, Any]):
    peft = pytest.importorskip("peft", reason="the package peft is not installed")
    tensors = golden_tensors("pi0")
    settings = {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "down_proj"], **changes}
    torch.manual_seed(0)
    config = peft.LoraConfig(modules_to_save=["state_proj"], init_lora_weights=False, **settings)
    model = peft.get_peft_model(Policy(tensors), config)
    model.base_model.model.model.state_proj.modules_to_save.default.weight.data.add_(1)
    model.save_pretrained(tmp_path / "adapter")
    result = merged(tmp_path / "adapter", base(tmp_path / "base"))
    theirs = dict(model.merge_and_unload().named_parameters())
    places = {OURS: LAYER, "prefix.layers.1.mlp.down.weight": OTHER, "state_proj.weight": "state_proj"}
    for ours, name in places.items():
        torch.testing.assert_close(result[ours], theirs[f"model.{name}.weight"].data, rtol=1e-5, atol=1e-6)


def test_a_lora_checkpoint_of_openpi_holds_its_base(tmp_path: Path):
    pytest.importorskip("tensorstore")
    state, config = golden_state("pi0")
    arrays = jax_arrays(state, config)
    key = "PaliGemma.llm.layers.mlp_1.linear"
    layers, rows, columns = arrays[key].shape
    rng = np.random.default_rng(0)
    arrays[f"{key}_lora_a"] = rng.normal(size=(layers, rows, 4)).astype(np.float32)
    arrays[f"{key}_lora_b"] = rng.normal(size=(layers, 4, columns)).astype(np.float32)
    folder = write_orbax(tmp_path / "jax", arrays, False)
    (tmp_path / "sizes.json").write_text(json.dumps(SIZES))
    files = ("--checkpoint", folder, "--output", tmp_path / "merged", "--config", tmp_path / "sizes.json")
    ran = run("merge", *files, "--weights-only", "--json")
    assert ran.code == 0, ran.err
    found = load_file(tmp_path / "merged/model.safetensors")
    for layer in range(layers):
        product = arrays[f"{key}_lora_a"][layer] @ arrays[f"{key}_lora_b"][layer]
        name = f"expert.layers.{layer}.mlp.down.weight"
        torch.testing.assert_close(found[name], state[name] + torch.from_numpy(product).T)
