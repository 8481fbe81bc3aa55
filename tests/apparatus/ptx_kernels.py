"""The kernels as nvcc compiled them to PTX, run on the CPU by `tests/emulated_gpu/ptx`.

They take the place of the sources in the emulated GPU, so that every test of the kernels also runs on them. nvcc is
needed, a GPU is not.
"""

from __future__ import annotations

import ctypes
import fcntl
import hashlib
import shutil
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

import pytest
import torch
from emulated_kernels import CUDA, EMULATED_GPU, FLAGS, EmulatedLibrary, Job, built, contents, jobs_of_the_kernels
from torch import Tensor

from pi0_edge.errors import KernelError
from pi0_edge.kernels.library import BUILD, Argument, GemmArguments, Strided

MACHINE = EMULATED_GPU / "ptx"
MACHINE_FLAGS = (*FLAGS, f"-I{MACHINE}", "-O3", "-ffp-contract=off")
WITHOUT_KERNELS = {"library.cu"}
ARCHITECTURES = {"gemm_fp8.cu": "compute_90"}
"""Where it is not compute_80, which the library carries as PTX: Orin and A100 have no E4M3 product."""


class PtxLibrary(EmulatedLibrary):
    """The library of the tests with kernels from PTX; a launch that did something wrong raises a `KernelError`."""

    def load(self, ptx: str) -> None:
        """Takes the kernels of some PTX; later ones replace those of the same name.

        Raises:
            KernelError: If something in it is not understood.
        """
        self._functions.pi0_ptx_load.restype = ctypes.c_char_p
        problem = self._functions.pi0_ptx_load(ptx.encode()).decode()
        if problem:
            raise KernelError(problem)

    def kernels(self) -> list[str]:
        """The mangled names of all kernels that were loaded."""
        self._functions.pi0_ptx_kernels.restype = ctypes.c_char_p
        return self._functions.pi0_ptx_kernels().decode().split()

    def findings(self) -> list[str]:
        """What launches did wrong since this was last asked."""
        self._functions.pi0_ptx_findings.restype = ctypes.c_char_p
        return self._functions.pi0_ptx_findings().decode().splitlines()

    def allow(self, ranges: Iterator[tuple[int, int]]) -> None:
        """What launches may touch from now on: address and bytes."""
        self._functions.pi0_ptx_allow(ctypes.c_int64(0), ctypes.c_int64(0))
        for address, size in ranges:
            if size:
                self._functions.pi0_ptx_allow(ctypes.c_int64(address), ctypes.c_int64(size))

    def call(self, name: str, *arguments: Argument, device: torch.device | None = None) -> None:
        """As that of the library; the kernels may touch the tensors among the arguments and nothing else."""
        self.allow(memory_of(name, arguments))
        try:
            super().call(name, *arguments, device=device)
        except KernelError as error:
            found = self.findings()
            raise KernelError("\n".join([str(error), *found])) from None

    def run(self, kernel: str, grid: int, block: int, shared: int, *parameters: Tensor | int) -> None:
        """Runs a kernel of PTX that no C function launches; tensors pass their addresses, ints are 32 bits.

        Raises:
            KernelError: What it did wrong.
        """
        self.allow((each.data_ptr(), extent(each)) for each in parameters if isinstance(each, Tensor))
        values = [
            ctypes.c_uint64(each.data_ptr()) if isinstance(each, Tensor) else ctypes.c_int32(each)
            for each in parameters
        ]
        addresses = (ctypes.c_void_p * len(values))(*(ctypes.addressof(value) for value in values))
        sizes = map(ctypes.c_int64, (grid, block, shared))
        if self._functions.pi0_ptx_run(kernel.encode(), *sizes, addresses):
            raise KernelError("\n".join(self.findings()))


def extent(tensor: Tensor) -> int:
    """Bytes from the first to the last element of a tensor."""
    if tensor.numel() == 0:
        return 0
    steps = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    return (steps + 1) * tensor.element_size()


def memory_of(name: str, arguments: tuple[Argument, ...]) -> Iterator[tuple[int, int]]:
    """Address and bytes of everything that a call of a C function gives its kernels."""
    for argument in arguments:
        tensor = argument.tensor if isinstance(argument, Strided) else argument
        if isinstance(tensor, Tensor):
            yield tensor.data_ptr(), extent(tensor)
        elif isinstance(tensor, GemmArguments):
            sizes = operands_of_a_product(name, tensor)
            yield from ((getattr(tensor, field), size) for field, size in sizes.items() if getattr(tensor, field))


def operands_of_a_product(name: str, gemm: GemmArguments) -> dict[str, int]:
    """Bytes of each operand, as `pi0_kernels.h` describes them."""
    m, n, k = gemm.m, gemm.n, gemm.k
    weight_only = name == "gemm_weight_only"
    columns = n // 2 if gemm.activation == 2 else n
    out = m * columns * (2, 2, 4, 1)[gemm.type]
    return {
        "a": m * k * (2 if weight_only else 1),
        "weight": -(-n // 128) * -(-k // 64) * 8192 if weight_only else n * k,
        "a_scale": 4 * m if name == "gemm_int8" else 4,
        "column_scale": 4 * n,
        "bias": 4 * n,
        "gate": 4 * columns * (2 if gemm.frozen else 1),
        "frozen": 4,
        "residual": out,
        "out_scale": 4,
        "squares": 4 * m * (k // 32),
        "norm_scale": 4 * n,
        "scaled": 2 * m * n,
        "out_squares": 4 * m * (n // 32),
        "next": gemm.next_bytes,
        "out": out,
        "workspace": gemm.workspace_bytes,
    }


def machine() -> PtxLibrary:
    """The emulated GPU with the machine that runs PTX, and no kernels yet."""
    vocabulary = [CUDA / "device.cuh", CUDA / "pi0_kernels.h"]
    headers = [*vocabulary, *sorted(EMULATED_GPU.glob("*.h")), *sorted(MACHINE.glob("*.h"))]
    jobs = [Job(source, MACHINE_FLAGS, contents(headers)) for source in sorted(MACHINE.glob("*.cpp"))]
    return PtxLibrary(built("ptx", [*jobs_of_the_kernels(), *jobs]))


@cache
def ptx_library() -> PtxLibrary:
    """All kernels from PTX; skips the test where they cannot be compiled."""
    library = machine()
    for text in ptx_of_all_kernels().values():
        library.load(text)
    return library


@cache
def ptx_of_all_kernels() -> dict[str, str]:
    """Name of each source with kernels -> its PTX."""
    sources = [source for source in sorted(CUDA.glob("*.cu")) if source.name not in WITHOUT_KERNELS]
    headers = contents(sorted(CUDA.glob("*.*h")))
    with ThreadPoolExecutor(2) as pool:
        texts = pool.map(lambda source: compiled_to_ptx(source, headers), sources)
        return dict(zip((source.name for source in sources), texts, strict=True))


def compiled_to_ptx(source: Path, headers: bytes, *options: str) -> str:
    """The PTX of one source, compiled once per content; skips the test where there is no nvcc."""
    if shutil.which("nvcc") is None:
        pytest.skip("nvcc is not installed: the kernels cannot be compiled to PTX")
    architecture = ARCHITECTURES.get(source.name, "compute_80")
    command = ["nvcc", "-std=c++17", "-O3", "-lineinfo", "-ptx", f"-arch={architecture}", *options]
    version = subprocess.run(["nvcc", "--version"], capture_output=True, text=True, check=True).stdout
    key = hashlib.sha256(source.read_bytes() + headers + " ".join([*command, version]).encode()).hexdigest()[:16]
    folder = BUILD / "ptx"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{source.stem}_{key}.ptx"
    with (folder / f".{source.stem}.lock").open("w") as lock:  # another worker may compile the same
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not path.is_file():
            for outdated in folder.glob(f"{source.stem}_????????????????.ptx"):
                outdated.unlink(missing_ok=True)
            made = path.with_suffix(".tmp")
            ran = subprocess.run([*command, str(source), "-o", str(made)], capture_output=True, text=True, check=False)
            assert ran.returncode == 0, ran.stderr
            made.rename(path)
    return path.read_text()
