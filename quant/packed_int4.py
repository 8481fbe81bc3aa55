"""Two 4-bit integers in one byte: how int4 weights stand in memory, in a bundle and before a kernel.

Byte j of a row holds the values of columns 2j (bits 0 to 3) and 2j + 1 (bits 4 to 7), each in two's complement. A row
with an odd number of columns ends with a half byte of zeros.
"""

from __future__ import annotations

import torch
from torch import Tensor


def packed_columns(columns: int) -> int:
    """Bytes of a row of `columns` values."""
    return (columns + 1) // 2


def pack_int4(values: Tensor) -> Tensor:
    """Values from -8 to 7, int8 [..., K], as uint8 [..., (K + 1) // 2]; other values lose their upper bits."""
    nibbles = values.contiguous().view(torch.uint8) & 0xF
    if nibbles.shape[-1] % 2:
        nibbles = torch.nn.functional.pad(nibbles, (0, 1))
    return nibbles[..., ::2] | nibbles[..., 1::2] << 4


def unpack_int4(packed: Tensor, columns: int) -> Tensor:
    """The inverse of `pack_int4`: int8 [..., columns], from packed [..., (columns + 1) // 2]."""
    signed = packed.view(torch.int8)
    low, high = signed << 4 >> 4, signed >> 4  # shifts of int8 are arithmetic: they carry the sign
    return torch.stack((low, high), -1).flatten(-2)[..., :columns]
