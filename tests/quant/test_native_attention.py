"""The attention of the C library against float64, and against the same INT8 arithmetic in torch: every set of
instructions, any number of keys, queries and heads."""

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

QUERIES = 29
BOUND = 4e-2
"""Of the largest value: queries, keys and values are rounded to 8 bits, and weights to 255 steps."""
NEXT_STEP = 6e-3
"""Of the largest value: a weight between two steps may be rounded either way."""


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
        ("scale", ctypes.c_void_p),
        ("rows", ctypes.c_int64),
        ("keys", ctypes.c_int64),
        ("out", ctypes.c_void_p * QUERIES),
    )


def attended(q: Tensor, k: Tensor, v: Tensor, spare: int = 0) -> Tensor:
    """As `pi0_attend` says; the caches are filled with NaN before, and have room for `spare` keys more."""
    library = native.library()
    assert library is not None
    keys, head_dim = k.shape
    library.pi0_attention_scratch.restype = ctypes.c_int64
    sizes = [ctypes.c_int64(size) for size in (keys + spare, head_dim)]
    memory = [torch.full((library.pi0_cache_bytes(*sizes) // 4,), math.nan) for _ in range(2)]
    cache = Cache(memory[0].data_ptr(), memory[1].data_ptr(), keys + spare, head_dim)
    q, k, v = q.clone(), k.clone(), v.clone()
    for place in range(keys):
        library.pi0_store_key(ctypes.byref(cache), ctypes.c_int64(place), native.pointer(k[place]))
        library.pi0_store_value(ctypes.byref(cache), ctypes.c_int64(place), native.pointer(v[place]))
    queries = torch.zeros(len(q), native.row_bytes(head_dim), dtype=torch.uint8)
    scale, out = torch.full((len(q),), math.nan), torch.full((len(q), head_dim), math.nan)
    for row in range(len(q)):
        addresses = native.pointer(queries[row]), native.pointer(scale[row])
        library.pi0_store_query(native.pointer(q[row]), ctypes.c_int64(head_dim), *addresses)
    block = Queries(queries.data_ptr(), scale.data_ptr(), len(q), keys)
    for row in range(len(q)):
        block.out[row] = out[row].data_ptr()
    scratch = torch.full((library.pi0_attention_scratch(ctypes.c_int64(keys)) // 4,), math.nan)
    library.pi0_attend(ctypes.byref(cache), ctypes.byref(block), native.pointer(scratch))
    return out


def rotated(x: Tensor) -> Tensor:
    """Times a Hadamard matrix of up to 16 rows, of numbers that lie as far apart as they can."""
    size = min(x.shape[-1] & -x.shape[-1], 16)
    parts = x.double().unflatten(-1, (size, -1))
    signs = [[(-1.0) ** (i & j).bit_count() for j in range(size)] for i in range(size)]
    return (torch.tensor(signs, dtype=torch.float64) @ parts).flatten(-2) / math.sqrt(size)


def rounded(x: Tensor) -> tuple[Tensor, Tensor]:
    """The INT8 values of each row, and their scales."""
    scale = (x.abs().amax(-1, keepdim=True) / 127).clamp(min=1e-30)
    return (x / scale).round(), scale


def same_in_torch(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """The arithmetic of attention.c in float64."""
    (queries, query_scale), (keys, key_scale) = rounded(rotated(q)), rounded(rotated(k))
    values, value_scale = rounded(v.double())
    scores = queries @ keys.t() * query_scale * key_scale.t() / math.sqrt(q.shape[1])
    folded = (scores - scores.amax(-1, keepdim=True)).exp() * value_scale.t()
    steps = folded * 255 / folded.amax(-1, keepdim=True)
    lost = (steps - steps.round()).sum(-1, keepdim=True)
    return (steps.round() @ values + lost * values.mean(0)) / (steps / value_scale.t()).sum(-1, keepdim=True)


def drawn(rows: int, keys: int, head_dim: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    q, k, v = (torch.randn(count, head_dim, generator=generator) for count in (rows, keys, keys))
    return q, k, v


def exact(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    scores = q.double() @ k.double().t() / math.sqrt(q.shape[1])
    return scores.softmax(-1) @ v.double()


@pytest.mark.parametrize("level", LEVELS)
@settings(max_examples=25, deadline=None)
@given(st.integers(1, QUERIES), st.integers(1, 140), st.integers(1, 80), st.integers(0, 5), st.integers(0, 2**31))
def test_it_is_that_of_float64(level: Level, rows: int, keys: int, head_dim: int, spare: int, seed: int):
    """What lies in the caches beside the keys, and in the memory before them, adds nothing."""
    q, k, v = drawn(rows, keys, head_dim, seed)
    with used(level):
        found = attended(q, k, v, spare)
    assert float((found - exact(q, k, v)).abs().max()) <= BOUND * float(v.abs().max())
    assert float((found - same_in_torch(q, k, v)).abs().max()) <= NEXT_STEP * float(v.abs().max())


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("head_dim", [8, 32, 72, 256])
def test_the_heads_of_pi0_over_all_keys_of_a_chunk(level: Level, head_dim: int):
    q, k, v = drawn(QUERIES, 867, head_dim, head_dim)
    with used(level):
        found = attended(q, k, v)
    assert float((found - exact(q, k, v)).abs().max()) <= BOUND * float(v.abs().max())
    same = (found - same_in_torch(q, k, v)).abs() / v.abs().max()
    assert float(same.max()) <= NEXT_STEP and float(same.mean()) <= NEXT_STEP / 30


@pytest.mark.parametrize("level", LEVELS)
def test_one_key_far_above_the_others_takes_all(level: Level):
    """Scores of thousands neither overflow nor leave anything to the rest."""
    q, k, v = drawn(3, 77, 64, 1)
    k[40] = q[1] * 1000
    with used(level):
        found = attended(q, k, v)
    assert float((found[1] - v[40]).abs().max()) <= BOUND * float(v.abs().max())
    assert bool(found.isfinite().all())


@pytest.mark.parametrize("level", LEVELS)
def test_many_small_probabilities_beside_a_large_one_are_not_lost(level: Level):
    """Each is a fifth of a step; together they are more than a third of the sum."""
    q, k, v = torch.zeros(1, 64), torch.zeros(700, 64), torch.ones(700, 64)
    q[0, 0], k[5, 0], v[5] = 1.0, math.log(1100) * 8, -1.0
    with used(level):
        found = attended(q, k, v)
    assert float((found - exact(q, k, v)).abs().max()) <= 1e-2


@pytest.mark.parametrize("level", LEVELS)
def test_a_small_value_of_a_probable_key_takes_no_steps_from_the_others(level: Level):
    """A key that most attend to and that has next to no value, as the first token of a language model does.

    Queries and keys lie on one axis, where they and their products are exact.
    """
    q, k, v = drawn(1, 300, 64, 3)
    q[:, 1:], k[:, 1:] = 0.0, 0.0
    k[0, 0], v[0] = 60.0 / q[0, 0], v[0] * 1e-4
    with used(level):
        found = attended(q, k, v)
    expected = exact(q, k, v)
    assert float((found - expected).norm() / expected.norm()) < 2e-2


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("size", [0.0, 1e-30, 1e-15, 1e15])
def test_values_of_any_size_are_kept(level: Level, size: float):
    q, k, v = drawn(4, 45, 32, 4)
    with used(level):
        found = attended(q, k, v * size)
    assert float((found - exact(q, k, v) * size).abs().max()) <= BOUND * max(float(v.abs().max()) * size, 1e-15)


@pytest.mark.parametrize("level", LEVELS)
def test_a_row_does_not_depend_on_the_rows_beside_it(level: Level):
    q, k, v = drawn(QUERIES, 100, 72, 5)
    with used(level):
        together = attended(q, k, v)
        for row in (0, 6, 28):
            assert torch.equal(attended(q[row : row + 1], k, v)[0], together[row])


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
    assert bool(found.isnan().all())
