"""FP8 arithmetic in the CUDA engine: which product multiplies which linear, and that both are one function."""

import copy

import pytest
import torch
from engine_cases import CPU, NONE_FROZEN, Case, attended, largest_inputs, quantized, random_case
from kernel_cases import assert_e4m3_but_for_ties, assert_near, values
from operator_launches import Launches
from torch import Tensor

from pi0_edge.engine import build_engine
from pi0_edge.engine.cuda import fp8_linears
from pi0_edge.engine.cuda.fp8_linears import Fp8Linear, ScaledFp8Linear, fp8_linear, torch_multiplies_e4m3
from pi0_edge.engine.cuda.linears import multiply_and_quantize
from pi0_edge.engine.cuda.network import CudaNetwork, step_tables
from pi0_edge.kernels.geglu import activated
from pi0_edge.kernels.gemm_epilogue import Epilogue
from pi0_edge.kernels.gemm_packing import interleave_gate_up
from pi0_edge.model.flow import EULER_STEPS, euler_times
from pi0_edge.quant import compare_actions, find_scheme

TIMES = euler_times(EULER_STEPS)


@pytest.fixture
def torch_without_fp8(monkeypatch: pytest.MonkeyPatch):
    """As one that is too old for a GPU: it refuses the product."""

    def refused(*_: object) -> Tensor:
        raise RuntimeError("Rowwise scaling is not currently supported on your device\nand a trace")

    monkeypatch.setattr(fp8_linears, "scaled_product", refused)
    torch_multiplies_e4m3.cache_clear()
    yield
    torch_multiplies_e4m3.cache_clear()


def fp8_network() -> tuple[CudaNetwork, Case]:
    case = random_case("pi0")
    return CudaNetwork(quantized(case[0], find_scheme("fp8-w8a8"), largest_inputs(*case)), CPU), case


def test_torch_multiplies_fp8_of_many_tokens_and_we_those_of_the_expert():
    network, _ = fp8_network()
    many = [network.last_kv]
    for layer in (*network.vision, *network.prefix):
        many += [layer.qkv, layer.out, layer.up, layer.down]
    assert all(isinstance(linear, ScaledFp8Linear) for linear in many)
    few = [linear for layer in network.expert for linear in (layer.qkv, layer.out, layer.up, layer.down)]
    assert all(isinstance(linear, Fp8Linear) for linear in few)


@pytest.mark.usefixtures("torch_without_fp8")
def test_a_torch_without_the_fp8_product_is_told_once_and_ours_takes_its_place(caplog: pytest.LogCaptureFixture):
    network, (model, inputs, noise) = fp8_network()
    layers = (*network.vision, *network.prefix, *network.expert)
    assert all(
        isinstance(linear, Fp8Linear) for layer in layers for linear in (layer.qkv, layer.out, layer.up, layer.down)
    )
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 1
    assert "no FP8 product" in said[0] and "(Rowwise scaling is not currently supported on your device)" in said[0]
    assert "use orin or bf16" in said[0]
    truth = build_engine("reference", copy.deepcopy(model)).infer(inputs, noise)
    tables, found = step_tables(model, TIMES, CPU), noise[0].clone()
    with torch.inference_mode():
        network.integrate(found, inputs.state[0], attended(network, inputs), tables, NONE_FROZEN)
    assert compare_actions(truth, found[None]).cosine > 0.995


def test_a_torch_whose_fp8_product_is_wrong_is_not_used(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    monkeypatch.setattr(fp8_linears, "scaled_product", lambda a, *_: torch.zeros(len(a), len(a), dtype=torch.bfloat16))
    torch_multiplies_e4m3.cache_clear()
    assert not torch_multiplies_e4m3(CPU)
    assert "its results are wrong" in caplog.text
    torch_multiplies_e4m3.cache_clear()


@pytest.mark.parametrize("activation", ["linear", "gelu", "geglu"])
def test_both_fp8_products_are_one_function(activation: str):
    """Of the same weights and tokens; torch's has one rounding to 16 bits more, before what follows it."""
    rows, width, columns = 40, 64, 96
    x, weight = values(rows, width, seed=0), values(columns, width, seed=1).to(torch.float8_e4m3fn)
    scale, bias = values(columns, seed=2).abs() * 0.1, values(columns, seed=3)
    step = torch.tensor([0.02])
    pairs = weight.view(torch.int8).chunk(2), scale.chunk(2), bias.chunk(2)
    stored, scales, biases = (interleave_gate_up(*pair) for pair in pairs)
    own = (stored.view(weight.dtype), scales, biases) if activation == "geglu" else (weight, scale, bias)
    ours = fp8_linear(*own, step, torch.bfloat16, by_torch=False)
    by_torch = fp8_linear(weight, scale, bias, step, torch.bfloat16, by_torch=True)
    residual = values(rows, columns, seed=4, dtype=torch.bfloat16) if activation == "linear" else None
    found = [
        linear(linear.quantize_input(x), Epilogue(torch.bfloat16, activation, residual=kept))
        for linear, kept in ((ours, residual), (by_torch, None if residual is None else residual.clone()))
    ]
    assert_near(found[1], found[0].double(), 3.0)


def test_the_geglu_between_two_products_of_torch_leaves_e4m3():
    x, step, out_step = values(40, 64, seed=0), torch.tensor([0.02]), torch.tensor([0.7])
    weights = values(96, 64, seed=1).to(torch.float8_e4m3fn), values(32, 48, seed=2).to(torch.float8_e4m3fn)
    up = fp8_linear(weights[0], torch.full((96,), 0.01), None, step, torch.bfloat16, by_torch=True)
    down = fp8_linear(weights[1], torch.ones(32), None, out_step, torch.bfloat16, by_torch=True)
    rows = up.quantize_input(x)
    with Launches() as found:
        hidden = multiply_and_quantize(up, rows, Epilogue(torch.bfloat16, "geglu"), down)
    assert found.count == 2
    product = (rows.values.double() @ weights[0].double().t() * (0.01 * step.double())).bfloat16()
    assert_e4m3_but_for_ties(hidden.values, activated(product.double()), out_step)
