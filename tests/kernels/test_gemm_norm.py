"""A norm that two products do between them, against float64 (`kernels/gemm_norm.py`)."""

import pytest
import torch
from gemm_cases import assert_epilogue, exact_and_error, integers, scales, there, zeros
from hypothesis import given
from hypothesis import strategies as st
from kernel_cases import EACH_RUNNER, Runner, runner, unit_roundoff, values

from pi0_edge.errors import KernelError
from pi0_edge.kernels.gemm import ForNorm, gemm_into
from pi0_edge.kernels.gemm_epilogue import Epilogue
from pi0_edge.kernels.gemm_norm import gemm_norm
from pi0_edge.kernels.gemm_packing import pack_weights
from pi0_edge.kernels.gemm_plan import Plan, workspace_bytes
from pi0_edge.kernels.norm import normalized

assert runner


@st.composite
def norm_cases(draw: st.DrawFn):
    """Rows, columns between two products, depth of the first, columns of the second; blocks of both."""
    m, n = draw(st.sampled_from([1, 17, 50, 51, 64, 70])), 32 * draw(st.integers(1, 9))
    k, columns = 32 * draw(st.integers(1, 10)), 32 * draw(st.integers(1, 5))

    def plan(n: int, k: int) -> Plan:
        tiles, steps = -(-m // 64) * -(-n // 128), -(-k // 64)
        blocks = draw(st.integers(1, tiles * steps))
        return Plan(0, blocks, workspace_bytes(tiles, blocks, 64 * 128))

    return (m, n, k, columns), draw(st.integers(0, 2**31)), plan(n, k), plan(columns, n)


@EACH_RUNNER
@given(norm_cases(), st.sampled_from([torch.bfloat16, torch.float16]), st.sampled_from([1e-4, 1.0, 100.0]))
def test_a_norm_between_two_products_is_that_of_float64(runner: Runner, case, dtype: torch.dtype, size: float):
    """From rows that ε outweighs to large ones; one row is zero throughout."""
    (m, n, k, columns), seed, plan, second_plan = case
    a, weight = values(m, k, seed=seed, dtype=dtype), integers(n, k, seed=seed + 1)
    residual, norm_scale = size * values(m, n, seed=seed + 2), 1 + 0.3 * values(n, seed=seed + 3)
    a[0], residual[0] = 0, 0
    column_scale = scales(n, seed=seed, size=size * 1e-2 / k**0.5)
    x, scaled = runner.poisoned(m, n, dtype=torch.float32), runner.poisoned(m, n, dtype=dtype)
    squares = runner.poisoned(m, n // 32, dtype=torch.float32)
    epilogue = Epilogue(torch.float32, residual=residual)
    on_device = runner(a, pack_weights(weight), column_scale, norm_scale)
    product = {"format": "int8-weights", "library": runner.library, "a_scale": None}
    ahead = on_device[1].view(-1)[: len(on_device[1].view(-1)) // 2 + 1]
    gemm_into(
        out=x, workspace=zeros(runner, plan), a=on_device[0], weight=on_device[1], column_scale=on_device[2],
        epilogue=there(runner, epilogue), plan=plan, ahead=ahead,
        for_norm=ForNorm(on_device[3], scaled, squares), **product,
    )  # fmt: skip
    exact, of_sums = exact_and_error(a, weight, None, column_scale, epilogue)
    assert_epilogue(x, epilogue, exact, of_sums)
    stored = x.cpu().double()
    pieces = stored.square().unflatten(-1, (-1, 32)).sum(-1)
    assert ((squares.cpu().double() - pieces).abs() <= 40 * unit_roundoff(torch.float32) * pieces).all()
    assert torch.equal(scaled.cpu(), (x.cpu() * norm_scale).to(dtype))

    reading, reading_scale = integers(columns, n, seed=seed + 4), scales(columns, seed=seed + 5, size=1e-2 / n**0.5)
    y, behind = runner.poisoned(m, columns, dtype=torch.float32), Epilogue(torch.float32, squares=squares)
    gemm_into(
        out=y, workspace=zeros(runner, second_plan), a=scaled, weight=runner(pack_weights(reading))[0],
        column_scale=runner(reading_scale)[0], epilogue=behind, plan=second_plan, **product,
    )  # fmt: skip
    normed = normalized(stored, norm_scale.double(), None)
    exact = normed @ reading.double().t() * reading_scale.double()
    size_of_sums = normed.abs() @ reading.double().abs().t() * reading_scale.double()
    allowed = size_of_sums * (1.01 * unit_roundoff(dtype) + n * unit_roundoff(torch.float32))
    assert ((y.cpu().double() - exact).abs() <= allowed).all()
    assert (y[0] == 0).all()


def test_a_norm_between_products_has_the_same_bits_at_every_run(runner: Runner):
    m, n, k = 50, 256, 512
    tiles, blocks = 2, 7
    plan = Plan(0, blocks, workspace_bytes(tiles, blocks, 64 * 128))
    on_device = runner(
        values(m, k, seed=1, dtype=torch.bfloat16), pack_weights(integers(n, k, seed=2)), scales(n, seed=3, size=1e-3)
    )
    norm_scale, residual = runner(values(n, seed=4), values(m, n, seed=5))
    found = []
    for _ in range(3):
        left = ForNorm(norm_scale, torch.empty_like(residual, dtype=torch.bfloat16), residual.new_empty(m, n // 32))
        out = torch.empty_like(residual)
        gemm_into(
            "int8-weights", runner.library, out, zeros(runner, plan), on_device[0], on_device[1], None, on_device[2],
            Epilogue(torch.float32, residual=residual), plan, for_norm=left,
        )  # fmt: skip
        found.append((out, left.scaled, left.squares))
    for other in found[1:]:
        assert all(torch.equal(one, two) for one, two in zip(found[0], other, strict=True))


@pytest.mark.parametrize(
    ("given", "n", "k"),
    [("for_norm", 48, 64), ("for_norm, 16 bits", 64, 64), ("squares", 64, 48), ("squares, INT8", 64, 64)],
)
def test_a_norm_that_products_cannot_do_is_refused(runner: Runner, given: str, n: int, k: int):
    """Rows that are not whole pieces of 32 columns, a stream that is rounded, products of INT8."""
    m, int8 = 4, given.endswith("INT8")
    plan = Plan(0, 1, workspace_bytes(1, 1, 0))
    dtype = torch.bfloat16 if "16 bits" in given else torch.float32
    left = ForNorm(torch.ones(n), torch.zeros(m, n, dtype=torch.bfloat16), torch.zeros(m, n // 32 + 1))
    epilogue = Epilogue(dtype, squares=torch.zeros(m, k // 32 + 1) if given.startswith("squares") else None)
    a = torch.zeros(m, k, dtype=torch.int8 if int8 else torch.bfloat16)
    weight = torch.zeros(n, k, dtype=torch.int8)
    with pytest.raises(KernelError):
        gemm_into(
            "int8" if int8 else "int8-weights", runner.library, torch.zeros(m, n, dtype=dtype), zeros(runner, plan), a,
            weight if int8 else pack_weights(weight), torch.ones(m, 1) if int8 else None, torch.ones(n), epilogue, plan,
            for_norm=left if given.startswith("for_norm") else None,
        )  # fmt: skip


def test_the_operator_passes_the_checks_of_torch():
    x, weight = values(5, 32, seed=5, dtype=torch.bfloat16), pack_weights(integers(32, 32, seed=1))
    scale, residual, norm_scale = scales(32, seed=2, size=1e-3), values(5, 32, seed=7), values(32, seed=6)
    torch.library.opcheck(gemm_norm, ("int8-weights", x, weight, scale, None, residual, norm_scale))
