"""Two 4-bit integers in a byte: exact there and back, and laid out as a kernel reads them."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pi0_edge.quant.packed_int4 import pack_int4, packed_columns, unpack_int4


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 5), st.integers(1, 70), st.integers(0, 2**31))
def test_every_value_comes_back(rows: int, columns: int, seed: int):
    generator = torch.Generator().manual_seed(seed)
    values = torch.randint(-8, 8, (rows, columns), generator=generator, dtype=torch.int8)
    packed = pack_int4(values)
    assert packed.dtype == torch.uint8
    assert packed.shape == (rows, packed_columns(columns))
    assert torch.equal(unpack_int4(packed, columns), values)


def test_all_pairs_of_values_come_back():
    every = torch.arange(-8, 8, dtype=torch.int8)
    pairs = torch.cartesian_prod(every, every)
    packed = pack_int4(pairs)
    assert torch.equal(unpack_int4(packed, 2), pairs)
    assert len(packed.unique()) == 256


def test_the_first_column_is_in_the_lower_half():
    assert pack_int4(torch.tensor([[1, -1, 7]], dtype=torch.int8)).tolist() == [[0xF1, 0x07]]


@pytest.mark.parametrize("shape", [(3, 4, 5), (6, 6), (7,)])
def test_leading_axes_and_strides_do_not_matter(shape: tuple[int, ...]):
    values = torch.randint(-8, 8, shape, dtype=torch.int8)
    strided = values.flip(0).mT if len(shape) > 1 else values[::2]
    for own in (values, strided):
        assert torch.equal(unpack_int4(pack_int4(own), own.shape[-1]), own)
