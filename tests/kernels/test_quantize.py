"""Hadamard transform and quantization of rows against float64."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from kernel_cases import EACH_RUNNER, Runner, int8_rows, runner, values

from pi0_edge.errors import KernelError
from pi0_edge.kernels.quantize import quantize, quantize_into
from pi0_edge.kernels.rows import hadamard

assert runner

BLOCKS = {16384: [1, 128, 2048], 4304: [1, 16], 1024: [1, 256, 1024], 16: [8]}


@st.composite
def cases(draw: st.DrawFn):
    width = draw(st.sampled_from(sorted(BLOCKS)))
    dtype = draw(st.sampled_from([torch.bfloat16, torch.float16, torch.float32]))
    x = values(draw(st.integers(1, 3)), width, seed=draw(st.integers(0, 2**31)), dtype=dtype)
    x[0] *= draw(st.sampled_from([0.0, 1.0]))
    return x, draw(st.sampled_from(BLOCKS[width]))


@EACH_RUNNER
@given(cases())
def test_rows_follow_the_convention_of_quant(runner: Runner, case):
    x, block = case
    out, out_scale = runner.poisoned(*x.shape, dtype=torch.int8), runner.poisoned(len(x), 1, dtype=torch.float32)
    quantize_into(runner.library, out, out_scale, *runner(x), hadamard_block=block)
    expected, expected_scale = int8_rows(hadamard(x.double(), block).float())
    assert torch.allclose(out_scale.cpu(), expected_scale, rtol=2e-6, atol=0)
    off = (out.cpu().int() - expected.int()).abs()
    assert off.max() <= 1
    assert off.float().mean() < 0.002


@pytest.mark.parametrize(("width", "block"), [(24, 1), (32768, 1), (4304, 32)])
def test_impossible_sizes_are_refused(runner: Runner, width: int, block: int):
    out, out_scale = runner.poisoned(1, width, dtype=torch.int8), runner.poisoned(1, 1, dtype=torch.float32)
    with pytest.raises(KernelError, match="quantize: invalid argument"):
        quantize_into(runner.library, out, out_scale, *runner(values(1, width, seed=0)), hadamard_block=block)


def test_the_operator_passes_the_checks_of_torch():
    torch.library.opcheck(quantize, (values(3, 64, seed=0), 16))
