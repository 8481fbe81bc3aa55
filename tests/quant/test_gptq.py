"""GPTQ: never worse than rounding to nearest on the tokens it was given, for every shape, and the same every time."""

import copy
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from pi0_edge.quant import QuantizationError, QuantizedLinear, Rule
from pi0_edge.quant.formats import (
    BF16,
    E4M3_CHANNEL,
    INT4_CHANNEL,
    INT4_GROUP_32,
    INT4_GROUP_64,
    INT4_GROUP_128,
    INT4_TENSOR,
    INT4_TOKEN,
    INT8_CHANNEL,
    Format,
    dequantize_weight,
    quantize_weight,
)
from pi0_edge.quant.gptq import round_by_gptq
from pi0_edge.quant.quantize import quantize_model
from pi0_edge.quant.schemes import Scheme
from pi0_edge.quant.smoothing import smooth

FORMATS = [INT4_GROUP_32, INT4_GROUP_64, INT4_GROUP_128, INT4_CHANNEL, INT8_CHANNEL]
W4A16 = Rule(("*",), weights=INT4_GROUP_32, activations=BF16, rounding="gptq")
W4A4 = Rule(("*",), weights=INT4_CHANNEL, activations=INT4_TOKEN, hadamard=32, rounding="gptq")


def tokens_of(seed: int, columns: int, count: int | None = None) -> Tensor:
    """Correlated channels of different sizes, as a network has them; some never used."""
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(columns, columns, generator=generator) * torch.logspace(0, -2, columns)[:, None]
    tokens = torch.randn(count or 2 * columns, columns, generator=generator) @ mix
    tokens[:, seed % columns] = 0
    return tokens


def weight_of(seed: int, rows: int, columns: int) -> Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed + 1))


def output_errors(weight: Tensor, stored: tuple[Tensor, Tensor], format: Format, tokens: Tensor) -> Tensor:
    """Squared error of every output over all tokens, float64 [N]."""
    difference = weight.double() - dequantize_weight(*stored, format).double()
    return (tokens.double() @ difference.t()).square().sum(0)


@pytest.mark.parametrize("format", FORMATS, ids=str)
@settings(max_examples=10, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 12), st.integers(1, 200), st.sampled_from([1e-9, 1.0, 1e9]))
def test_no_output_is_worse_than_with_rounding_to_nearest(
    format: Format, seed: int, rows: int, columns: int, size: float
):
    """Also with fewer tokens than channels, where the product has no inverse."""
    tokens = tokens_of(seed, columns, count=max(1, columns // (1 + seed % 3))) * size
    weight = weight_of(seed, rows, columns)
    found = round_by_gptq(weight, tokens.t() @ tokens, format)
    nearest = quantize_weight(weight, format)
    assert [part.shape for part in found] == [part.shape for part in nearest]
    assert [part.dtype for part in found] == [part.dtype for part in nearest]
    assert int(found[0].abs().max()) <= format.largest
    errors, asked = output_errors(weight, found, format, tokens), output_errors(weight, nearest, format, tokens)
    exact = (tokens.double() @ weight.double().t()).square().sum(0)
    assert (errors <= 1.001 * asked + 1e-6 * exact).all()


@pytest.mark.parametrize("format", [INT4_GROUP_32, INT4_CHANNEL], ids=str)
def test_the_error_is_much_smaller_where_channels_are_correlated(format: Format):
    tokens, weight = tokens_of(5, 200), weight_of(5, 64, 200)
    found = output_errors(weight, round_by_gptq(weight, tokens.t() @ tokens, format), format, tokens)
    nearest = output_errors(weight, quantize_weight(weight, format), format, tokens)
    assert float(found.sum()) < 0.4 * float(nearest.sum())


def test_the_same_inputs_give_the_same_bytes_and_are_not_changed():
    tokens, weight = tokens_of(7, 150), weight_of(7, 20, 150)
    product = tokens.t() @ tokens
    before = product.clone(), weight.clone()
    first, second = (round_by_gptq(weight, product, INT4_GROUP_64) for _ in range(2))
    assert torch.equal(first[0], second[0])
    assert torch.equal(first[1], second[1])
    assert torch.equal(product, before[0])
    assert torch.equal(weight, before[1])


def test_where_nothing_entered_it_rounds_to_nearest():
    weight = weight_of(1, 6, 40)
    found = round_by_gptq(weight, torch.zeros(40, 40), INT4_GROUP_32)
    for part, nearest in zip(found, quantize_weight(weight, INT4_GROUP_32), strict=True):
        assert torch.equal(part, nearest)


@pytest.mark.parametrize("format", [INT4_GROUP_32, INT4_CHANNEL], ids=str)
def test_a_product_that_is_not_positive_definite_rounds_to_nearest(format: Format):
    """Its diagonal is that of tokens; one eigenvalue is -38, far beyond the damping."""
    weight, product = weight_of(1, 6, 40), 2 * torch.eye(40) - 1
    found = round_by_gptq(weight, product, format)
    for part, nearest in zip(found, quantize_weight(weight, format), strict=True):
        assert torch.equal(part, nearest)


@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
def test_not_finite_values_are_refused(poison: float):
    weight, product = weight_of(1, 6, 40), torch.eye(40)
    product[3, 4] = poison
    with pytest.raises(QuantizationError, match="the tokens contains NaN or infinity"):
        round_by_gptq(weight, product, INT4_GROUP_32)
    weight[2, 3] = poison
    with pytest.raises(QuantizationError, match="NaN or infinity"):
        round_by_gptq(weight, torch.eye(40), INT4_GROUP_32)


def test_a_product_of_other_tokens_is_refused():
    with pytest.raises(QuantizationError, match=r"is \[39, 39\] for a weight with 40 columns"):
        round_by_gptq(weight_of(1, 6, 40), torch.eye(39), INT4_GROUP_32)


@pytest.mark.parametrize("rule", [W4A16, W4A4], ids=["W4A16", "W4A4 rotated"])
@pytest.mark.parametrize("columns", [96, 100, 33])
def test_a_layer_gains_from_it_also_when_rotated(rule: Rule, columns: int):
    """The weights are judged by themselves, on the tokens before they are rounded."""
    tokens, plain = tokens_of(3, columns, 500), nn.Linear(columns, 48)
    exact = plain(tokens)
    errors = []
    for rounding in ("gptq", "nearest"):
        own = replace(rule, activations=None, rounding=rounding)
        layer = QuantizedLinear.of(plain, own, input_product=tokens.t() @ tokens)
        errors.append(float((layer(tokens) - exact).detach().norm()))
    assert errors[0] < 0.8 * errors[1]


def test_a_layer_without_calibration_is_refused_in_words():
    with pytest.raises(
        QuantizationError, match=r"rounds by what enters the layer; make a bundle by `pi0-edge quantize`"
    ):
        QuantizedLinear.of(nn.Linear(32, 8), W4A16)


class Smoothed(nn.Module):
    """A producer and its consumer, under names that smoothing knows."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.ModuleDict({"norm2": nn.LayerNorm(64), "mlp": nn.ModuleDict({"fc1": nn.Linear(64, 32)})})

    def tokens(self, x: Tensor) -> Tensor:
        """What enters the consumer."""
        return self.layer["norm2"](x)

    def forward(self, x: Tensor) -> Tensor:
        return self.get_submodule("layer.mlp.fc1")(self.tokens(x))


def test_smoothing_changes_what_it_goes_by():
    """Measured before smoothing and scaled with the channels: as good as measured after it."""
    torch.manual_seed(0)
    model, x = Smoothed(), torch.randn(400, 64)
    rule = Rule(("*fc1",), weights=INT4_CHANNEL, smoothing=0.5, rounding="gptq")
    scheme = Scheme("smoothed", "", (rule,))
    with torch.no_grad():
        model.get_parameter("layer.norm2.weight").mul_(torch.logspace(-1, 1.5, 64))
        tokens, exact, twin, path = model.tokens(x), model(x), copy.deepcopy(model), "layer.mlp.fc1"
        amax, products = {path: tokens.abs().amax(0)}, {path: tokens.t() @ tokens}
        quantize_model(model, scheme, amax, products)
        smooth(twin, scheme, amax)
        after = twin.tokens(x)
        smoothed = twin.get_submodule(path)
        assert isinstance(smoothed, nn.Linear)
        quantized = QuantizedLinear.of(smoothed, rule, input_product=after.t() @ after)
        twin.get_submodule("layer.mlp").add_module("fc1", quantized)
        assert not torch.allclose(after, tokens, rtol=0.1)
        errors = [float((network(x) - exact).norm() / exact.norm()) for network in (model, twin)]
    assert errors[0] == pytest.approx(errors[1], rel=0.03)


@pytest.mark.parametrize("format", [INT4_TENSOR, E4M3_CHANNEL], ids=str)
def test_formats_it_cannot_round_to_are_refused(format: Format):
    with pytest.raises(QuantizationError, match="gptq cannot round to"):
        Rule(("*",), weights=format, rounding="gptq")
