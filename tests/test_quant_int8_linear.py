"""INT8 linears: the integer path equals quantize-dequantize in float64, whatever the shape and the values."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from quant import Int8Linear, QuantizationError, reference_int8_linear
from quant.int8_linear import BLOCK, LARGEST_INPUT, quantize_rows
from quant.integer_matmul import Int32Matmul, OneDnnMatmul, TorchIntMatmul, is_exact

MATMULS = [
    pytest.param(matmul, marks=pytest.mark.skipif(not is_exact(matmul), reason=f"{matmul.__name__} is not exact here"))
    for matmul in (OneDnnMatmul, TorchIntMatmul, Int32Matmul)
]


@st.composite
def rows(draw: st.DrawFn, columns: int, most: int = 70) -> Tensor:
    """A matrix with rows of very different sizes, planted outliers and rows of zeros."""
    count = draw(st.integers(1, most))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    magnitude = 10.0 ** draw(st.integers(-12, 12))
    x = torch.randn(count, columns, generator=generator) * magnitude
    for _ in range(draw(st.integers(0, 3))):
        x[draw(st.integers(0, count - 1)), draw(st.integers(0, columns - 1))] *= draw(st.sampled_from([1e2, -1e4]))
    x[draw(st.integers(0, count - 1))] *= draw(st.sampled_from([0.0, 1.0, 1e-6]))
    return x * draw(st.sampled_from([0.0, 1.0, 1.0, 1.0]))


@st.composite
def linear_cases(draw: st.DrawFn) -> tuple[Tensor, Tensor, Tensor | None]:
    columns = draw(st.integers(2, 300))
    weight = draw(rows(columns))
    bias = torch.randn(len(weight)) if draw(st.booleans()) else None
    return draw(rows(columns)), weight, bias


def assert_equal_to_rounding(found: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None) -> None:
    """Sums are exact; what is left are a few float32 roundings of the largest possible sum of each row."""
    expected = reference_int8_linear(x, weight, bias)
    bound = 1e-6 * (x.double().norm(dim=-1, keepdim=True) * weight.double().norm(dim=-1) + 1e-25)
    bound = bound if bias is None else bound + 1e-6 * bias.abs()
    assert ((found.double() - expected).abs() <= bound).all()


@settings(max_examples=150, deadline=None)
@given(linear_cases())
def test_integer_path_equals_its_reference(case: tuple[Tensor, Tensor, Tensor | None]):
    x, weight, bias = case
    assert_equal_to_rounding(Int8Linear(weight, bias)(x), x, weight, bias)


@pytest.mark.parametrize("matmul", MATMULS)
@settings(max_examples=60, deadline=None)
@given(st.integers(1, 40), st.integers(2, 300), st.integers(1, 70), st.integers(0, 2**31))
def test_integer_products_are_exact(matmul, m: int, k: int, n: int, seed: int):
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(-127, 128, (m, k), generator=generator, dtype=torch.int8)
    weight = torch.randint(-127, 128, (n, k), generator=generator, dtype=torch.int8)
    found = matmul(weight, torch.ones(n))(tokens)
    assert torch.equal(found.double(), tokens.double() @ weight.double().t())


@pytest.mark.parametrize("matmul", MATMULS)
@pytest.mark.parametrize("sign", [1, -1])
def test_longest_sums_do_not_overflow(matmul, sign: int):
    k = 16384
    tokens = torch.full((1, k), 127, dtype=torch.int8)
    found = matmul(torch.full((16, k), 127 * sign, dtype=torch.int8), torch.ones(16))(tokens)
    assert torch.equal(found, torch.full((1, 16), float(sign * 127 * 127 * k)))


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_quantization_error_is_at_most_half_a_scale(data: st.DataObject):
    x = data.draw(rows(data.draw(st.integers(1, 300))))
    values, scale = quantize_rows(x)
    assert int(values.min()) >= -127
    assert ((values.double() * scale - x.double()).abs() <= 0.5001 * scale.double()).all()
    assert (values[(x != 0).any(-1) & (scale[:, 0] > 1e-29)].abs().amax(-1) == 127).all()


def test_rows_are_independent_of_the_block_they_are_rounded_in():
    x = torch.randn(BLOCK // 1024 + 3, 1024, generator=torch.Generator().manual_seed(0))
    values, scale = quantize_rows(x)
    assert values.shape == x.shape
    for row in (0, BLOCK // 1024 - 1, BLOCK // 1024, len(x) - 1):
        alone_values, alone_scale = quantize_rows(x[row : row + 1])
        assert torch.equal(values[row], alone_values[0])
        assert torch.equal(scale[row], alone_scale[0])


@pytest.mark.parametrize("poison", [float("nan"), float("inf"), float("-inf")])
def test_not_finite_activations_are_refused(poison: float):
    layer = Int8Linear(torch.randn(8, 16), None)
    x = torch.randn(5, 16)
    x[3, 7] = poison
    with pytest.raises(QuantizationError, match="NaN or infinity"):
        layer(x)


def test_not_finite_weights_are_refused():
    weight = torch.randn(8, 16)
    weight[7, 15] = float("nan")
    with pytest.raises(QuantizationError, match="NaN or infinity"):
        Int8Linear(weight, None)


@pytest.mark.parametrize("inputs", [1, LARGEST_INPUT + 1])
def test_impossible_sizes_are_refused(inputs: int):
    with pytest.raises(QuantizationError, match=f"{inputs} in-features .* 2 to {LARGEST_INPUT}"):
        Int8Linear(torch.zeros(1, inputs), None)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", [(16,), (0, 16), (2, 0, 16), (2, 3, 16), (1, 1, 16)])
def test_shapes_and_dtypes_are_those_of_a_linear(dtype: torch.dtype, shape: tuple[int, ...]):
    linear = nn.Linear(16, 24).to(dtype)
    x = torch.randn(shape).to(dtype)
    found = Int8Linear(linear.weight, linear.bias)(x)
    assert found.shape == linear(x).shape
    assert found.dtype == dtype
    assert torch.allclose(found.float(), linear(x).float(), atol=0.1)


def test_strided_input_is_read_as_it_looks():
    x = torch.randn(3, 20, 16).transpose(0, 1)
    layer = Int8Linear(torch.randn(8, 16), None)
    assert torch.equal(layer(x), layer(x.contiguous()))


def test_result_carries_no_gradient():
    """A gradient through the scales alone would be a wrong one, so there is none."""
    x = torch.randn(4, 16, requires_grad=True)
    assert not Int8Linear(torch.randn(8, 16), torch.randn(8))(x).requires_grad
