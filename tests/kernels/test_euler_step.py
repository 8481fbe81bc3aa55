"""The two ends of an Euler step against float64 and against the network itself."""

import pytest
import torch
from emulated_kernels import EmulatedLibrary
from hypothesis import given
from hypothesis import strategies as st
from kernel_cases import EACH_RUNNER, Runner, assert_near, by_time, check_operator, device, runner, values
from torch.nn import functional as F

from pi0_edge.errors import KernelError
from pi0_edge.kernels.euler_step import (
    embed_actions,
    embed_actions_into,
    euler_update,
    euler_update_into,
    fold_front,
    pad_front,
)
from pi0_edge.kernels.norm import normalized
from pi0_edge.model import GemmaConfig, Pi0, Pi0Config, VisionConfig
from pi0_edge.model.flow import euler_times

assert runner and device

PROJECTION_ERROR = 2**-15
"""Of a float32 product through bfloat16 pairs, relative to the largest result."""


@st.composite
def fronts(draw: st.DrawFn):
    width, tokens = draw(st.sampled_from([64, 96, 192, 200])), draw(st.sampled_from([1, 15, 50, 64, 65, 100, 130]))
    action_dim = draw(st.sampled_from([32, 7, 16, 24, 33, 40, 44, 64, 70]))
    dtype = draw(st.sampled_from([torch.bfloat16, torch.float16]))
    seed = draw(st.integers(0, 2**31))
    x, weight = values(tokens, action_dim, seed=seed), values(width, action_dim, seed=seed + 1, size=0.1)
    out_weight = values(width, width, seed=seed + 2, dtype=dtype, size=width**-0.5)
    bias, frozen = by_time(draw, width, tokens, seed + 3)
    return x, pad_front(weight), bias, frozen, out_weight, values(width, seed=seed + 4)


def exact_front(x, weight, bias, frozen, out_weight, out_bias):
    """In float64, but for the one rounding of the hidden layer that the kernel states."""
    hidden = F.linear(x.double(), weight[:, : x.shape[1]].double())
    if frozen is None:
        hidden += bias
    else:
        hidden[:frozen] += bias[1]
        hidden[frozen:] += bias[0]
    if out_weight is None:
        return hidden
    return F.linear(F.silu(hidden).to(out_weight.dtype).double(), out_weight.double(), out_bias.double())


def assert_close(found, expected, error):
    assert torch.isfinite(found).all()
    largest = expected.abs().max()
    assert (found.cpu().double() - expected).abs().max() <= error * largest


@EACH_RUNNER
@given(fronts(), st.booleans())
def test_tokens_are_the_folded_projection_in_float64(runner: Runner, case, keep_float32: bool):
    x, weight, _, _, out_weight, _ = case
    out = runner.poisoned(len(x), len(weight), dtype=torch.float32 if keep_float32 else out_weight.dtype)
    embed_actions_into(runner.library, out, *runner(*case))
    # A hidden value within float32 noise of a tie may be rounded to 16 bits the other way.
    tie = torch.finfo(out_weight.dtype).eps
    assert_close(out, exact_front(*case), PROJECTION_ERROR + tie / 4 if keep_float32 else tie)


@EACH_RUNNER
@given(fronts(), st.sampled_from([torch.bfloat16, torch.float16, torch.float32]))
def test_tokens_without_time_mlp(runner: Runner, case, dtype: torch.dtype):
    x, weight, bias, frozen, *_ = case
    out = runner.poisoned(len(x), len(weight), dtype=dtype)
    embed_actions_into(runner.library, out, *runner(x, weight, bias, frozen, None, None))
    assert_close(out, exact_front(x, weight, bias, frozen, None, None), PROJECTION_ERROR + torch.finfo(dtype).eps / 2)


@EACH_RUNNER
@given(fronts())
def test_the_front_on_the_cpu_is_the_same(case):
    out_weight = case[4]
    found = embed_actions(*case, torch.float32)
    assert_close(found, exact_front(*case), torch.finfo(out_weight.dtype).eps / 4)


@st.composite
def backs(draw: st.DrawFn):
    width, tokens = draw(st.sampled_from([1024, 132, 4])), draw(st.integers(1, 9))
    dtype = draw(st.sampled_from([torch.bfloat16, torch.float16, torch.float32]))
    seed, action_dim = draw(st.integers(0, 2**31)), draw(st.sampled_from([32, 7]))
    hidden = values(tokens, width, seed=seed, dtype=dtype, size=3.0)
    scale = draw(st.sampled_from([None, values(width, seed=seed + 1)]))
    shift = draw(st.sampled_from([None, values(width, seed=seed + 2)]))
    weight = values(action_dim, width, seed=seed + 3, size=width**-0.5)
    frozen = by_time(draw, width, tokens, seed)[1]
    x, bias = values(tokens, action_dim, seed=seed + 4), values(action_dim, seed=seed + 5)
    return x, hidden, frozen, scale, shift, weight, bias


def exact_back(x, hidden, frozen, scale, shift, weight, bias, dt):
    step = dt * F.linear(normalized(hidden.double(), scale, shift), weight.double(), bias.double())
    step[: 0 if frozen is None else int(frozen)] = 0
    return x.double() + step


@EACH_RUNNER
@given(backs())
def test_x_advances_by_the_velocity_in_float64(runner: Runner, case):
    x = runner.poisoned(*case[0].shape, dtype=torch.float32).copy_(case[0])
    euler_update_into(runner.library, x, *runner(*case[1:]), dt=-0.1)
    assert_near(x, exact_back(*case, dt=-0.1), 32)
    frozen = 0 if case[2] is None else int(case[2])
    assert torch.equal(x[:frozen].cpu(), case[0][:frozen]), "a frozen action moved"


@EACH_RUNNER
@given(backs())
def test_the_back_on_the_cpu_is_the_same(case):
    x = case[0].clone()
    euler_update(x, *case[1:], -0.1)
    assert_near(x, exact_back(*case, dt=-0.1), 32)


def test_folding_is_exact():
    """The folded front is `Pi0.embed_actions`, for every step."""
    gemma = GemmaConfig(width=64, depth=1, mlp_dim=64, heads=1, kv_heads=1, head_dim=16)
    vision = VisionConfig(width=16, depth=1, mlp_dim=16, heads=1, image_size=28, patch_size=14)
    model = Pi0(Pi0Config("pi0", vision, gemma, gemma, action_dim=32, vocab_size=8)).requires_grad_(False)
    conditioning = model.condition(euler_times(10))
    assert conditioning.time_bias is not None
    project, mlp_in, mlp_out = model.action_in_proj, model.action_time_mlp_in, model.action_time_mlp_out
    weight, biases = fold_front(project.weight, project.bias, mlp_in.weight, conditioning.time_bias[:, 0])
    x = values(50, 32, seed=0)
    for step in range(10):
        hidden = F.silu(F.linear(x, weight, biases[step]))
        expected = model.embed_actions(x[None], conditioning.at(step))[0]
        assert torch.allclose(F.linear(hidden, mlp_out.weight, mlp_out.bias), expected, atol=2e-5)


def test_an_impossible_front_is_refused(runner: Runner):
    out = runner.poisoned(3, 100, dtype=torch.bfloat16)
    case = runner(values(3, 32, seed=0), values(100, 32, seed=1), values(100, seed=2), None, None, None)
    with pytest.raises(KernelError, match="embed_actions: invalid argument"):
        embed_actions_into(runner.library, out, *case)


@pytest.mark.parametrize(("action_dim", "columns"), [(16, 16), (40, 40), (32, 64), (33, 32)])
def test_a_weight_that_was_not_padded_is_refused(runner: Runner, action_dim: int, columns: int):
    """Its rows would be read with another stride than they have."""
    case = values(3, action_dim, seed=0), values(64, columns, seed=1), values(64, seed=2), None, None, None
    with pytest.raises(ValueError, match=f"actions of {action_dim} columns need a weight of .*, found {columns}"):
        embed_actions_into(runner.library, runner.poisoned(3, 64, dtype=torch.bfloat16), *runner(*case))
    with pytest.raises(ValueError, match="use pad_front"):
        embed_actions(*case, torch.bfloat16)


@pytest.mark.parametrize(("width", "tokens_of_a_block"), [(1024, 64), (1032, 32), (2048, 32)])
def test_a_wide_expert_takes_fewer_tokens_per_block(runner: Runner, width: int, tokens_of_a_block: int):
    """What does not fit the shared memory of a block in 64 tokens does in 32, and stays exact."""
    x, weight = values(70, 32, seed=0), values(width, 32, seed=1, size=0.1)
    out_weight = values(width, width, seed=2, dtype=torch.bfloat16, size=width**-0.5)
    case = x, weight, values(width, seed=3), None, out_weight, values(width, seed=4)
    out = runner.poisoned(70, width, dtype=torch.float32)
    if isinstance(runner.library, EmulatedLibrary):
        runner.library.launches()
    embed_actions_into(runner.library, out, *runner(*case))
    assert_close(out, exact_front(*case), PROJECTION_ERROR + torch.finfo(torch.bfloat16).eps / 4)
    if isinstance(runner.library, EmulatedLibrary):
        (launch,) = runner.library.launches()
        assert launch.grid == (-(-width // 64), -(-70 // tokens_of_a_block), 1)


def test_an_impossible_back_is_refused(runner: Runner):
    x = runner.poisoned(1, 32, dtype=torch.float32)
    case = runner(values(1, 6, seed=0), None, None, None, values(32, 6, seed=1), values(32, seed=2))
    with pytest.raises(KernelError, match="euler_update: invalid argument"):
        euler_update_into(runner.library, x, *case, dt=-0.1)


def test_the_operators_pass_the_checks_of_torch(device: str):
    x, weight, bias = values(3, 32, seed=0), values(64, 32, seed=1), values(64, seed=2)
    out_weight = values(64, 64, seed=3, dtype=torch.bfloat16)
    both, frozen = values(2, 64, seed=2), torch.tensor([2], dtype=torch.int32)
    check_operator(embed_actions, (x, weight, both, frozen, out_weight, bias, torch.float32), device)
    check_operator(embed_actions, (x, weight, bias, None, None, None, torch.bfloat16), device)
    back = (bias, None, weight.t().contiguous(), bias[:32], -0.1)
    for still in (None, frozen):
        check_operator(euler_update, (x, values(3, 64, seed=4), still, *back), device)
