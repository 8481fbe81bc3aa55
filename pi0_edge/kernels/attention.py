"""Attention over exactly the keys that are there: prefix, suffix and vision tower.

    out = softmax(q · kᵀ / √head_dim) · v

Every query sees every key. The blockwise mask of π0 needs no mask here, because each block of tokens is run after the
ones it sees. A cache may be longer than its keys: how many rows are keys is then an int32 [1] on the device (`seen`),
so that a graph that was captured once serves every length, and what is behind them is not read.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pi0_edge.kernels.library import KernelLibrary, Strided, kernel_library
from pi0_edge.kernels.rope import rope

SHARE_AHEAD = 0.75
"""Of the L2 cache that is asked for weights ahead of their product; the rest is for what attention itself reads."""
ORIN_L2_BYTES = 2**22


def attention_into(
    library: KernelLibrary, out: Tensor, q: Tensor, keys: Tensor, values: Tensor, seen: Tensor | None = None
) -> None:
    """Enqueues the kernel: one launch.

    Each tensor may be a slice of a wider one, as long as its last two dimensions and its batches are contiguous.

    Args:
        library: Where the kernel is.
        out: [batch, tokens, heads, head_dim], overwritten.
        q: bfloat16 or float16, of the same shape; head_dim 256, 72 or 32.
        keys: [batch, keys, kv_heads, head_dim]; kv_heads divides heads.
        values: As `keys`, with the same strides.
        seen: int32 [1], from 1 to the rows of `keys`: how many of them there are; None for all.

    Raises:
        KernelError: If a size or type is not possible, or there is no GPU.
        ValueError: If a tensor is sliced in another way.
    """
    batch, tokens, heads, head_dim = q.shape
    _, key_count, kv_heads, _ = keys.shape
    if keys.stride() != values.stride():
        raise ValueError(f"keys and values have different strides: {keys.stride()} and {values.stride()}")
    strides = [_token_stride(tensor) for tensor in (q, keys, out)]
    tensors = (*map(Strided, (q, keys, values)), seen, Strided(out))
    sizes = (batch, tokens, key_count, heads, kv_heads, head_dim)
    library.call("attention", *tensors, *sizes, *strides, q.dtype)


@torch.library.custom_op("pi0::attention", mutates_args=(), device_types="cuda")
def attention(q: Tensor, keys: Tensor, values: Tensor, seen: Tensor | None = None) -> Tensor:
    """[batch, tokens, heads, head_dim] over [batch, keys, kv_heads, head_dim] -> the shape of q, contiguous."""
    out = q.new_empty(q.shape)
    attention_into(kernel_library(), out, q, keys, values, seen)
    return out


def rope_attention_into(
    library: KernelLibrary,
    out: Tensor,
    qkv: Tensor,
    table: Tensor,
    keys: Tensor,
    values: Tensor,
    seen: Tensor | None = None,
    kept: int = 0,
    ahead: Tensor | None = None,
    further_ahead: Tensor | None = None,
) -> None:
    """Enqueues rotary positions and attention of new tokens over a cache and themselves: one launch.

    What `rope` and `attention` do in two, without writing rotated queries, keys or values anywhere. An Euler step needs
    no more: its keys and values are of no use to the next one. But the first `kept` tokens join the cache; in π0's mask
    they are a block of their own, which sees the cache and itself, and no token behind it.

    Args:
        library: Where the kernel is.
        out: [tokens, heads, head_dim], overwritten; head_dim 256 or 32.
        qkv: bfloat16 or float16 [tokens, (heads + 2 * kv_heads) * head_dim]: queries, keys, values of the new tokens,
            whose positions follow the cache.
        table: float32 [at least cached - kept + tokens, head_dim] from `rope_table`.
        keys: Cache [cached, kv_heads, head_dim], rotated; `kept` more rows behind those that are seen are overwritten.
        values: As `keys`.
        seen: int32 [1], up to the rows of the cache less `kept`: how many of them are keys; None for all.
        kept: How many of the tokens, from the first, join the cache.
        ahead: What the next kernel reads: the L2 cache is asked for it while memory has little else to do.
        further_ahead: The same, of the kernel after it.

    Raises:
        KernelError: If a size or type is not possible, or there is no GPU.
        ValueError: If the table has too few rows, or tokens join a cache that has no row for them.
    """
    tokens, heads, head_dim = out.shape
    cached, kv_heads, _ = keys.shape
    if kept and (seen is None or cached < kept):
        raise ValueError(f"{kept} tokens join a cache of {cached} rows; `seen` must say which of them are free")
    before = cached - kept
    if before + tokens > len(table):
        raise ValueError(f"{tokens} tokens after {before} keys need a table of as many rows, found {len(table)}")
    bytes_ahead = [0 if tensor is None else tensor.nbytes for tensor in (ahead, further_ahead)]
    sizes = (tokens, kept, cached, heads, kv_heads, head_dim, *bytes_ahead)
    library.call("rope_attention", qkv, table, keys, values, seen, ahead, further_ahead, out, *sizes, qkv.dtype)


@torch.library.custom_op("pi0::rope_attention", mutates_args=("keys", "values"), device_types="cuda")
def rope_attention(
    qkv: Tensor,
    table: Tensor,
    keys: Tensor,
    values: Tensor,
    seen: Tensor | None = None,
    kept: int = 0,
    ahead: Tensor | None = None,
    further_ahead: Tensor | None = None,
) -> Tensor:
    """New tokens over a cache and themselves -> [tokens, heads, head_dim]; arguments as in `rope_attention_into`."""
    out = _empty_outputs(qkv, keys)
    rope_attention_into(kernel_library(), out, qkv, table, keys, values, seen, kept, ahead, further_ahead)
    return out


@rope_attention.register_kernel("cpu")
def _(qkv, table, keys, values, seen=None, kept=0, ahead=None, further_ahead=None):  # noqa: ANN001, ANN202
    cached, tokens = len(keys) if seen is None else int(seen), len(qkv)
    own = qkv.new_empty(2, cached + tokens, *keys.shape[1:])
    own[0, :cached], own[1, :cached] = keys[:cached], values[:cached]
    q = rope(qkv, table, own[0], own[1], cached)
    joined = cached + kept
    keys[cached:joined], values[cached:joined] = own[0, cached:joined], own[1, cached:joined]
    others = attention(q[None, kept:], own[:1], own[1:])[0]
    return torch.cat((attention(q[None, :kept], own[:1, :joined], own[1:, :joined])[0], others)) if kept else others


@rope_attention.register_fake
def _(qkv, table, keys, values, seen=None, kept=0, ahead=None, further_ahead=None):  # noqa: ANN001, ANN202
    return _empty_outputs(qkv, keys)


def _empty_outputs(qkv: Tensor, keys: Tensor) -> Tensor:
    kv_heads, head_dim = keys.shape[1:]
    return qkv.new_empty(qkv.shape[0], qkv.shape[1] // head_dim - 2 * kv_heads, head_dim)


@attention.register_kernel("cpu")
def _(q, keys, values, seen=None):  # noqa: ANN001, ANN202
    if seen is not None:
        keys, values = keys[:, : int(seen)], values[:, : int(seen)]
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
def _(q, keys, values, seen=None):  # noqa: ANN001, ANN202
    return q.new_empty(q.shape)


def _token_stride(x: Tensor) -> int:
    batch, tokens, _, head_dim = x.shape
    stride = x.stride(1)
    if x.stride()[2:] != (head_dim, 1) or (batch > 1 and x.stride(0) != tokens * stride):
        raise ValueError(f"attention cannot read a tensor of shape {list(x.shape)} with strides {list(x.stride())}")
    return stride
