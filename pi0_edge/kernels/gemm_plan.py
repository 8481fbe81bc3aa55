"""How a matrix product is spread over a GPU: which tile, how many blocks, how much workspace.

A product out[m, n] = a[m, k] · weight[n, k]ᵀ is cut into tiles, and the steps of all tiles into one stripe per block
(`cuda/gemm_layout.cuh`). As many blocks as tiles is the plain way; twice as many split every tile along k. On a GPU
with few multiprocessors the choice decides: 560 rows are 4.4 tiles of 128 and 3.5 of 160, and 36 tiles on 32 places
take two rounds for the work of little more than one.

The model below ranks plans by multiprocessor cycles: it gives the blocks to the multiprocessors one after the other, as
a GPU does, and says when the last one ends. Steps of the last tile of rows take less than those of whole tiles: its
warps multiply only the fragments that it has rows for. The cycles of a step of the INT8 product come from the machine
code for Orin (`Tile.alone`, `Tile.together`), but for a step that loads longer from L2 than it computes. They prefer
160 rows to 144, which would pad less, and whose loop issues more instructions per product. Those of the FP8 product
come from the published rates of Ampere. Nothing has been measured.
Plans that a GPU has measured take precedence. One file per kind of GPU,
`plans/sm_<capability>_<multiprocessors>.json` beside this module: two boards of the same architecture and of different
size want different plans. `python -m benchmarks.kernels_gemm --tune` writes the file of the GPU that it runs on, the
operators of `gemm` read it, and where there is none the model chooses.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from functools import cache
from heapq import heappop, heappush
from itertools import count, pairwise
from pathlib import Path

from pi0_edge.errors import KernelError
from pi0_edge.synced_files import save_synced

DEPTH = 64
"""Of k, of one step."""
MACS_PER_CYCLE = 2048
"""INT8 multiply-adds of one multiprocessor (Ampere GA10x in Orin: 85 TOP/s / 2 / 16 / 1.3 GHz)."""
SHARED_BYTES_PER_CYCLE = 128
L2_BYTES_PER_CYCLE = 32
"""What one multiprocessor gets when all read; half the 64 of its port."""
ALONE_CYCLES, TOGETHER_CYCLES = 2500, 3500
"""Of filling the ring of stages before a tile and of the epilogue after it: of one block, and of two at a time."""
FP8_TILE_CYCLES, FP8_STEP_CYCLES = 1500, 40
"""Of the FP8 product: of a tile as above, and of the barrier and the first fragments of a step, as far as no other
block hides them."""
CACHED_WEIGHTS = 2**23
"""Bytes of a weight up to which equal stripes are tried: twice the L2 of Orin, since half the blocks read one half."""
WEIGHT_ONLY_BLOCKS = 2
"""Blocks of the weight-only product per multiprocessor."""


@dataclass(frozen=True)
class Tile:
    """One tile of the one-byte products: its number in the C interface and its sizes.

    Attributes:
        number: In `with_tile` of `cuda/gemm_bytes.cuh`.
        rows: Of the output.
        columns: Of the output.
        warp_rows: A warp computes warp_rows × 64.
        stages: Steps of k in shared memory at a time.
        per_multiprocessor: Blocks that fit on one of Orin.
        fp8: The FP8 product has it too.
        alone: Cycles of a step (64 of k) of the INT8 product on a multiprocessor, by the issue slots of its machine
            code for Orin (`tests/apparatus/kernel_resources.py`): with one row fragment per warp, with two, with all.
        together: The same of two blocks at a time; none where one fits.
    """

    number: int
    rows: int
    columns: int
    warp_rows: int
    stages: int
    per_multiprocessor: int
    fp8: bool
    alone: tuple[int, ...]
    together: tuple[int, ...]

    @property
    def row_fragments(self) -> int:
        """Of 16 rows, that a warp computes."""
        return self.warp_rows // 16

    @property
    def fragment_rows(self) -> int:
        """From one fragment of a warp to its next: they are dealt to the warps in turn."""
        return self.rows // self.row_fragments

    @property
    def warps(self) -> int:
        """Of one block."""
        return self.rows // self.warp_rows * (self.columns // 64)

    def fragments(self, rows: int) -> int:
        """How many row fragments each warp multiplies where the output has so many rows from the tile's first on."""
        return min(math.ceil(rows / self.fragment_rows), self.row_fragments)

    def step_cycles(self, rows: int, blocks: int) -> float:
        """Of one step (64 of k) of the INT8 product, for one block or for two at a time: of the loop, or of L2.

        Args:
            rows: Of the output, from the tile's first on.
            blocks: 1 or 2.
        """
        loaded = blocks * (min(rows, self.rows) + self.columns) * DEPTH
        loops = self.alone if blocks == 1 else self.together
        return max(loops[self.fragments(rows) - 1], loaded / L2_BYTES_PER_CYCLE)

    def fp8_step_cycles(self, rows: int) -> float:
        """The same of one block of the FP8 product, by rates: the slowest of tensor cores, shared memory and L2."""
        fragments = self.fragments(rows)
        loaded = (min(rows, self.rows) + self.columns) * DEPTH
        read = self.warps * (16 * fragments + 64) * DEPTH
        return max(
            fragments * self.fragment_rows * self.columns * DEPTH / MACS_PER_CYCLE,
            (loaded + read) / SHARED_BYTES_PER_CYCLE,
            loaded / L2_BYTES_PER_CYCLE,
        )


TILES = (
    Tile(0, 64, 128, 32, 5, 2, fp8=True, alone=(382, 534), together=(536, 715)),
    Tile(1, 128, 128, 64, 4, 2, fp8=False, alone=(409, 522, 654, 793), together=(600, 664, 1011, 1160)),
    Tile(2, 144, 128, 48, 4, 2, fp8=True, alone=(723, 995, 1254), together=(804, 1007, 1632)),
    Tile(3, 160, 128, 80, 4, 2, fp8=False, alone=(424, 542, 675, 813, 1010), together=(632, 696, 1056, 1196, 1391)),
    Tile(4, 192, 128, 48, 6, 1, fp8=True, alone=(656, 865, 1131), together=()),
    Tile(5, 256, 128, 64, 6, 1, fp8=False, alone=(682, 894, 1160, 1412), together=()),
)
SPLITS = (1, 2, 3, 4, 6, 8)
SPLIT_ROUNDS = 8
"""Rounds of whole tiles up to which splitting them is tried."""


@dataclass(frozen=True)
class Plan:
    """How one product runs.

    Attributes:
        tile: Number of the tile; 0 for weight-only products, which have one.
        blocks: Of the launch.
        workspace_bytes: That blocks need to add up shared tiles; zero-filled before the first launch that uses it.
    """

    tile: int
    blocks: int
    workspace_bytes: int


@dataclass(frozen=True)
class Measured:
    """The fastest plan of one product on one kind of GPU; fields as in `plan_bytes` and `Plan`."""

    fp8: bool
    m: int
    n: int
    k: int
    tile: int
    blocks: int

    def fits(self, m: int, n: int, k: int, fp8: bool) -> bool:
        """It is also a plan for this product: the same weight, and as many tiles, so that the launch is the same."""
        rows = TILES[self.tile].rows
        return (self.fp8, self.n, self.k, math.ceil(self.m / rows)) == (fp8, n, k, math.ceil(m / rows))


def plan_bytes(m: int, n: int, k: int, multiprocessors: int, fp8: bool = False, tuned: Iterable[Measured] = ()) -> Plan:
    """The plan of an INT8 or FP8 product: what was measured at the nearest m, or else what the model finds fastest."""
    fitting = [measured for measured in tuned if measured.fits(m, n, k, fp8)]
    if fitting:
        nearest = min(fitting, key=lambda measured: abs(measured.m - m))
        return _plan(TILES[nearest.tile], m, n, k, nearest.blocks)
    return _fastest(m, n, k, multiprocessors, fp8)


@cache
def _fastest(m: int, n: int, k: int, multiprocessors: int, fp8: bool) -> Plan:
    plans = candidates(m, n, k, multiprocessors, fp8)
    return min(plans, key=lambda plan: modelled_cycles(plan, m, n, k, multiprocessors, fp8))


def candidates(m: int, n: int, k: int, multiprocessors: int, fp8: bool = False) -> Iterator[Plan]:
    """Every plan worth trying: whole tiles, tiles split along k, and stripes of equal length over all places.

    Tiles that fill the places many times gain nothing from being split. Equal stripes reach the same columns at
    different times, so they are for weights that the L2 cache still holds then.
    """
    for tile in TILES:
        if fp8 and not tile.fp8:
            continue
        tiles, steps = _tiles(tile, m, n), math.ceil(k / DEPTH)
        places = tile.per_multiprocessor * multiprocessors
        for split in SPLITS:
            if split == 1 or (split * 8 <= steps and tiles <= SPLIT_ROUNDS * places):
                yield _plan(tile, m, n, k, tiles * split)
        if n * k <= CACHED_WEIGHTS and 8 * places <= tiles * steps:
            yield _plan(tile, m, n, k, places)


def modelled_cycles(plan: Plan, m: int, n: int, k: int, multiprocessors: int, fp8: bool = False) -> float:
    """Cycles until the last block has ended."""
    tile = TILES[plan.tile]
    row_tiles, depth = math.ceil(m / tile.rows), math.ceil(k / DEPTH)
    last_rows = m - (row_tiles - 1) * tile.rows
    parts = 2 * tile.rows * tile.columns * 4 / L2_BYTES_PER_CYCLE if plan.workspace_bytes else 0
    steps = _tiles(tile, m, n) * depth

    def cycles_of(whole: int, last: int, blocks: int) -> float:
        if fp8:
            each = [tile.fp8_step_cycles(rows) + FP8_STEP_CYCLES / blocks for rows in (tile.rows, last_rows)]
            return blocks * (whole * each[0] + last * each[1] + FP8_TILE_CYCLES / blocks + parts)
        each = [tile.step_cycles(rows, blocks) for rows in (tile.rows, last_rows)]
        return whole * each[0] + last * each[1] + (TOGETHER_CYCLES if blocks == 2 else ALONE_CYCLES) + blocks * parts

    def last_tile_steps(line: int) -> int:
        """Of those before a step, as `Position` of `cuda/gemm_layout.cuh` walks along all of them."""
        columns, rest = divmod(line, row_tiles * depth)
        return columns * depth + max(0, rest - (row_tiles - 1) * depth)

    @cache
    def durations(whole: int, last: int) -> Durations:
        return cycles_of(whole, last, 1), cycles_of(whole, last, 2) if tile.per_multiprocessor == 2 else 0.0

    borders = [block * steps // plan.blocks for block in range(plan.blocks + 1)]
    lasts = [last_tile_steps(border) for border in borders]
    works = zip(pairwise(borders), pairwise(lasts), strict=True)
    blocks = (durations(end - begin - (to - since), to - since) for (begin, end), (since, to) in works)
    return end_of_last(blocks, multiprocessors, tile.per_multiprocessor)


Durations = tuple[float, float]
"""Cycles of a block that has a multiprocessor for itself, and of one that shares it with another all the time."""
SHARE_OF_NOTHING = 1e-9
"""A block of which no more is left has ended: shares are rounded."""


def end_of_last(blocks: Iterable[Durations], multiprocessors: int, places: int) -> float:
    """Cycles until all blocks have ended: each begins, in their order, where a place is free.

    Args:
        blocks: How long they run.
        multiprocessors: Of the GPU.
        places: Blocks at a time on one of them, 1 or 2.
    """
    waiting, turns = iter(blocks), count()
    running: list[list[tuple[float, Durations]]] = [[] for _ in range(multiprocessors)]
    since = [0.0] * multiprocessors
    events = [(0.0, next(turns), at) for at in range(multiprocessors)]
    now = 0.0
    while events:
        now, _, at = heappop(events)
        done = now - since[at]
        left = [(share - done / block[len(running[at]) - 1], block) for share, block in running[at]]
        here = [(share, block) for share, block in left if share > SHARE_OF_NOTHING]
        block = next(waiting, None) if len(here) < places else None
        if block is not None:
            here.append((1.0, block))
        running[at], since[at] = here, now
        if block is not None and len(here) < places:
            heappush(events, (now, next(turns), at))  # after the others that have a free place
        elif here:
            first_end = min(share * each[len(here) - 1] for share, each in here)
            heappush(events, (now + first_end, next(turns), at))
    return now


def plan_weight_only(m: int, n: int, k: int, multiprocessors: int) -> Plan:
    """The plan of a weight-only product: equally long stripes over all places of the GPU."""
    tiles, depth = math.ceil(m / 64) * math.ceil(n / 128), math.ceil(k / 64)
    blocks = min(WEIGHT_ONLY_BLOCKS * multiprocessors, tiles * depth)
    return Plan(0, blocks, workspace_bytes(tiles, blocks, 64 * 128))


def workspace_bytes(tiles: int, blocks: int, elements: int) -> int:
    """What the C interface asks for: a ticket per tile, two parts of a tile per block; none if no tile is shared."""
    if tiles % blocks == 0:
        return 0
    return math.ceil(tiles * 4 / 256) * 256 + 2 * blocks * elements * 4


def _tiles(tile: Tile, m: int, n: int) -> int:
    return math.ceil(m / tile.rows) * math.ceil(n / tile.columns)


def _plan(tile: Tile, m: int, n: int, k: int, blocks: int) -> Plan:
    return Plan(tile.number, blocks, workspace_bytes(_tiles(tile, m, n), blocks, tile.rows * tile.columns))


FOLDER = Path(__file__).parent / "plans"


def tuned_path(capability: tuple[int, int], multiprocessors: int) -> Path:
    """The file of a kind of GPU, whether it is there or not."""
    return FOLDER / f"sm_{capability[0]}{capability[1]}_{multiprocessors}.json"


def write_tuned(path: Path, plans: Iterable[Measured]) -> None:
    """Writes a file of `tuned_path`, one plan per line; what was in it is replaced."""
    path.parent.mkdir(exist_ok=True)
    text = "[\n" + ",\n".join(json.dumps(asdict(plan)) for plan in plans) + "\n]\n"
    save_synced(path, text.encode())


@cache
def tuned_plans(capability: tuple[int, int], multiprocessors: int) -> tuple[Measured, ...]:
    """What was measured on this kind of GPU; nothing where there is no file.

    Raises:
        KernelError: If the file is damaged, or has a plan that the kernels of this version do not know.
    """
    path = tuned_path(capability, multiprocessors)
    if not path.is_file():
        return ()
    try:
        plans = tuple(Measured(**fields) for fields in json.loads(path.read_text()))
        for plan in plans:
            known = candidates(plan.m, plan.n, plan.k, multiprocessors, plan.fp8)
            if (plan.tile, plan.blocks) not in {(each.tile, each.blocks) for each in known}:
                raise ValueError(f"{plan} is not possible")
    except (OSError, TypeError, ValueError) as error:
        raise KernelError(
            f"{path.name} does not hold plans of these kernels: {error}; "
            "delete it, or measure again: python -m benchmarks.kernels_gemm --tune"
        ) from error
    return plans
