"""Rotary positions, and the cache of keys and values that attention reads.

A cache is one contiguous buffer [rows, kv_heads, head_dim] per layer for keys and one for values: prefix tokens first,
then the state token. No padding is between them, so that the position of a token is its row. The action tokens of an
Euler step need no rows (`attention.rope_attention`).
"""

from __future__ import annotations

import torch
from torch import Tensor

from pi0_edge.kernels.library import KernelLibrary, kernel_library

ROPE_BASE = 10_000.0


def rope_table(rows: int, head_dim: int, device: torch.device | str = "cpu") -> Tensor:
    """Cosines and sines of every position: float32 [rows, head_dim], cosines in the first half of each row."""
    exponent = torch.arange(0, head_dim, 2, dtype=torch.float32, device=device) / head_dim
    angle = torch.arange(rows, dtype=torch.float32, device=device)[:, None] * (1.0 / ROPE_BASE**exponent)
    return torch.cat((angle.cos(), angle.sin()), dim=-1)


def rope_into(
    library: KernelLibrary,
    q: Tensor,
    keys: Tensor,
    values: Tensor,
    qkv: Tensor,
    table: Tensor,
    first_row: int,
) -> None:
    """Enqueues the kernel: one launch.

    Args:
        library: Where the kernel is.
        q: [tokens, heads, head_dim], overwritten with the rotated queries; head_dim a multiple of 16.
        keys: Cache [rows, kv_heads, head_dim]; rows first_row … first_row + tokens - 1 are overwritten.
        values: As `keys`.
        qkv: bfloat16 or float16 [tokens, (heads + 2 * kv_heads) * head_dim]: queries, keys, values.
        table: float32 [at least first_row + tokens, head_dim] from `rope_table`.
        first_row: Row, and so position, of the first token.

    Raises:
        KernelError: If a size or type is not possible, or there is no GPU.
        ValueError: If cache or table have too few rows.
    """
    tokens, heads, head_dim = q.shape
    if first_row + tokens > min(len(keys), len(values), len(table)):
        raise ValueError(f"{tokens} tokens from row {first_row} do not fit a cache of {len(keys)} rows")
    sizes = (tokens, heads, keys.shape[1], head_dim, first_row)
    library.call("rope", qkv, table, q, keys, values, *sizes, qkv.dtype)


@torch.library.custom_op("pi0::rope", mutates_args=("keys", "values"), device_types="cuda")
def rope(qkv: Tensor, table: Tensor, keys: Tensor, values: Tensor, first_row: int) -> Tensor:
    """Rotated queries [tokens, heads, head_dim]; keys and values are written into their cache, see `rope_into`."""
    q = _empty_queries(qkv, keys)
    rope_into(kernel_library(), q, keys, values, qkv, table, first_row)
    return q


@rope.register_kernel("cpu")
def _(qkv, table, keys, values, first_row):  # noqa: ANN001, ANN202
    kv_heads, head_dim = keys.shape[1:]
    rows = slice(first_row, first_row + len(qkv))
    q, k, v = qkv.unflatten(-1, (-1, head_dim)).tensor_split((-2 * kv_heads, -kv_heads), dim=1)
    cos, sin = table[rows, None].chunk(2, dim=-1)

    def rotated(x: Tensor) -> Tensor:
        first, second = (x if x.dtype == torch.float64 else x.float()).chunk(2, dim=-1)
        return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1).to(x.dtype)

    keys[rows] = rotated(k)
    values[rows] = v
    return rotated(q)


@rope.register_fake
def _(qkv, table, keys, values, first_row):  # noqa: ANN001, ANN202
    return _empty_queries(qkv, keys)


def _empty_queries(qkv: Tensor, keys: Tensor) -> Tensor:
    kv_heads, head_dim = keys.shape[1:]
    return qkv.new_empty(qkv.shape[0], qkv.shape[1] // head_dim - 2 * kv_heads, head_dim)
