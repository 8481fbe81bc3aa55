"""Miniature checkpoints for the tests, written in every layout that `pi0_edge.checkpoints` reads.

The rearrangements here are written the other way round (ours to theirs) and with einsum-like reshapes, so that they do
not repeat the code under test.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from pi0_edge.checkpoints import open_checkpoint
from pi0_edge.model import Pi0, Pi0Config

DATA = Path(__file__).parents[1] / "data"
SIZES = {"vision": {"heads": 4}, "horizon": 50}
"""What the shapes of the golden miniature do not tell."""

EMBED_TOKENS = "paligemma_with_expert.paligemma.model.language_model.embed_tokens.weight"
LM_HEAD = "paligemma_with_expert.paligemma.lm_head.weight"


def golden_path(variant: str) -> Path:
    """The miniature openpi checkpoint of the reference implementation."""
    return DATA / "golden" / f"tiny_{variant}_float32.weights.safetensors"


def golden_tensors(variant: str) -> dict[str, Tensor]:
    """Its tensors under openpi's names."""
    return load_file(golden_path(variant))


@functools.cache
def golden_state(variant: str) -> tuple[dict[str, Tensor], Pi0Config]:
    """Its parameters under our names, and its sizes."""
    checkpoint = open_checkpoint(golden_path(variant))
    config = checkpoint.infer_config(SIZES)
    model = Pi0(config)
    checkpoint.load_into(model)
    return model.state_dict(), config


def write_safetensors(folder: Path, tensors: Mapping[str, Tensor], config: dict[str, Any] | None = None) -> Path:
    """A folder with model.safetensors and, if given, config.json."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.clone().contiguous() for name, tensor in tensors.items()}, folder / "model.safetensors")
    if config is not None:
        (folder / "config.json").write_text(json.dumps(config))
    return folder


def lerobot_config(variant: str = "pi0") -> dict[str, Any]:
    """The config.json that LeRobot wrote beside a π0 checkpoint."""
    config = json.loads((DATA / "lerobot_main_pi0_ckpt" / "config.json").read_text())
    return {**config, "type": variant}


def write_orbax(folder: Path, arrays: Mapping[str, np.ndarray], value_leaf: bool) -> Path:
    """Writes arrays as orbax does: one OCDBT store of zarr arrays below `params`, one chunk per array."""
    import tensorstore

    params = folder / "params"
    params.mkdir(parents=True)
    base = {"driver": "file", "path": f"{params}/"}
    with tensorstore.Transaction() as transaction:
        for key, array in arrays.items():
            path = f"params.{key}{'.value' if value_leaf else ''}/"
            spec = {"driver": "zarr", "kvstore": {"driver": "ocdbt", "base": base, "path": path}}
            created = {"create": True, "dtype": array.dtype, "shape": array.shape, "transaction": transaction}
            tensorstore.open(spec, **created).result().write(array).result()
    return folder


def jax_arrays(state: Mapping[str, Tensor], config: Pi0Config) -> dict[str, np.ndarray]:
    """Our parameters as openpi's JAX tree stores them, dead weights of the last prefix layer filled with zeros."""
    ours = {name: tensor.float().numpy() for name, tensor in state.items()}
    return {**_jax_vision(ours, config), **_jax_tokens(ours), **_jax_experts(ours, config), **_jax_projections(ours)}


def _jax_vision(ours: dict[str, np.ndarray], config: Pi0Config) -> dict[str, np.ndarray]:
    width, heads, depth = config.vision.width, config.vision.heads, config.vision.depth

    def stack(name: str) -> np.ndarray:
        return np.stack([ours[f"vision.layers.{i}.{name}"] for i in range(depth)])

    block, head = "PaliGemma.img.Transformer.encoderblock", (heads, width // heads)
    arrays = {
        "PaliGemma.img.embedding.kernel": np.einsum("ochw->hwco", ours["vision.patch_embedding.weight"]),
        "PaliGemma.img.embedding.bias": ours["vision.patch_embedding.bias"],
        "PaliGemma.img.pos_embedding": ours["vision.position_embedding"][None],
        "PaliGemma.img.Transformer.encoder_norm.scale": ours["vision.final_norm.weight"],
        "PaliGemma.img.Transformer.encoder_norm.bias": ours["vision.final_norm.bias"],
        "PaliGemma.img.head.kernel": ours["projector.weight"].T,
        "PaliGemma.img.head.bias": ours["projector.bias"],
    }
    for ours_name, theirs in (("norm1", "LayerNorm_0"), ("norm2", "LayerNorm_1")):
        arrays[f"{block}.{theirs}.scale"] = stack(f"{ours_name}.weight")
        arrays[f"{block}.{theirs}.bias"] = stack(f"{ours_name}.bias")
    for ours_name, theirs in (("fc1", "Dense_0"), ("fc2", "Dense_1")):
        arrays[f"{block}.MlpBlock_0.{theirs}.kernel"] = np.einsum("lof->lfo", stack(f"mlp.{ours_name}.weight"))
        arrays[f"{block}.MlpBlock_0.{theirs}.bias"] = stack(f"mlp.{ours_name}.bias")
    attention = f"{block}.MultiHeadDotProductAttention_0"
    for ours_name, theirs in (("q", "query"), ("k", "key"), ("v", "value")):
        weight = stack(f"attention.{ours_name}.weight").reshape(depth, *head, width)
        arrays[f"{attention}.{theirs}.kernel"] = np.einsum("lnhd->ldnh", weight)
        arrays[f"{attention}.{theirs}.bias"] = stack(f"attention.{ours_name}.bias").reshape(depth, *head)
    out = stack("attention.out.weight").reshape(depth, width, *head)
    arrays[f"{attention}.out.kernel"] = np.einsum("ldnh->lnhd", out)
    arrays[f"{attention}.out.bias"] = stack("attention.out.bias")
    return arrays


def _jax_tokens(ours: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    table = ours["token_embedding.weight"]
    return {
        "PaliGemma.llm.embedder.input_embedding": table,
        "PaliGemma.llm.final_norm.scale": np.zeros(table.shape[1], np.float32),
    }


def _jax_experts(ours: dict[str, np.ndarray], config: Pi0Config) -> dict[str, np.ndarray]:
    arrays: dict[str, np.ndarray] = {}
    for tower, suffix, sizes in (("prefix", "", config.prefix), ("expert", "_1", config.expert)):
        stack = _Stack(ours, tower, sizes.depth)
        heads, kv, dim = sizes.heads, sizes.kv_heads, sizes.head_dim
        attn, mlp = "PaliGemma.llm.layers.attn", f"PaliGemma.llm.layers.mlp{suffix}"
        q, k, v = (stack(f"attention.{name}.weight") for name in "qkv")
        q, k, v = (w.reshape(len(w), -1, dim, sizes.width) for w in (q, k, v))
        arrays[f"{attn}.q_einsum{suffix}.w"] = np.einsum("lnhd->lndh", q)
        arrays[f"{attn}.kv_einsum{suffix}.w"] = np.einsum("plnhd->lpndh", np.stack((k, v)))
        o = stack("attention.o.weight").reshape(sizes.depth, sizes.width, heads, dim)
        arrays[f"{attn}.attn_vec_einsum{suffix}.w"] = np.einsum("ldnh->lnhd", o)
        gate_up = np.stack((stack("mlp.gate.weight"), stack("mlp.up.weight")))
        arrays[f"{mlp}.gating_einsum"] = np.einsum("plfd->lpdf", gate_up)
        arrays[f"{mlp}.linear"] = np.einsum("ldf->lfd", stack("mlp.down.weight"))
        for ours_name, theirs in (("attention_norm", "pre_attention_norm"), ("mlp_norm", "pre_ffw_norm")):
            arrays |= _jax_norm(stack, ours_name, f"PaliGemma.llm.layers.{theirs}{suffix}")
        assert arrays[f"{attn}.kv_einsum{suffix}.w"].shape == (sizes.depth, 2, kv, sizes.width, dim)
    final = _Stack({f"expert.layers.0.{n[7:]}": a for n, a in ours.items() if "expert.final_norm" in n}, "expert", 1)
    for key, array in _jax_norm(final, "final_norm", "PaliGemma.llm.final_norm_1").items():
        arrays[key] = array[0]
    return arrays


class _Stack:
    """Stacks one parameter over the layers of a tower; what our prefix leaves out of its last layer becomes zeros."""

    def __init__(self, ours: Mapping[str, np.ndarray], tower: str, depth: int) -> None:
        self.names = [f"{tower}.layers.{i}" for i in range(depth)]
        self.ours = ours

    def __call__(self, name: str) -> np.ndarray:
        first = self.ours[f"{self.names[0]}.{name}"]
        return np.stack([self.ours.get(f"{layer}.{name}", np.zeros_like(first)) for layer in self.names])

    def has(self, name: str) -> bool:
        return f"{self.names[0]}.{name}" in self.ours


def _jax_norm(stack: _Stack, ours: str, theirs: str) -> dict[str, np.ndarray]:
    if stack.has(f"{ours}.weight"):
        return {f"{theirs}.scale": stack(f"{ours}.weight")}
    kernel = np.einsum("lof->lfo", stack(f"{ours}.modulation.weight"))
    return {f"{theirs}.Dense_0.kernel": kernel, f"{theirs}.Dense_0.bias": stack(f"{ours}.modulation.bias")}


def _jax_projections(ours: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    arrays: dict[str, np.ndarray] = {}
    for name, array in ours.items():
        module, _, leaf = name.rpartition(".")
        if "." not in module and module not in ("token_embedding", "projector", "vision"):
            arrays[f"{module}.{'kernel' if leaf == 'weight' else 'bias'}"] = array.T
    return arrays


def assert_same_parameters(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """Bit for bit."""
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=0, atol=0, msg=name)
