"""The kernels, compiled for the CPU and run by the emulated GPU of `tests/emulated_gpu`."""

from __future__ import annotations

import ctypes
import fcntl
import hashlib
import shutil
import subprocess
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

from pi0_edge.kernels.library import BUILD, KernelLibrary

CUDA = BUILD.parent / "cuda"
EMULATED_GPU = Path(__file__).parents[1] / "emulated_gpu"
ORIN_SHARED_MEMORY = 166_912
FLAGS = [
    "-std=c++17",
    "-O2",
    "-fPIC",
    "-DPI0_EMULATION",
    f"-I{CUDA}",
    f"-I{EMULATED_GPU}",
    "-Wall",
    "-Wextra",
    "-Werror",
    "-fno-strict-aliasing",
    "-Wno-sign-compare",
    "-Wno-unknown-pragmas",
]


SYMBOLS = EMULATED_GPU / "symbols.map"
LINKED = ("-shared", f"-Wl,--version-script={SYMBOLS}")


@dataclass(frozen=True)
class Launch:
    """One kernel launch: mangled name, blocks, threads per block, bytes of dynamic shared memory."""

    kernel: str
    grid: tuple[int, int, int]
    block: tuple[int, int, int]
    shared: int


class EmulatedLibrary(KernelLibrary):
    """The library of the tests: tensors live on the CPU."""

    def order(self, seed: int) -> None:
        """Order of blocks, and of threads between barriers: 0 ascending, any other number random."""
        self._functions.pi0_emulation_order(ctypes.c_int64(seed))

    def shared_memory(self, bytes_per_block: int = ORIN_SHARED_MEMORY) -> None:
        """What a block may take from now on; that of Orin unless told."""
        self._functions.pi0_emulation_shared_memory(ctypes.c_int64(bytes_per_block))

    def only_record(self, on: bool) -> None:
        """From now on, record launches instead of running them."""
        self._functions.pi0_emulation_only_record(ctypes.c_int64(on))

    def bank_conflicts(self) -> int:
        """How many rows of matrices waited for a bank of shared memory, since this was last asked."""
        self._functions.pi0_emulation_bank_conflicts.restype = ctypes.c_int64
        return self._functions.pi0_emulation_bank_conflicts()

    def launches(self) -> list[Launch]:
        """All launches since this was last asked."""
        self._functions.pi0_emulation_launches.restype = ctypes.c_char_p
        found = []
        for line in self._functions.pi0_emulation_launches().decode().splitlines():
            kernel, *numbers = line.split()
            gx, gy, gz, bx, by, bz, shared = map(int, numbers)
            found.append(Launch(kernel, (gx, gy, gz), (bx, by, bz), shared))
        return found


@dataclass(frozen=True)
class Job:
    """One source to compile: with which flags, and the content of all headers that it may include."""

    source: Path
    flags: tuple[str, ...]
    headers: bytes


@cache
def emulated_library() -> EmulatedLibrary:
    """Compiles what changed since last time, and loads it; skips the test where there is no C++ compiler."""
    return EmulatedLibrary(built("emulated", jobs_of_the_kernels()))


def jobs_of_the_kernels() -> list[Job]:
    """The sources of the kernels and of the emulated GPU."""
    headers = contents(sorted([*CUDA.glob("*.*h"), *EMULATED_GPU.glob("*.h")]))
    sources = [*sorted(CUDA.glob("*.cu")), EMULATED_GPU / "emulation.cpp"]
    return [Job(source, tuple(FLAGS), headers) for source in sources]


def contents(files: Iterable[Path]) -> bytes:
    return b"".join(path.read_bytes() for path in files)


def built(name: str, jobs: Iterable[Job]) -> Path:
    """The library of some sources; what is there already is not compiled again."""
    if shutil.which("g++") is None:
        pytest.skip("g++ is not installed: the kernels cannot be run on the CPU")
    folder = BUILD / "emulation"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:  # another worker may compile the same
        fcntl.flock(lock, fcntl.LOCK_EX)
        library, said = linked(name, jobs, folder)
    assert library is not None, said
    return library


def linked(name: str, jobs: Iterable[Job], folder: Path) -> tuple[Path | None, str]:
    """The library file, or none and what the compiler said."""
    with ThreadPoolExecutor(2) as pool:
        objects, said = zip(*pool.map(lambda job: compiled(job, folder), jobs), strict=True)
    if any(said):
        return None, "".join(said)[-4000:]
    key = hashlib.sha256(
        "".join([SYMBOLS.read_text(), *LINKED, *(path.name for path in objects)]).encode()
    ).hexdigest()[:16]
    library = folder / f"lib{name}_{key}.so"
    if not library.is_file():
        error = run(["g++", *LINKED, "-o", str(library.with_suffix(".tmp")), *map(str, objects), "-ldl"])
        if error:
            return None, error
        library.with_suffix(".tmp").rename(library)
    return library, ""


def compiled(job: Job, folder: Path) -> tuple[Path, str]:
    """The object file of one source, made once per content, and what the compiler said if it failed."""
    source = job.source
    key = hashlib.sha256(source.read_bytes() + job.headers + " ".join(job.flags).encode()).hexdigest()[:16]
    target = folder / f"{source.stem}_{key}.o"
    if target.is_file():
        return target, ""
    for outdated in folder.glob(f"{source.stem}_????????????????.o"):
        outdated.unlink(missing_ok=True)
    said = run(["g++", *job.flags, "-x", "c++", "-c", str(source), "-o", str(target.with_suffix(".tmp"))])
    if not said:
        target.with_suffix(".tmp").rename(target)
    return target, said


def run(command: list[str]) -> str:
    """What a failing command said; nothing if it succeeded."""
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    return ran.stderr if ran.returncode else ""
