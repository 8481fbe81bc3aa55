"""The compiled activations compute what torch computes, and refuse what it refuses."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from quant_cases import matrices
from torch.nn import functional as F

from pi0_edge.quant import QuantizationError, fused_activation
from pi0_edge.quant.formats import INT8_TOKEN, quantize
from pi0_edge.quant.fused_activation import gelu_and_quantize_tokens, gelu_tokens, quantize_tokens
from pi0_edge.quant.native import is_compiled

compiled = pytest.mark.skipif(not is_compiled(), reason="the package was installed without a C compiler")


@pytest.fixture(params=["torch", pytest.param("compiled", marks=compiled)])
def form(request, monkeypatch):
    """Both forms of the same functions."""
    if request.param == "torch":
        monkeypatch.setattr(fused_activation, "_library", lambda: None)


@compiled
@settings(max_examples=100, deadline=None)
@given(st.data())
def test_quantized_tokens_are_bit_equal(data: st.DataObject):
    x = data.draw(matrices(data.draw(st.integers(1, 300))))
    values, scale = quantize(x, INT8_TOKEN)
    found_values, found_scale = quantize_tokens(x)
    assert torch.equal(found_values, values)
    assert scale is not None and torch.equal(found_scale, scale)


@pytest.mark.parametrize("rows", [1, 7, 300])
@pytest.mark.parametrize("with_up", [True, False])
@pytest.mark.parametrize("with_bias", [True, False])
def test_gelu_is_that_of_float64(form, rows: int, with_up: bool, with_bias: bool):
    generator = torch.Generator().manual_seed(rows)
    x = torch.randn(rows, 333, generator=generator) * 4
    scale = torch.rand(rows, 1, generator=generator) + 0.1
    bias = torch.randn(333, generator=generator) if with_bias else None
    up = torch.randn(rows, 333, generator=generator) if with_up else None
    exact = F.gelu(x.double() * scale + (0 if bias is None else bias), approximate="tanh")
    exact = exact if up is None else exact * (up.double() * scale)
    hidden = gelu_tokens(x.clone(), scale, bias, None if up is None else up.clone())
    assert float((hidden - exact).norm() / exact.norm()) < 3e-7
    values, own = gelu_and_quantize_tokens(x.clone(), scale, bias, None if up is None else up.clone())
    assert ((values.double() * own - exact).abs() <= 0.501 * own).all()


@pytest.mark.parametrize("bias", [None, torch.zeros(5)], ids=["without bias", "with bias"])
def test_what_the_scale_makes_infinite_is_refused(form, bias: torch.Tensor | None):
    """0 times minus infinity is NaN, and no 0 that would be quantized as if nothing had happened."""
    x, scale = torch.full((2, 5), -3e38), torch.full((2, 1), 10.0)
    assert gelu_tokens(x.clone(), scale, bias).isnan().all()
    with pytest.raises(QuantizationError, match="NaN or infinity"):
        gelu_and_quantize_tokens(x, scale, bias)


@pytest.mark.parametrize("value", [0.0, -0.0, 1e-40, 30.0, -30.0, 3e38, -3e38])
def test_gelu_of_extremes_is_finite_and_right(form, value: float):
    found = gelu_tokens(torch.full((1, 5), value), torch.ones(1, 1), None)
    expected = F.gelu(torch.tensor(value, dtype=torch.float64), approximate="tanh").float()
    assert torch.allclose(found, expected.expand(1, 5), rtol=1e-6)


@pytest.mark.parametrize("poison", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("rows", [3, 400])
def test_not_finite_values_are_refused(form, poison: float, rows: int):
    x = torch.randn(rows, 257)
    x[rows - 1, 256] = poison
    with pytest.raises(QuantizationError, match="NaN or infinity"):
        quantize_tokens(x)
    with pytest.raises(QuantizationError, match="NaN or infinity"):
        gelu_and_quantize_tokens(x.abs(), torch.ones(rows, 1), None)
    with pytest.raises(QuantizationError, match="NaN or infinity"):
        gelu_and_quantize_tokens(torch.ones(rows, 257), torch.ones(rows, 1), None, x)
