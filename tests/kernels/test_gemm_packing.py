"""Packed weights: a permutation, its inverse, and what it refuses."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pi0_edge.errors import KernelError
from pi0_edge.kernels.gemm_packing import interleave_gate_up, pack_weights, unpack_weights

E4M3 = torch.float8_e4m3fn


def weights(n: int, k: int, dtype: torch.dtype, seed: int) -> torch.Tensor:
    """All bytes that are numbers."""
    stored = torch.randint(0, 256, (n, k), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)
    if dtype == E4M3:
        stored[stored & 127 == 127] = 0
    return stored.view(dtype)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 300), st.integers(1, 200), st.sampled_from([torch.int8, E4M3]), st.integers(0, 2**31))
def test_unpacking_is_the_inverse(n: int, k: int, dtype: torch.dtype, seed: int):
    weight = weights(n, k, dtype, seed)
    packed = pack_weights(weight)
    assert packed.shape == (-(-n // 128), -(-k // 64), 8192)
    assert packed.is_contiguous()
    assert torch.equal(unpack_weights(packed, n, k, dtype).view(torch.uint8), weight.view(torch.uint8))


@pytest.mark.parametrize(("dtype", "zero"), [(torch.int8, 128), (E4M3, 0)])
def test_padding_is_zero_weights(dtype: torch.dtype, zero: int):
    packed = pack_weights(torch.ones(1, 1).to(dtype))
    assert (packed != zero).sum() == 1


def test_packing_keeps_every_byte_of_a_full_block():
    weight = weights(256, 128, E4M3, seed=0)
    assert torch.equal(pack_weights(weight).flatten().sort().values, weight.view(torch.uint8).flatten().sort().values)


def test_nan_and_other_types_are_refused():
    with pytest.raises(KernelError, match="contain NaN"):
        pack_weights(torch.tensor([[1.0, torch.nan]]).to(E4M3))
    with pytest.raises(KernelError, match=r"must be int8 or float8_e4m3fn, found torch\.float32"):
        pack_weights(torch.ones(1, 1))


def test_gate_and_up_alternate():
    gate, up = torch.zeros(2, 3), torch.ones(2, 3)
    assert interleave_gate_up(gate, up)[:, 0].tolist() == [0, 1, 0, 1]
    assert interleave_gate_up(gate[:, 0], up[:, 0]).tolist() == [0, 1, 0, 1]
