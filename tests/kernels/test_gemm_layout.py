"""Index arithmetic of the matrix products against the PTX manual: every element once, no bank conflicts."""

import ctypes
import itertools
import shutil
import subprocess
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pi0_edge.kernels.gemm_packing import COLUMNS, DEPTH, pack_weights
from pi0_edge.kernels.gemm_plan import TILES

SOURCE = Path(__file__).with_name("gemm_layout.cpp")
ROOT = Path(__file__).parents[2]
INCLUDES = (ROOT / "pi0_edge" / "kernels" / "cuda", ROOT / "tests" / "emulated_gpu")
LANES = range(32)


@pytest.fixture(scope="session")
def layout(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    if shutil.which("g++") is None:
        pytest.skip("g++ is not installed: the index arithmetic cannot be compiled")
    target = tmp_path_factory.mktemp("gemm") / "layout.so"
    flags = ["-std=c++17", "-O1", "-shared", "-fPIC", "-DPI0_EMULATION", "-Wall", "-Wextra", "-Werror"]
    flags += [f"-I{folder}" for folder in INCLUDES]
    built = subprocess.run(["g++", *flags, str(SOURCE), "-o", str(target)], capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    return ctypes.CDLL(str(target))


@pytest.mark.parametrize("row_bytes", [64, 128])
def test_swizzling_keeps_every_chunk_in_its_row_and_moves_none_onto_another(layout, row_bytes: int):
    rows, chunks = 256, row_bytes // 16
    places = [layout.swizzled_at(row_bytes, row, chunk) for row in range(rows) for chunk in range(chunks)]
    assert sorted(places) == list(range(0, rows * row_bytes, 16))
    assert [place // row_bytes for place in places] == [row for row in range(rows) for _ in range(chunks)]


@pytest.mark.parametrize("row_bytes", [64, 128])
def test_a_step_further_is_two_chunks_further(layout, row_bytes: int):
    for row, chunk, step in itertools.product(range(64), range(2), range(row_bytes // 32)):
        further = layout.step_offset(layout.swizzled_at(row_bytes, row, chunk), step)
        assert further == layout.swizzled_at(row_bytes, row, 2 * step + chunk)


def bank_groups(addresses: list[int]) -> set[int]:
    return {address // 16 % 8 for address in addresses}


@pytest.mark.parametrize("row_bytes", [64, 128])
def test_matrices_are_read_without_bank_conflicts(layout, row_bytes: int):
    for first_row, step, matrix in itertools.product(range(0, 256, 16), range(row_bytes // 32), range(4)):
        for row_of, chunk_of in ((layout.row_of_a, layout.chunk_of_a), (layout.row_of_weight, layout.chunk_of_weight)):
            lanes = range(8 * matrix, 8 * matrix + 8)
            read = [
                layout.swizzled_at(row_bytes, first_row + row_of(lane), 2 * step + chunk_of(lane)) for lane in lanes
            ]
            assert len(bank_groups(read)) == 8


@pytest.mark.parametrize("row_bytes", [64, 128])
@pytest.mark.parametrize("weight", [False, True])
def test_copies_are_written_without_bank_conflicts(layout, row_bytes: int, weight: bool):
    """Eight neighbouring threads copy the chunks of one or two neighbouring rows."""
    chunks = row_bytes // 16
    for first in range(0, 256 * chunks, 8):
        rows = [thread // chunks for thread in range(first, first + 8)]
        stored = [layout.row_stored(row) if weight else row for row in rows]
        written = [
            layout.swizzled_at(row_bytes, row, thread % chunks) for row, thread in zip(stored, range(8), strict=True)
        ]
        assert len(bank_groups(written)) == 8


def test_fragments_of_a_are_those_of_the_manual(layout):
    """m16n8k32, A of 8 bits: register i % 2 is row group + 8 · (i % 2), register i / 2 is 16 bytes further."""
    for lane in LANES:
        for i in range(4):
            source = 8 * i + lane // 4  # the lane whose address gives row lane / 4 of matrix i
            assert layout.row_of_a(source) == lane // 4 + 8 * (i % 2)
            assert layout.chunk_of_a(source) == i // 2


def test_fragments_of_weight_are_those_of_the_manual(layout):
    """m16n8k32, B of 8 bits: column lane / 4, register 1 is 16 bytes further; registers 2, 3 are the next fragment."""
    for lane in LANES:
        for i in range(4):
            source = 8 * i + lane // 4
            assert layout.row_of_weight(source) == lane // 4 + 8 * (i // 2)
            assert layout.chunk_of_weight(source) == i % 2


@pytest.mark.parametrize("fragments", [8, 4])
def test_lanes_own_runs_that_cover_the_output_once(layout, fragments: int):
    """C of m16n8: sums e of a lane are row lane / 4 + 8 · (e / 2), column 2 · (lane % 4) + e % 2 of the fragment."""
    owned = set()
    for lane, half, fragment, odd in itertools.product(LANES, range(2), range(fragments), range(2)):
        column = layout.column_at(fragments, fragment, 2 * (lane % 4) + odd)
        assert column == layout.first_of_run(fragments, lane) + 2 * fragment + odd
        assert layout.row_of_sum(lane, half) == lane // 4 + 8 * half
        owned.add((layout.row_of_sum(lane, half), column))
    assert owned == set(itertools.product(range(16), range(8 * fragments)))


def test_weights_are_stored_where_their_fragment_is_read(layout):
    for warp, fragment, at in itertools.product(range(4), range(8), range(8)):
        assert layout.row_stored(64 * warp + layout.column_at(8, fragment, at)) == 64 * warp + 8 * fragment + at


def test_packing_is_what_the_kernel_reads(layout):
    """Weights that name their place: 128 channels of up to 256 k, as a number in two packed bytes."""
    channel, k = torch.meshgrid(torch.arange(COLUMNS), torch.arange(DEPTH), indexing="ij")
    of_channel = (pack_weights((channel - 128).to(torch.int8)).flatten().int()).tolist()
    of_k = (pack_weights((k - 128).to(torch.int8)).flatten().int()).tolist()
    for warp, step, lane, fragment, byte in itertools.product(range(4), range(4), LANES, range(4), range(4)):
        at = layout.byte_at(warp, step, lane) + 4 * fragment + byte
        assert of_channel[at] == layout.column_packed(warp, lane, fragment)
        assert of_k[at] == layout.k_packed(step, lane, byte)


def test_packed_fragments_are_those_of_the_manual(layout):
    """m16n8k16, B of 16 bits: column lane / 4, k 2 · (lane % 4) and the next, 8 further in the second register."""
    for warp, step, lane, fragment in itertools.product(range(4), range(4), LANES, range(4)):
        assert layout.column_packed(warp, lane, fragment) == 32 * warp + layout.column_at(4, fragment, lane // 4)
        first = 16 * step + 2 * (lane % 4)
        assert [layout.k_packed(step, lane, byte) for byte in (1, 3, 0, 2)] == [first, first + 1, first + 8, first + 9]


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 6), st.integers(1, 9), st.integers(1, 20), st.data())
def test_stripes_cover_the_line_and_parts_have_their_own_slots(layout, rows: int, columns: int, depth: int, data):
    steps = rows * columns * depth
    blocks = data.draw(st.integers(1, min(steps, 40)))
    work = (rows, columns, depth)
    bounds = np.zeros((blocks, 2), np.int32)
    for block in range(blocks):
        layout.stripe_of(*work, block, blocks, bounds[block].ctypes.data_as(ctypes.c_void_p))
    assert bounds[0, 0] == 0 and bounds[-1, 1] == steps
    assert (bounds[1:, 0] == bounds[:-1, 1]).all() and (bounds[:, 0] < bounds[:, 1]).all()
    owner = [layout.block_with(*work, step, blocks) for step in range(steps)]
    assert owner == [block for block, (begin, end) in enumerate(bounds) for _ in range(begin, end)]

    slots = []
    for first in range(0, steps, depth):
        sharing = sorted(set(owner[first : first + depth]))
        if len(sharing) > 1:
            slots += [layout.slot_of(block, int(bounds[block, 0] >= first)) for block in sharing]
    assert len(slots) == len(set(slots))
    assert all(slot < 2 * blocks for slot in slots)


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 5), st.integers(1, 5), st.integers(1, 6), st.data())
def test_walking_visits_tiles_with_rows_fastest(layout, rows: int, columns: int, depth: int, data):
    steps = rows * columns * depth
    start = data.draw(st.integers(0, steps - 1))
    walked = np.zeros((steps - start, 3), np.int32)
    layout.walk(rows, columns, depth, start, steps - start, walked.ctypes.data_as(ctypes.c_void_p))
    expected = [(i // depth % rows, i // depth // rows, i % depth) for i in range(start, steps)]
    assert walked.tolist() == [list(position) for position in expected]


def test_long_lines_do_not_overflow(layout):
    """The largest product allowed by the number of its steps: 2^31 - 1, cut into many blocks."""
    work, bounds = (1, 1, 2**31 - 1), np.zeros(2, np.int32)
    layout.stripe_of(*work, 65534, 65535, bounds.ctypes.data_as(ctypes.c_void_p))
    assert bounds[1] == 2**31 - 1
    assert layout.block_with(*work, 2**31 - 2, 65535) == 65534


@cache
def shared_bytes(rows: int, columns: int, stages: int) -> int:
    return (rows + columns) * 64 * stages + 128


@pytest.mark.parametrize("tile", TILES, ids=lambda tile: f"{tile.rows}x{tile.columns}")
def test_tiles_fit_into_the_shared_memory_of_orin(tile):
    """164 KB per multiprocessor, of which every block takes 1 KB more than it asks for."""
    assert tile.per_multiprocessor * (shared_bytes(tile.rows, tile.columns, tile.stages) + 1024) <= 164 * 1024
