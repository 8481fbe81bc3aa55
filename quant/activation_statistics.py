"""What is kept of the activations that enter one layer: maxima and a bounded histogram of their magnitudes.

The histogram has a bin for every value of sign-free exponent and first seven mantissa bits, for the `OCTAVES` powers of
two up to the largest magnitude met so far; its lowest bin also holds everything smaller. When the range grows, whole
octaves move into the lowest bin. Bins therefore never depend on the order of the values, and merging two histograms
gives exactly the histogram of all values together.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

MANTISSA_BITS = 7
PER_OCTAVE = 2**MANTISSA_BITS
OCTAVES = 20
BINS = OCTAVES * PER_OCTAVE

_BLOCK = 2**22
"""Values that are counted at once, which bounds the memory of temporaries."""


@dataclass(frozen=True, eq=False)
class ActivationStatistics:
    """Statistics of any number of tokens.

    Attributes:
        tokens: How many.
        channel_amax: float32 [K], largest magnitude of each channel.
        octave: Biased float32 exponent of the largest magnitude.
        counts: int64 [BINS], values per bin; bin `BINS - PER_OCTAVE` is where this octave begins.
    """

    tokens: int
    channel_amax: Tensor
    octave: int
    counts: Tensor

    @staticmethod
    def of(x: Tensor) -> ActivationStatistics:
        """Statistics of activations [..., K] of any float dtype, kept on the CPU.

        Raises:
            ValueError: If a value is NaN or infinite.
        """
        tokens = x.detach().reshape(-1, x.shape[-1])
        if not len(tokens):
            return ActivationStatistics(0, torch.zeros(x.shape[-1]), 0, torch.zeros(BINS, dtype=torch.int64))
        blocks = tokens.split(max(1, _BLOCK // tokens.shape[1]))
        channel_amax = torch.stack([block.abs().amax(0) for block in blocks]).amax(0).float()
        if not channel_amax.isfinite().all():
            bad = int((~tokens.isfinite()).sum())
            raise ValueError(f"{bad} of {tokens.numel()} values are NaN or infinite")
        octave = int(_keys(channel_amax.amax())) // PER_OCTAVE
        counts = torch.stack([_counted(block, octave) for block in blocks]).sum(0)
        return ActivationStatistics(len(tokens), channel_amax.cpu(), octave, counts.cpu())

    @property
    def amax(self) -> float:
        """Largest magnitude of all."""
        return self.channel_amax.amax().item()

    def merged(self, other: ActivationStatistics) -> ActivationStatistics:
        """Statistics of the tokens of both, exactly as if they had come together."""
        octave = max(self.octave, other.octave)
        return ActivationStatistics(
            self.tokens + other.tokens,
            torch.maximum(self.channel_amax, other.channel_amax),
            octave,
            _rescaled(self.counts, octave - self.octave) + _rescaled(other.counts, octave - other.octave),
        )

    def percentile(self, percent: float) -> float:
        """The magnitude that `percent` of all values do not exceed, rounded up to the edge of its bin.

        Never below numpy's percentile (method "lower"), and never further above it (method "higher") than one part in
        128, or amax · 2⁻¹⁸ where that is more.
        """
        rank = max(int(self.counts.sum()) * percent / 100, 1.0)
        place = int(torch.searchsorted(self.counts.cumsum(0).double(), rank))
        key = min(place, BINS - 1) + _lowest_key(self.octave) + 1
        edge = torch.tensor(max(key, 0) << (23 - MANTISSA_BITS), dtype=torch.int32).view(torch.float32)
        return min(edge.item(), self.amax)


def _keys(x: Tensor) -> Tensor:
    """Exponent and first mantissa bits of float32 magnitudes, as int32."""
    return x.float().abs().view(torch.int32) >> (23 - MANTISSA_BITS)


def _lowest_key(octave: int) -> int:
    return (octave + 1) * PER_OCTAVE - BINS


def _counted(block: Tensor, octave: int) -> Tensor:
    places = (_keys(block.reshape(-1)) - _lowest_key(octave)).clamp_min_(0)
    return torch.bincount(places, minlength=BINS)


def _rescaled(counts: Tensor, octaves: int) -> Tensor:
    """The same counts in the bins of a range that ends `octaves` powers of two higher."""
    if not octaves:
        return counts
    shift = min(octaves * PER_OCTAVE, BINS)
    moved = torch.zeros_like(counts)
    moved[: BINS - shift] = counts[shift:]
    moved[0] += counts[:shift].sum()
    return moved
