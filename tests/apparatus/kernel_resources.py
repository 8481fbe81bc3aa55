"""What the compiler made of each kernel: registers, spills, shared memory, occupancy, and how its hot loop would run.

`make kernel-resources` writes `pi0_edge/kernels/resources.csv`, which a test compares with a compilation.
"""

from __future__ import annotations

import csv
import fcntl
import hashlib
import json
import os
import re
import shutil
import subprocess
import sysconfig
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from emulated_kernels import CUDA, EmulatedLibrary, Launch, emulated_library
from orin_model import cycles_per_step, tensor_cycles
from pi0_kernel_calls import calls, product_of
from sass_loops import functions, kinds, product_loops

from pi0_edge.kernels.library import BUILD

TABLE = CUDA.parent / "resources.csv"
ORIN = 87
ARCHITECTURES = (ORIN, 90, 110)
NO_DISASSEMBLER = "nvdisasm is not installed (pip install nvidia-cuda-nvdisasm)"
TENSOR_CORE = re.compile(r"\b([HIQ]MMA)\b|\b(HGMMA|IGMMA|QGMMA)\b")


@dataclass(frozen=True)
class Compiled:
    """One kernel for one architecture.

    Attributes:
        registers: Of a thread.
        stack: Bytes.
        spilled: Bytes of stores and loads.
        tensor_core: Its commonest tensor-core instruction (HMMA, IMMA), "" for none, None without a disassembler.
        loops: The instructions of its loops with products, the hot loop first, on Orin alone.
    """

    registers: int
    stack: int
    spilled: int
    tensor_core: str | None
    loops: list[list[str]]


@dataclass(frozen=True)
class Loop:
    """How the hot loop of a kernel would run on one multiprocessor of Orin; `orin_model.py` says what that rests on.

    Attributes:
        loop_instructions: Of one warp and step.
        loop_tensor: Tensor-core instructions among them; the next are loads from shared memory, asynchronous copies,
            and arithmetic with floats and with integers.
        loop_cycles: In which every block that is there does a step.
        loop_share: Of the peak of the tensor cores, while in the loop.
        short_loop_cycles: As `loop_cycles`, of the loops of a product for the last tile of rows: with one row fragment
            per warp, with two and so on; empty for kernels that have none.
        shape_share: Of that peak over the whole product, with what tiles and rounds of blocks leave unused, filling the
            ring and the epilogue; None for kernels that are no product.
    """

    loop_instructions: int
    loop_tensor: int
    loop_shared: int
    loop_copies: int
    loop_float: int
    loop_integer: int
    loop_cycles: int
    loop_share: float
    short_loop_cycles: str
    shape_share: float | None


@dataclass(frozen=True)
class Row:
    """One use of one kernel: the columns of the table."""

    use: str
    kernel: str
    source: str
    blocks: int
    threads: int
    shared_bytes: int
    registers_87: int
    registers_90: int
    registers_110: int
    spilled_bytes: int
    tensor_core: str
    orin_blocks_per_sm: int
    orin_warps_per_sm: int
    orin_waves: float
    loop_instructions: int | None = None
    loop_tensor: int | None = None
    loop_shared: int | None = None
    loop_copies: int | None = None
    loop_float: int | None = None
    loop_integer: int | None = None
    loop_cycles: int | None = None
    loop_share: float | None = None
    short_loop_cycles: str | None = None
    shape_share: float | None = None


class Orin:
    """One SM of compute capability 8.7, and how many there are (CUDA programming guide, technical specifications)."""

    SMS = 16
    REGISTERS = 65536
    THREADS = 1536
    BLOCKS = 16
    SHARED = 164 * 1024
    SHARED_PER_BLOCK = 163 * 1024
    RESERVED_PER_BLOCK = 1024
    CLOCK = 1.3e9
    MEMORY = 173e9
    """Bytes per second that a copy reaches, of 204.8e9."""
    TILE_CYCLES, ALONE_CYCLES = 3500, 2500
    """Of filling the ring before a round of blocks and of the epilogue after it; with one block on a multiprocessor."""

    @classmethod
    def blocks_per_sm(cls, threads: int, registers: int, shared: int) -> int:
        """How many blocks one SM holds; registers are given to warps in units of 256."""
        warps = threads // 32
        by_registers = cls.REGISTERS // (-(-registers * 32 // 256) * 256) // warps
        by_shared = cls.SHARED // (shared + cls.RESERVED_PER_BLOCK)
        return min(cls.BLOCKS, cls.THREADS // threads, by_registers, by_shared)


def nvdisasm() -> str | None:
    """NVIDIA's disassembler: on the path, or from the package nvidia-cuda-nvdisasm."""
    packaged = sorted(Path(sysconfig.get_paths()["purelib"]).glob("nvidia/cu*/bin/nvdisasm"))
    return shutil.which("nvdisasm") or (str(packaged[-1]) if packaged else None)


def compiler() -> str:
    """Version of nvcc."""
    said = subprocess.run(["nvcc", "--version"], capture_output=True, text=True, check=True).stdout
    return said.splitlines()[-1]


def compiled_kernels(architecture: int) -> dict[str, tuple[str, Compiled]]:
    """Mangled name -> source and what became of it, for every source; compiled once per content."""
    headers = b"".join(path.read_bytes() for path in sorted(CUDA.glob("*.*h")))
    reader = Path(__file__).with_name("sass_loops.py").read_bytes()
    made_by = headers + f"{compiler()}{nvdisasm()}".encode() + reader
    sources = sorted(CUDA.glob("*.cu"))
    with ThreadPoolExecutor(os.cpu_count()) as compilers:
        reports = compilers.map(lambda source: report_of(source, architecture, made_by), sources)
        return {
            name: (source.name, Compiled(**fields))
            for source, kernels in zip(sources, reports, strict=True)
            for name, fields in kernels.items()
        }


def report_of(source: Path, architecture: int, made_by: bytes) -> dict[str, dict]:
    """What became of the kernels of a source, kept in a file until its content or what made it changes."""
    key = hashlib.sha256(source.read_bytes() + made_by).hexdigest()[:16]
    report = BUILD / "resources" / f"{source.stem}_{architecture}_{key}.json"
    report.parent.mkdir(parents=True, exist_ok=True)
    with (report.parent / f".{source.stem}_{architecture}.lock").open(
        "w"
    ) as lock:  # another worker may compile the same
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not report.is_file():
            for outdated in report.parent.glob(f"{source.stem}_{architecture}_????????????????.json"):
                outdated.unlink(missing_ok=True)
            made = report.with_suffix(".tmp")
            made.write_text(json.dumps(compile_source(source, architecture, report.with_suffix(".cubin"))))
            made.rename(report)
        return json.loads(report.read_text())


def compile_source(source: Path, architecture: int, cubin: Path) -> dict[str, dict]:
    """What `ptxas -v` and the disassembly say of each kernel."""
    command = ["nvcc", "-std=c++17", "-O3", "-cubin", f"-arch=sm_{architecture}", "-Xptxas", "-v"]
    ran = subprocess.run([*command, str(source), "-o", str(cubin)], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    machine_code = disassembled(cubin)
    cubin.unlink()
    found = {}
    for entry in ran.stderr.split("Compiling entry function '")[1:]:
        name = entry.split("'")[0]
        stack, stores, loads = map(
            int, re.findall(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", entry)[0]
        )
        registers = int(re.findall(r"Used (\d+) registers", entry)[0])
        lines = [] if machine_code is None else machine_code[name]
        counts = Counter(one[1] or one[2] for line in lines if (one := TENSOR_CORE.search(line)))
        found[name] = {
            "registers": registers,
            "stack": stack,
            "spilled": stores + loads,
            "tensor_core": None if machine_code is None else counts.most_common(1)[0][0] if counts else "",
            "loops": product_loops(lines) if architecture == ORIN else [],
        }
    return found


def disassembled(cubin: Path) -> dict[str, list[str]] | None:
    """Mangled name -> the lines of its machine code; None without a disassembler."""
    program = nvdisasm()
    if program is None:
        return None
    listing = subprocess.run([program, "-c", str(cubin)], capture_output=True, text=True, check=True).stdout
    return dict(functions(listing))


def recorded_launches(library: EmulatedLibrary) -> list[tuple[str, Launch]]:
    """The launches of every call of `pi0_kernel_calls`."""
    library.launches()
    library.only_record(True)
    found = []
    for use, call in calls():
        call(library)
        found += [(use, launch) for launch in library.launches()]
    library.only_record(False)
    return found


def demangled(mangled: Iterable[str]) -> dict[str, str]:
    """Mangled name -> namespace::kernel<template arguments>."""
    mangled = list(mangled)
    plain = subprocess.run(["c++filt"], input="\n".join(mangled), capture_output=True, text=True, check=True).stdout
    names = (re.sub(r"^void |\((?!.*::\().*$", "", line) for line in plain.splitlines())
    return dict(zip(mangled, names, strict=True))


def readable(mangled: Iterable[str]) -> dict[str, str]:
    """Mangled name -> kernel<template arguments>, with short names of types."""
    names = demangled(mangled)
    for long, brief in (("__nv_bfloat16", "bf16"), ("__half", "fp16"), ("signed char", "int8"), ("pi0::", "")):
        names = {old: new.replace(long, brief) for old, new in names.items()}
    return names


def modelled(loops: list[list[str]], use: str, launch: Launch, per_sm: int) -> Loop | None:
    """How a launch would run on Orin; None for a kernel that does not use the tensor cores.

    Args:
        loops: Those with products of its kernel, the hot loop first.
        use: Its name in `pi0_kernel_calls`.
        launch: Blocks and threads.
        per_sm: Blocks on one multiprocessor.
    """
    if not loops:
        return None
    loop, *short = loops
    blocks, threads = (x * y * z for x, y, z in (launch.grid, launch.block))
    here = max(1, min(per_sm, -(-blocks // Orin.SMS)))
    cycles, counted = cycles_per_step(loop, threads // 32, here), kinds(loop)
    share, short_cycles = None, ""
    if product := product_of(use):
        rounds = -(-blocks // (here * Orin.SMS))
        steps = -(-product.steps // blocks)
        alike = rounds * (steps * cycles + (Orin.TILE_CYCLES if here > 1 else Orin.ALONE_CYCLES))
        arithmetic = (product.planned_cycles or alike) / Orin.CLOCK
        short_cycles = " ".join(str(round(cycles_per_step(each, threads // 32, here))) for each in reversed(short))
        peak = product.multiplications / (product.per_cycle * Orin.SMS * Orin.CLOCK)
        share = round(peak / max(arithmetic, product.weight_bytes / Orin.MEMORY), 3)
    return Loop(
        len(loop),
        *(counted[kind] for kind in ("tensor", "shared memory", "copies", "float", "integer")),
        loop_cycles=round(cycles),
        loop_share=round(tensor_cycles(loop, threads // 32, here) / cycles, 3),
        short_loop_cycles=short_cycles,
        shape_share=share,
    )


def measure() -> list[Row]:
    """The table."""
    kernels = {architecture: compiled_kernels(architecture) for architecture in ARCHITECTURES}
    launches = recorded_launches(emulated_library())
    names = readable(launch.kernel for _, launch in launches)
    rows = []
    for use, launch in launches:
        source, orin = kernels[ORIN][launch.kernel]
        blocks, threads = (x * y * z for x, y, z in (launch.grid, launch.block))
        per_sm = Orin.blocks_per_sm(threads, orin.registers, launch.shared)
        compiled = [kernels[architecture][launch.kernel][1] for architecture in ARCHITECTURES]
        loop = modelled(orin.loops, use, launch, per_sm)
        rows.append(
            Row(
                use,
                names[launch.kernel],
                source,
                blocks,
                threads,
                launch.shared,
                *(kernel.registers for kernel in compiled),
                spilled_bytes=max(kernel.spilled + kernel.stack for kernel in compiled),
                tensor_core=orin.tensor_core or "",
                orin_blocks_per_sm=per_sm,
                orin_warps_per_sm=per_sm * threads // 32,
                orin_waves=round(blocks / max(1, per_sm * Orin.SMS), 2),
                **({} if loop is None else vars(loop)),
            )
        )
    return rows


def write() -> None:
    """Writes the table; its first line names the compiler.

    Raises:
        SystemExit: If there is no disassembler: the table would have no tensor cores and no loops.
    """
    if nvdisasm() is None:
        raise SystemExit(f"error: {NO_DISASSEMBLER}")
    rows = measure()
    with TABLE.open("w", newline="") as file:
        file.write(f"# {compiler()}\n")
        writer = csv.DictWriter(file, list(Row.__annotations__), lineterminator="\n")
        writer.writeheader()
        writer.writerows(vars(row) for row in rows)


if __name__ == "__main__":
    write()
