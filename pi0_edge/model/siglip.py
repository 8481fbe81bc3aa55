"""SigLIP: the vision tower that turns one image into image tokens.

A pre-norm ViT: patch convolution with bias, learned position embedding, biased linears, tanh-GELU, a final LayerNorm,
no class token and no pooling head. Every patch attends to every other one.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pi0_edge.model.config import VisionConfig

LAYER_NORM_EPS = 1e-6


class VisionAttention(nn.Module):
    """Bidirectional multi-head self-attention with biased projections."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.q = nn.Linear(config.width, config.width)
        self.k = nn.Linear(config.width, config.width)
        self.v = nn.Linear(config.width, config.width)
        self.out = nn.Linear(config.width, config.width)

    def forward(self, x: Tensor) -> Tensor:
        """[images, tokens, width] -> the same shape."""
        q, k, v = (project(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for project in (self.q, self.k, self.v))
        return self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(-2))


class VisionMLP(nn.Module):
    """Two biased linears around a tanh-GELU."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.fc1 = nn.Linear(config.width, config.mlp_dim)
        self.fc2 = nn.Linear(config.mlp_dim, config.width)

    def forward(self, x: Tensor) -> Tensor:
        """[images, tokens, width] -> the same shape."""
        return self.fc2(F.gelu(self.fc1(x), approximate="tanh"))


class VisionLayer(nn.Module):
    """Pre-norm attention and MLP, each with a residual."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(config.width, eps=LAYER_NORM_EPS)
        self.attention = VisionAttention(config)
        self.norm2 = nn.LayerNorm(config.width, eps=LAYER_NORM_EPS)
        self.mlp = VisionMLP(config)

    def forward(self, x: Tensor) -> Tensor:
        """[images, tokens, width] -> the same shape."""
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class SigLIP(nn.Module):
    """Images to image tokens."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.patch_embedding = nn.Conv2d(3, config.width, config.patch_size, stride=config.patch_size)
        self.position_embedding = nn.Parameter(torch.empty(config.tokens, config.width).normal_(std=config.width**-0.5))
        self.layers = nn.ModuleList(VisionLayer(config) for _ in range(config.depth))
        self.final_norm = nn.LayerNorm(config.width, eps=LAYER_NORM_EPS)

    def forward(self, images: Tensor) -> Tensor:
        """float32 [images, 3, size, size] in [-1, 1] -> [images, tokens, width] in the tower's dtype."""
        x = self.patch_embedding(images.to(self.patch_embedding.weight.dtype)).flatten(2).transpose(1, 2)
        x = (x + self.position_embedding).to(self.final_norm.weight.dtype)
        for layer in self.layers:
            x = layer(x)
        return self.final_norm(x)
