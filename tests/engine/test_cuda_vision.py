"""The vision tower of the CUDA engine in 16 bits: launches of a layer, and where its biases and roundings go."""

import copy
from dataclasses import replace

import pytest
import torch
from engine_cases import CPU, KERNEL_SIZES, NONE_FROZEN, quantized, random_case
from kernel_cases import assert_near, unit_roundoff, values
from operator_launches import Launches

from pi0_edge.engine.cuda.linear_interface import Rows
from pi0_edge.engine.cuda.linears import Bf16Linear, defer_bias
from pi0_edge.engine.cuda.network import CudaNetwork, step_tables
from pi0_edge.kernels.gemm_epilogue import Epilogue
from pi0_edge.kernels.norm import normalized
from pi0_edge.model import Pi0
from pi0_edge.model.flow import euler_times
from pi0_edge.quant import find_scheme

BF16 = torch.bfloat16


def launches_of_vision(scheme: str, depth: int) -> int:
    vision = replace(KERNEL_SIZES.vision, depth=depth)
    model = Pi0(replace(KERNEL_SIZES, vision=vision))
    amax = {path: torch.ones(m.in_features) for path, m in model.named_modules() if isinstance(m, torch.nn.Linear)}
    network = CudaNetwork(quantized(model, find_scheme(scheme), amax), CPU)
    rows = network.patch_rows(torch.zeros(2, 3, vision.image_size, vision.image_size))
    with torch.no_grad(), Launches() as found:
        network._vision(rows)
    return found.count


@pytest.mark.parametrize("scheme", ["orin", "bf16"])
def test_a_layer_in_16_bits_is_seven_launches(scheme: str):
    """norm, q·k·v, attention, out with the residual, norm, fc1 with GELU, fc2 with the residual."""
    assert launches_of_vision(scheme, 2) - launches_of_vision(scheme, 1) == 7


def test_a_layer_in_fp8_is_twelve_launches():
    """As in 16 bits, and behind products of torch a GELU and two residuals, before two of them the pass to E4M3."""
    assert launches_of_vision("fp8-w8a8", 2) - launches_of_vision("fp8-w8a8", 1) == 12


def test_a_sum_with_the_residual_is_rounded_once_and_the_next_norm_adds_the_bias():
    rows, width, k = 32, 144, 304
    weight, bias = values(width, k, seed=0, dtype=BF16, size=k**-0.5), values(width, seed=1, dtype=BF16)
    x, tokens, before = values(rows, width, seed=2, dtype=BF16), values(rows, k, seed=3, dtype=BF16), torch.ones(width)
    exact = x.double() + tokens.double() @ weight.double().t()
    linear, offset = defer_bias(Bf16Linear(weight, bias), before)
    assert offset is not None and torch.equal(offset, before + bias.float())
    stream = linear(Rows(tokens), Epilogue(BF16, residual=x))
    assert stream.data_ptr() == x.data_ptr()
    assert_near(stream, exact, 1.02)
    seen = normalized(stream, None, None, centred=True, offset=offset)
    assert torch.equal(seen, normalized(stream.float() + offset, None, None, centred=True))


@torch.inference_mode()
def test_the_tower_is_the_reference_within_its_roundings():
    """Biases as large as the stream; seven roundings to 16 bits in a layer and two more, taken as independent."""
    model, inputs, _ = random_case("pi0")
    model = model.to(BF16).float()  # weights that 16 bits hold
    for path, parameter in model.vision.named_parameters():
        if path.endswith(("attention.out.bias", "fc2.bias")):
            parameter.copy_(values(len(parameter), seed=5, dtype=BF16))
    images = inputs.images[0]
    truth = model.projector(model.vision(images)).flatten(0, 1)
    network = CudaNetwork(copy.deepcopy(model), CPU)
    found = network._vision(network.patch_rows(images))
    error = float((found.float() - truth).norm() / truth.norm())
    bound = unit_roundoff(BF16) * (7 * len(model.vision.layers) + 2) ** 0.5
    print(f"relative error {error:.2e}, bound {bound:.2e}")
    assert error < bound


@torch.inference_mode()
def test_sums_in_place_leave_what_a_graph_reads_again():
    model, inputs, noise = random_case("pi0")
    tables = step_tables(model, euler_times(2), CPU)
    network = CudaNetwork(quantized(model, find_scheme("bf16")), CPU)
    rows, tokens = network.patch_rows(inputs.images[0]), inputs.tokens[0]
    caches = [network.blank_cache(len(rows), len(tokens)) for _ in range(2)]
    given = rows.clone(), network.embedding.clone()
    for cache in caches:
        network.attend(rows, tokens, cache)
        network.integrate(noise[0].clone(), inputs.state[0], cache, tables, NONE_FROZEN)
    assert torch.equal(caches[0].keys, caches[1].keys) and torch.equal(caches[0].values, caches[1].values)
    assert torch.equal(rows, given[0]) and torch.equal(network.embedding, given[1])
