"""Norms with Hadamard transform and quantization against float64."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from kernel_cases import (
    EACH_RUNNER,
    Runner,
    assert_e4m3_but_for_ties,
    assert_near,
    by_time,
    check_operator,
    device,
    int8_rows,
    runner,
    values,
)

from pi0_edge.errors import KernelError
from pi0_edge.kernels.norm import norm, norm_e4m3, norm_into, norm_quant, normalized
from pi0_edge.kernels.rows import hadamard
from pi0_edge.quant.hadamard import rotate

assert runner and device

WIDTHS = {2048: [1, 128, 256, 1024, 2048], 1152: [1, 128], 1024: [1, 256, 1024], 64: [1, 2, 16], 8: [8]}


@st.composite
def cases(draw: st.DrawFn):
    width = draw(st.sampled_from(sorted(WIDTHS)))
    seed = draw(st.integers(0, 2**31))
    dtype = draw(st.sampled_from([torch.bfloat16, torch.float16, torch.float32]))
    x = values(draw(st.integers(1, 5)), width, seed=seed, dtype=dtype, size=10.0 ** draw(st.integers(-2, 2)))
    x[0] *= draw(st.sampled_from([0.0, 1.0]))
    if draw(st.booleans()):
        x = x + draw(st.sampled_from([0.0, 5.0]))
    scale, frozen = by_time(draw, width, len(x), seed + 1)
    shift = values(*scale.shape, seed=seed + 2)
    scale, shift = draw(st.sampled_from([None, scale])), draw(st.sampled_from([None, shift]))
    offset = draw(st.sampled_from([None, values(width, seed=seed + 3)]))
    return x, scale, shift, frozen, draw(st.booleans()), draw(st.sampled_from(WIDTHS[width])), offset


def exact(case) -> torch.Tensor:
    x, *rest = case
    return normalized(x.double(), *rest)


@EACH_RUNNER
@given(cases())
def test_16_bit_output_is_float64_rounded(runner: Runner, case):
    x, scale, shift, frozen, centred, block, offset = case
    for dtype in {torch.bfloat16, torch.float16} if x.dtype == torch.float32 else {x.dtype}:
        out = runner.poisoned(*x.shape, dtype=dtype)
        x, scale, shift, frozen, offset = runner(x, scale, shift, frozen, offset)
        norm_into(runner.library, out, None, x, scale, shift, frozen, centred, block, offset)
        assert_near(out, exact(case), 1.02)


@EACH_RUNNER
@given(cases())
def test_int8_output_follows_the_convention_of_quant(runner: Runner, case):
    x, scale, shift, frozen, centred, block, offset = case
    out = runner.poisoned(*x.shape, dtype=torch.int8)
    out_scale = runner.poisoned(len(x), 1, dtype=torch.float32)
    x, scale, shift, frozen, offset = runner(x, scale, shift, frozen, offset)
    norm_into(runner.library, out, out_scale, x, scale, shift, frozen, centred, block, offset)
    expected, expected_scale = int8_rows(exact(case).float())
    assert torch.allclose(out_scale.cpu(), expected_scale, rtol=2e-5, atol=0)
    off = (out.cpu().int() - expected.int()).abs()
    assert off.max() <= 1  # values within a float32 rounding of a tie
    assert off.float().mean() < 0.002


@EACH_RUNNER
@given(cases(), st.sampled_from([0.003, 0.01, 1.0]))
def test_e4m3_output_has_the_scale_that_is_given(runner: Runner, case, step: float):
    x, scale, shift, frozen, centred, block, offset = case
    out, out_scale = runner.poisoned(*x.shape, dtype=torch.float8_e4m3fn), torch.tensor([step])
    x, scale, shift, frozen, offset, given = runner(x, scale, shift, frozen, offset, out_scale)
    norm_into(runner.library, out, given, x, scale, shift, frozen, centred, block, offset)
    assert_e4m3_but_for_ties(out, exact(case), out_scale)


def test_frozen_rows_are_normalized_as_at_time_0(runner: Runner):
    x, scale, shift = values(5, 64, seed=0), values(2, 64, seed=1), values(2, 64, seed=2)
    out = runner.poisoned(5, 64, dtype=torch.bfloat16)
    norm_into(runner.library, out, None, *runner(x, scale, shift, torch.tensor([2], dtype=torch.int32)))
    assert_near(out[:2], normalized(x[:2].double(), scale[1], shift[1]), 1.02)
    assert_near(out[2:], normalized(x[2:].double(), scale[0], shift[0]), 1.02)


@EACH_RUNNER
@given(cases())
def test_the_operator_on_the_cpu_is_the_same(case):
    x, scale, shift, frozen, centred, block, offset = case
    out_dtype = torch.bfloat16 if x.dtype == torch.float32 else x.dtype
    assert_near(norm(x, scale, shift, frozen, centred, block, out_dtype, offset), exact(case), 1.02)
    out, out_scale = norm_quant(x, scale, shift, frozen, centred, block, offset)
    assert ((out * out_scale - exact(case)).abs() <= 0.501 * out_scale).all()
    step = torch.tensor([0.01])
    if block == 1:
        out = norm_e4m3(x, scale, shift, frozen, centred, step, offset)
        assert_e4m3_but_for_ties(out, exact(case), step)


@pytest.mark.parametrize("block", [1, 2, 256])
def test_the_transform_is_that_of_the_rotated_weights(block: int):
    x = values(3, 512, seed=0)
    assert torch.allclose(hadamard(x, block), rotate(x, block), atol=1e-5)


def test_a_nan_reaches_the_scale(runner: Runner):
    x = values(3, 64, seed=0)
    x[1, 7] = torch.nan
    out, out_scale = runner.poisoned(3, 64, dtype=torch.int8), runner.poisoned(3, 1, dtype=torch.float32)
    norm_into(runner.library, out, out_scale, *runner(x, None, None))
    assert out_scale.flatten().isnan().tolist() == [False, True, False]


def test_a_nan_reaches_the_e4m3_output(runner: Runner):
    x = values(3, 64, seed=0)
    x[1, 7] = torch.nan
    out = runner.poisoned(3, 64, dtype=torch.float8_e4m3fn)
    norm_into(runner.library, out, *runner(torch.tensor([0.01]), x, None, None))
    assert out.cpu().float().isnan().all(1).tolist() == [False, True, False]
    assert not out[0].cpu().float().isnan().any()


@pytest.mark.parametrize(("width", "block"), [(12, 1), (16384, 1), (1152, 256), (64, 3), (64, 0)])
def test_impossible_sizes_are_refused(runner: Runner, width: int, block: int):
    x = values(1, width, seed=0)
    out = runner.poisoned(1, width, dtype=torch.bfloat16)
    with pytest.raises(KernelError, match="norm: invalid argument"):
        norm_into(runner.library, out, None, *runner(x, None, None), hadamard_block=block)


def test_no_rows_are_no_launch(runner: Runner):
    x = torch.empty(0, 64)
    norm_into(runner.library, runner.poisoned(0, 64, dtype=torch.bfloat16), None, *runner(x, None, None))


def test_the_operators_pass_the_checks_of_torch(device: str):
    x, weight = values(3, 64, seed=0), values(64, seed=1)
    check_operator(norm, (x, weight, None, None, False, 16, torch.bfloat16, weight), device)
    both, frozen = values(2, 64, seed=1), torch.tensor([2], dtype=torch.int32)
    check_operator(norm_quant, (x, both, both, frozen, True, 1), device)
    check_operator(norm_e4m3, (x, both, both, frozen, True, torch.tensor([0.01]), weight), device)
