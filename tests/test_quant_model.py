"""Quantizing whole models in place, and building them quantized layer by layer."""

import copy
import gc
import weakref

import pytest
import torch
from torch import nn

from pi0_edge.engine.assembly import blank_model, fill_model
from pi0_edge.errors import EngineError
from pi0_edge.model import GemmaConfig, Pi0, Pi0Config, VisionConfig
from pi0_edge.model.precision import apply_bf16_policy
from quant import FP32, INT8_W8A8, Int8Linear, QuantizationError, quantize_model

TINY = Pi0Config(
    "pi05",
    VisionConfig(width=16, depth=1, mlp_dim=24, heads=2, patch_size=7, image_size=14),
    GemmaConfig(width=16, depth=2, mlp_dim=32, heads=2, kv_heads=1, head_dim=8),
    GemmaConfig(width=8, depth=2, mlp_dim=16, heads=2, kv_heads=1, head_dim=8),
    vocab_size=32,
    action_dim=4,
    horizon=3,
)


@pytest.fixture
def model() -> Pi0:
    torch.manual_seed(0)
    return Pi0(TINY).eval()


def dtypes(model: nn.Module) -> dict[str, torch.dtype]:
    return {name: parameter.dtype for name, parameter in model.named_parameters()}


def test_covered_linears_are_replaced_and_the_rest_is_untouched(model: Pi0):
    before = copy.deepcopy(model)
    report = quantize_model(model, INT8_W8A8)
    replaced = {path for path, module in model.named_modules() if isinstance(module, Int8Linear)}
    assert replaced == {layer.path for layer in report.layers}
    assert len(replaced) == 6 + 7 + 2 + 14
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, before.get_parameter(name))


def test_report_counts_every_byte(model: Pi0):
    before = sum(parameter.nbytes for parameter in model.parameters())
    report = quantize_model(model, INT8_W8A8)
    assert report.bytes_before == before
    assert report.bytes_untouched == sum(parameter.nbytes for parameter in model.parameters())
    q = next(layer for layer in report.layers if layer.path == "expert.layers.1.attention.q")
    assert (q.in_features, q.out_features, q.bytes_before, q.bytes_after) == (8, 16, 4 * 8 * 16, 8 * 16 + 4 * 16)
    assert report.bytes_after - report.bytes_untouched == sum(layer.bytes_after for layer in report.layers)


def test_weights_are_freed_as_they_are_replaced(model: Pi0):
    weights = [weakref.ref(module.weight) for path, module in model.named_modules() if INT8_W8A8.covers(path)]
    quantize_model(model, INT8_W8A8)
    gc.collect()
    assert len(weights) == 29
    assert not any(weight() is not None for weight in weights)


def test_quantizing_twice_changes_nothing(model: Pi0):
    quantize_model(model, INT8_W8A8)
    layers = [module for module in model.modules() if isinstance(module, Int8Linear)]
    report = quantize_model(model, INT8_W8A8)
    assert report.layers == ()
    assert layers == [module for module in model.modules() if isinstance(module, Int8Linear)]


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
    streamed = blank_model(TINY)
    report = fill_model(streamed, reversed(tensors) if shuffle else tensors, INT8_W8A8)
    assert report.bytes_after == quantize_model(model, INT8_W8A8).bytes_after
    x = torch.randn(5, 16)
    for path, module in model.named_modules():
        if isinstance(module, Int8Linear) and module.in_features == 16:
            assert torch.equal(module(x), streamed.get_submodule(path)(x))
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, streamed.get_parameter(name))


def test_streamed_model_keeps_the_bf16_policy(model: Pi0):
    tensors = list(model.state_dict().items())
    streamed = apply_bf16_policy(blank_model(TINY))
    fill_model(streamed, tensors)
    assert dtypes(streamed) == dtypes(apply_bf16_policy(model))
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, streamed.get_parameter(name))


def test_streamed_parameters_are_copies(model: Pi0):
    tensors = dict(model.state_dict())
    streamed = blank_model(TINY)
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
        fill_model(blank_model(TINY), tensors.items())
