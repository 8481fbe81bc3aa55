"""Attention over exactly the keys that are there: prefix, suffix and vision tower.

    out = softmax(q · kᵀ / √head_dim) · v

Every query sees every key. The blockwise mask of π0 needs no mask here, because each block of tokens is run after the
ones it sees, and no key is padding. The suffix gives the first P + 1 + 50 rows of its caches, whose tail the Euler step
has just overwritten.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pi0_edge.kernels.library import KernelLibrary, Strided, kernel_library
from pi0_edge.kernels.rope import rope


def attention_into(library: KernelLibrary, out: Tensor, q: Tensor, keys: Tensor, values: Tensor) -> None:
    """Enqueues the kernel: one launch.

    Each tensor may be a slice of a wider one, as long as its last two dimensions and its batches are contiguous.

    Args:
        library: Where the kernel is.
        out: [batch, tokens, heads, head_dim], overwritten.
        q: bfloat16 or float16, of the same shape; head_dim 256, 72 or 32.
        keys: [batch, keys, kv_heads, head_dim]; kv_heads divides heads.
        values: As `keys`, with the same strides.

    Raises:
        KernelError: If a size or type is not possible, or there is no GPU.
        ValueError: If a tensor is sliced in another way.
    """
    batch, tokens, heads, head_dim = q.shape
    _, key_count, kv_heads, _ = keys.shape
    if keys.stride() != values.stride():
        raise ValueError(f"keys and values have different strides: {keys.stride()} and {values.stride()}")
    strides = [_token_stride(tensor) for tensor in (q, keys, out)]
    tensors = [Strided(tensor) for tensor in (q, keys, values, out)]
    sizes = (batch, tokens, key_count, heads, kv_heads, head_dim)
    library.call("attention", *tensors, *sizes, *strides, q.dtype)


@torch.library.custom_op("pi0::attention", mutates_args=(), device_types="cuda")
def attention(q: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """[batch, tokens, heads, head_dim] over [batch, keys, kv_heads, head_dim] -> the shape of q, contiguous."""
    out = q.new_empty(q.shape)
    attention_into(kernel_library(), out, q, keys, values)
    return out


def rope_attention_into(
    library: KernelLibrary, out: Tensor, qkv: Tensor, table: Tensor, keys: Tensor, values: Tensor
) -> None:
    """Enqueues rotary positions and attention of new tokens over a cache and themselves: one launch.

    What `rope` and `attention` do in two, without writing rotated queries, keys or values anywhere. An Euler step needs
    no more: its keys and values are of no use to the next one.

    Args:
        library: Where the kernel is.
        out: [tokens, heads, head_dim], overwritten; head_dim 256 or 32.
        qkv: bfloat16 or float16 [tokens, (heads + 2 * kv_heads) * head_dim]: queries, keys, values of the new tokens,
            whose positions follow the cache.
        table: float32 [at least cached + tokens, head_dim] from `rope_table`.
        keys: Cache [cached, kv_heads, head_dim], rotated.
        values: As `keys`.

    Raises:
        KernelError: If a size or type is not possible, or there is no GPU.
        ValueError: If the table has too few rows.
    """
    tokens, heads, head_dim = out.shape
    cached, kv_heads, _ = keys.shape
    if cached + tokens > len(table):
        raise ValueError(f"{tokens} tokens after {cached} keys need a table of as many rows, found {len(table)}")
    sizes = (tokens, cached, heads, kv_heads, head_dim)
    library.call("rope_attention", qkv, table, keys, values, out, *sizes, qkv.dtype)


@torch.library.custom_op("pi0::rope_attention", mutates_args=(), device_types="cuda")
def rope_attention(qkv: Tensor, table: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """New tokens over a cache and themselves -> [tokens, heads, head_dim]; arguments as in `rope_attention_into`."""
    out = _empty_outputs(qkv, keys)
    rope_attention_into(kernel_library(), out, qkv, table, keys, values)
    return out


@rope_attention.register_kernel("cpu")
def _(qkv, table, keys, values):  # noqa: ANN001, ANN202
    cached, tokens = len(keys), len(qkv)
    own = qkv.new_empty(2, cached + tokens, *keys.shape[1:])
    own[0, :cached], own[1, :cached] = keys, values
    q = rope(qkv, table, own[0], own[1], cached)
    return attention(q[None], own[:1], own[1:])[0]


@rope_attention.register_fake
def _(qkv, table, keys, values):  # noqa: ANN001, ANN202
    return _empty_outputs(qkv, keys)


def _empty_outputs(qkv: Tensor, keys: Tensor) -> Tensor:
    kv_heads, head_dim = keys.shape[1:]
    return qkv.new_empty(qkv.shape[0], qkv.shape[1] // head_dim - 2 * kv_heads, head_dim)


@attention.register_kernel("cpu")
def _(q, keys, values):  # noqa: ANN001, ANN202
    # As the kernel: scores and sums in float32, probabilities rounded to 16 bits before they meet the values, and the
    # division by their sum at the very end.
    wide = torch.float64 if q.dtype == torch.float64 else torch.float32
    group = q.shape[2] // keys.shape[2]
    k, v = (x.to(wide).repeat_interleave(group, 2).transpose(1, 2) for x in (keys, values))
    scores = q.to(wide).transpose(1, 2) @ k.transpose(-1, -2) * q.shape[-1] ** -0.5
    p = (scores - scores.amax(-1, keepdim=True)).exp()
    out = p.to(q.dtype).to(wide) @ v / p.sum(-1, keepdim=True)
    return out.transpose(1, 2).to(q.dtype).contiguous()


@attention.register_fake
def _(q, keys, values):  # noqa: ANN001, ANN202
    return q.new_empty(q.shape)


def _token_stride(x: Tensor) -> int:
    batch, tokens, _, head_dim = x.shape
    stride = x.stride(1)
    if x.stride()[2:] != (head_dim, 1) or (batch > 1 and x.stride(0) != tokens * stride):
        raise ValueError(f"attention cannot read a tensor of shape {list(x.shape)} with strides {list(x.stride())}")
    return stride
