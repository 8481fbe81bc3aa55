"""bitsandbytes behind our interface: it runs, stays near fp32, refuses what we refuse, and cannot be bundled."""

import copy

import pytest
import torch
from quant_model_cases import TINY, random_inputs
from torch import nn

from pi0_edge.engine import build_engine
from pi0_edge.engine.loading import blank_model, fill_model
from pi0_edge.model import Pi0
from pi0_edge.quant import QuantizationError, blank_quantized, compare_actions
from pi0_edge.quant.bitsandbytes_linear import BitsAndBytesLinear
from pi0_edge.quant.schemes import BNB_INT8, BNB_NF4, Scheme

pytest.importorskip("bitsandbytes")

SCHEMES = pytest.mark.parametrize(
    ("scheme", "worst"), [(BNB_INT8, 0.03), (BNB_NF4, 0.15)], ids=lambda value: getattr(value, "name", "")
)


@SCHEMES
def test_a_layer_stays_near_fp32_also_with_outliers(scheme: Scheme, worst: float):
    linear, x = nn.Linear(256, 96), torch.randn(5, 7, 256)
    x[..., 3] *= 20
    found = BitsAndBytesLinear(linear, scheme.rules[0])(x)
    assert found.shape == (5, 7, 96)
    assert 1e-4 < float((found - linear(x)).norm() / linear(x).norm()) < worst


@SCHEMES
@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
def test_not_finite_values_are_refused(scheme: Scheme, worst: float, poison: float):
    layer, x = BitsAndBytesLinear(nn.Linear(64, 64), scheme.rules[0]), torch.randn(3, 64)
    x[1, 2] = poison
    with pytest.raises(QuantizationError, match="NaN or infinity"):
        layer(x)


@SCHEMES
def test_a_streamed_network_answers_like_one_quantized_at_once(scheme: Scheme, worst: float):
    torch.manual_seed(0)
    model = Pi0(TINY["pi0"]).eval()
    streamed = blank_model(model.config)
    report = fill_model(streamed, model.state_dict().items(), scheme)
    assert len(report.layers) == 29 and {layer.arithmetic for layer in report.layers} == {f"bitsandbytes {scheme.name}"}
    inputs, noise = random_inputs(model.config)
    truth = build_engine("reference", copy.deepcopy(model)).infer(inputs, noise)
    at_once = build_engine("cpu", model, scheme).infer(inputs, noise)
    assert torch.equal(build_engine("cpu", streamed, scheme).infer(inputs, noise), at_once)
    assert 0.9 < compare_actions(truth, at_once).cosine < 1


@SCHEMES
def test_a_bundle_cannot_hold_it(scheme: Scheme, worst: float):
    with pytest.raises(QuantizationError, match="a bundle cannot hold"):
        blank_quantized(blank_model(TINY["pi0"]), scheme)
