"""How fast one multiprocessor of Orin would run a hot loop: issue slots, registers and pipes, cycle by cycle.

Each of four schedulers issues one instruction per cycle, from one of its warps, in order. An instruction waits for the
registers that it reads and writes, and for its pipe. The numbers are those that others measured on GPUs of the Ampere
generation (Abdelkhalik et al., "Demystifying the Nvidia Ampere architecture", 2022; NVIDIA's tuning guide for the rates
of pipes). Loads from global memory are taken as hidden: that is what the ring of stages is for. Nobody has compared
this with a board: it ranks kernels, and its figures are good for about one part in five.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import cache

from sass_loops import TENSOR_CORE, base, operation

SCHEDULERS = 4
TENSOR_CYCLES = 8
"""Of one mma on the tensor core of a scheduler: m16n8k32 of int8 or m16n8k16 of 16 bits."""
TENSOR_LATENCY = 34
TENSOR_SOURCES_READ = 12
ARITHMETIC_LATENCY = 5
SPECIAL_LATENCY = 20
UNIFORM_LATENCY = 8
SHARED_LATENCY = 22
"""From when shared memory has served a load."""
BARRIER_LATENCY = 20
BLOCK_LAG = 150
"""Cycles that the second block of a multiprocessor starts later, as blocks do not run in step."""
MODELLED_STEPS = (8, 20)
"""The time of a step is the difference between so many and so many."""

CONTROL = ("BRA", "BAR", "DEPBAR", "LDGDEPBAR", "BSYNC", "BSSY", "NOP")
STORES = ("STG", "STS", "ST", "LDGSTS", "RED", "EXIT", *CONTROL)
"""They write no register."""
COMPARISONS = ("ISETP", "FSETP", "PLOP3", "UISETP", "UPLOP3")
FUSED_PIPE = ("IMAD", "FFMA", "FMUL", "FADD", "HFMA2", "HMUL2", "HADD2")
SHARED_PIPE = ("LDSM", "LDS", "STS", "LDGSTS")
SPECIAL_PIPE = ("MUFU", "I2F", "F2I")


@dataclass(frozen=True)
class Instruction:
    """What the model knows of one instruction.

    Attributes:
        name: The first word of its name.
        reads: Registers, with all that a wide operand covers.
        writes: Registers.
        shared_cycles: That shared memory is busy with it.
    """

    name: str
    reads: frozenset[str]
    writes: frozenset[str]
    shared_cycles: int


@cache
def parsed(text: str) -> Instruction:
    """One line of a listing."""
    name, modifiers = base(text), operation(text).split(".")[1:]
    guard = set(re.findall(r"U?P\d", text.split()[0])) if text.startswith("@") else set()
    operands = [part.strip() for part in text.split(operation(text), 1)[1].split(",")]
    targets = 0 if name in STORES else 2 if name in COMPARISONS or carries(operands) else 1
    reads, writes = set(guard), set()
    for place, operand in enumerate(operands):
        source = place - targets
        for kind, number in re.findall(r"\b(UR|R|UP|P)(\d+)\b", operand):
            count = registers_of(name, modifiers, operand, source, len(operands) - targets) if kind == "R" else 1
            covered = {f"{kind}{int(number) + i}" for i in range(count)}
            (writes if source < 0 else reads).update(covered)
    wide = name in ("LDSM", "LDGSTS") or "128" in modifiers
    return Instruction(name, frozenset(reads), frozenset(writes), 4 if wide else 1)


def carries(operands: list[str]) -> bool:
    """The second operand is a predicate that is written: a carry."""
    return len(operands) > 2 and re.fullmatch(r"U?P\d", operands[1]) is not None


def registers_of(name: str, modifiers: list[str], operand: str, source: int, sources: int) -> int:
    """How many registers an operand covers; `source` is its place among the sources, negative for the target."""
    if name in TENSOR_CORE:
        return {1: 2}.get(source, 4)
    if source < 0:
        loaded = {"128": 4, "64": 2}.get(modifiers[-1] if modifiers else "", 1)
        return 4 if name == "LDSM" else loaded if name.startswith("LD") else 2 if "WIDE" in modifiers else 1
    return 2 if ".64" in operand or ("WIDE" in modifiers and source == sources - 1) else 1


@dataclass
class Warp:
    """Where a warp is, and when its registers are ready."""

    block: int
    scheduler: int
    free: int
    place: int = 0
    step: int = 0
    waiting: bool = False
    ready: dict[str, int] = field(default_factory=dict)
    read_until: dict[str, int] = field(default_factory=dict)

    def earliest(self, one: Instruction) -> int:
        """The first cycle in which its registers let it issue an instruction."""
        times = [self.ready.get(name, 0) for name in one.reads | one.writes]
        return max(self.free, *times, *(self.read_until.get(name, 0) for name in one.writes), 0)


class Multiprocessor:
    """Blocks that run the same loop."""

    def __init__(self, loop: list[str], warps: int, blocks: int) -> None:
        """A loop, how many warps a block has, and how many blocks are there at once."""
        self.program = [parsed(text) for text in loop]
        self.warps = [
            Warp(block, (block * warps + number) % SCHEDULERS, block * BLOCK_LAG)
            for block in range(blocks)
            for number in range(warps)
        ]
        self.per_block = warps
        self.pipes: dict[tuple[int, str], int] = {}
        self.shared_free = 0
        self.last: dict[int, Warp] = {}

    def cycles(self, steps: int) -> int:
        """Until every warp has gone through the loop so often."""
        cycle = 0
        left = list(self.warps)
        while left:
            issued = [self.issue(scheduler, cycle, left) for scheduler in range(SCHEDULERS)]
            self.open_barriers(cycle)
            left = [warp for warp in left if warp.step < steps]
            cycle += 1
            if not any(issued) and (times := [self.time_of(warp) for warp in left if not warp.waiting]):
                cycle = max(cycle, min(times))
        return cycle

    def time_of(self, warp: Warp) -> int:
        """When it may issue next, as far as its registers and its pipe are concerned."""
        one = self.program[warp.place]
        return max(warp.earliest(one), self.pipes.get((warp.scheduler, pipe_of(one.name)), 0))

    def issue(self, scheduler: int, cycle: int, left: list[Warp]) -> bool:
        """Lets one warp of a scheduler issue; the one that did last comes first."""
        own = [warp for warp in left if warp.scheduler == scheduler and not warp.waiting]
        own.sort(key=lambda warp: warp is not self.last.get(scheduler))
        for warp in own:
            if warp.free <= cycle and self.time_of(warp) <= cycle:
                self.take(warp, cycle)
                self.last[scheduler] = warp
                return True
        return False

    def take(self, warp: Warp, cycle: int) -> None:
        """One instruction of a warp: when its results are there, and for how long its pipe is taken."""
        one = self.program[warp.place]
        pipe, stall = (warp.scheduler, pipe_of(one.name)), 1
        if one.name in TENSOR_CORE:
            self.pipes[pipe], ready = cycle + TENSOR_CYCLES, cycle + TENSOR_LATENCY
            warp.read_until.update(dict.fromkeys(one.reads - one.writes, cycle + TENSOR_SOURCES_READ))
        elif one.name in SHARED_PIPE:
            self.pipes[pipe] = cycle + 4
            self.shared_free = max(self.shared_free, cycle + 8) + one.shared_cycles
            ready = self.shared_free + SHARED_LATENCY
        elif one.name in SPECIAL_PIPE or one.name == "S2R":
            self.pipes[pipe], ready = cycle + 8, cycle + SPECIAL_LATENCY
        elif one.name.startswith("U") or one.name == "R2UR":
            ready = cycle + UNIFORM_LATENCY
        elif one.name in CONTROL:
            warp.waiting, stall, ready = one.name == "BAR", 4 if one.name == "BRA" else 2, cycle
        else:
            quick = one.name in ("FADD", "FMUL", "FFMA")
            self.pipes[pipe], ready = cycle + (1 if quick else 2), cycle + ARITHMETIC_LATENCY
        warp.ready.update(dict.fromkeys(one.writes, ready))
        warp.free = cycle + stall
        warp.place += 1
        if warp.place == len(self.program):
            warp.place, warp.step = 0, warp.step + 1

    def open_barriers(self, cycle: int) -> None:
        """Lets the warps of a block go on when all of them wait."""
        for block in {warp.block for warp in self.warps if warp.waiting}:
            waiting = [warp for warp in self.warps if warp.block == block and warp.waiting]
            if len(waiting) == self.per_block:
                for warp in waiting:
                    warp.waiting, warp.free = False, cycle + BARRIER_LATENCY


def pipe_of(name: str) -> str:
    """The pipe of an instruction, of which every scheduler has its own."""
    if name in TENSOR_CORE:
        return "tensor"
    if name in SHARED_PIPE:
        return "shared memory"
    if name in FUSED_PIPE:
        return "fused"
    uniform = name.startswith("U") or name in ("R2UR", *STORES)
    return "uniform" if uniform else "arithmetic"


def cycles_per_step(loop: list[str], warps: int, blocks: int) -> float:
    """Cycles in which every block of a multiprocessor goes through a loop once."""
    return _cycles_per_step(tuple(loop), warps, blocks)


@cache
def _cycles_per_step(loop: tuple[str, ...], warps: int, blocks: int) -> float:
    fewer, more = (Multiprocessor(list(loop), warps, blocks).cycles(steps) for steps in MODELLED_STEPS)
    return (more - fewer) / (MODELLED_STEPS[1] - MODELLED_STEPS[0])


def tensor_cycles(loop: list[str], warps: int, blocks: int) -> float:
    """Cycles that the tensor cores alone would need for it."""
    products = sum(base(text) in TENSOR_CORE for text in loop)
    return products * TENSOR_CYCLES * warps * blocks / SCHEDULERS
