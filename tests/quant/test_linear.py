"""Quantized linears: each scheme equals quantize-dequantize in float64, whatever the shape and the values."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from quant_cases import matrices
from torch import Tensor, nn

from pi0_edge.quant import SCHEMES, QuantizationError, QuantizedEmbedding, QuantizedLinear, Rule, reference_linear
from pi0_edge.quant.formats import (
    BF16,
    E4M3_CHANNEL,
    INT4_CHANNEL,
    INT4_GROUP_32,
    INT4_GROUP_64,
    INT4_GROUP_128,
    INT4_TOKEN,
    INT8_CHANNEL,
    INT8_TOKEN,
    Format,
)
from pi0_edge.quant.integer_matmul import FloatMatmul, NativeMatmul, OneDnnMatmul, TorchIntMatmul, is_exact
from pi0_edge.quant.quantized_linear import LARGEST_INPUT
from pi0_edge.quant.smoothing import smoothing_factor

MATMULS = [
    pytest.param(matmul, marks=pytest.mark.skipif(not is_exact(matmul), reason=f"{matmul.__name__} is not exact here"))
    for matmul in (NativeMatmul, OneDnnMatmul, TorchIntMatmul, FloatMatmul)
]
# Rounded to nearest, as their reference is; what GPTQ makes of them is in test_gptq.py.
RULES = {
    f"{scheme.name}: {rule.weights} × {rule.activations}": replace(rule, rounding="nearest")
    for scheme in SCHEMES.values()
    for rule in scheme.rules
    if rule.library is None and rule.fits("prefix.layers.0.mlp.up")
}
RULES |= {
    f"{weights} × {activations}": Rule(("*",), weights, activations, hadamard)
    for weights, activations, hadamard in (
        (INT4_GROUP_32, BF16, 0),
        (INT4_GROUP_64, INT8_TOKEN, 0),
        (INT4_GROUP_128, INT4_TOKEN, 64),
        (INT4_CHANNEL, INT8_TOKEN, 128),
    )
}
INT8 = Rule(("*",), activations=INT8_TOKEN)
ROTATED = Rule(("*",), activations=INT8_TOKEN, hadamard=128)


@st.composite
def linear_cases(draw: st.DrawFn) -> tuple[Tensor, Tensor, Tensor | None]:
    columns = draw(st.integers(2, 300))
    weight = draw(matrices(columns))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    bias = torch.randn(len(weight), generator=generator) if draw(st.booleans()) else None
    return draw(matrices(columns)), weight, bias


def linear(weight: Tensor, bias: Tensor | None = None) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None)
    layer.weight = nn.Parameter(weight)
    if bias is not None:
        layer.bias = nn.Parameter(bias)
    return layer


def layer_of(rule: Rule, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> QuantizedLinear:
    return QuantizedLinear.of(linear(weight, bias), rule, float(x.abs().max()) if rule.static else None)


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
@settings(max_examples=60, deadline=None)
@given(linear_cases())
def test_every_scheme_equals_its_reference(rule: Rule, case: tuple[Tensor, Tensor, Tensor | None]):
    """Sums are exact or in float32; what is left are a few roundings of the largest possible sum of each row."""
    x, weight, bias = case
    layer = layer_of(rule, x, weight, bias)
    found, expected = layer(x), reference_linear(layer, x, weight, bias)
    assert bool(torch.isfinite(found).all()) or not bool(torch.isfinite(expected.float()).all())
    bound = 2e-6 * (x.double().norm(dim=-1, keepdim=True) * weight.double().norm(dim=-1) + 1e-25)
    bound = bound if bias is None else bound + 2e-6 * bias.abs()
    assert ((found.double() - expected).abs() <= bound).all()


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**31), st.integers(100, 300), st.integers(1, 70))
def test_terms_beside_an_outlier_are_not_lost(seed: int, columns: int, rows: int):
    """Tokens that look like the weights: all terms have one sign, and the first is 1e8 of the others."""
    x = torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed)).bfloat16().float()
    x[:, 0] *= 1e4
    layer = layer_of(Rule(("*",), weights=E4M3_CHANNEL, activations=BF16), x, x)
    error = (layer(x).double() - reference_linear(layer, x, x)).abs()
    assert (error <= 2e-6 * x.double().norm(dim=-1, keepdim=True) * x.double().norm(dim=-1)).all()


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**31), st.integers(16, 200))
def test_every_scheme_stays_near_fp32(rule: Rule, seed: int, columns: int):
    """With planted outliers, smoothed where the scheme does; the bounds are of the formats: 4 bits are that bad."""
    generator = torch.Generator().manual_seed(seed)
    x, weight = torch.randn(40, columns, generator=generator), torch.randn(24, columns, generator=generator)
    x[:, 3] *= 10
    exact = x.double() @ weight.double().t()
    if rule.smoothing:
        factor = smoothing_factor(x.abs().amax(0), weight.abs().amax(0), rule.smoothing)
        x, weight = x / factor, weight * factor
    error = float((layer_of(rule, x, weight)(x) - exact).norm() / exact.norm())
    four = [rule.weights.kind, rule.activations and rule.activations.kind].count("int4")
    assert 1e-6 < error < (0.08, 0.3, 0.7)[four]


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
@pytest.mark.parametrize("fill", [0.0, 1e-45, 3e-39, 1e-20])
def test_zeros_and_subnormals_stay_finite(rule: Rule, fill: float):
    x, weight = torch.full((3, 16), fill), torch.full((8, 16), fill)
    assert bool(torch.isfinite(layer_of(rule, x, weight, torch.ones(8))(x)).all())


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
@pytest.mark.parametrize("poison", [float("nan"), float("inf"), float("-inf")])
def test_not_finite_values_are_refused(rule: Rule, poison: float):
    x, weight = torch.randn(5, 16), torch.randn(8, 16)
    layer = layer_of(rule, x, weight)
    x[3, 7] = poison
    with pytest.raises(QuantizationError, match="NaN or infinity"):
        layer(x)
    weight[7, 15] = poison
    with pytest.raises(QuantizationError, match="NaN or infinity"):
        layer_of(rule, torch.ones(1), weight)


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


@pytest.mark.parametrize("inputs", [1, LARGEST_INPUT + 1])
def test_impossible_sizes_are_refused(inputs: int):
    with pytest.raises(QuantizationError, match=f"{inputs} in-features .* 2 to {LARGEST_INPUT}"):
        QuantizedLinear.of(linear(torch.zeros(1, inputs)), INT8)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", [(16,), (0, 16), (2, 0, 16), (2, 3, 16), (1, 1, 16)])
def test_shapes_and_dtypes_are_those_of_a_linear(dtype: torch.dtype, shape: tuple[int, ...]):
    plain = nn.Linear(16, 24).to(dtype)
    x = torch.randn(shape).to(dtype)
    found = QuantizedLinear.of(plain, INT8)(x)
    assert found.shape == plain(x).shape
    assert found.dtype == dtype
    assert torch.allclose(found.float(), plain(x).float(), atol=0.1)


def test_strided_input_is_read_as_it_looks():
    x = torch.randn(3, 20, 16).transpose(0, 1)
    layer = layer_of(INT8, x, torch.randn(8, 16))
    assert torch.equal(layer(x), layer(x.contiguous()))


def test_result_carries_no_gradient():
    """A gradient through the scales alone would be a wrong one, so there is none."""
    x = torch.randn(4, 16, requires_grad=True)
    assert not layer_of(INT8, x, torch.randn(8, 16), torch.randn(8))(x).requires_grad


def test_packing_frees_the_weights_and_changes_nothing():
    x = torch.randn(5, 64)
    layer = layer_of(INT8, x, torch.randn(600, 64))
    before, bytes_before = layer(x), layer.bytes
    layer.pack()
    assert layer.values is None
    assert torch.equal(layer(x), before)
    assert layer.bytes == bytes_before


def test_rotation_tames_an_outlier_channel():
    x, weight = torch.randn(50, 256), torch.randn(64, 256)
    x[:, 17] *= 100
    exact = x.double() @ weight.double().t()
    plain, rotated = (float((layer_of(rule, x, weight)(x) - exact).norm()) for rule in (INT8, ROTATED))
    assert rotated < 0.5 * plain


def test_the_buffers_are_all_that_is_needed_to_restore_a_layer():
    x = torch.randn(5, 96)
    made = layer_of(RULES[next(name for name in RULES if "static" in name)], x, torch.randn(8, 96), torch.randn(8))
    with torch.device("meta"):
        blank = QuantizedLinear(made.rule, 96, 8, bias=True)
    blank.load_state_dict(made.state_dict(), assign=True)
    assert torch.equal(blank(x), made(x))


@pytest.mark.parametrize("format", [INT4_GROUP_32, INT4_CHANNEL])
@pytest.mark.parametrize("columns", [2, 31, 32, 33, 100, 129])
def test_four_bits_are_stored_in_half_a_byte(format: Format, columns: int):
    layer = layer_of(Rule(("*",), weights=format, activations=BF16), torch.ones(1), torch.randn(8, columns))
    assert layer.values is not None
    assert layer.values.shape == (8, (columns + 1) // 2)
    assert layer.bytes == layer.values.nbytes + layer.scale.nbytes == layer.rule.stored_bytes(8, columns)
    assert layer.scale.dtype == (torch.bfloat16 if format.group else torch.float32)


def test_groups_keep_an_outlier_to_themselves():
    x, weight = torch.randn(50, 256), torch.randn(64, 256)
    weight[:, 17] *= 30
    exact = x.double() @ weight.double().t()
    rules = (Rule(("*",), weights=format, activations=BF16) for format in (INT4_GROUP_32, INT4_GROUP_128, INT4_CHANNEL))
    small, large, whole = (float((layer_of(rule, x, weight)(x) - exact).norm()) for rule in rules)
    assert 1.2 * small < large < 0.9 * whole


@pytest.mark.parametrize("weights", [INT8_CHANNEL, E4M3_CHANNEL])
def test_an_embedding_has_a_scale_per_row(weights: Format):
    plain = nn.Embedding(30, 16)
    with torch.no_grad():
        plain.weight[3] *= 1000
    embedded = QuantizedEmbedding.of(plain, Rule(("*",), weights=weights))
    tokens = torch.tensor([[0, 3], [29, 3]])
    error = (embedded(tokens) - plain(tokens)).norm(dim=-1) / plain(tokens).norm(dim=-1)
    assert embedded(tokens).shape == (2, 2, 16)
    assert float(error.detach().max()) < 0.05


@pytest.mark.parametrize("width", [16, 33, 100])
def test_an_embedding_of_four_bits_finds_its_rows(width: int):
    plain = nn.Embedding(30, width)
    embedded = QuantizedEmbedding.of(plain, Rule(("*",), weights=INT4_GROUP_32))
    tokens = torch.tensor([[0, 3, 3], [29, 3, 0]])
    found, exact = embedded(tokens), plain(tokens).detach()
    assert found.shape == (2, 3, width)
    assert ((found - exact).abs() <= 0.501 * exact.abs().amax(-1, keepdim=True) / 7).all()
    assert torch.equal(found[0, 1], found[1, 1])


def test_weights_and_activations_in_16_bit_are_exact_products():
    """bf16 times int8 has a product that float32 holds exactly, so only the sum rounds."""
    x, weight = torch.randn(3, 32).bfloat16(), torch.randint(-127, 128, (8, 32)).float()
    weight[:, 0] = 127  # so that every channel's scale is 1
    layer = layer_of(Rule(("*",), activations=BF16), x, weight)
    x, weight = x.double(), weight.double()
    error = (layer(x.float()).double() - x @ weight.t()).abs()
    assert (error <= 1e-6 * (x.abs() @ weight.abs().t())).all()
