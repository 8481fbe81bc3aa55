"""Attention of prefix, suffix and vision tower against float64."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from kernel_cases import EACH_RUNNER, Runner, assert_near, check_operator, device, runner, values
from torch.nn import functional as F

from pi0_edge.errors import KernelError
from pi0_edge.kernels.attention import attention, attention_into, rope_attention, rope_attention_into
from pi0_edge.kernels.rope import rope_into, rope_table

assert runner and device

ROUNDINGS = 4
"""Of the 16-bit type, relative to the largest output of a head: probabilities and output are rounded once each, and the
probabilities' errors add up over the keys."""


SHAPES = [
    *[(1, 8, 1, 256, 5), (1, 4, 2, 256, 17), (2, 1, 1, 256, 3), (2, 2, 2, 72, 70), (1, 8, 1, 256, 130)],
    *[(1, 4, 1, 32, 50), (2, 4, 4, 32, 49), (1, 8, 1, 32, 130)],
]


@st.composite
def cases(draw: st.DrawFn):
    """Queries, keys and values; prefix-like, suffix-like or vision-like."""
    batch, heads, kv_heads, head_dim, tokens = draw(st.sampled_from(SHAPES))
    keys = draw(st.sampled_from([1, 31, 32, 33, 64, 65, 130]))
    dtype = draw(st.sampled_from([torch.bfloat16, torch.float16]))
    seed, size = draw(st.integers(0, 2**31)), draw(st.sampled_from([0.1, 1.0, 3.0]))
    q = values(batch, tokens, heads, head_dim, seed=seed, dtype=dtype, size=size)
    k, v = (values(batch, keys, kv_heads, head_dim, seed=seed + i, dtype=dtype) for i in (1, 2))
    return q, k, v


def exact(q, k, v):
    q, k, v = (x.double().transpose(1, 2) for x in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v, enable_gqa=True).transpose(1, 2)


@EACH_RUNNER
@given(cases())
def test_attention_is_float64_attention(runner: Runner, case):
    q, k, v = case
    out = runner.poisoned(*q.shape, dtype=q.dtype)
    attention_into(runner.library, out, *runner(q, k, v))
    assert_near(out, exact(q, k, v), ROUNDINGS)


@EACH_RUNNER
@given(cases())
def test_the_operator_on_the_cpu_is_the_same(case):
    assert_near(attention(*case), exact(*case), ROUNDINGS)


def test_keys_after_the_given_ones_are_never_seen(runner: Runner):
    """A cache that is longer than what is valid: the rest may hold anything."""
    cache = torch.full((2, 1, 90, 1, 256), torch.nan, dtype=torch.bfloat16)
    cache[:, :, :70] = values(2, 1, 70, 1, 256, seed=0, dtype=torch.bfloat16)
    q = values(1, 6, 8, 256, seed=1, dtype=torch.bfloat16)
    out = runner.poisoned(*q.shape, dtype=q.dtype)
    there = runner(q, *cache)
    attention_into(runner.library, out, there[0], there[1][:, :70], there[2][:, :70])
    assert_near(out, exact(q, *cache[:, :, :70]), ROUNDINGS)


@pytest.mark.parametrize("head_dim", [256, 32])
@pytest.mark.parametrize("seen", [1, 31, 32, 70, 90])
def test_how_many_keys_there_are_may_be_an_integer_on_the_device(runner: Runner, head_dim: int, seen: int):
    """As with so many rows, bit for bit: the rest is never read, and may hold anything."""
    cache = torch.full((2, 1, 90, 1, head_dim), torch.nan, dtype=torch.bfloat16)
    cache[:, :, :seen] = values(2, 1, seen, 1, head_dim, seed=0, dtype=torch.bfloat16)
    q = values(1, 6, 8, head_dim, seed=1, dtype=torch.bfloat16)
    count = torch.tensor([seen], dtype=torch.int32)
    found, short = (runner.poisoned(*q.shape, dtype=q.dtype) for _ in range(2))
    there = runner(q, *cache, count)
    attention_into(runner.library, found, *there)
    attention_into(runner.library, short, there[0], there[1][:, :seen], there[2][:, :seen])
    assert torch.equal(found, short)
    assert_near(found, exact(q, *cache[:, :, :seen]), ROUNDINGS)
    assert torch.equal(attention(q, *cache, count), attention(q, *cache[:, :, :seen]))


@pytest.mark.parametrize("seen", [0, 1, 33, 128, 150])
def test_new_tokens_follow_the_keys_that_there_are(runner: Runner, seen: int):
    """Their positions too come from the integer on the device."""
    cache = torch.full((2, 150, 1, 256), torch.nan, dtype=torch.bfloat16)
    cache[:, :seen] = values(2, seen, 1, 256, seed=0, dtype=torch.bfloat16)
    qkv, table = values(7, 10 * 256, seed=1, dtype=torch.bfloat16), rope_table(157, 256)
    count = torch.tensor([seen], dtype=torch.int32)
    found, short = (runner.poisoned(7, 8, 256, dtype=torch.bfloat16) for _ in range(2))
    rope_attention_into(runner.library, found, *runner(qkv, table, *cache, count))
    rope_attention_into(runner.library, short, *runner(qkv, table, *cache[:, :seen]))
    assert torch.isfinite(found).all() and torch.equal(found, short)
    assert torch.equal(rope_attention(qkv, table, *cache, count), rope_attention(qkv, table, *cache[:, :seen]))


def test_slices_of_one_fused_projection(runner: Runner):
    qkv = values(2, 40, 3 * 2 * 72, seed=0, dtype=torch.float16)
    out = runner.poisoned(2, 40, 2, 72, dtype=torch.float16)
    (there,) = runner(qkv)
    attention_into(runner.library, out, *(x.unflatten(-1, (2, 72)) for x in there.chunk(3, dim=-1)))
    assert_near(out, exact(*(x.unflatten(-1, (2, 72)) for x in qkv.chunk(3, dim=-1))), ROUNDINGS)


def test_scores_far_apart_neither_overflow_nor_vanish(runner: Runner):
    """The running maximum jumps by thousands, up and down, from one tile of keys to the next."""
    q, k, v = torch.zeros(1, 1, 1, 256), torch.zeros(1, 256, 1, 256), values(1, 256, 1, 256, seed=0)
    q[..., 0] = 1000
    k[0, :, 0, 0] = torch.tensor([0.0, 50.0, -50.0, 100.0, 20.0, -100.0, 100.0, -20.0]).repeat_interleave(32)
    q, k, v = (x.bfloat16() for x in (q, k, v))
    out = runner.poisoned(*q.shape, dtype=q.dtype)
    attention_into(runner.library, out, *runner(q, k, v))
    assert_near(out, exact(q, k, v), ROUNDINGS)


def test_a_nan_is_not_hidden(runner: Runner):
    q, k, v = (values(1, 40, 1, 256, seed=i, dtype=torch.bfloat16) for i in range(3))
    q[0, 3], v = torch.nan, v
    out = runner.poisoned(*q.shape, dtype=q.dtype)
    attention_into(runner.library, out, *runner(q, k, v))
    assert out.isnan().all(-1).flatten().tolist() == [token == 3 for token in range(40)]


@pytest.mark.parametrize(("heads", "kv_heads", "head_dim"), [(3, 2, 256), (2, 1, 64)])
def test_impossible_sizes_are_refused(runner: Runner, heads: int, kv_heads: int, head_dim: int):
    q = values(1, 2, heads, head_dim, seed=0, dtype=torch.bfloat16)
    k = values(1, 2, kv_heads, head_dim, seed=0, dtype=torch.bfloat16)
    with pytest.raises(KernelError, match="attention: invalid argument"):
        attention_into(runner.library, *runner(q.clone(), q, k, k.clone()))


def test_other_slices_are_refused(runner: Runner):
    q = values(1, 4, 2, 256, seed=0, dtype=torch.bfloat16).transpose(1, 2)
    with pytest.raises(ValueError, match="attention cannot read a tensor of shape"):
        attention_into(runner.library, q, q, q, q)


@st.composite
def new_tokens(draw: st.DrawFn):
    """A projection of new tokens, rotary table, and the cache before them."""
    heads, kv_heads, head_dim = draw(st.sampled_from([(8, 1, 256), (4, 2, 256), (4, 1, 32)]))
    tokens, cached = draw(st.sampled_from([1, 7, 50])), draw(st.sampled_from([0, 1, 33, 128, 200]))
    dtype, seed = draw(st.sampled_from([torch.bfloat16, torch.float16])), draw(st.integers(0, 2**31))
    qkv = values(tokens, (heads + 2 * kv_heads) * head_dim, seed=seed, dtype=dtype)
    cache = values(2, cached, kv_heads, head_dim, seed=seed + 1, dtype=dtype)
    return qkv, rope_table(cached + tokens, head_dim), cache, heads


@EACH_RUNNER
@given(new_tokens())
def test_rotating_attention_is_rope_then_attention(runner: Runner, case):
    """Bit for bit: the same sums in the same order."""
    qkv, table, cache, heads = case
    tokens, (_, cached, kv_heads, head_dim) = len(qkv), cache.shape
    out = runner.poisoned(tokens, heads, head_dim, dtype=qkv.dtype)
    rope_attention_into(runner.library, out, *runner(qkv, table, *cache))
    q = runner.poisoned(tokens, heads, head_dim, dtype=qkv.dtype)
    caches = [runner.poisoned(cached + tokens, kv_heads, head_dim, dtype=qkv.dtype) for _ in range(2)]
    for longer, part in zip(caches, cache, strict=True):
        longer[:cached] = part
    rope_into(runner.library, q, caches[0], caches[1], *runner(qkv, table), first_row=cached)
    expected = runner.poisoned(tokens, heads, head_dim, dtype=qkv.dtype)
    attention_into(runner.library, expected[None], q[None], caches[0][None], caches[1][None])
    assert torch.equal(out, expected)
    assert_near(rope_attention(qkv, table, *cache), expected.cpu(), 2 * ROUNDINGS)


@pytest.mark.parametrize("seen", [0, 5, 31, 32, 33, 127, 150])
@pytest.mark.parametrize(("heads", "kv_heads", "head_dim"), [(8, 1, 256), (4, 2, 256), (4, 1, 32)])
def test_tokens_that_join_the_cache_are_a_block_of_their_own(
    runner: Runner, heads: int, kv_heads: int, head_dim: int, seen: int
):
    """The first two of nine are as they would be alone, and the others as behind a cache that has them already."""
    kept, tokens, dtype = 2, 9, torch.bfloat16
    qkv = values(tokens, (heads + 2 * kv_heads) * head_dim, seed=0, dtype=dtype)
    table, count = rope_table(seen + tokens, head_dim), torch.tensor([seen], dtype=torch.int32)
    cache = torch.full((2, seen + kept, kv_heads, head_dim), torch.nan, dtype=dtype)
    cache[:, :seen] = values(2, seen, kv_heads, head_dim, seed=1, dtype=dtype)
    joined = runner(cache.clone())[0]
    found = runner.poisoned(tokens, heads, head_dim, dtype=dtype)
    rope_attention_into(runner.library, found, *runner(qkv, table), *joined, *runner(count), kept=kept)
    alone = [runner.poisoned(seen + kept, kv_heads, head_dim, dtype=dtype) for _ in range(2)]
    for longer, part in zip(alone, cache, strict=True):
        longer[:seen] = part[:seen]
    q = runner.poisoned(kept, heads, head_dim, dtype=dtype)
    rope_into(runner.library, q, *alone, *runner(qkv[:kept], table), first_row=seen)
    assert all(map(torch.equal, joined, alone))
    first, others = (runner.poisoned(count, heads, head_dim, dtype=dtype) for count in (kept, tokens - kept))
    attention_into(runner.library, first[None], q[None], alone[0][None], alone[1][None])
    rope_attention_into(runner.library, others, *runner(qkv[kept:], table), *alone)
    assert_near(found, torch.cat((first, others)).cpu(), 2 * ROUNDINGS)
    on_cpu = cache.clone()
    assert_near(rope_attention(qkv, table, *on_cpu, count, kept), found.cpu(), 2 * ROUNDINGS)
    assert_near(on_cpu, torch.stack([each.cpu() for each in alone]), ROUNDINGS)


def test_a_cache_without_room_takes_no_token(runner: Runner):
    qkv, cache = values(3, 768, seed=0, dtype=torch.bfloat16), values(2, 5, 1, 256, seed=1, dtype=torch.bfloat16)
    with pytest.raises(ValueError, match="1 tokens join a cache of 5 rows; `seen` must say which of them are free"):
        rope_attention_into(runner.library, torch.empty(3, 1, 256), *runner(qkv, rope_table(9, 256), *cache), kept=1)


@pytest.mark.parametrize("size", [1, 128, 129, 70_000])
def test_what_the_next_kernels_read_changes_nothing(runner: Runner, size: int):
    """Bit for bit. The kernel as nvcc compiled it also tells what is asked for behind the end."""
    qkv, cache = values(50, 2560, seed=0, dtype=torch.bfloat16), values(2, 5, 1, 256, seed=1, dtype=torch.bfloat16)
    found, without = (runner.poisoned(50, 8, 256, dtype=torch.bfloat16) for _ in range(2))
    given = runner(qkv, rope_table(55, 256), *cache)
    rope_attention_into(runner.library, without, *given)
    ahead, further = runner(*(torch.zeros(size + i, dtype=torch.int8) for i in (0, 1)))
    rope_attention_into(runner.library, found, *given, ahead=ahead, further_ahead=further)
    assert torch.equal(found, without)


def test_positions_beyond_the_table_are_refused(runner: Runner):
    qkv, cache = values(3, 768, seed=0, dtype=torch.bfloat16), values(2, 5, 1, 256, seed=1, dtype=torch.bfloat16)
    with pytest.raises(ValueError, match="3 tokens after 5 keys need a table of as many rows, found 7"):
        rope_attention_into(runner.library, torch.empty(3, 1, 256), *runner(qkv, rope_table(7, 256), *cache))


@pytest.mark.slow
def test_full_size_suffix_and_prefix(runner: Runner):
    """51 tokens over 867 keys, and 300 tokens of a prefix over all of it."""
    for tokens, keys in ((51, 867), (300, 560)):
        q = values(1, tokens, 8, 256, seed=0, dtype=torch.bfloat16)
        k, v = (values(1, keys, 1, 256, seed=i, dtype=torch.bfloat16) for i in (1, 2))
        out = runner.poisoned(*q.shape, dtype=q.dtype)
        attention_into(runner.library, out, *runner(q, k, v))
        assert_near(out, exact(q, k, v), ROUNDINGS)


def test_the_operator_passes_the_checks_of_torch(device: str):
    q, k = values(1, 3, 8, 256, seed=0, dtype=torch.bfloat16), values(1, 9, 1, 256, seed=1, dtype=torch.bfloat16)
    check_operator(attention, (q, k, k.clone()), device)
    qkv = values(3, 2560, seed=2, dtype=torch.bfloat16)
    check_operator(rope_attention, (qkv, rope_table(12, 256), k[0], k[0].clone()), device)
