"""Quantizing whole models in place, and building them quantized layer by layer."""

import copy
import gc
import weakref

import pytest
import torch
from quant_model_cases import TINY, random_inputs
from torch import nn

from pi0_edge.engine.loading import blank_model, fill_model, restore_model
from pi0_edge.errors import EngineError
from pi0_edge.model import Pi0
from pi0_edge.model.flow import euler_times
from pi0_edge.model.precision import apply_bf16_policy
from pi0_edge.quant import (
    FP32,
    INT8_W8A8,
    SCHEMES,
    QuantizationError,
    QuantizedEmbedding,
    QuantizedLinear,
    quantize_model,
)
from pi0_edge.quant.quantize import quantize_layer
from pi0_edge.quant.schemes import BF16_POLICY, INT8_W8A8_STATIC


@pytest.fixture
def model() -> Pi0:
    torch.manual_seed(0)
    return Pi0(TINY["pi05"]).eval()


def dtypes(model: nn.Module) -> dict[str, torch.dtype]:
    return {name: parameter.dtype for name, parameter in model.named_parameters()}


def test_covered_linears_are_replaced_and_the_rest_is_untouched(model: Pi0):
    before = copy.deepcopy(model)
    report = quantize_model(model, INT8_W8A8)
    replaced = {
        path for path, module in model.named_modules() if isinstance(module, QuantizedLinear | QuantizedEmbedding)
    }
    assert replaced == {layer.path for layer in report.layers}
    assert len(replaced) == 6 + 7 + 2 + 14 + 1
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, before.get_parameter(name))


def test_report_counts_every_byte(model: Pi0):
    before = sum(parameter.nbytes for parameter in model.parameters())
    report = quantize_model(model, INT8_W8A8)
    assert report.bytes_before == before
    assert report.bytes_untouched == sum(parameter.nbytes for parameter in model.parameters())
    q = next(layer for layer in report.layers if layer.path == "expert.layers.1.attention.q")
    assert (q.shape, q.bytes_before, q.bytes_after) == ((16, 8), 4 * 8 * 16, 8 * 16 + 4 * 16)
    assert report.bytes_after - report.bytes_untouched == sum(layer.bytes_after for layer in report.layers)


def test_weights_are_freed_as_they_are_replaced(model: Pi0):
    covered = [module for path, module in model.named_modules() if INT8_W8A8.covers(path)]
    weights = [weakref.ref(module.weight) for module in covered if isinstance(module, nn.Linear | nn.Embedding)]
    del covered
    quantize_model(model, INT8_W8A8)
    gc.collect()
    assert len(weights) == 30
    assert not any(weight() is not None for weight in weights)


def test_quantizing_twice_changes_nothing(model: Pi0):
    quantize_model(model, INT8_W8A8)
    layers = [module for module in model.modules() if isinstance(module, QuantizedLinear)]
    report = quantize_model(model, INT8_W8A8)
    assert report.layers == ()
    assert layers == [module for module in model.modules() if isinstance(module, QuantizedLinear)]


def test_fp32_is_no_change(model: Pi0):
    before = dict(model.named_modules())
    report = quantize_model(model, FP32)
    assert report.layers == ()
    assert report.bytes_before == report.bytes_after
    assert dict(model.named_modules()) == before


def test_a_bad_weight_is_named(model: Pi0):
    with torch.no_grad():
        model.get_parameter("prefix.layers.0.mlp.up.weight")[3, 2] = float("inf")
    with pytest.raises(QuantizationError, match=r"prefix\.layers\.0\.mlp\.up.*infinity"):
        quantize_model(model, INT8_W8A8)


@pytest.mark.parametrize("shuffle", [False, True])
def test_streamed_model_equals_the_one_quantized_at_once(model: Pi0, shuffle: bool):
    tensors = list(model.state_dict().items())
    streamed = blank_model(TINY["pi05"])
    report = fill_model(streamed, reversed(tensors) if shuffle else tensors, INT8_W8A8)
    assert report.bytes_after == quantize_model(model, INT8_W8A8).bytes_after
    x = torch.randn(5, 16)
    for path, module in model.named_modules():
        if isinstance(module, QuantizedLinear) and module.in_features == 16:
            assert torch.equal(module(x), streamed.get_submodule(path)(x))
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, streamed.get_parameter(name))


def test_streamed_model_keeps_the_bf16_policy(model: Pi0):
    tensors = list(model.state_dict().items())
    streamed = blank_model(TINY["pi05"], BF16_POLICY)
    fill_model(streamed, tensors, BF16_POLICY)
    assert dtypes(streamed) == dtypes(apply_bf16_policy(model))
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, streamed.get_parameter(name))


def test_streamed_parameters_are_copies(model: Pi0):
    tensors = dict(model.state_dict())
    streamed = blank_model(TINY["pi05"])
    fill_model(streamed, tensors.items())
    tensors["projector.weight"].zero_()
    assert bool(streamed.projector.weight.any())


@pytest.mark.parametrize(
    ("name", "tensor", "message"),
    [
        ("projector.weight", None, r"1 parameters are missing, such as projector\.weight"),
        ("projector.weight", torch.zeros(3, 3), r"projector\.weight has shape \[3, 3\], expected \[16, 16\]"),
        ("projector.wait", torch.zeros(3), r"no parameter projector\.wait"),
        ("projectile.weight", torch.zeros(3), r"no parameter projectile\.weight"),
    ],
)
def test_streams_that_do_not_fit_are_refused(model: Pi0, name: str, tensor: torch.Tensor | None, message: str):
    tensors: dict[str, torch.Tensor] = dict(model.state_dict())
    if tensor is None:
        del tensors[name]
    else:
        tensors[name] = tensor
    with pytest.raises(EngineError, match=message):
        fill_model(blank_model(TINY["pi05"]), tensors.items())


def input_products(model: nn.Module) -> dict[str, torch.Tensor]:
    """XᵀX of random tokens with correlated channels, for every linear."""
    generator = torch.Generator().manual_seed(0)
    linears = {path: m for path, m in model.named_modules() if isinstance(m, nn.Linear)}
    tokens = {
        path: torch.randn(3 * m.in_features, m.in_features, generator=generator).cumsum(1)
        for path, m in linears.items()
    }
    return {path: own.t() @ own for path, own in tokens.items()}


STORED = [scheme for scheme in SCHEMES.values() if not any(rule.library for rule in scheme.rules)]


@pytest.mark.parametrize("variant", ["pi0", "pi05"])
@pytest.mark.parametrize("scheme", STORED, ids=lambda scheme: scheme.name)
def test_a_restored_network_gives_the_same_actions(variant: str, scheme):
    torch.manual_seed(0)
    model = Pi0(TINY[variant]).eval()
    if scheme.rest == "bf16":
        apply_bf16_policy(model)
    amax = {path: torch.full((m.in_features,), 3.0) for path, m in model.named_modules() if isinstance(m, nn.Linear)}
    quantize_model(model, scheme, amax, input_products(model))
    restored = blank_model(TINY[variant], scheme)
    restore_model(restored, model.state_dict().items(), scheme)
    inputs, noise = random_inputs(model.config)
    with torch.inference_mode():
        found, expected = (m.sample_actions(inputs, noise, euler_times(3)) for m in (restored, model))
    assert torch.equal(found, expected)


def test_a_restored_network_shares_the_memory_it_was_given(model: Pi0):
    quantize_model(model, INT8_W8A8)
    state = model.state_dict()
    restored = blank_model(TINY["pi05"], INT8_W8A8)
    restore_model(restored, state.items(), INT8_W8A8)
    embedding = restored.get_submodule("token_embedding")
    assert isinstance(embedding, QuantizedEmbedding)
    assert embedding.values.data_ptr() == state["token_embedding.values"].data_ptr()
    assert restored.projector.weight.data_ptr() == state["projector.weight"].data_ptr()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("projector.weight"), r"1 tensors are missing, such as projector\.weight"),
        (
            lambda s: s.update({"projector.wait": torch.zeros(1)}),
            r"no tensor projector\.wait under",
        ),
        (lambda s: s.update({"projector.bias": torch.zeros(3)}), r"projector\.bias is torch\.float32 \[3\], expected"),
        (
            lambda s: s.update({"expert.layers.0.mlp.up.values": torch.zeros(16, 8)}),
            r"values is torch\.float32 .* expected torch\.int8",
        ),
    ],
)
def test_tensors_of_another_network_are_refused(model: Pi0, change, message: str):
    quantize_model(model, INT8_W8A8)
    state = dict(model.state_dict())
    change(state)
    with pytest.raises(EngineError, match=message):
        restore_model(blank_model(TINY["pi05"], INT8_W8A8), state.items(), INT8_W8A8)


def test_missing_calibration_is_refused_before_anything_is_changed(model: Pi0):
    before = dict(model.named_modules())
    with pytest.raises(QuantizationError, match="int8-w8a8-static needs calibration"):
        quantize_model(model, INT8_W8A8_STATIC)
    assert dict(model.named_modules()) == before
    with pytest.raises(QuantizationError, match=r"expert\.layers\.0\.mlp\.up: a static scale needs calibration"):
        quantize_layer(model, "expert.layers.0.mlp.up", INT8_W8A8_STATIC)
