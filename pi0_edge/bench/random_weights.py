"""Networks of any size with random weights, for speeds that no training is needed for: the same numbers everywhere.

Each parameter has a generator of its own, seeded by its name, so that it can be drawn alone and in any order. Their
actions mean nothing: whatever is measured of such a network says so in place of its accuracy.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator

import torch
from torch import Tensor

from pi0_edge.engine.loading import blank_model
from pi0_edge.model import ModelInputs, Pi0Config


def draw(name: str, shape: torch.Size) -> Tensor:
    """float32: matrices of standard deviation 1/sqrt(fan in); scales of a LayerNorm near 1; zeros elsewhere.

    The norms of Gemma multiply by 1 + scale, so that their scales are near 0.
    """
    generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
    if len(shape) > 1:
        return torch.randn(shape, generator=generator).mul_(shape[1:].numel() ** -0.5)
    if "norm" in name and name.endswith(".weight"):
        centre = 1.0 if name.startswith("vision.") else 0.0
        return torch.randn(shape, generator=generator).mul_(0.1).add_(centre)
    return torch.zeros(shape)


def random_parameters(config: Pi0Config) -> Iterator[tuple[str, Tensor]]:
    """Every parameter of the network, float32."""
    for name, blank in blank_model(config).named_parameters():
        yield name, draw(name, blank.shape)


def random_observation(config: Pi0Config, cameras: int, tokens: int) -> tuple[ModelInputs, Tensor]:
    """One observation and the noise of its chunk.

    Args:
        config: Sizes of the network.
        cameras: That deliver images.
        tokens: Of the prompt.
    """
    generator = torch.Generator().manual_seed(1)
    size = config.vision.image_size
    inputs = ModelInputs(
        images=torch.rand(1, cameras, 3, size, size, generator=generator) * 2 - 1,
        image_mask=torch.ones(1, cameras, dtype=torch.bool),
        tokens=torch.randint(config.vocab_size, (1, tokens), generator=generator),
        token_mask=torch.ones(1, tokens, dtype=torch.bool),
        state=torch.randn(1, config.action_dim, generator=generator),
    )
    return inputs, torch.randn(1, config.horizon, config.action_dim, generator=generator)
