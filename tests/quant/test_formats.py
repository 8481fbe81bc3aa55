"""Number formats: how far a value moves, and what a scale covers."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from quant_cases import matrices

from pi0_edge.quant import QuantizationError
from pi0_edge.quant.formats import (
    BF16,
    BLOCK,
    E4M3_CHANNEL,
    E4M3_STATIC,
    INT4_GROUP_32,
    INT4_GROUP_64,
    INT4_GROUP_128,
    INT4_TENSOR,
    INT8_STATIC,
    INT8_TOKEN,
    Format,
    column_scales,
    dequantize_weight,
    quantize,
    quantize_weight,
)
from pi0_edge.quant.formats import static_scale as scale_of


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_int8_is_at_most_half_a_scale_away(data: st.DataObject):
    x = data.draw(matrices(data.draw(st.integers(1, 300))))
    values, scale = quantize(x, INT8_TOKEN)
    assert scale is not None
    assert int(values.min()) >= -127
    assert ((values.double() * scale - x.double()).abs() <= 0.5001 * scale.double()).all()
    assert (values[(x != 0).any(-1) & (scale[:, 0] > 1e-29)].abs().amax(-1) == 127).all()


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_e4m3_is_at_most_a_sixteenth_away(data: st.DataObject):
    """Three mantissa bits round to 2^-4 of a value; below the smallest normal, 2^-6, steps are 2^-9 of the scale."""
    x = data.draw(matrices(data.draw(st.integers(1, 300))))
    values, scale = quantize(x, E4M3_CHANNEL)
    assert scale is not None
    error = (values.double() * scale - x.double()).abs()
    assert (error <= 1.001 * torch.maximum(x.abs().double() / 16, scale.double() * 2**-10)).all()


@settings(max_examples=60, deadline=None)
@given(st.data(), st.sampled_from([INT4_GROUP_32, INT4_GROUP_64, INT4_GROUP_128]))
def test_int4_is_at_most_half_a_scale_of_its_own_group_away(data: st.DataObject, format: Format):
    """Beside that, the scale itself is rounded to bfloat16: the largest value may end 2^-9 of itself further away."""
    x = data.draw(matrices(data.draw(st.integers(1, 300))))
    values, scale = quantize_weight(x, format)
    assert values.dtype == torch.int8
    assert int(values.abs().max()) <= 7
    assert scale.shape == (len(x), -(-x.shape[1] // format.group))
    own = column_scales(scale, format, x.shape[1])
    largest = torch.nn.functional.pad(x.abs(), (0, -x.shape[1] % format.group)).view(len(x), -1, format.group).amax(-1)
    assert ((scale.double() - largest.double() / 7).abs() <= largest.double() / 7 * 2**-8 + 1.01e-30).all()
    error = (dequantize_weight(values, scale, format).double() - x.double()).abs()
    assert (error <= 0.5001 * own.double() + x.abs().double() * 2**-8).all()


def test_products_with_a_scale_of_a_group_are_exact_in_float32():
    """So that float32 arithmetic on such weights only rounds where it adds."""
    weight = torch.randn(16, 96, generator=torch.Generator().manual_seed(0))
    values, scale = quantize_weight(weight, INT4_GROUP_32)
    exact = values.double() * column_scales(scale, INT4_GROUP_32, 96).double()
    assert torch.equal(dequantize_weight(values, scale, INT4_GROUP_32).double(), exact)


@pytest.mark.parametrize("poison", [float("nan"), float("inf"), float("-inf")])
def test_a_group_that_is_not_finite_is_refused(poison: float):
    weight = torch.ones(3, 70)
    weight[2, 69] = poison
    with pytest.raises(QuantizationError, match="NaN or infinity"):
        quantize_weight(weight, INT4_GROUP_64)


@pytest.mark.parametrize("format", [INT8_STATIC, E4M3_STATIC])
def test_a_static_scale_saturates_and_never_wraps(format):
    x = torch.tensor([[0.0, 1.0, -1.0, 5.0, -1e9]])
    values, scale = quantize(x, format, scale_of(1.0, format))
    assert scale is not None
    assert torch.allclose(values.float() * scale, torch.tensor([[0.0, 1.0, -1.0, 1.0, -1.0]]), rtol=0.01)


def test_one_scale_for_a_tensor_is_that_of_its_largest_value():
    values, scale = quantize(torch.tensor([[1.0, -14.0], [3.0, 7.0]]), INT4_TENSOR)
    assert values.tolist() == [[0, -7], [2, 4]]  # 0.5 and 1.5 round to even
    assert scale is not None
    assert float(scale) == 2.0


def test_bf16_has_no_scale():
    x = torch.randn(3, 5)
    values, scale = quantize(x, BF16)
    assert scale is None
    assert torch.equal(values, x.bfloat16())


def test_rows_are_independent_of_the_block_they_are_rounded_in():
    x = torch.randn(BLOCK // 1024 + 3, 1024, generator=torch.Generator().manual_seed(0))
    values, scale = quantize(x, INT8_TOKEN)
    assert scale is not None
    assert values.shape == x.shape
    for row in (0, BLOCK // 1024 - 1, BLOCK // 1024, len(x) - 1):
        alone_values, alone_scale = quantize(x[row : row + 1], INT8_TOKEN)
        assert alone_scale is not None
        assert torch.equal(values[row], alone_values[0])
        assert torch.equal(scale[row], alone_scale[0])


def test_a_scale_that_was_not_measured_is_refused():
    with pytest.raises(QuantizationError, match="calibrate again"):
        scale_of(float("nan"), INT8_STATIC)
