"""Matrix products against float64, on the emulated GPU and a real one: INT8, weight-only, FP8, epilogues."""

import pytest
import torch
from gemm_cases import assert_epilogue, exact_and_error, integers, scales, there, zeros
from hypothesis import given
from hypothesis import strategies as st
from kernel_cases import EACH_RUNNER, Runner, assert_near, by_time, runner, values

from pi0_edge.errors import KernelError
from pi0_edge.kernels.gemm import gemm, gemm_into, int8_sums
from pi0_edge.kernels.gemm_epilogue import ACTIVATIONS, Epilogue
from pi0_edge.kernels.gemm_packing import pack_weights
from pi0_edge.kernels.gemm_plan import TILES, Plan, Tile, plan_bytes, workspace_bytes

assert runner

E4M3 = torch.float8_e4m3fn
FLOATS = [torch.bfloat16, torch.float16, torch.float32]


def tile_count(m: int, n: int, tile: Tile) -> int:
    return -(-m // tile.rows) * -(-n // tile.columns)


@st.composite
def epilogues(draw: st.DrawFn, m: int, n: int, dtypes: list[torch.dtype]) -> Epilogue:
    seed = draw(st.integers(0, 2**31))
    activation, dtype = draw(st.sampled_from(ACTIVATIONS)), draw(st.sampled_from(dtypes))
    columns = Epilogue(dtype, activation).columns(n)
    bias = draw(st.sampled_from([None, values(n, seed=seed)]))
    gate, frozen = by_time(draw, columns, m, seed + 1)
    gate = draw(st.sampled_from([None, gate]))
    if dtype == torch.int8:
        out_scale = torch.tensor([draw(st.sampled_from([0.02, 1.0]))])
        return Epilogue(dtype, activation, bias, gate, frozen, None, out_scale)
    residual = draw(st.sampled_from([None, values(m, columns, seed=seed + 2).to(dtype)]))
    return Epilogue(dtype, activation, bias, gate, frozen, residual)


@st.composite
def bytes_cases(draw: st.DrawFn, fp8: bool = False):
    """Sizes, tile, blocks and epilogue of an INT8 or FP8 product: tails everywhere, and tiles shared by many blocks."""
    tile = draw(st.sampled_from([tile for tile in TILES if tile.fp8 or not fp8]))
    m, n = draw(st.integers(1, tile.rows + 40)), 16 * draw(st.integers(1, 12))
    k = 16 * draw(st.integers(1, 24))
    tiles, steps = tile_count(m, n, tile), -(-k // 64)
    blocks = draw(st.sampled_from([1, tiles, min(tiles * steps, 2 * tiles), draw(st.integers(1, tiles * steps))]))
    plan = Plan(tile.number, blocks, workspace_bytes(tiles, blocks, tile.rows * tile.columns))
    epilogue = draw(epilogues(m, n, FLOATS if fp8 else [*FLOATS, torch.int8]))
    return m, n, k, draw(st.integers(0, 2**31)), plan, epilogue


@EACH_RUNNER
@given(bytes_cases())
def test_int8_sums_are_exact_and_the_epilogue_is_float64_rounded(runner: Runner, case):
    m, n, k, seed, plan, epilogue = case
    a, weight = integers(m, k, seed=seed), integers(n, k, seed=seed + 1)
    row_scale, column_scale = scales(m, 1, seed=seed, size=1e-2), scales(n, seed=seed, size=1e-2 / k**0.5)
    out, workspace = runner.poisoned(m, epilogue.columns(n), dtype=epilogue.dtype), zeros(runner, plan)
    on_device = runner(a, weight, row_scale, column_scale)
    gemm_into("int8", runner.library, out, workspace, *on_device, epilogue=there(runner, epilogue), plan=plan)
    exact = epilogue.before_rounding(a.double() @ weight.double().t(), row_scale, column_scale)
    assert_epilogue(out, epilogue, exact)
    expected = epilogue.apply(int8_sums(a, weight), row_scale, column_scale)
    if epilogue.activation == "linear":  # no exponential: the torch reference has the same bits
        assert torch.equal(out.cpu(), expected)


@EACH_RUNNER
@given(bytes_cases())
def test_a_second_launch_finds_the_workspace_ready(runner: Runner, case):
    m, n, k, seed, plan, _ = case
    epilogue = Epilogue(torch.float32)
    on_device = runner(
        integers(m, k, seed=seed),
        integers(n, k, seed=seed + 1),
        scales(m, 1, seed=seed, size=1),
        scales(n, seed=3, size=1),
    )
    workspace = zeros(runner, plan)
    first, second = (runner.poisoned(m, n, dtype=torch.float32) for _ in range(2))
    gemm_into("int8", runner.library, first, workspace, *on_device, epilogue=epilogue, plan=plan)
    workspace[-(-tile_count(m, n, TILES[plan.tile]) * 4 // 256) * 256 :] = 0xFF  # parts may hold anything
    gemm_into("int8", runner.library, second, workspace, *on_device, epilogue=epilogue, plan=plan)
    assert torch.equal(first, second)


@pytest.mark.parametrize("tile", TILES, ids=lambda tile: f"{tile.rows}x{tile.columns}")
def test_every_length_of_the_last_tile_is_exact(runner: Runner, tile: Tile):
    """Each number of row fragments that its warps may have, with the fewest and the most rows, behind a whole tile."""
    n, k = 144, 192
    for fragments in range(1, tile.row_fragments + 1):
        for rows in ((fragments - 1) * tile.fragment_rows + 1, fragments * tile.fragment_rows):
            m = tile.rows + rows
            a, weight = integers(m, k, seed=rows), integers(n, k, seed=7)
            for blocks in (4, 5):  # one for each tile, and stripes that end within them
                plan = Plan(tile.number, blocks, workspace_bytes(4, blocks, tile.rows * tile.columns))
                out = runner.poisoned(m, n, dtype=torch.float32)
                operands = runner(a, weight, torch.ones(m, 1), torch.ones(n))
                epilogue = Epilogue(torch.float32)
                gemm_into("int8", runner.library, out, zeros(runner, plan), *operands, epilogue=epilogue, plan=plan)
                assert torch.equal(out.cpu(), int8_sums(a, weight).float())


@pytest.mark.parametrize("tile", TILES, ids=lambda tile: f"{tile.rows}x{tile.columns}")
@pytest.mark.parametrize("sign", [1, -1])
def test_the_longest_sums_of_extremes_are_exact(runner: Runner, tile: Tile, sign: int):
    """±127 · ±127 over k = 4096: a lost, doubled or misplaced product shows in the integer."""
    m, n, k = tile.rows // 16 * 16 + 1, 144, 4096
    if runner.device == "cpu":
        m, k = 17, 1024  # of the emulated GPU's time
    a, weight = integers(m, k, seed=5, extreme=True), integers(n, k, seed=6, extreme=True)
    a[0], weight[0] = 127, 127 * sign
    plan = Plan(tile.number, tiles := tile_count(m, n, tile), workspace_bytes(tiles, tiles, 0))
    out = runner.poisoned(m, n, dtype=torch.float32)
    ones = runner(torch.ones(m, 1), torch.ones(n))
    gemm_into(
        "int8",
        runner.library,
        out,
        zeros(runner, plan),
        *runner(a, weight),
        *ones,
        epilogue=Epilogue(torch.float32),
        plan=plan,
    )
    assert out[0, 0].item() == sign * 127 * 127 * k
    assert torch.equal(out.cpu(), int8_sums(a, weight).float())


@st.composite
def weight_only_cases(draw: st.DrawFn):
    m, n, k = (
        draw(st.sampled_from([1, 17, 50, 51, 64, 70])),
        16 * draw(st.integers(1, 17)),
        16 * draw(st.integers(1, 20)),
    )
    tiles, steps = -(-m // 64) * -(-n // 128), -(-k // 64)
    blocks = draw(st.integers(1, tiles * steps))
    plan = Plan(0, blocks, workspace_bytes(tiles, blocks, 64 * 128))
    dtype, fp8 = draw(st.sampled_from(FLOATS[:2])), draw(st.booleans())
    return m, n, k, draw(st.integers(0, 2**31)), dtype, fp8, plan, draw(epilogues(m, n, FLOATS))


@EACH_RUNNER
@given(weight_only_cases())
def test_weight_only_products_are_float64_rounded(runner: Runner, case):
    m, n, k, seed, dtype, fp8, plan, epilogue = case
    a = values(m, k, seed=seed, dtype=dtype)
    weight = values(n, k, seed=seed + 1).to(E4M3) if fp8 else integers(n, k, seed=seed + 1)
    column_scale = scales(n, seed=seed, size=(1.0 if fp8 else 1e-2) / k**0.5)
    out, workspace = runner.poisoned(m, epilogue.columns(n), dtype=epilogue.dtype), zeros(runner, plan)
    on_device = runner(a, pack_weights(weight))
    gemm_into(
        "fp8-weights" if fp8 else "int8-weights",
        runner.library,
        out,
        workspace,
        *on_device,
        a_scale=None,
        column_scale=runner(column_scale)[0],
        epilogue=there(runner, epilogue),
        plan=plan,
    )
    exact, of_sums = exact_and_error(a, weight, None, column_scale, epilogue)
    assert_epilogue(out, epilogue, exact, of_sums)


@pytest.mark.parametrize("dtype", FLOATS[:2])
@pytest.mark.parametrize("fp8", [False, True])
def test_every_weight_value_is_unpacked_exactly(runner: Runner, dtype: torch.dtype, fp8: bool):
    """a = 1 in one column at a time: the product is the weight itself, for all bytes that are numbers."""
    number = torch.arange(256, dtype=torch.uint8)
    number = number[(number & 127) != 127] if fp8 else number
    n, k = 256, 64
    weight = torch.zeros(n, k, dtype=torch.uint8)
    for column in range(k):  # every value in every column of k, in ever other channels
        weight[: len(number), column] = number.roll(5 * column)
    typed = weight.view(E4M3 if fp8 else torch.int8)
    out = runner.poisoned(k, n, dtype=torch.float32)
    plan = Plan(0, 2, 0)
    gemm_into(
        "fp8-weights" if fp8 else "int8-weights",
        runner.library,
        out,
        zeros(runner, plan),
        *runner(torch.eye(k, dtype=dtype), pack_weights(typed)),
        a_scale=None,
        column_scale=runner(torch.ones(n))[0],
        epilogue=Epilogue(torch.float32),
        plan=plan,
    )
    assert torch.equal(out.cpu(), typed.float().t())


@EACH_RUNNER
@given(bytes_cases(fp8=True))
def test_fp8_products_are_float64_rounded_or_refused(runner: Runner, case):
    m, n, k, seed, plan, epilogue = case
    a, weight = values(m, k, seed=seed).to(E4M3), values(n, k, seed=seed + 1).to(E4M3)
    a_scale, column_scale = torch.tensor([0.7]), scales(n, seed=seed, size=k**-0.5)
    out, workspace = runner.poisoned(m, epilogue.columns(n), dtype=epilogue.dtype), zeros(runner, plan)

    def call() -> None:
        on_device = runner(a, weight, a_scale, column_scale)
        gemm_into("fp8", runner.library, out, workspace, *on_device, epilogue=there(runner, epilogue), plan=plan)

    if runner.device == "cuda" and torch.cuda.get_device_capability() not in [(9, 0), (11, 0)]:
        with pytest.raises(KernelError, match="no FP8"):
            call()
        return
    call()
    exact, of_sums = exact_and_error(a, weight, a_scale, column_scale, epilogue)
    assert_epilogue(out, epilogue, exact, of_sums)


def test_shared_tiles_add_up_in_the_same_order_whoever_comes_last(runner: Runner):
    """Floating-point sums depend on their order; the blocks of the emulated GPU come in another one every time."""
    a, weight = values(50, 1024, seed=1, dtype=torch.bfloat16), pack_weights(integers(256, 1024, seed=2))
    plan = Plan(0, 7, workspace_bytes(2, 7, 64 * 128))
    found = []
    for order in range(4):
        if runner.device == "cpu":
            runner.library.order(order)  # type: ignore[attr-defined]
        out = runner.poisoned(50, 256, dtype=torch.float32)
        gemm_into(
            "int8-weights",
            runner.library,
            out,
            zeros(runner, plan),
            *runner(a, weight),
            a_scale=None,
            column_scale=runner(torch.ones(256))[0],
            epilogue=Epilogue(torch.float32),
            plan=plan,
        )
        found.append(out.cpu())
    assert all(torch.equal(found[0], other) for other in found[1:])


@pytest.mark.parametrize("damage", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("activation", ["linear", "gelu", "geglu"])
def test_an_int8_output_does_not_turn_damage_into_a_number(runner: Runner, damage: float, activation: str):
    """−128 stands for what is not finite, and for nothing else."""
    m, n, k = 5, 32, 64
    a, weight = integers(m, k, seed=0, extreme=True), integers(n, k, seed=1, extreme=True)
    row_scale, column_scale = torch.full((m, 1), 10.0), torch.full((n,), 0.1)
    row_scale[3] = damage
    epilogue = Epilogue(torch.int8, activation, out_scale=torch.tensor([0.5]))
    plan = plan_bytes(m, n, k, 16, False)
    out = runner.poisoned(m, epilogue.columns(n), dtype=torch.int8)
    on_device = runner(a, weight, row_scale, column_scale)
    gemm_into("int8", runner.library, out, zeros(runner, plan), *on_device, epilogue=there(runner, epilogue), plan=plan)
    found, beside = out.cpu(), gemm("int8", a, weight, row_scale, column_scale, None, *vars(epilogue).values())
    assert torch.equal(found == -128, beside == -128)
    assert (found[3] == -128).any() and not (found[torch.arange(m) != 3] == -128).any()
    if torch.tensor(damage).isnan():
        assert (found[3] == -128).all()


def test_nan_in_an_activation_reaches_its_row_and_no_other(runner: Runner):
    a = values(20, 64, seed=0, dtype=torch.bfloat16)
    a[7, 3] = torch.nan
    out = runner.poisoned(20, 32, dtype=torch.bfloat16)
    weight = pack_weights(integers(32, 64, seed=1))
    plan = Plan(0, 1, 0)
    gemm_into(
        "int8-weights",
        runner.library,
        out,
        zeros(runner, plan),
        *runner(a, weight),
        a_scale=None,
        column_scale=runner(torch.ones(32))[0],
        epilogue=Epilogue(torch.bfloat16),
        plan=plan,
    )
    assert out.isnan().all(-1).nonzero().flatten().tolist() == [7]
    assert not out[torch.arange(20) != 7].isnan().any()


IMPOSSIBLE = {
    "n not a multiple of 16": {"n": 24},
    "k not a multiple of 16": {"k": 72},
    "no such tile": {"tile": len(TILES)},
    "no blocks": {"blocks": 0},
    "more blocks than steps": {"blocks": 5},
    "a workspace too small": {"blocks": 2, "workspace": 16},
}


@pytest.mark.parametrize("what", IMPOSSIBLE)
def test_impossible_products_are_refused_before_anything_is_launched(runner: Runner, what: str):
    chosen = {"n": 64, "k": 256, "tile": 0, "blocks": 1, "workspace": 1 << 20} | IMPOSSIBLE[what]
    n, k = chosen["n"], chosen["k"]
    out = runner.poisoned(8, n, dtype=torch.float32)
    on_device = runner(integers(8, k, seed=0), integers(n, k, seed=1), torch.ones(8, 1), torch.ones(n))
    workspace = torch.zeros(chosen["workspace"], dtype=torch.uint8, device=runner.device)
    with pytest.raises(KernelError, match="gemm_int8: invalid argument"):
        plan = Plan(chosen["tile"], chosen["blocks"], chosen["workspace"])
        gemm_into("int8", runner.library, out, workspace, *on_device, epilogue=Epilogue(torch.float32), plan=plan)
    assert out.isnan().all()


def test_an_int8_output_without_its_scale_is_refused(runner: Runner):
    out, plan = runner.poisoned(8, 16, dtype=torch.int8), Plan(0, 1, 0)
    on_device = runner(integers(8, 16, seed=0), integers(16, 16, seed=1), torch.ones(8, 1), torch.ones(16))
    with pytest.raises(KernelError, match="invalid argument"):
        gemm_into(
            "int8", runner.library, out, zeros(runner, plan), *on_device, epilogue=Epilogue(torch.int8), plan=plan
        )


def test_an_unknown_activation_is_named():
    with pytest.raises(KernelError, match="activation 'relu' does not exist; expected one of linear, gelu, geglu"):
        Epilogue(torch.bfloat16, "relu")


def test_reading_matrices_never_waits_for_a_bank(runner: Runner):
    if runner.device == "cuda":
        pytest.skip("only the emulated GPU counts bank conflicts")
    runner.library.bank_conflicts()  # type: ignore[attr-defined]
    a, weight, ones = integers(200, 208, seed=0), integers(144, 208, seed=1), torch.ones(200, 1)
    for tile in TILES:
        plan = Plan(tile.number, 1, 0)
        out = runner.poisoned(200, 144, dtype=torch.float32)
        gemm_into(
            "int8",
            runner.library,
            out,
            zeros(runner, plan),
            a,
            weight,
            ones,
            torch.ones(144),
            Epilogue(torch.float32),
            plan,
        )
    out, plan = runner.poisoned(200, 144, dtype=torch.float32), Plan(0, 1, 0)
    gemm_into(
        "int8-weights",
        runner.library,
        out,
        zeros(runner, plan),
        values(200, 208, seed=0, dtype=torch.float16),
        pack_weights(weight),
        None,
        torch.ones(144),
        Epilogue(torch.float32),
        plan,
    )
    assert runner.library.bank_conflicts() == 0  # type: ignore[attr-defined]


def test_the_operators_on_the_cpu_are_near_float64_and_pass_the_checks_of_torch():
    a, weight = integers(5, 32, seed=0), integers(48, 32, seed=1)
    scale, bias = scales(48, seed=2, size=1e-3), values(48, seed=3)
    rest = (None, torch.bfloat16, "geglu", bias)
    epilogue = Epilogue(torch.bfloat16, "geglu", bias)
    rows = scales(5, 1, seed=4, size=1e-2)
    assert_near(
        gemm("int8", a, weight, rows, scale, *rest),
        epilogue.before_rounding(a.double() @ weight.double().t(), rows, scale),
        1.02,
    )
    torch.library.opcheck(gemm, ("int8", a, weight, rows, scale, *rest))
    x = values(5, 32, seed=5, dtype=torch.bfloat16)
    assert_near(
        gemm("int8-weights", x, pack_weights(weight), None, scale, *rest),
        epilogue.before_rounding(x.double() @ weight.double().t(), None, scale),
        1.02,
    )
    torch.library.opcheck(gemm, ("int8-weights", x, pack_weights(weight), None, scale, *rest))
    one, fp8 = torch.ones(1), weight.float().div(32).to(E4M3)
    assert_near(
        gemm("fp8", x.to(E4M3), fp8, one, scale, *rest),
        epilogue.before_rounding(x.to(E4M3).double() @ fp8.double().t(), one, scale),
        1.02,
    )
    arguments = ("fp8", x.to(E4M3), fp8, one, scale, *rest)
    torch.library.opcheck(gemm, arguments, test_utils="test_faketensor")  # the others multiply E4M3 in torch
