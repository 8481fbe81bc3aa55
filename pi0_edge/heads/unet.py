"""The conditional one-dimensional U-Net of Diffusion Policy (arXiv 2303.04137), which DROID and TinyVLA use.

Channels are action dimensions, the length is the chunk. Each residual block is scaled and shifted per channel by the
observation and the time (FiLM).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

KERNEL = 5
GROUPS = 8


def step_embedding(step: Tensor, width: int) -> Tensor:
    """Sines and cosines of step [batch], float32 [batch, width]: frequencies 10000^(−i/(width/2 − 1))."""
    half = width // 2
    frequencies = torch.exp(torch.arange(half, device=step.device) * (-math.log(10_000.0) / (half - 1)))
    phase = step[:, None].float() * frequencies
    return torch.cat((phase.sin(), phase.cos()), dim=-1)


class ConvolutionBlock(nn.Sequential):
    """Convolution of five → GroupNorm of eight → Mish."""

    def __init__(self, inner: int, outer: int) -> None:
        super().__init__(nn.Conv1d(inner, outer, KERNEL, padding=KERNEL // 2), nn.GroupNorm(GROUPS, outer), nn.Mish())


class ResidualBlock(nn.Module):
    """Two convolutions with FiLM between them."""

    def __init__(self, inner: int, outer: int, condition: int) -> None:
        super().__init__()
        self.first = ConvolutionBlock(inner, outer)
        self.second = ConvolutionBlock(outer, outer)
        self.film = nn.Sequential(nn.Mish(), nn.Linear(condition, 2 * outer))
        self.residual = nn.Conv1d(inner, outer, 1) if inner != outer else nn.Identity()

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """[batch, inner, length] with [batch, condition] -> [batch, outer, length]."""
        scale, shift = self.film(condition)[..., None].chunk(2, dim=1)
        return self.second(scale * self.first(x) + shift) + self.residual(x)


class BlockPair(nn.Module):
    """Two residual blocks, of which the first changes the channels."""

    def __init__(self, inner: int, outer: int, condition: int) -> None:
        super().__init__()
        self.first = ResidualBlock(inner, outer, condition)
        self.second = ResidualBlock(outer, outer, condition)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """[batch, inner, length] with [batch, condition] -> [batch, outer, length]."""
        return self.second(self.first(x, condition), condition)


class ConditionalUnet1D(nn.Module):
    """Predicts the noise in a chunk whose length is a multiple of four."""

    def __init__(self, dims: int, condition: int, widths: tuple[int, int, int]) -> None:
        """Makes the network.

        Args:
            dims: Action dimensions.
            condition: Size of the observation.
            widths: Channels at full, half and quarter length; the first is also the size of the time embedding.
        """
        super().__init__()
        self.time_width = first = widths[0]
        self.time = nn.Sequential(nn.Linear(first, 4 * first), nn.Mish(), nn.Linear(4 * first, first))
        known = first + condition
        steps = list(zip((dims, *widths[:-1]), widths, strict=True))
        self.down = nn.ModuleList(BlockPair(inner, outer, known) for inner, outer in steps)
        self.shorter = nn.ModuleList(nn.Conv1d(width, width, 3, stride=2, padding=1) for width in widths[:-1])
        self.middle = BlockPair(widths[-1], widths[-1], known)
        self.up = nn.ModuleList(BlockPair(2 * outer, inner, known) for inner, outer in reversed(steps[1:]))
        self.longer = nn.ModuleList(
            nn.ConvTranspose1d(width, width, 4, stride=2, padding=1) for width in reversed(widths[:-1])
        )
        self.last = nn.Sequential(ConvolutionBlock(first, first), nn.Conv1d(first, dims, 1))

    def forward(self, x: Tensor, step: Tensor, observed: Tensor) -> Tensor:
        """Noisy chunk [batch, length, dims], step [batch], observation [batch, condition] -> ε like the chunk."""
        condition = torch.cat((self.time(step_embedding(step, self.time_width)), observed), dim=-1)
        x, kept = x.transpose(1, 2), []
        for level, blocks in enumerate(self.down):
            x = blocks(x, condition)
            kept.append(x)
            if level < len(self.shorter):
                x = self.shorter[level](x)
        x = self.middle(x, condition)
        for level, blocks in enumerate(self.up):
            x = self.longer[level](blocks(torch.cat((x, kept.pop()), dim=1), condition))
        return self.last(x).transpose(1, 2)
