"""What kernels do with rows, written in torch: vectors per row, block Hadamard transform, values of 8 bits.

Where a chunk continues another one, its first actions are frozen and the network sees them at time 0. A vector that
depends on time is then two, [2, width]: of this step, and of time 0. How many rows are frozen is an int32 [1] on the
device, because a graph that was captured once serves every count.
"""

from __future__ import annotations

import torch
from torch import Tensor

INT8_MAX = 127
E4M3_MAX = 448
SMALLEST_SCALE = 1e-30
NORM_EPSILON = 1e-6
NORM_PIECE = 32
"""Columns of one sum of squares that a product leaves for a norm: `norm_piece` of gemm_norm.cuh."""


def select_rows(vectors: Tensor, frozen: Tensor | None, rows: int) -> Tensor:
    """What each row takes: [rows, width] of vectors [2, width], or, where nothing is frozen, the one vector [width]."""
    if frozen is None:
        return vectors
    return vectors[(torch.arange(rows, device=vectors.device) < frozen).long()]


def unit_rows(squares: Tensor) -> Tensor:
    """What makes rows ones of unit mean square, 1 / sqrt(mean(x²) + ε): [rows, 1].

    Args:
        squares: [rows, columns of x / 32], the sum of squares of each piece of 32 columns.
    """
    return torch.rsqrt(squares.mean(-1, keepdim=True) / NORM_PIECE + NORM_EPSILON)


def hadamard(x: Tensor, block: int) -> Tensor:
    """The orthonormal Walsh-Hadamard transform (Sylvester's order) of every `block` neighbouring columns.

    Args:
        x: [..., columns].
        block: A power of two that divides the columns; 1 changes nothing.
    """
    shape = x.shape
    for stride in (2**i for i in range(block.bit_length() - 1)):
        pairs = x.reshape(-1, shape[-1] // (2 * stride), 2, stride)
        low, high = pairs.unbind(2)
        x = torch.stack((low + high, low - high), 2)
    return x.reshape(shape) * block**-0.5


def quantize_rows(x: Tensor) -> tuple[Tensor, Tensor]:
    """INT8 per token as `pi0_edge.quant.formats`, without its check: a row with NaN or infinity has such a scale.

    Args:
        x: float [rows, columns].

    Returns:
        int8 [rows, columns] and float32 [rows, 1].
    """
    scale = (x.abs().amax(-1, keepdim=True).float() * (1 / INT8_MAX)).clamp_min(SMALLEST_SCALE)
    return (x / scale).nan_to_num(0.0).round().to(torch.int8), scale


def divide_rows(x: Tensor, scale: Tensor) -> Tensor:
    """E4M3 by a scale that is given: x / scale, larger values to ±448, rounded to nearest even; NaN stays NaN.

    Args:
        x: float [rows, columns].
        scale: float32 [1].

    Returns:
        float8_e4m3fn [rows, columns].
    """
    return (x / scale).clamp(-E4M3_MAX, E4M3_MAX).to(torch.float8_e4m3fn)


def empty_quantized(x: Tensor, columns: int) -> tuple[Tensor, Tensor]:
    """Uninitialized results of a quantizing kernel with the rows of x: int8 [rows, columns], float32 [rows, 1]."""
    return x.new_empty(x.shape[0], columns, dtype=torch.int8), x.new_empty(x.shape[0], 1, dtype=torch.float32)
