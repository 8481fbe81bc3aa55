"""The attention of the C library against float64: every set of instructions, any number of keys, queries and heads."""

import ctypes
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from native_levels import LEVELS, used
from torch import Tensor

from pi0_edge.quant import native
from pi0_edge.quant.native import Level

BLOCK = 24
BF16_BOUND, FLOAT_BOUND = 2e-2, 1e-5
"""Of the largest value: bfloat16 rounds queries, keys, probabilities and values to 8 bits each."""


class Cache(ctypes.Structure):
    _fields_ = (
        ("keys", ctypes.c_void_p),
        ("values", ctypes.c_void_p),
        ("capacity", ctypes.c_int64),
        ("head_dim", ctypes.c_int64),
    )


class Queries(ctypes.Structure):
    _fields_ = (
        ("queries", ctypes.c_void_p),
        ("query_stride", ctypes.c_int64),
        ("rows", ctypes.c_int64),
        ("keys", ctypes.c_int64),
        ("out", ctypes.c_void_p * BLOCK),
    )


def attended(q: Tensor, k: Tensor, v: Tensor, spare: int = 0) -> Tensor:
    """As `pi0_attend` says; the caches are filled with NaN before, have room for `spare` keys more, and lose a bit."""
    library = native.library()
    assert library is not None
    keys, head_dim = k.shape
    library.pi0_attention_scratch.restype = library.pi0_query_numbers.restype = ctypes.c_int64
    sizes = [ctypes.c_int64(size) for size in (keys + spare, head_dim)]
    memory = [torch.full((library.pi0_cache_bytes(*sizes) // 4,), math.nan) for _ in range(2)]
    cache = Cache(memory[0].data_ptr(), memory[1].data_ptr(), keys + spare, head_dim)
    for place in range(keys):
        library.pi0_store_key(ctypes.byref(cache), ctypes.c_int64(place), native.pointer(k[place]))
        library.pi0_store_value(ctypes.byref(cache), ctypes.c_int64(place), native.pointer(v[place]))
    library.pi0_end_values(ctypes.byref(cache), ctypes.c_int64(keys))
    numbers = library.pi0_query_numbers(ctypes.c_int64(head_dim))
    queries, out = torch.full((len(q), numbers), math.nan), torch.full((len(q), head_dim), math.nan)
    for row in range(len(q)):
        library.pi0_store_query(
            native.pointer(queries), ctypes.c_int64(row), native.pointer(q[row]), ctypes.c_int64(head_dim)
        )
    block = Queries(queries.data_ptr(), numbers, len(q), keys)
    for row in range(len(q)):
        block.out[row] = out[row].data_ptr()
    scratch = torch.full((library.pi0_attention_scratch(ctypes.c_int64(keys)) // 4,), math.nan)
    library.pi0_attend(ctypes.byref(cache), ctypes.byref(block), native.pointer(scratch))
    return out


def drawn(rows: int, keys: int, head_dim: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    q, k, v = (torch.randn(count, head_dim, generator=generator) for count in (rows, keys, keys))
    return q, k, v


def exact(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    scores = q.double() @ k.double().t() / math.sqrt(q.shape[1])
    return scores.softmax(-1) @ v.double()


def bound(level: Level) -> float:
    return BF16_BOUND if level == Level.AVX512_BF16 else FLOAT_BOUND


@pytest.mark.parametrize("level", LEVELS)
@settings(max_examples=25, deadline=None)
@given(st.integers(1, BLOCK), st.integers(1, 140), st.integers(1, 80), st.integers(0, 5), st.integers(0, 2**31))
def test_it_is_that_of_float64(level: Level, rows: int, keys: int, head_dim: int, spare: int, seed: int):
    """What lies in the caches beside the keys, and in the memory before them, adds nothing."""
    q, k, v = drawn(rows, keys, head_dim, seed)
    with used(level):
        found = attended(q, k, v, spare)
    assert float((found - exact(q, k, v)).abs().max()) <= bound(level) * float(v.abs().max())


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("head_dim", [32, 72, 256])
def test_the_heads_of_pi0_over_all_keys_of_a_chunk(level: Level, head_dim: int):
    q, k, v = drawn(BLOCK, 867, head_dim, head_dim)
    with used(level):
        found = attended(q, k, v)
    assert float((found - exact(q, k, v)).abs().max()) <= bound(level) * float(v.abs().max())


@pytest.mark.parametrize("level", LEVELS)
def test_one_key_far_above_the_others_takes_all(level: Level):
    """Scores of thousands neither overflow nor leave anything to the rest."""
    q, k, v = drawn(3, 77, 64, 1)
    k[40] = q[1] * 1000
    with used(level):
        found = attended(q, k, v)
    assert float((found[1] - v[40]).abs().max()) <= bound(level) * float(v.abs().max())
    assert bool(found.isfinite().all())


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("poison", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_stays_so_in_its_own_rows(level: Level, poison: float):
    q, k, v = drawn(4, 33, 40, 2)
    q[2, 5] = poison
    with used(level):
        found = attended(q, k, v)
        assert bool(found[2].isnan().all()) and bool(found[[0, 1, 3]].isfinite().all())
        k[32, 3] = poison
        assert bool(attended(q[:2], k, v).isnan().all())
        k[32, 3], v[32, 39] = 0.0, poison
        found = attended(q[:2], k, v)
    assert not bool(found[:, 39].isfinite().any()) and bool(found[:, :39].isfinite().all())
