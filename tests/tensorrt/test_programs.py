"""The programs that TensorRT runs, run by torch on the CPU: against the reference and against the CPU engine."""

import copy

import pytest
import torch
from golden_vectors import load_golden
from hypothesis import given
from hypothesis import strategies as st
from tensorrt_cases import TIMES, first_row, make_case
from torch import nn

from pi0_edge.errors import EngineError
from pi0_edge.model.flow import euler_times
from pi0_edge.model.rtc import Guidance
from pi0_edge.quant import Rule, compare_actions, find_scheme
from pi0_edge.quant.formats import BF16, E4M3_CHANNEL, E4M3_STATIC, INT8_STATIC
from pi0_edge.quant.quantized_linear import QuantizedLinear
from pi0_edge.quant.schemes import SCHEMES, Scheme
from pi0_edge.tensorrt.programs import conditioning_table, sample_actions
from pi0_edge.tensorrt.qdq import ExplicitLinear, check_tensorrt_scheme

VARIANTS = ("pi0", "pi05")
RUNS = ("fp32", "bf16", "int8-w8a8-static", "int8-w8a16", "fp8-w8a16", "fp8-w8a8")


@pytest.mark.parametrize("variant", VARIANTS)
def test_in_fp32_the_exported_programs_are_the_reference(variant: str):
    case = make_case(variant, "fp32")
    error = (case.actions() - case.truth).abs().max().item()
    assert error < 1e-5
    assert not torch.equal(case.truth, case.noise)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("variant", "scheme"),
    [
        ("pi0", "bf16"),
        ("pi0", "int8-w8a8-static"),
        ("pi0", "int8-w8a16"),
        ("pi0", "fp8-w8a8"),
        ("pi05", "int8-w8a8-static"),
    ],
)
def test_under_a_scheme_they_are_the_cpu_engine_within_rounding(variant: str, scheme: str):
    case = make_case(variant, scheme)
    found = case.actions()
    beside, to_truth = compare_actions(case.cpu, found), compare_actions(case.truth, found)
    print(f"{variant} {scheme}: to the CPU engine {beside.cosine:.7f}, to fp32 {to_truth.cosine:.7f}")
    assert beside.cosine > 0.9999
    assert to_truth.max_abs_error > 1e-5  # equal actions would mean that nothing was rounded


@pytest.mark.parametrize("steps", [1, 2, 4])
def test_number_and_times_of_the_steps_are_no_part_of_a_program(steps: int):
    case, times = make_case("pi0", "fp32"), euler_times(steps, "exact")
    inputs, noise = first_row(load_golden("pi0").recording.inputs), case.noise[None]
    with torch.inference_mode():
        truth = case.model.sample_actions(inputs, noise, times)[0]
    assert (case.actions(times) - truth).abs().max() < 1e-5
    assert (case.truth - truth).abs().max() > 1e-3


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_guided_chunk_is_the_reference_s(variant: str):
    case, model = make_case(variant, "fp32"), load_golden(variant).model
    inputs, noise = first_row(load_golden(variant).recording.inputs), case.noise[None]
    plan = torch.randn(case.noise.shape, generator=torch.Generator().manual_seed(3))
    guidance = Guidance(plan, torch.linspace(1, 0, len(plan))[:, None].expand(plan.shape), max_weight=10.0)
    attend, velocity = (case.program(name).exported.module() for name in ("attend", "velocity"))
    with torch.inference_mode():
        truth = model.sample_actions(inputs, noise, TIMES, guidance)[0]
        table = conditioning_table(model, TIMES)
        found = sample_actions(attend, velocity, case.observation, case.noise, table, TIMES, guidance)
    assert (found - truth).abs().max() < 1e-5
    assert (case.truth - truth).abs().max() > 1e-2


@pytest.mark.parametrize("name", ["attend", "velocity"])
def test_every_weight_enters_its_product_through_one_dequantization(name: str):
    """What a compiler must see: 8-bit weights as they are stored, and nothing folded to float."""
    case = make_case("pi0", "int8-w8a8-static")
    program = case.program(name).exported
    targets = [node.target for node in program.graph.nodes if node.op == "call_function"]
    expected = {"attend": ("vision", "prefix", "expert"), "velocity": ("expert",)}[name]
    layers = [
        path
        for path, layer in case.model.named_modules()
        if isinstance(layer, ExplicitLinear) and path.startswith(expected)
    ]
    if name == "attend":  # the state token leaves only its keys and values behind in the last layer of the expert
        last = f"expert.layers.{len(case.model.expert.layers) - 1}."
        unused = ("attention.q", "attention.o", "mlp.gate", "mlp.up", "mlp.down")
        layers = [path for path in layers if not (path.startswith(last) and path.endswith(unused))]
    assert targets.count(torch.ops.pi0.quantize_linear.default) == len(layers)
    assert targets.count(torch.ops.pi0.dequantize_linear.default) == 2 * len(layers)


RULES = {
    "static INT8": Rule(("*",), activations=INT8_STATIC),
    "static E4M3": Rule(("*",), weights=E4M3_CHANNEL, activations=E4M3_STATIC),
    "INT8 weights": Rule(("*",), activations=None),
    "INT8 weights, rotated": Rule(("*",), activations=None, hadamard=8),
}


@given(
    rule=st.sampled_from(sorted(RULES)),
    k=st.sampled_from([2, 8, 24, 64]),
    n=st.integers(1, 40),
    tokens=st.integers(1, 9),
    bias=st.booleans(),
    seed=st.integers(0, 2**31),
)
def test_a_written_out_linear_computes_what_the_quantized_one_does(rule, k, n, tokens, bias, seed):
    torch.manual_seed(seed)
    linear, x = nn.Linear(k, n, bias), torch.randn(tokens, k)
    quantized = QuantizedLinear.of(linear, RULES[rule], float(x.abs().max()))
    expected = copy.deepcopy(quantized)(x)
    found = ExplicitLinear(quantized)(x)
    assert (found - expected).abs().max() <= 1e-5 * max(1.0, expected.abs().max())


def test_values_beyond_calibration_saturate():
    """TensorRT saturates at -128 where the CPU engine does at -127: a step apart, outside the calibrated range."""
    linear = nn.Linear(2, 1, bias=False)
    linear.weight.data.fill_(1.0)
    quantized = QuantizedLinear.of(linear, RULES["static INT8"], 1.27)
    x = torch.tensor([[10.0, 0.0], [-10.0, 0.0]])
    assert copy.deepcopy(quantized)(x).flatten().tolist() == pytest.approx([1.27, -1.27])
    assert ExplicitLinear(quantized)(x).flatten().tolist() == pytest.approx([1.27, -1.28])


def test_16_bit_activations_round_their_weights_to_16_bits():
    torch.manual_seed(0)
    quantized = QuantizedLinear.of(nn.Linear(64, 32), Rule(("*",), activations=BF16))
    x = torch.randn(5, 64).bfloat16()
    expected, found = copy.deepcopy(quantized)(x).float(), ExplicitLinear(quantized)(x)
    assert found.dtype == torch.bfloat16
    assert (found.float() - expected).norm() < 5e-3 * expected.norm()


def test_packed_weights_are_refused():
    quantized = QuantizedLinear.of(nn.Linear(8, 8), Rule(("*",), activations=INT8_STATIC), 1.0)
    quantized.pack()
    with pytest.raises(EngineError, match="packed for the CPU"):
        ExplicitLinear(quantized)


@pytest.mark.parametrize("scheme", ["orin", "orin-expert4", "int8-w8a8", "int4-per-tensor", "bnb-int8", "bnb-nf4"])
def test_what_explicit_quantization_cannot_say_is_refused_with_the_scheme_to_choose(scheme: str):
    with pytest.raises(EngineError, match=f"^{scheme} .*use int8-w8a8-static"):
        check_tensorrt_scheme(find_scheme(scheme), (11, 0))


@pytest.mark.parametrize("scheme", ["fp8-w8a8", "fp8-w8a16"])
def test_fp8_is_refused_on_ampere_with_the_alternative(scheme: str):
    for capability in ((8, 0), (8, 6), (8, 7)):
        with pytest.raises(EngineError, match=r"FP8 .* 8\.9 .* this is for 8\.\d; use int8-w8a8-static"):
            check_tensorrt_scheme(find_scheme(scheme), capability)
    check_tensorrt_scheme(find_scheme(scheme), (8, 9))
    check_tensorrt_scheme(find_scheme(scheme), (11, 0))


def test_every_scheme_is_run_or_refused():
    def taken(scheme: Scheme) -> bool:
        try:
            check_tensorrt_scheme(scheme, (11, 0))
        except EngineError:
            return False
        return True

    assert {name for name, scheme in SCHEMES.items() if taken(scheme)} == set(RUNS)
