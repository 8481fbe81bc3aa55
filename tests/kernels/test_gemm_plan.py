"""Plans of the matrix products: possible for the kernels, and without waste on the shapes of π0 on Orin."""

import csv
import math
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from emulated_kernels import emulated_library
from gemm_cases import scales
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import empty, float32, int8, uint8, zeros

from pi0_edge.errors import KernelError
from pi0_edge.estimation.kernel_times import RESOURCES
from pi0_edge.kernels import gemm
from pi0_edge.kernels import gemm_plan as gemm_tuned
from pi0_edge.kernels.gemm import gemm_into
from pi0_edge.kernels.gemm_epilogue import Epilogue
from pi0_edge.kernels.gemm_plan import (
    MACS_PER_CYCLE,
    TILES,
    Durations,
    Measured,
    Plan,
    candidates,
    end_of_last,
    modelled_cycles,
    plan_bytes,
    plan_weight_only,
)

ORIN = 16
PREFIX = {"q, k, v": (2560, 2048), "o": (2048, 2048), "gate, up": (32768, 2048), "down": (2048, 16384)}
SIGLIP = {"q, k, v": (3456, 1152), "out": (1152, 1152), "fc1": (4304, 1152), "fc2": (1152, 4304)}
EXPERT = {"q, k, v": (2560, 1024), "o": (1024, 2048), "gate, up": (8192, 1024), "down": (1024, 4096)}
SHAPES = [(m, *shape) for m in (304, 560, 816) for shape in PREFIX.values()] + [
    (256 * views, *shape) for views in (1, 2, 3) for shape in SIGLIP.values()
]


def launched(plan: Plan, m: int, n: int, k: int) -> None:
    """The C function with these sizes, its launch recorded and not run."""
    library = emulated_library()
    library.only_record(True)
    try:
        a, weight = empty(m, k, dtype=int8), empty(n, k, dtype=int8)
        out, workspace = empty(m, n, dtype=float32), empty(plan.workspace_bytes, dtype=uint8)
        rows, columns = scales(m, 1, seed=0, size=1), scales(n, seed=0, size=1)
        gemm_into("int8", library, out, workspace, a, weight, rows, columns, Epilogue(float32), plan)
    finally:
        library.only_record(False)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 900), st.integers(1, 200), st.integers(1, 300), st.sampled_from([8, 16, 132]))
def test_every_candidate_is_possible_and_needs_its_whole_workspace(m: int, n16: int, k16: int, multiprocessors: int):
    m, n, k = m, 16 * n16, 16 * k16
    chosen = plan_bytes(m, n, k, multiprocessors)
    assert chosen in list(candidates(m, n, k, multiprocessors))
    for plan in candidates(m, n, k, multiprocessors):
        launched(plan, m, n, k)
        if plan.workspace_bytes:
            with pytest.raises(KernelError, match="invalid argument"):
                launched(Plan(plan.tile, plan.blocks, plan.workspace_bytes - 1), m, n, k)


@pytest.mark.parametrize(("m", "n", "k"), SHAPES)
def test_the_shapes_of_the_prefix_and_the_vision_tower_use_the_tensor_cores(m: int, n: int, k: int):
    """Share of their peak, by the machine code. Padding would not tell: the tile that pads least issues most."""
    plan = plan_bytes(m, n, k, ORIN)
    share = m * n * k / modelled_cycles(plan, m, n, k, ORIN) / (ORIN * MACS_PER_CYCLE)
    least = 0.67 if (n, k) in PREFIX.values() else 0.64 if n * k > 2**21 else 0.43
    # The smallest ends after 17 µs, in tiles of 64 rows, which load from L2 for longer than they multiply.
    assert least < share < 1, f"{share:.2f} with {TILES[plan.tile]}, {plan.blocks} blocks"


def test_cycles_of_a_step_are_those_of_the_machine_code():
    """Of the tiles that `resources.csv` has, which a compiler and the issue-slot model made."""
    seen = set()
    for row in csv.DictReader(RESOURCES.read_text().splitlines()[1:]):
        if shape := re.fullmatch(r"gemm::bytes_kernel<gemm::Int8, gemm::Tile<(\d+), .*", row["kernel"]):
            tile = next(tile for tile in TILES if tile.rows == int(shape[1]))
            assert int(row["blocks"]) > ORIN and tile.per_multiprocessor == 2
            assert (*map(int, row["short_loop_cycles"].split()), int(row["loop_cycles"])) == tile.together
            seen.add(tile.rows)
    assert seen >= {128, 160}


@pytest.mark.parametrize("shape", PREFIX.values(), ids=PREFIX)
def test_the_model_expects_what_the_prefix_needs(shape: tuple[int, int]):
    """55 TOP/s at 1.3 GHz, modelled and not measured: a plan that cannot reach it even so is a wrong plan."""
    for m in (304, 560, 816):
        cycles = modelled_cycles(plan_bytes(m, *shape, ORIN), m, *shape, ORIN)
        assert 2 * m * math.prod(shape) / (cycles / 1.3e9) > 55e12
        assert m * math.prod(shape) / cycles < ORIN * MACS_PER_CYCLE


@pytest.mark.parametrize("shape", PREFIX.values(), ids=PREFIX)
def test_fewer_rows_never_take_longer(shape: tuple[int, int]):
    """From a whole last tile to one row of it: 532 rows are two cameras and 20 tokens."""
    cycles = [modelled_cycles(plan_bytes(m, *shape, ORIN), m, *shape, ORIN) for m in (481, 512, 532, 560, 608, 640)]
    assert cycles == sorted(cycles)


def test_the_short_last_tile_takes_its_own_loop():
    """Of 160 rows: 52 are left, two fragments per warp; two blocks load their rows and the weights of two tiles."""
    tile = TILES[3]
    assert [tile.fragments(rows) for rows in (1, 32, 33, 52, 64, 129, 160, 999)] == [1, 1, 2, 2, 2, 5, 5, 5]
    assert tile.step_cycles(80, 2) == tile.together[2]
    assert tile.step_cycles(52, 2) == 2 * (52 + 128) * 64 / 32 > tile.together[1]


@pytest.mark.parametrize(
    ("blocks", "places", "end"),
    [
        ([(10.0, 16.0)] * 2, 2, 10),
        ([(10.0, 16.0)] * 3, 1, 20),
        ([(10.0, 16.0)] * 3, 2, 16),  # on two multiprocessors, one of which has a block for itself
        ([(10.0, 16.0)] * 6, 2, 16 + 10),
        ([(10.0, 16.0), (1.0, 1.0), (5.0, 8.0)], 2, 8 + (1 - 8 / 16) * 10),  # the first has company for 8 cycles
        ([], 2, 0),
    ],
)
def test_blocks_begin_where_a_place_is_free(blocks: list[Durations], places: int, end: float):
    assert end_of_last(blocks, 2, places) == pytest.approx(end)


MEASURED = Measured(fp8=False, m=560, n=2048, k=16384, tile=4, blocks=96)


def test_what_was_measured_goes_before_the_model():
    plan = plan_bytes(560, 2048, 16384, ORIN, tuned=[MEASURED])
    assert (plan.tile, plan.blocks) == (4, 96)
    assert plan.workspace_bytes > 0


def test_it_serves_every_prompt_that_needs_as_many_tiles_and_no_other_product():
    """Tiles of 192 rows: 385 to 576 are three of them."""
    for m in (385, 560, 576):
        assert plan_bytes(m, 2048, 16384, ORIN, tuned=[MEASURED]) == plan_bytes(
            560, 2048, 16384, ORIN, tuned=[MEASURED]
        )
    for m, n, k, fp8 in ((384, 2048, 16384, False), (577, 2048, 16384, False), (560, 2048, 2048, False),
                         (560, 2048, 16384, True)):  # fmt: skip
        assert plan_bytes(m, n, k, ORIN, fp8, [MEASURED]) == plan_bytes(m, n, k, ORIN, fp8)


def test_of_two_that_fit_the_nearest_is_taken():
    other = replace(MEASURED, m=400, tile=4, blocks=48)
    assert plan_bytes(440, 2048, 16384, ORIN, tuned=[MEASURED, other]).blocks == 48


@pytest.fixture
def plans(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder of measured plans, empty."""
    monkeypatch.setattr(gemm_tuned, "FOLDER", tmp_path / "plans")
    gemm_tuned.tuned_plans.cache_clear()
    yield tmp_path / "plans"
    gemm_tuned.tuned_plans.cache_clear()


def test_without_a_file_nothing_is_tuned(plans: Path):
    assert gemm_tuned.tuned_plans((8, 7), ORIN) == ()


def test_the_operator_launches_what_the_benchmark_wrote(plans: Path, monkeypatch: pytest.MonkeyPatch):
    """From the file that `--tune` writes to the blocks on the GPU; another board of this architecture has its own."""
    library, orin = emulated_library(), SimpleNamespace(major=8, minor=7, multi_processor_count=ORIN)
    monkeypatch.setattr(gemm, "_gpu", lambda _: orin)
    monkeypatch.setattr(gemm, "kernel_library", lambda: library)
    monkeypatch.setattr(gemm, "workspace", lambda _, plan: zeros(plan.workspace_bytes, dtype=uint8))
    a, weight = zeros(100, 512, dtype=int8), zeros(256, 512, dtype=int8)
    arguments = ("int8", a, weight, zeros(100, 1), zeros(256), None, float32)

    def launched_blocks() -> int:
        library.launches()
        gemm.gemm._init_fn(*arguments)  # pyright: ignore[reportAttributeAccessIssue]
        return library.launches()[0].grid[0]

    chosen = plan_bytes(100, 256, 512, ORIN)
    other = next(plan for plan in candidates(100, 256, 512, ORIN) if plan.blocks != chosen.blocks)
    assert launched_blocks() == chosen.blocks
    gemm_tuned.tuned_plans.cache_clear()
    gemm_tuned.write_tuned(
        gemm_tuned.tuned_path((8, 7), ORIN), [Measured(False, 100, 256, 512, other.tile, other.blocks), MEASURED]
    )
    assert launched_blocks() == other.blocks
    orin.multi_processor_count = 8
    assert launched_blocks() == plan_bytes(100, 256, 512, 8).blocks


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[1]",
        '[{"m": 1}]',
        '{"int8": 3}',
        '[{"fp8": false, "m": 560, "n": 2048, "k": 16384, "tile": 4, "blocks": 97}]',
    ],
)
def test_a_damaged_file_is_refused_by_name(plans: Path, text: str):
    plans.mkdir()
    (plans / "sm_87_16.json").write_text(text)
    with pytest.raises(KernelError, match=r"sm_87_16.json does not hold plans of these kernels: .*; delete it, or"):
        gemm_tuned.tuned_plans((8, 7), 16)


def test_the_plans_that_are_shipped_are_possible():
    files = sorted(gemm_tuned.FOLDER.glob("*.json"))
    if not files:
        pytest.skip("no GPU has measured plans yet")
    for path in files:
        capability, multiprocessors = path.stem.removeprefix("sm_").split("_")
        assert gemm_tuned.tuned_plans((int(capability[:-1]), int(capability[-1])), int(multiprocessors))


def test_fp8_gets_only_tiles_that_it_has():
    assert all(TILES[plan.tile].fp8 for plan in candidates(560, 2048, 2048, ORIN, fp8=True))


@pytest.mark.parametrize("shape", EXPERT.values(), ids=EXPERT)
def test_stripes_of_the_expert_are_equally_long(shape: tuple[int, int]):
    n, k = shape
    plan = plan_weight_only(51, n, k, ORIN)
    steps = math.ceil(n / 128) * math.ceil(k / 64)
    assert plan.blocks == 2 * ORIN
    assert steps % plan.blocks == 0
