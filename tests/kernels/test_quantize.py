"""Hadamard transform and quantization of rows against float64."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from kernel_cases import EACH_RUNNER, Runner, assert_e4m3_but_for_ties, int8_rows, runner, values
from torch import Tensor

from pi0_edge.errors import KernelError
from pi0_edge.kernels.quantize import quantize, quantize_e4m3, quantize_into
from pi0_edge.kernels.rows import hadamard

assert runner

E4M3 = torch.float8_e4m3fn

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


def torch_e4m3(x: Tensor, scale: Tensor) -> Tensor:
    """What torch makes of it, launch by launch: to float32, over the scale, into the range, to 8 bits."""
    return (x.float() / scale).clamp(-448.0, 448.0).to(E4M3)


def assert_same_bits(found: Tensor, expected: Tensor) -> None:
    """NaN may have either sign: a GPU drops that of a NaN that it divides."""
    nan = expected.float().isnan()
    assert torch.equal(found.float().isnan(), nan)
    assert torch.equal(found.view(torch.uint8)[~nan], expected.view(torch.uint8)[~nan])


SCALES = [1e-30, 2.0**-140, 3.1e-6, 2.0**-9, 0.0137, 0.1, 1.0, 3.0, 448.0, 1.7e4, 3e38]


@pytest.mark.parametrize("scale", SCALES)
def test_e4m3_is_bit_for_bit_that_of_torch_for_every_bf16_value(runner: Runner, scale: float):
    x, step = torch.arange(2**16).to(torch.uint16).view(torch.bfloat16).view(4, -1), torch.tensor([scale])
    out = runner.poisoned(*x.shape, dtype=E4M3)
    quantize_into(runner.library, out, *runner(step, x))
    assert_same_bits(out.cpu(), torch_e4m3(x, step))
    assert_same_bits(quantize_e4m3(x, step), torch_e4m3(x, step))


def test_e4m3_is_bit_for_bit_that_of_torch_around_every_tie(runner: Runner):
    """And at the ties themselves, in float32: between neighbours, at 448, and where normal numbers begin."""
    numbers = torch.arange(0x7F, dtype=torch.uint8).view(E4M3).float()
    ties = torch.cat(((numbers[1:] + numbers[:-1]) / 2, torch.tensor([464.0, 480.0])))
    x = torch.cat((numbers, ties, torch.tensor([torch.inf, 1e-45])))
    x = torch.cat((x, x.nextafter(torch.tensor(torch.inf)), x.nextafter(torch.tensor(-torch.inf))))
    x = torch.nn.functional.pad(torch.cat((x, -x)), (0, -2 * len(x) % 16))[None]
    out, one = runner.poisoned(*x.shape, dtype=E4M3), torch.ones(1)
    quantize_into(runner.library, out, *runner(one, x))
    assert_same_bits(out.cpu(), torch_e4m3(x, one))


@EACH_RUNNER
@given(cases(), st.floats(2.0**-10, 1.0, width=32))
def test_e4m3_rows_have_the_scale_that_is_given(runner: Runner, case, scale: float):
    x, block = case
    out, step = runner.poisoned(*x.shape, dtype=E4M3), torch.tensor([scale])
    quantize_into(runner.library, out, *runner(step, x), hadamard_block=block)
    if block == 1:
        assert_same_bits(out.cpu(), torch_e4m3(x, step))
    assert_e4m3_but_for_ties(out, hadamard(x.double(), block), step)


def test_a_type_of_16_bits_is_no_output(runner: Runner):
    out, scale = runner.poisoned(1, 16, dtype=torch.bfloat16), torch.ones(1)
    with pytest.raises(KernelError, match="quantize: invalid argument"):
        quantize_into(runner.library, out, *runner(scale, values(1, 16, seed=0)))


@pytest.mark.parametrize(("width", "block"), [(24, 1), (32768, 1), (4304, 32)])
def test_impossible_sizes_are_refused(runner: Runner, width: int, block: int):
    out, out_scale = runner.poisoned(1, width, dtype=torch.int8), runner.poisoned(1, 1, dtype=torch.float32)
    with pytest.raises(KernelError, match="quantize: invalid argument"):
        quantize_into(runner.library, out, out_scale, *runner(values(1, width, seed=0)), hadamard_block=block)


def test_the_operators_pass_the_checks_of_torch():
    torch.library.opcheck(quantize, (values(3, 64, seed=0), 16))
    torch.library.opcheck(quantize_e4m3, (values(3, 64, seed=0), torch.tensor([0.01])))
