"""Hadamard rotation and SmoothQuant change nothing but the rounding."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from quant_model_cases import TINY, random_inputs

from pi0_edge.model import Pi0
from pi0_edge.model.flow import euler_times
from pi0_edge.quant.formats import INT8_STATIC
from pi0_edge.quant.hadamard import block_size, hadamard, rotate
from pi0_edge.quant.quantize import quantize_model
from pi0_edge.quant.schemes import Rule, Scheme
from pi0_edge.quant.smoothing import smooth

SMOOTHED = Scheme("smoothed", "", (Rule(("*.layers.*.attention.*", "*.layers.*.mlp.*"), smoothing=0.5),))


@pytest.mark.parametrize("size", [1, 2, 16, 128, 256])
def test_the_matrix_is_orthogonal_and_symmetric(size: int):
    matrix = hadamard(size).double()
    assert torch.allclose(matrix @ matrix, torch.eye(size, dtype=torch.float64), atol=1e-6)
    assert torch.equal(matrix, matrix.t())


@pytest.mark.parametrize(("width", "block"), [(2048, 128), (16384, 128), (1152, 128), (4304, 16), (96, 32), (7, 1)])
def test_the_block_is_what_the_width_allows(width: int, block: int):
    assert block_size(width, 128) == block


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 6), st.sampled_from([2, 8, 64]))
def test_rotating_both_sides_keeps_every_product(seed: int, blocks: int, block: int):
    generator = torch.Generator().manual_seed(seed)
    x, w = torch.randn(5, blocks * block, generator=generator), torch.randn(7, blocks * block, generator=generator)
    assert torch.allclose(rotate(x, block) @ rotate(w, block).t(), x @ w.t(), atol=1e-4)
    assert torch.allclose(rotate(rotate(x, block), block), x, atol=1e-5)


def observed(model: Pi0) -> dict[str, torch.Tensor]:
    """Channel amax of what enters every linear in one chunk."""
    amax: dict[str, torch.Tensor] = {}

    def watch(path: str):
        def hook(module, inputs):
            found = inputs[0].detach().abs().flatten(0, -2).amax(0)
            amax[path] = torch.maximum(amax[path], found) if path in amax else found

        return hook

    handles = [
        m.register_forward_pre_hook(watch(p)) for p, m in model.named_modules() if isinstance(m, torch.nn.Linear)
    ]
    actions(model)
    for handle in handles:
        handle.remove()
    return amax


@torch.no_grad()
def actions(model: Pi0) -> torch.Tensor:
    inputs, noise = random_inputs(model.config)
    return model.sample_actions(inputs, noise, euler_times(4))


def spiky(variant: str = "pi0") -> Pi0:
    """A network whose norms blow single channels up."""
    torch.manual_seed(0)
    model = Pi0(TINY[variant]).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("norm.weight") and "prefix" in name:
                parameter[3] = 60.0
            if name.endswith("norm1.weight"):
                parameter[5] = 60.0
    return model


@pytest.mark.parametrize("variant", ["pi0", "pi05"])
def test_smoothing_keeps_the_function(variant: str):
    model = spiky(variant)
    before, amax = actions(model), observed(model)
    after_amax = smooth(model, SMOOTHED, amax)
    assert torch.allclose(actions(model), before, atol=1e-4)
    again = observed(model)
    for path, found in again.items():
        assert torch.allclose(found, after_amax[path], rtol=1e-3, atol=1e-5), path


def test_smoothing_evens_out_what_is_quantized():
    model = spiky()
    before = observed(model)
    after = smooth(model, SMOOTHED, before)
    for path in ("prefix.layers.0.mlp.up", "prefix.layers.0.attention.q", "vision.layers.0.attention.k"):
        assert float(after[path].amax() / after[path].median()) < 0.5 * float(
            before[path].amax() / before[path].median()
        )


def test_smoothing_makes_static_int8_better():
    model = spiky()
    truth, amax = actions(model), observed(model)
    layers = ("*.layers.*.attention.*", "*.layers.*.mlp.*")
    errors = []
    for smoothing in (0.0, 0.5):
        scheme = Scheme("static", "", (Rule(layers, activations=INT8_STATIC, smoothing=smoothing),))
        quantized = copy.deepcopy(model)
        quantize_model(quantized, scheme, amax)
        errors.append(float((actions(quantized) - truth).norm()))
    assert errors[1] < errors[0]
