"""GeGLU with Hadamard transform and quantization against float64."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from kernel_cases import (
    EACH_RUNNER,
    Runner,
    assert_e4m3_but_for_ties,
    assert_near,
    check_operator,
    device,
    int8_rows,
    runner,
    values,
)

from pi0_edge.errors import KernelError
from pi0_edge.kernels.geglu import activated, geglu, geglu_e4m3, geglu_into, geglu_quant

assert runner and device

BLOCKS = {16384: [1, 128, 2048], 4096: [1, 256, 4096], 48: [1, 16], 16: [8]}


@st.composite
def cases(draw: st.DrawFn):
    width = draw(st.sampled_from(sorted(BLOCKS)))
    dtype = draw(st.sampled_from([torch.bfloat16, torch.float16, torch.float32]))
    size = draw(st.sampled_from([0.1, 1.0, 5.0]))
    x = values(draw(st.integers(1, 2)), 2 * width, seed=draw(st.integers(0, 2**31)), dtype=dtype, size=size)
    x[0] *= draw(st.sampled_from([0.0, 1.0]))
    return x, draw(st.sampled_from(BLOCKS[width]))


@EACH_RUNNER
@given(cases())
def test_16_bit_output_is_float64_rounded(runner: Runner, case):
    gate_up, block = case
    dtype = torch.bfloat16 if gate_up.dtype == torch.float32 else gate_up.dtype
    out = runner.poisoned(len(gate_up), gate_up.shape[1] // 2, dtype=dtype)
    geglu_into(runner.library, out, None, *runner(gate_up), hadamard_block=block)
    assert_near(out, activated(gate_up.double(), block), 1.02)


@EACH_RUNNER
@given(cases())
def test_int8_output_follows_the_convention_of_quant(runner: Runner, case):
    gate_up, block = case
    out = runner.poisoned(len(gate_up), gate_up.shape[1] // 2, dtype=torch.int8)
    out_scale = runner.poisoned(len(gate_up), 1, dtype=torch.float32)
    geglu_into(runner.library, out, out_scale, *runner(gate_up), hadamard_block=block)
    expected, expected_scale = int8_rows(activated(gate_up.double(), block).float())
    assert torch.allclose(out_scale.cpu(), expected_scale, rtol=2e-5, atol=0)
    off = (out.cpu().int() - expected.int()).abs()
    assert off.max() <= 1
    assert off.float().mean() < 0.002


@EACH_RUNNER
@given(cases(), st.sampled_from([0.003, 0.1]))
def test_e4m3_output_has_the_scale_that_is_given(runner: Runner, case, step: float):
    gate_up, block = case
    out = runner.poisoned(len(gate_up), gate_up.shape[1] // 2, dtype=torch.float8_e4m3fn)
    scale = torch.tensor([step])
    geglu_into(runner.library, out, *runner(scale, gate_up), hadamard_block=block)
    assert_e4m3_but_for_ties(out, activated(gate_up.double(), block), scale)
    if block == 1:
        assert_e4m3_but_for_ties(geglu_e4m3(gate_up, scale), activated(gate_up.double()), scale)


def test_large_gates_neither_overflow_nor_vanish(runner: Runner):
    gate = torch.tensor([-1e30, -200.0, -10.0, 0.0, 10.0, 200.0, 1e12, 5.0]).repeat(2)
    gate_up = torch.cat((gate, torch.ones(16)))[None]
    out = runner.poisoned(1, 16, dtype=torch.bfloat16)
    geglu_into(runner.library, out, None, *runner(gate_up))
    expected = torch.tensor([0.0, 0.0, 0.0, 0.0, 10.0, 200.0, 1e12, 5.0])
    assert torch.allclose(out[0, :8].cpu().float(), expected, rtol=0.004, atol=1e-20)


def test_a_nan_reaches_the_scale(runner: Runner):
    x = values(3, 64, seed=0)
    x[1, 7] = torch.nan
    out, out_scale = runner.poisoned(3, 32, dtype=torch.int8), runner.poisoned(3, 1, dtype=torch.float32)
    geglu_into(runner.library, out, out_scale, *runner(x))
    assert out_scale.flatten().isnan().tolist() == [False, True, False]


@pytest.mark.parametrize(("width", "block"), [(24, 1), (32768, 1), (48, 32)])
def test_impossible_sizes_are_refused(runner: Runner, width: int, block: int):
    x = values(1, 2 * width, seed=0)
    with pytest.raises(KernelError, match="geglu: invalid argument"):
        geglu_into(
            runner.library, runner.poisoned(1, width, dtype=torch.bfloat16), None, *runner(x), hadamard_block=block
        )


def test_the_operators_pass_the_checks_of_torch(device: str):
    check_operator(geglu, (values(3, 64, seed=0), 16, torch.bfloat16), device)
    check_operator(geglu_quant, (values(3, 64, seed=0), 1), device)
