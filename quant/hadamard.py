"""Block Hadamard rotation: spreads an outlier over its block, so that a scale no longer has to cover it alone.

With H orthogonal and symmetric, W·x = (W·H)·(H·x) exactly. The weights are rotated once when they are quantized; the
activations by whatever produces them, which on the GPU is the norm or the GeGLU kernel that quantizes them anyway.
Source: Ashkboos et al., QuaRot (arXiv 2404.00456).
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor


def block_size(width: int, largest: int) -> int:
    """The largest power of two that divides `width`, at most `largest`."""
    return min(width & -width, largest)


def rotate(x: Tensor, block: int) -> Tensor:
    """Applies the orthonormal Hadamard matrix to every block of the last axis; its own inverse.

    Args:
        x: [..., width], width a multiple of `block`.
        block: A power of two.

    Returns:
        float32 [..., width].
    """
    return (x.float().unflatten(-1, (-1, block)) @ hadamard(block)).flatten(-2)


@functools.cache
def hadamard(size: int) -> Tensor:
    """Sylvester's matrix over sqrt(size), float32 [size, size]: symmetric, orthogonal."""
    matrix = torch.ones(1, 1)
    while len(matrix) < size:
        matrix = torch.cat((torch.cat((matrix, matrix), 1), torch.cat((matrix, -matrix), 1)))
    return matrix * size**-0.5
