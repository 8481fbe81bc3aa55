"""SmoothQuant: moves outliers of the activations into the weights, exactly, before anything is rounded.

Channel k of the activations is divided by s_k, and column k of every weight that reads it multiplied by s_k; the
division is folded into whatever produces the channel, so it costs nothing:

| producer                             | consumers                          |
|--------------------------------------|------------------------------------|
| norm before an attention             | q, k, v                            |
| norm before an MLP                   | gate and up, or fc1                |
| v of the vision tower                | out                                |
| up (the GeGLU is linear in it)       | down                               |

What stays as it is: o of both experts, because the action tokens mix the values of prefix and expert; fc2 of the vision
tower, which reads a GELU; and whatever reads an adaptive norm (π0.5), which has no weights of its own.

s_k = max|x_k|^α / max|w_k|^(1−α); source: Xiao et al., SmoothQuant (arXiv 2211.10438).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from pi0_edge.model.gemma import RMSNorm
from pi0_edge.quant.schemes import Scheme

SMALLEST = 1e-5
"""Channels that are never used, in activations or weights, count as this much."""
LARGEST_FACTOR = 1e4
"""Factors stay within this and its inverse, so that a dead channel cannot blow up a weight."""

_QKV = ("attention.q", "attention.k", "attention.v")
_CONSUMERS = {
    "attention_norm": _QKV,
    "norm1": _QKV,
    "mlp_norm": ("mlp.gate", "mlp.up"),
    "norm2": ("mlp.fc1",),
    "attention.v": ("attention.out",),
    "mlp.up": ("mlp.down",),
}


@dataclass(frozen=True)
class _Group:
    """One producer and everything that reads it."""

    producer: str
    consumers: tuple[str, ...]


@torch.no_grad()
def smooth(model: nn.Module, scheme: Scheme, channel_amax: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Smooths every group whose consumers all fall under rules with smoothing, in place.

    Args:
        model: In floating point; it computes the same function afterwards.
        scheme: Its rules name the exponents.
        channel_amax: Largest magnitude of every channel that enters a linear, float32 [K], by module path.

    Returns:
        `channel_amax` as it is now.
    """
    amax = dict(channel_amax)
    for group in _groups(model):
        rules = [scheme.rule_for(path) for path in group.consumers]
        if any(rule is None or not rule.smoothing for rule in rules) or group.consumers[0] not in amax:
            continue
        alpha = max(rule.smoothing for rule in rules if rule is not None)
        for path, now in _smooth_group(model, group, alpha, amax).items():
            amax[path] = now
    return amax


def smoothing_factor(inputs: Tensor, weights: Tensor, alpha: float) -> Tensor:
    """s_k of every channel, from the largest magnitudes of its activations and of its weights, each [K]."""
    factor = inputs.clamp_min(SMALLEST) ** alpha / weights.clamp_min(SMALLEST) ** (1 - alpha)
    return factor.clamp(1 / LARGEST_FACTOR, LARGEST_FACTOR)


def _groups(model: nn.Module) -> Iterator[_Group]:
    paths = {path for path, _ in model.named_modules()}
    for path in sorted(paths):
        for producer, consumers in _CONSUMERS.items():
            layer = path.removesuffix(f".{producer}")
            found = tuple(f"{layer}.{consumer}" for consumer in consumers if f"{layer}.{consumer}" in paths)
            if layer != path and found and isinstance(model.get_submodule(path), RMSNorm | nn.LayerNorm | nn.Linear):
                yield _Group(path, found)


def _smooth_group(model: nn.Module, group: _Group, alpha: float, amax: Mapping[str, Tensor]) -> dict[str, Tensor]:
    producer = model.get_submodule(group.producer)
    linears = [cast(nn.Linear, model.get_submodule(path)) for path in group.consumers]
    inputs = amax[group.consumers[0]].float()
    weights = torch.stack([linear.weight.abs().amax(0).float() for linear in linears]).amax(0)
    factor = smoothing_factor(inputs, weights, alpha)
    _divide_output(producer, factor)
    for linear in linears:
        linear.weight.copy_(linear.weight.float() * factor)
    return {path: amax[path].float() / factor for path in group.consumers if path in amax}


def _divide_output(producer: nn.Module, factor: Tensor) -> None:
    if isinstance(producer, RMSNorm):
        producer.weight.copy_((1 + producer.weight.float()) / factor - 1)
        return
    producer = cast("nn.LayerNorm | nn.Linear", producer)
    rows = factor[:, None] if producer.weight.ndim == 2 else factor
    producer.weight.copy_(producer.weight.float() / rows)
    if producer.bias is not None:
        producer.bias.copy_(producer.bias.float() / factor)
