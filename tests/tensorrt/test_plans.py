"""Plans by a real TensorRT, which builds without a GPU: TensorRT-RTX, for sm_86 in place of Orin's sm_87.

It checks what TensorRT reads, types and accepts. It is not the TensorRT of a Jetson: nothing here is about speed.
"""

from pathlib import Path

import pytest
import torch
from tensorrt_cases import full_size_velocity, make_case, product_program
from torch import nn

from pi0_edge.errors import EngineError
from pi0_edge.quant import Rule
from pi0_edge.quant.formats import BF16, E4M3_CHANNEL, E4M3_STATIC, INT8_STATIC
from pi0_edge.tensorrt.onnx_plans import build_from_onnx
from pi0_edge.tensorrt.onnx_programs import write_onnx
from pi0_edge.tensorrt.programs import Program, input_names

pytest.importorskip("onnxscript", reason="onnxscript is not installed: pip install 'pi0-edge[tensorrt]'")
trt = pytest.importorskip(
    "tensorrt_rtx_bindings",
    reason="TensorRT-RTX is not installed: pip install --no-deps tensorrt-rtx-cu13-libs tensorrt-rtx-cu13-bindings",
)
AMPERE, ADA = (8, 6), (8, 9)
SIDE = 1024

RULES = {
    "int8 static": Rule(("*",), activations=INT8_STATIC),
    "int8 weights": Rule(("*",), activations=BF16),
    "e4m3 static": Rule(("*",), weights=E4M3_CHANNEL, activations=E4M3_STATIC),
    "e4m3 weights": Rule(("*",), weights=E4M3_CHANNEL, activations=BF16),
}


def one_product(rule: Rule | None, folder: Path) -> Path:
    """A linear of SIDE × SIDE as ONNX."""
    write_onnx(product_program(rule, SIDE), folder / "product.onnx")
    return folder / "product.onnx"


@pytest.mark.parametrize("name", ["attend", "velocity"])
def test_the_programs_in_static_int8_become_plans_for_ampere(name: str, onnx_file):
    path = onnx_file(make_case("pi0", "int8-w8a8-static"), name)
    assert len(build_from_onnx(path, trt, AMPERE)) > 1e6


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["fp32", "bf16", "int8-w8a8-static", "int8-w8a16"])
@pytest.mark.parametrize("variant", ["pi0", "pi05"])
def test_every_scheme_becomes_plans_for_ampere(variant: str, scheme: str, onnx_file):
    case = make_case(variant, scheme)
    for name in input_names(case.model.config):
        assert len(build_from_onnx(onnx_file(case, name), trt, AMPERE)) > 1e6


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["int8-w8a8-static", "int8-w8a16"])
def test_a_full_size_euler_step_becomes_a_plan_for_ampere(scheme: str, tmp_path: Path):
    write_onnx(full_size_velocity(scheme), tmp_path / "velocity.onnx")
    megabytes = len(build_from_onnx(tmp_path / "velocity.onnx", trt, AMPERE)) / 1e6
    print(f"{scheme}: a plan of {megabytes:.0f} MB")
    assert 311 < megabytes < 350


@pytest.mark.parametrize("rule", ["int8 static", "int8 weights"])
def test_weights_stay_8_bits_in_the_plan(rule: str, tmp_path: Path):
    plan = len(build_from_onnx(one_product(RULES[rule], tmp_path), trt, AMPERE))
    print(f"{rule}: {plan / SIDE**2:.2f} bytes of plan per weight")
    assert plan < 1.5 * SIDE**2


def test_in_fp32_they_are_four_bytes(tmp_path: Path):
    assert len(build_from_onnx(one_product(None, tmp_path), trt, AMPERE)) > 4 * SIDE**2


@pytest.mark.parametrize("rule", ["e4m3 static", "e4m3 weights"])
def test_the_builder_itself_refuses_fp8_for_ampere(rule: str, tmp_path: Path):
    """So `check_tensorrt_scheme` refuses only what the builder would refuse later."""
    path = one_product(RULES[rule], tmp_path)
    with pytest.raises(EngineError, match=r"cannot build .*HW-specific datatypes: fp8_e4m3"):
        build_from_onnx(path, trt, AMPERE)
    assert len(build_from_onnx(path, trt, ADA)) < 1.5 * SIDE**2


def test_an_8_bit_table_that_is_no_operand_of_a_product_is_refused(tmp_path: Path):
    """Why the token embedding stays outside of the programs."""

    class Lookup(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("table", torch.ones(16, 32, dtype=torch.int8))

        def forward(self, tokens: torch.Tensor) -> torch.Tensor:
            one = torch.ones(())
            return torch.ops.pi0.dequantize_linear(self.get_buffer("table").index_select(0, tokens), one)

    tokens = torch.zeros(4, dtype=torch.int64)
    program = Program("lookup", torch.export.export(Lookup(), (tokens,)), (tokens,), ("tokens",), ("words",))
    write_onnx(program, tmp_path / "lookup.onnx")
    with pytest.raises(EngineError, match="Quantized constant"):
        build_from_onnx(tmp_path / "lookup.onnx", trt, AMPERE)


def test_a_file_that_is_no_onnx_is_refused_by_name(tmp_path: Path):
    (tmp_path / "broken.onnx").write_bytes(b"not a model")
    with pytest.raises(EngineError, match=r"cannot read .*broken\.onnx"):
        build_from_onnx(tmp_path / "broken.onnx", trt, AMPERE)
