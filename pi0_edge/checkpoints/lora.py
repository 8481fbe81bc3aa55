"""LoRA factors of openpi's JAX checkpoints, merged into the weights while they are read.

openpi stores beside a weight two factors of a low rank r (its `models/lora.py`; axes behind the layer axis)::

    q_einsum.w, kv_einsum.w   [.., width, head_dim]       lora_a [.., width, r]        lora_b [.., r, head_dim]
    attn_vec_einsum.w         [heads, head_dim, width]    lora_a [heads, head_dim, r]  lora_b [heads, r, width]
    mlp.gating_einsum         [2, width, mlp_dim]         .._lora_a [2, width, r]      .._lora_b [2, r, mlp_dim]
    mlp.linear                [mlp_dim, width]            .._lora_a [mlp_dim, r]       .._lora_b [r, width]

A merged weight is w + s a b. In `attn_vec_einsum` the einsum of openpi sums a and b over the heads each by itself, so
that what is added to the weight of a head is its own a times the sum of b over all heads. The scale s = alpha / r is
not stored; it is 1 in openpi's variants gemma_2b_lora (16 / 16) and gemma_300m_lora (32 / 32), and openpi's MLP always
adds a b without a scale.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from pi0_edge.checkpoints.layout import Entry, TensorSource
from pi0_edge.errors import CheckpointError

_log = logging.getLogger(__name__)

_OUTPUT = ".attn_vec_einsum"


def merged_source(source: TensorSource) -> TensorSource:
    """The source itself, or one that merges its LoRA factors.

    Raises:
        CheckpointError: If a factor has no weight or no partner, or the shapes do not fit.
    """
    return MergedLora(source) if any("lora_" in key for key in source.entries) else source


class MergedLora:
    """The arrays of another source, with their LoRA factors merged in float32; the factors themselves are hidden."""

    def __init__(self, source: TensorSource) -> None:
        """Pairs the factors with their weights, see `merged_source`."""
        self._source = source
        self._factors = _factors(source.entries)
        self._read: tuple[str, tuple[Tensor, Tensor]] | None = None
        plain = {key: entry for key, entry in source.entries.items() if "lora_" not in key}
        self.entries: Mapping[str, Entry] = {
            key: dataclasses.replace(entry, dtype=torch.float32) if key in self._factors else entry
            for key, entry in plain.items()
        }
        ranks = sorted({source.entries[a].shape[-1] for a, _ in self._factors.values()})
        _log.warning(
            "LoRA factors of rank %s are merged into %d weights with the scale 1, that of openpi's gemma_2b_lora and "
            "gemma_300m_lora; the files do not record it. If you trained with another alpha or with rslora, merge them "
            "with openpi",
            " and ".join(map(str, ranks)),
            len(self._factors),
        )

    def read_rows(self, key: str, start: int, stop: int) -> Tensor:
        """Rows of one array; merged where it has factors."""
        if key not in self._factors:
            return self._source.read_rows(key, start, stop)
        a, b = (factor[start:stop] for factor in self._factors_of(key))
        return self._source.read_rows(key, start, stop).float() + a @ b

    def release(self) -> None:
        """Forgets the factors read last, and what the other source keeps."""
        self._read = None
        self._source.release()

    def files(self) -> list[Path]:
        """As the other source."""
        return self._source.files()

    def _factors_of(self, key: str) -> tuple[Tensor, Tensor]:
        """Both factors of a weight for all layers, kept in memory: between its layers no other array is decoded."""
        if self._read is None or self._read[0] != key:
            a, b = (self._all_rows(factor) for factor in self._factors[key])
            self._read = key, (a, b.sum(1, keepdim=True) if _OUTPUT in key else b)
        return self._read[1]

    def _all_rows(self, key: str) -> Tensor:
        return self._source.read_rows(key, 0, self._source.entries[key].shape[0]).float()


def _factors(entries: Mapping[str, Entry]) -> dict[str, tuple[str, str]]:
    """Both factors by the key of their weight."""
    factors: dict[str, tuple[str, str]] = {}
    for a in (key for key in entries if key.endswith("lora_a")):
        b = a[:-1] + "b"
        weight = a.replace(".lora_a", ".w") if a.endswith(".lora_a") else a.removesuffix("_lora_a")
        if b not in entries or weight not in entries:
            raise CheckpointError(
                f"the LoRA factor {a} lacks {weight if b in entries else b}; copy the checkpoint again"
            )
        shapes = [entries[key].shape for key in (weight, a, b)]
        fits = shapes[1][:-1] == shapes[0][:-1] and shapes[2][-1] == shapes[0][-1] and shapes[1][-1] == shapes[2][-2]
        if not fits:
            raise CheckpointError(
                f"the LoRA factors {a} {shapes[1]} and {b} {shapes[2]} do not fit {weight} {shapes[0]}"
            )
        factors[weight] = (a, b)
    alone = [key for key in entries if key.endswith("lora_b") and key[:-1] + "a" not in entries]
    if alone:
        raise CheckpointError(f"the LoRA factor {alone[0]} lacks {alone[0][:-1]}a; copy the checkpoint again")
    return factors
