"""Activation checkpointing: layers forget what they computed and compute it again in the backward pass.

A layer then keeps its input alone, about a tenth of what it would keep, and the forward pass is computed twice (Chen et
al., arXiv 1604.06174). The results are the same bit for bit.
"""

from __future__ import annotations

import functools

from torch import nn
from torch.utils.checkpoint import checkpoint

from pi0_edge.model.gemma import GemmaLayer
from pi0_edge.model.siglip import VisionLayer


def recompute_layers(model: nn.Module) -> int:
    """Makes every transformer layer of `model` recompute itself while it learns; returns how many they are."""
    layers = [module for module in model.modules() if isinstance(module, GemmaLayer | VisionLayer)]
    for layer in layers:
        layer.forward = functools.partial(checkpoint, layer.forward, use_reentrant=False, preserve_rng_state=False)
    return len(layers)
