"""Gemma layers, as the prefix and the action expert both use them.

Every token block of π0 (prefix; state; actions) attends to the blocks before it and to all of itself. Run one block
after the other, with the keys and values of the earlier ones cached, and the blockwise mask disappears: what is left is
a mask over keys that hides the padding of a ragged batch, and nothing at all when the batch is not ragged.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pi0_edge.model.config import GemmaConfig

RMS_NORM_EPS = 1e-6
ROPE_BASE = 10_000.0


@dataclass(frozen=True)
class KeyValues:
    """Keys (after rotary positions) and values of one layer, each [batch, tokens, kv_heads, head_dim]."""

    keys: Tensor
    values: Tensor

    def extended(self, other: KeyValues) -> KeyValues:
        """These tokens followed by `other`."""
        return KeyValues(torch.cat((self.keys, other.keys), 1), torch.cat((self.values, other.values), 1))


def rms_normalize(x: Tensor) -> Tensor:
    """X / sqrt(mean(x²) + 1e-6) over the last axis, in float32."""
    x = x.float()
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + RMS_NORM_EPS)


class RMSNorm(nn.Module):
    """RMS normalization times (1 + weight), in float32."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor, modulation: None = None) -> tuple[Tensor, None]:
        """[..., width] -> the normalized tensor, and no gate."""
        return (rms_normalize(x) * (1 + self.weight.float())).to(x.dtype), None


class AdaRMSNorm(nn.Module):
    """RMS normalization with scale, shift and residual gate from the time conditioning (π0.5)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.modulation = nn.Linear(width, 3 * width)
        nn.init.zeros_(self.modulation.weight)
        nn.init.zeros_(self.modulation.bias)

    def forward(self, x: Tensor, modulation: Tensor) -> tuple[Tensor, Tensor]:
        """[..., width] with modulation [..., 3 * width] -> the modulated tensor, and the gate of its residual."""
        scale, shift, gate = modulation.chunk(3, dim=-1)
        return (rms_normalize(x) * (1 + scale) + shift).to(x.dtype), gate.to(x.dtype)


class Rotary:
    """Rotary positions for one block of tokens: base 10000, first half of head_dim paired with the second half."""

    def __init__(self, positions: Tensor, head_dim: int, dtype: torch.dtype) -> None:
        """Positions are int64 [batch or 1, tokens]."""
        exponent = torch.arange(0, head_dim, 2, dtype=torch.float32, device=positions.device) / head_dim
        angle = positions[..., None].float() * (1.0 / ROPE_BASE**exponent)
        self.cos = angle.cos().to(dtype)[:, :, None, :]
        self.sin = angle.sin().to(dtype)[:, :, None, :]

    def __call__(self, x: Tensor) -> Tensor:
        """[batch, tokens, heads, head_dim] -> the same shape, rotated."""
        first, second = x.chunk(2, dim=-1)
        return torch.cat((first * self.cos - second * self.sin, second * self.cos + first * self.sin), dim=-1)


class Attention(nn.Module):
    """Grouped-query attention without biases."""

    def __init__(self, config: GemmaConfig) -> None:
        super().__init__()
        self.head_dim = config.head_dim
        self.q = nn.Linear(config.width, config.heads * config.head_dim, bias=False)
        self.k = nn.Linear(config.width, config.kv_heads * config.head_dim, bias=False)
        self.v = nn.Linear(config.width, config.kv_heads * config.head_dim, bias=False)
        self.o = nn.Linear(config.heads * config.head_dim, config.width, bias=False)

    def key_values(self, x: Tensor, rotary: Rotary) -> KeyValues:
        """[batch, tokens, width] -> keys and values of these tokens."""
        k, v = (project(x).unflatten(-1, (-1, self.head_dim)) for project in (self.k, self.v))
        return KeyValues(rotary(k), v)

    def forward(self, x: Tensor, rotary: Rotary, seen: KeyValues, key_mask: Tensor | None) -> Tensor:
        """Queries from `x` [batch, tokens, width] over all keys in `seen`; key_mask is bool [batch, keys]."""
        q = rotary(self.q(x).unflatten(-1, (-1, self.head_dim)))
        batch, tokens, heads, head_dim = q.shape
        kv_heads = seen.keys.shape[2]
        # No mask depends on the query, so the query heads of one group are just more queries of one attention.
        grouped = q.view(batch, tokens, kv_heads, heads // kv_heads, head_dim).permute(0, 2, 3, 1, 4).flatten(2, 3)
        mask = None if key_mask is None else key_mask[:, None, None, :]
        out = F.scaled_dot_product_attention(
            grouped, seen.keys.transpose(1, 2), seen.values.transpose(1, 2), attn_mask=mask
        )
        out = out.view(batch, kv_heads, heads // kv_heads, tokens, head_dim).permute(0, 3, 1, 2, 4)
        return self.o(out.reshape(batch, tokens, heads * head_dim))


class MLP(nn.Module):
    """GeGLU with tanh-GELU: down(gelu(gate(x)) * up(x))."""

    def __init__(self, config: GemmaConfig) -> None:
        super().__init__()
        self.gate = nn.Linear(config.width, config.mlp_dim, bias=False)
        self.up = nn.Linear(config.width, config.mlp_dim, bias=False)
        self.down = nn.Linear(config.mlp_dim, config.width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """[..., width] -> the same shape."""
        return self.down(F.gelu(self.gate(x), approximate="tanh") * self.up(x))


def residual(x: Tensor, update: Tensor, gate: Tensor | None) -> Tensor:
    """X + update, or x + gate * update where the norm before it is adaptive."""
    return x + (update if gate is None else gate * update)


class GemmaLayer(nn.Module):
    """Pre-norm attention over cached and own keys, then a pre-norm MLP."""

    def __init__(self, config: GemmaConfig, adaptive: bool = False) -> None:
        super().__init__()
        norm = AdaRMSNorm if adaptive else RMSNorm
        self.attention_norm = norm(config.width)
        self.attention = Attention(config)
        self.mlp_norm = norm(config.width)
        self.mlp = MLP(config)

    def key_values(self, x: Tensor, rotary: Rotary) -> KeyValues:
        """Keys and values that this layer would cache for `x`, without computing the layer (plain norms only)."""
        return self.attention.key_values(self.attention_norm(x)[0], rotary)

    def forward(
        self,
        x: Tensor,
        rotary: Rotary,
        seen: KeyValues | None = None,
        key_mask: Tensor | None = None,
        modulation: tuple[Tensor | None, Tensor | None] = (None, None),
    ) -> tuple[Tensor, KeyValues]:
        """One layer over a block of tokens.

        Args:
            x: [batch, tokens, width].
            rotary: Positions of these tokens.
            seen: Keys and values of the blocks before this one.
            key_mask: bool [batch, seen + own keys]; None where every key is valid.
            modulation: Of the attention norm and of the MLP norm (π0.5), each [batch or 1, 1, 3 * width].

        Returns:
            The layer's output [batch, tokens, width] and the keys and values of these tokens alone.
        """
        normed, gate = self.attention_norm(x, modulation[0])
        own = self.attention.key_values(normed, rotary)
        x = residual(x, self.attention(normed, rotary, own if seen is None else seen.extended(own), key_mask), gate)
        normed, gate = self.mlp_norm(x, modulation[1])
        return residual(x, self.mlp(normed), gate), own


class KeyValueProjection(nn.Module):
    """The key and value half of an attention."""

    def __init__(self, config: GemmaConfig) -> None:
        super().__init__()
        self.head_dim = config.head_dim
        self.k = nn.Linear(config.width, config.kv_heads * config.head_dim, bias=False)
        self.v = nn.Linear(config.width, config.kv_heads * config.head_dim, bias=False)

    key_values = Attention.key_values


class KeyValueLayer(nn.Module):
    """The last prefix layer: the prefix's output is not used, so only its keys and values are computed."""

    def __init__(self, config: GemmaConfig) -> None:
        super().__init__()
        self.attention_norm = RMSNorm(config.width)
        self.attention = KeyValueProjection(config)

    def key_values(self, x: Tensor, rotary: Rotary) -> KeyValues:
        """[batch, tokens, width] -> keys and values of these tokens."""
        return self.attention.key_values(self.attention_norm(x)[0], rotary)


class Prefix(nn.Module):
    """Images and prompt, attended once; what remains of them is one `KeyValues` per layer."""

    def __init__(self, config: GemmaConfig) -> None:
        super().__init__()
        self.head_dim = config.head_dim
        layers = [GemmaLayer(config) for _ in range(config.depth - 1)]
        self.layers = nn.ModuleList([*layers, KeyValueLayer(config)])

    def forward(self, x: Tensor, key_mask: Tensor | None) -> list[KeyValues]:
        """[batch, tokens, width], left-aligned -> keys and values of every layer."""
        rotary = Rotary(torch.arange(x.shape[1], device=x.device)[None], self.head_dim, x.dtype)
        cache = []
        for layer in self.layers[:-1]:
            x, own = layer(x, rotary, key_mask=key_mask)
            cache.append(own)
        last = cast(KeyValueLayer, self.layers[-1])
        return [*cache, last.key_values(x, rotary)]


class ActionExpert(nn.Module):
    """State and action tokens, attending to everything cached before them."""

    def __init__(self, config: GemmaConfig, adaptive: bool) -> None:
        super().__init__()
        self.head_dim = config.head_dim
        self.layers = nn.ModuleList(GemmaLayer(config, adaptive) for _ in range(config.depth))
        self.final_norm = (AdaRMSNorm if adaptive else RMSNorm)(config.width)

    def norms(self) -> list[nn.Module]:
        """All norms in the order in which `forward` takes their modulations."""
        names = ("attention_norm", "mlp_norm")
        return [*(layer.get_submodule(name) for layer in self.layers for name in names), self.final_norm]

    def key_values(
        self, x: Tensor, positions: Tensor, seen: list[KeyValues], key_mask: Tensor | None
    ) -> list[KeyValues]:
        """Keys and values of a block that only later blocks read, such as the state token."""
        rotary = Rotary(positions, self.head_dim, x.dtype)
        cache = []
        for layer, before in zip(self.layers[:-1], seen, strict=False):
            x, own = layer(x, rotary, before, key_mask)
            cache.append(own)
        last = cast(GemmaLayer, self.layers[-1])
        return [*cache, last.key_values(x, rotary)]

    def forward(
        self,
        x: Tensor,
        positions: Tensor,
        seen: list[KeyValues],
        key_mask: Tensor | None,
        modulations: list[Tensor] | None,
    ) -> Tensor:
        """One pass over the action tokens.

        Args:
            x: [batch, tokens, width].
            positions: int64 [batch, tokens].
            seen: Per layer, keys and values of prefix and state.
            key_mask: bool [batch, seen + own keys], or None.
            modulations: One per norm, in the order of `norms` (π0.5); None for π0.

        Returns:
            The final-normed output [batch, tokens, width].
        """
        rotary = Rotary(positions, self.head_dim, x.dtype)
        modulation = modulations or [None] * (2 * len(self.layers) + 1)
        for i, (layer, before) in enumerate(zip(self.layers, seen, strict=True)):
            x, _ = layer(x, rotary, before, key_mask, (modulation[2 * i], modulation[2 * i + 1]))
        return self.final_norm(x, modulation[-1])[0]
