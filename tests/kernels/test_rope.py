"""Rotary positions and the key-value cache against float64 and the network's own rotation."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from kernel_cases import EACH_RUNNER, Runner, assert_near, check_operator, device, runner, values

from pi0_edge.errors import KernelError
from pi0_edge.kernels.rope import rope, rope_into, rope_table
from pi0_edge.model.gemma import Rotary

assert runner and device


@st.composite
def cases(draw: st.DrawFn):
    """A projection's output, where its tokens go, and the size of the cache."""
    heads, kv_heads, head_dim = draw(st.sampled_from([(8, 1, 256), (4, 2, 32), (1, 1, 16)]))
    tokens, first_row = draw(st.integers(1, 5)), draw(st.integers(0, 700))
    dtype = draw(st.sampled_from([torch.bfloat16, torch.float16]))
    qkv = values(tokens, (heads + 2 * kv_heads) * head_dim, seed=draw(st.integers(0, 2**31)), dtype=dtype)
    return qkv, heads, kv_heads, head_dim, first_row, first_row + tokens + draw(st.integers(0, 3))


def exact(qkv, heads, kv_heads, head_dim, first_row):
    """The network's rotation in float64: queries, keys, values."""
    q, k, v = qkv.double().unflatten(-1, (-1, head_dim)).split((heads, kv_heads, kv_heads), dim=1)
    rotary = Rotary(first_row + torch.arange(len(qkv))[None], head_dim, torch.float64)
    return rotary(q[None])[0], rotary(k[None])[0], v


@EACH_RUNNER
@given(cases())
def test_queries_are_rotated_and_keys_and_values_stored_in_their_rows(runner: Runner, case):
    qkv, heads, kv_heads, head_dim, first_row, rows = case
    keys, stored = (runner.poisoned(rows, kv_heads, head_dim, dtype=qkv.dtype) for _ in range(2))
    q = runner.poisoned(len(qkv), heads, head_dim, dtype=qkv.dtype)
    rope_into(runner.library, q, keys, stored, *runner(qkv, rope_table(rows, head_dim)), first_row=first_row)
    expected_q, expected_k, expected_v = exact(qkv, heads, kv_heads, head_dim, first_row)
    written = slice(first_row, first_row + len(qkv))
    assert_near(q, expected_q, 1.02)
    assert_near(keys[written], expected_k, 1.02)
    assert torch.equal(stored[written].cpu().double(), expected_v)
    for cache in (keys, stored):
        assert cache[:first_row].isnan().all() and cache[first_row + len(qkv) :].isnan().all()


@EACH_RUNNER
@given(cases())
def test_the_operator_on_the_cpu_is_the_same(case):
    qkv, heads, kv_heads, head_dim, first_row, rows = case
    keys, stored = torch.full((2, rows, kv_heads, head_dim), torch.nan, dtype=qkv.dtype)
    q = rope(qkv, rope_table(rows, head_dim), keys, stored, first_row)
    expected = exact(qkv, heads, kv_heads, head_dim, first_row)
    written = slice(first_row, first_row + len(qkv))
    for found, right in zip((q, keys[written], stored[written]), expected, strict=True):
        assert_near(found, right, 1.02)
    assert keys[:first_row].isnan().all() and keys[written.stop :].isnan().all()


def test_tokens_beyond_the_cache_are_refused(runner: Runner):
    q, keys = torch.empty(3, 1, 16, dtype=torch.bfloat16), torch.empty(5, 1, 16, dtype=torch.bfloat16)
    qkv = torch.empty(3, 48, dtype=torch.bfloat16)
    with pytest.raises(ValueError, match="3 tokens from row 3 do not fit a cache of 5 rows"):
        rope_into(runner.library, q, keys, keys, qkv, rope_table(9, 16), 3)


def test_an_impossible_head_is_refused(runner: Runner):
    q, keys, qkv = (values(1, n, 24, seed=0, dtype=torch.bfloat16) for n in (1, 1, 3))
    with pytest.raises(KernelError, match="rope: invalid argument"):
        rope_into(runner.library, *runner(q, keys, keys.clone(), qkv.flatten(1), rope_table(1, 24)), first_row=0)


def test_the_operator_passes_the_checks_of_torch(device: str):
    keys, stored = torch.zeros(2, 9, 1, 16, dtype=torch.bfloat16)
    qkv = values(3, 64, seed=0, dtype=torch.bfloat16)
    check_operator(rope, (qkv, rope_table(9, 16), keys, stored, 2), device)
