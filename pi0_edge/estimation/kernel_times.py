"""The time of one kernel on one device, and what that rests on.

A kernel takes the longest of what its instructions, its memory and its caches need, then what starting and draining it
costs, then the gap to the next one. Instructions come from one of three sources:

* for INT8 products, the model by which the engine chooses tile and number of blocks (`gemm_plan`): cycles of each loop
  of their machine code for Orin, until the last block ends.
* for our other kernels `kernel_cycles.csv`, of the same kind: cycles of one multiprocessor per step of the hot loop and
  per block. Where `kernels/resources.csv` has cycles of the loop, as this version's kernels compile, they take the
  place of those per step.
  Attention and the ends of a step take as many cycles on other GPUs, too: few blocks there leave most multiprocessors
  idle, which a rate does not show, and `mma.sync` multiplies about as much per cycle.
* for torch's products, FP8, and where the table has no row or the device is no Orin: operations, padded to whole tiles,
  at the rate that `devices.yaml` says kernels reach.

Each time has a low and a high beside it. The factors are those of what it rests on (`SPREADS`): errors of one kind are
taken to go the same way in all kernels, since they come from one source, so that lows are added to lows.
"""

from __future__ import annotations

import csv
import math
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

from pi0_edge.estimation.devices import Device, Figure
from pi0_edge.estimation.work import Kernel
from pi0_edge.kernels.gemm_plan import TILES, modelled_cycles, plan_bytes

_FILE = Path(__file__).parent / "kernel_cycles.csv"
RESOURCES = Path(__file__).parents[1] / "kernels" / "resources.csv"
_IN_RESOURCES = {
    "gemm::weight_only_kernel<gemm::Int8Weights, bf16>": "weight-only",
    "attention_kernel<bf16, 256, 4, 2, false>": "attention 256 of 64 rows",
    "attention_kernel<bf16, 256, 2, 4, true>": "attention 256 of 32 rows",
    "attention_kernel<bf16, 72, 4, 1, false>": "attention 72",
}
"""What kernels are called in `resources.csv`, and in our table."""
_SHARING = ("attention 72",)
"""Kernels whose cycles are counted for each block, since more or fewer of them share a multiprocessor."""
_ARCHITECTURE, _ORIN_MULTIPROCESSORS = 87, 16
"""Of the machine code in the table, and of the AGX Orin whose launches stand in `resources.csv`."""

CUBLAS_TILE, SMALL_TILE = 128, min(tile.rows for tile in TILES)
"""Rows of the tiles of torch's products, which have a small one as well, and of our smallest."""
PRODUCTS = ("product", "weight-only product")
STEP_WEIGHTS, STEP_KEYS = 16384, 32
FEW_ROWS = 1024
"""Up to so many rows of queries, a block of attention takes 32 of them instead of 64."""

Basis = Literal[
    "rate measured",
    "rate scaled",
    "rate modelled",
    "issue slots",
    "issue slots of Orin",
    "no such kernel",
    "launches",
]
SPREADS: dict[Basis, tuple[float, float]] = {
    "rate measured": (0.95, 1.1),
    "rate scaled": (0.9, 1.2),
    "rate modelled": (0.7, 1.6),
    "issue slots": (0.85, 1.2),
    "issue slots of Orin": (0.7, 1.6),
    "no such kernel": (0.7, 1.6),
    "launches": (0.6, 1.5),
}
"""What a time may be of the expected one, low and high, by what it rests on. Of issue slots: what their author says of
them; latency that they take as hidden makes the high. Of those of Orin on another GPU, and of a kernel that is not
there, whose time is that of one like it: as of an assumed rate. Of launches: 1 to 3 µs are reported. Of rates, those of
memory and cache among them: modelled."""
_OURS = "fp8_mma_sync"
"""The rate of our FP8 product; that of torch's is `fp8`."""
_OF_RATES: dict[str, Basis] = {"measured": "rate measured", "scaled": "rate scaled", "modelled": "rate modelled"}


@dataclass(frozen=True)
class Cycles:
    """A row of `kernel_cycles.csv`.

    Attributes:
        blocks_per_sm: That share a multiprocessor.
        cycles_per_step: Of the hot loop, for all of them.
        cycles_per_block: What comes before and after the steps, for all of them.
    """

    blocks_per_sm: int
    cycles_per_step: float
    cycles_per_block: float


@dataclass(frozen=True)
class KernelTime:
    """What a kernel takes each time it runs.

    Attributes:
        body_ms: Of its work.
        basis: What that rests on.
        start_ms: Of starting and draining it, and of the gap to the next one.
        on_memory: It waits for memory longer than for its instructions.
    """

    body_ms: float
    basis: Basis
    start_ms: float
    on_memory: bool

    @property
    def parts(self) -> tuple[tuple[Basis, float], ...]:
        """Milliseconds by what they rest on."""
        return (self.basis, self.body_ms), ("launches", self.start_ms)


@cache
def kernel_cycles() -> dict[str, Cycles]:
    """The table by kernel, with the cycles per step of `resources.csv` where the compiler's output was read into it."""
    steps = compiled_steps()
    return {
        row["kernel"]: Cycles(
            int(row["blocks_per_sm"]),
            steps.get((row["kernel"], int(row["blocks_per_sm"])), float(row["cycles_per_step"])),
            float(row["cycles_per_block"]),
        )
        for row in _rows(_FILE)
    }


def compiled_steps() -> dict[tuple[str, int], float]:
    """Cycles per step as `resources.csv` has them, by kernel and blocks that share a multiprocessor."""
    found = {}
    for row in _rows(RESOURCES) if RESOURCES.is_file() else []:
        name = _IN_RESOURCES.get(row["kernel"])
        if not name or not row.get("loop_cycles"):
            continue
        sharing = min(int(row["orin_blocks_per_sm"]), math.ceil(int(row["blocks"]) / _ORIN_MULTIPROCESSORS))
        cycles = float(row["loop_cycles"])
        found[(name, 1) if name in _SHARING else (name, sharing)] = cycles / sharing if name in _SHARING else cycles
    return found


def _rows(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(line for line in path.read_text().splitlines() if not line.startswith("#")))


def kernel_time(kernel: Kernel, device: Device) -> KernelTime:
    """The time of one launch.

    Args:
        kernel: From `work.kernels`; the device has its unit.
        device: Where.
    """
    instructions, basis = _instructions_ms(kernel, device)
    memory, rate = _memory_ms(kernel, device)
    start = (device.reached["ramp_us"].value + device.reached["launch_us"].value) * 1e-3
    if memory > instructions:
        return KernelTime(memory, _OF_RATES[rate.basis], start, True)
    return KernelTime(instructions, basis, start, False)


def _instructions_ms(kernel: Kernel, device: Device) -> tuple[float, Basis]:
    cycles, of_orin = _cycles(kernel, device), device.architecture == _ARCHITECTURE
    basis: Basis
    if cycles is not None and (of_orin or (device.runs_kernels and kernel.code not in PRODUCTS)):
        found, basis = cycles / (device.clock_ghz * 1e6), "issue slots" if of_orin else "issue slots of Orin"
    else:
        rate = device.reached[_OURS if (kernel.code, kernel.unit) == ("product", "fp8") else kernel.unit]
        found, basis = kernel.operations * _padding(kernel) / (rate.value * 1e9), _OF_RATES[rate.basis]
    return found, "no such kernel" if kernel.unbuilt else basis


def _cycles(kernel: Kernel, device: Device) -> float | None:
    """Cycles of the busiest multiprocessor; None where the table has no such kernel."""
    if kernel.code == "product":
        return _product_cycles(kernel, device.multiprocessors)
    if kernel.code == "weight-only product":
        m, n, k = kernel.shape
        steps = math.ceil(m / SMALL_TILE) * n * k / STEP_WEIGHTS
        return steps * kernel_cycles()["weight-only"].cycles_per_step / device.multiprocessors
    if kernel.code in ("attention", "rope attention"):
        return _attention_cycles(kernel, device.multiprocessors)
    return kernel_cycles()["step end"].cycles_per_block if kernel.code == "step end" else None


def _product_cycles(kernel: Kernel, multiprocessors: int) -> float | None:
    """By the plan that the engine takes where nothing was tuned; INT4 has twice the depth in a step (modelled)."""
    if kernel.unit not in ("int8", "int4"):
        return None
    m, n, k = kernel.shape
    depth = k if kernel.unit == "int8" else math.ceil(k / 2)
    plan = plan_bytes(m, n, depth, multiprocessors)
    return modelled_cycles(plan, m, n, depth, multiprocessors)


def _attention_cycles(kernel: Kernel, multiprocessors: int) -> float | None:
    times, queries, keys, head_dim = kernel.shape
    if head_dim == 72:
        row, block_rows, groups = kernel_cycles()["attention 72"], 64, 1
    elif head_dim == 256 and (kernel.code == "rope attention" or queries <= FEW_ROWS):
        row, block_rows, groups = kernel_cycles()["attention 256 of 32 rows"], 32, 4
    elif head_dim == 256:
        row, block_rows, groups = kernel_cycles()["attention 256 of 64 rows"], 64, 2
    else:
        return None
    waves = math.ceil(times * math.ceil(queries / block_rows) / multiprocessors)
    return waves * (math.ceil(math.ceil(keys / STEP_KEYS) / groups) * row.cycles_per_step + row.cycles_per_block)


def _memory_ms(kernel: Kernel, device: Device) -> tuple[float, Figure]:
    """The longer of the times of memory and cache, and its rate.

    Weights, keys and values come from memory; activations from the cache where the cache holds them. What is asked for
    ahead arrives in the gap before the next kernel as well.
    """
    memory, l2 = device.reached["gb_s"], device.reached["l2_gb_s"]
    ahead = max(kernel.ahead_bytes - device.reached["launch_us"].value * memory.value * 1e3, 0.0)
    spilled = sum(size for size in kernel.activation_bytes if size > device.l2_bytes)
    cached = sum(size for size in kernel.activation_bytes if size <= device.l2_bytes)
    from_memory = (kernel.weight_bytes - kernel.cached_bytes + ahead + spilled) / (memory.value * 1e6)
    from_cache = (cached + kernel.cached_bytes) / (l2.value * 1e6)
    return (from_memory, memory) if from_memory >= from_cache else (from_cache, l2)


def _padding(kernel: Kernel) -> float:
    """Rows that tiles compute, over rows that there are."""
    rows = kernel.rows
    if rows <= SMALL_TILE:
        return SMALL_TILE / rows
    ours = [tile.rows for tile in TILES if tile.rows > SMALL_TILE and (tile.fp8 or kernel.unit != "fp8")]
    tiles = [CUBLAS_TILE] if kernel.unit == "bf16" or kernel.code == "torch product" else ours
    return min(math.ceil(rows / tile) * tile for tile in tiles) / rows
