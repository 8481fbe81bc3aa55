"""Where openpi's JAX checkpoints keep our parameters, and how they must be rearranged.

The layers of a tower are stacked on the first axis, projections are split into heads and stored input-first, both
experts share one tree with the suffix `_1` for the action expert:

    ====================  =======================================  ==============================
    array (one layer)     stored                                   ours
    ====================  =======================================  ==============================
    q_einsum.w            [heads, width, head_dim]                 [heads * head_dim, width]
    kv_einsum.w           [2 (k, v), kv_heads, width, head_dim]    [kv_heads * head_dim, width] each
    attn_vec_einsum.w     [heads, head_dim, width]                 [width, heads * head_dim]
    mlp.gating_einsum     [2 (gate, up), width, mlp_dim]           [mlp_dim, width] each
    mlp.linear            [mlp_dim, width]                         [width, mlp_dim]
    query.kernel          [width, heads, head_dim]                 [width, width] transposed
    out.kernel            [heads, head_dim, width]                 [width, width] transposed
    ====================  =======================================  ==============================
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from torch import Tensor

from pi0_edge.checkpoints.layout import Entry, Location

Arrange = Callable[[Tensor], Tensor]


def _transposed(kernel: Tensor) -> Tensor:
    return kernel.t()


def _flat(bias: Tensor) -> Tensor:
    return bias.reshape(-1)


def _inputs_first(kernel: Tensor) -> Tensor:
    """[inputs, heads, head_dim] -> [heads * head_dim, inputs]."""
    return kernel.flatten(1).t()


def _heads_first(kernel: Tensor) -> Tensor:
    """[heads, head_dim, outputs] -> [outputs, heads * head_dim]."""
    return kernel.flatten(0, 1).t()


def _einsum(weight: Tensor) -> Tensor:
    """[heads, width, head_dim] -> [heads * head_dim, width]."""
    return weight.transpose(1, 2).flatten(0, 1)


def _of_pair(index: int, arrange: Arrange) -> Arrange:
    return lambda pair: arrange(pair[index])


def _patches(kernel: Tensor) -> Tensor:
    """[height, width, channels, outputs] -> [outputs, channels, height, width]."""
    return kernel.permute(3, 2, 0, 1)


def _first(array: Tensor) -> Tensor:
    return array[0]


_IMG = "PaliGemma.img."
_BLOCK = f"{_IMG}Transformer.encoderblock."
_MHA = f"{_BLOCK}MultiHeadDotProductAttention_0."
_LLM = "PaliGemma.llm."

_SINGLE: dict[str, tuple[str, Arrange | None]] = {
    "vision.patch_embedding.weight": (f"{_IMG}embedding.kernel", _patches),
    "vision.patch_embedding.bias": (f"{_IMG}embedding.bias", None),
    "vision.position_embedding": (f"{_IMG}pos_embedding", _first),
    "vision.final_norm.weight": (f"{_IMG}Transformer.encoder_norm.scale", None),
    "vision.final_norm.bias": (f"{_IMG}Transformer.encoder_norm.bias", None),
    "projector.weight": (f"{_IMG}head.kernel", _transposed),
    "projector.bias": (f"{_IMG}head.bias", None),
    "token_embedding.weight": (f"{_LLM}embedder.input_embedding", None),
    "expert.final_norm.weight": (f"{_LLM}final_norm_1.scale", None),
    "expert.final_norm.modulation.weight": (f"{_LLM}final_norm_1.Dense_0.kernel", _transposed),
    "expert.final_norm.modulation.bias": (f"{_LLM}final_norm_1.Dense_0.bias", None),
}
_VISION: dict[str, tuple[str, Arrange | None]] = {
    "norm1.weight": (f"{_BLOCK}LayerNorm_0.scale", None),
    "norm1.bias": (f"{_BLOCK}LayerNorm_0.bias", None),
    "norm2.weight": (f"{_BLOCK}LayerNorm_1.scale", None),
    "norm2.bias": (f"{_BLOCK}LayerNorm_1.bias", None),
    "attention.q.weight": (f"{_MHA}query.kernel", _inputs_first),
    "attention.q.bias": (f"{_MHA}query.bias", _flat),
    "attention.k.weight": (f"{_MHA}key.kernel", _inputs_first),
    "attention.k.bias": (f"{_MHA}key.bias", _flat),
    "attention.v.weight": (f"{_MHA}value.kernel", _inputs_first),
    "attention.v.bias": (f"{_MHA}value.bias", _flat),
    "attention.out.weight": (f"{_MHA}out.kernel", _heads_first),
    "attention.out.bias": (f"{_MHA}out.bias", None),
    "mlp.fc1.weight": (f"{_BLOCK}MlpBlock_0.Dense_0.kernel", _transposed),
    "mlp.fc1.bias": (f"{_BLOCK}MlpBlock_0.Dense_0.bias", None),
    "mlp.fc2.weight": (f"{_BLOCK}MlpBlock_0.Dense_1.kernel", _transposed),
    "mlp.fc2.bias": (f"{_BLOCK}MlpBlock_0.Dense_1.bias", None),
}
_GEMMA: dict[str, tuple[str, Arrange | None]] = {
    "attention_norm.weight": ("pre_attention_norm{e}.scale", None),
    "attention_norm.modulation.weight": ("pre_attention_norm{e}.Dense_0.kernel", _transposed),
    "attention_norm.modulation.bias": ("pre_attention_norm{e}.Dense_0.bias", None),
    "mlp_norm.weight": ("pre_ffw_norm{e}.scale", None),
    "mlp_norm.modulation.weight": ("pre_ffw_norm{e}.Dense_0.kernel", _transposed),
    "mlp_norm.modulation.bias": ("pre_ffw_norm{e}.Dense_0.bias", None),
    "attention.q.weight": ("attn.q_einsum{e}.w", _einsum),
    "attention.k.weight": ("attn.kv_einsum{e}.w", _of_pair(0, _einsum)),
    "attention.v.weight": ("attn.kv_einsum{e}.w", _of_pair(1, _einsum)),
    "attention.o.weight": ("attn.attn_vec_einsum{e}.w", _heads_first),
    "mlp.gate.weight": ("mlp{e}.gating_einsum", _of_pair(0, _transposed)),
    "mlp.up.weight": ("mlp{e}.gating_einsum", _of_pair(1, _transposed)),
    "mlp.down.weight": ("mlp{e}.linear", _transposed),
}
_LAYER = re.compile(r"(vision|prefix|expert)\.layers\.(\d+)\.(.+)")
_STACKS = {
    "vision": f"{_BLOCK}LayerNorm_0.scale",
    "prefix": f"{_LLM}layers.attn.kv_einsum.w",
    "expert": f"{_LLM}layers.attn.kv_einsum_1.w",
}


class OrbaxLayout:
    """Names of openpi's JAX checkpoints."""

    name = "openpi-jax"

    def __init__(self, entries: Mapping[str, Entry]) -> None:
        """Entries are the arrays of an `OrbaxSource`, LoRA factors merged."""
        self._entries = entries

    def locate(self, name: str) -> Location:
        """Array, layer and rearrangement of one of our parameters."""
        if match := _LAYER.fullmatch(name):
            key, arrange = self._in_layer(match[1], match[3])
            return Location(key, int(match[2]), arrange)
        if name in _SINGLE:
            return Location(_SINGLE[name][0], None, _SINGLE[name][1])
        module, _, leaf = name.rpartition(".")
        return Location(f"{module}.kernel", None, _transposed) if leaf == "weight" else Location(f"{module}.bias")

    def unused(self, key: str, prefix_depth: int) -> bool:
        """Only the prefix's final norm; the dead part of its last layer is stacked with what is used."""
        return key == f"{_LLM}final_norm.scale"

    def layers(self, tower: str) -> int:
        """Length of the layer axis."""
        return self._entries[_STACKS[tower]].shape[0] if _STACKS[tower] in self._entries else 0

    def sizes(self) -> Mapping[str, int | str]:
        """Heads and head widths, which this layout keeps apart."""
        sizes: dict[str, int | str] = {}
        if (query := self._entries.get(f"{_MHA}query.kernel")) and len(query.shape) == 4:
            sizes["vision.heads"] = query.shape[2]
        for tower, key in (("prefix", _STACKS["prefix"]), ("expert", _STACKS["expert"])):
            if (kv := self._entries.get(key)) and len(kv.shape) == 5:
                sizes[f"{tower}.kv_heads"], sizes[f"{tower}.head_dim"] = kv.shape[2], kv.shape[4]
        return sizes

    def _in_layer(self, tower: str, name: str) -> tuple[str, Arrange | None]:
        if tower == "vision":
            return _VISION[name]
        key, arrange = _GEMMA[name]
        return f"{_LLM}layers." + key.format(e="_1" if tower == "expert" else ""), arrange
