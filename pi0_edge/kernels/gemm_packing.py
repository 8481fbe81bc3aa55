"""Weights of one byte in the order in which the weight-only product reads them.

The kernel streams blocks of 128 output channels × 64 of k, each contiguous, one after the other along k. In a block,
every lane of every warp finds the 16 weights of its next four tensor-core fragments in 16 neighbouring bytes
(`cuda/gemm_layout.cuh` has the same order as formulas). INT8 is stored as value + 128, which is what unpacking wants.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pi0_edge.errors import KernelError

COLUMNS, DEPTH = 128, 64
"""Output channels and k of one block."""

_LOGICAL = (4, 4, 4, 2, 4, 2, 4, 2)
"""A block as [warp, quarter, fragment, odd column] channels × [step, half, pair, odd k]."""
_TO_PACKED = (0, 4, 1, 3, 6, 2, 7, 5)
"""The same axes as [warp, step, lane = (quarter, odd column, pair), fragment, byte = (odd k, half)]."""


def pack_weights(weight: Tensor) -> Tensor:
    """Weights [n, k] -> packed uint8 [blocks of n, blocks of k, 8192]; what a block has beyond n or k is zero weights.

    Args:
        weight: int8, or float8_e4m3fn without NaN.

    Raises:
        KernelError: If the weights are of another type or contain NaN.
    """
    if weight.dtype not in (torch.int8, torch.float8_e4m3fn):
        raise KernelError(f"weights to pack must be int8 or float8_e4m3fn, found {weight.dtype}")
    stored = weight.contiguous().view(torch.uint8)
    if weight.dtype == torch.float8_e4m3fn and bool((stored & 0x7F == 0x7F).any()):
        raise KernelError("weights to pack contain NaN; expected finite values: quantize them again")
    n, k = weight.shape
    stored = torch.nn.functional.pad(stored, (0, -k % DEPTH, 0, -n % COLUMNS))
    if weight.dtype == torch.int8:
        stored = stored ^ 0x80
    blocks = stored.view(-1, COLUMNS, stored.shape[1] // DEPTH, DEPTH).transpose(1, 2)
    logical = blocks.reshape(*blocks.shape[:2], *_LOGICAL)
    # Byte 2i + 1 of a fragment holds k of the first half, byte 2i that of the second.
    return logical.flip(2 + 5).permute(0, 1, *(2 + axis for axis in _TO_PACKED)).flatten(2)


def unpack_weights(packed: Tensor, n: int, k: int, dtype: torch.dtype) -> Tensor:
    """The inverse of `pack_weights`: weights [n, k] of int8 or float8_e4m3fn."""
    shape = [_LOGICAL[axis] for axis in _TO_PACKED]
    inverse = [2 + _TO_PACKED.index(axis) for axis in range(len(_TO_PACKED))]
    logical = packed.view(*packed.shape[:2], *shape).permute(0, 1, *inverse).flip(2 + 5)
    blocks = logical.reshape(*packed.shape[:2], COLUMNS, DEPTH).transpose(1, 2)
    stored = blocks.reshape(packed.shape[0] * COLUMNS, packed.shape[1] * DEPTH)[:n, :k]
    return (stored ^ 0x80 if dtype == torch.int8 else stored).contiguous().view(dtype)


def interleave_gate_up(gate: Tensor, up: Tensor) -> Tensor:
    """Rows of two weights (or elements of two scales) alternating, as products with GeGLU want them: [2n, ...]."""
    return torch.stack((gate, up), 1).flatten(0, 1)
