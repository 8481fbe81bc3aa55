"""The compiled library: what it needs, what it says without a GPU, and that it is built for other machines."""

import ctypes
import platform
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from emulated_kernels import CUDA, emulated_library
from kernel_resources import recorded_launches

from pi0_edge.errors import KernelError
from pi0_edge.kernels import library
from pi0_edge.kernels.library import (
    ANY,
    F32,
    FLOAT,
    FUNCTIONS,
    GEMM,
    I8,
    I32,
    SIZE,
    TYPE,
    U8,
    GemmArguments,
    KernelLibrary,
    Kind,
    kernel_library,
)

ROOT = Path(__file__).parents[2]
C_TYPES = {
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
    "fp32": torch.float32,
    "int8": torch.int8,
    "e4m3": torch.float8_e4m3fn,
}


def needs(*programs: str) -> None:
    missing = [program for program in programs if shutil.which(program) is None]
    if missing:
        pytest.skip(f"{', '.join(missing)} not installed")


@pytest.fixture
def fresh_library():
    kernel_library.cache_clear()
    yield
    kernel_library.cache_clear()


def test_a_library_that_is_not_built_says_how(tmp_path: Path, monkeypatch, fresh_library):
    monkeypatch.setattr(library, "BUILD", tmp_path)
    with pytest.raises(KernelError, match=r"the kernel library is not built: run make kernels \(needs nvcc\)"):
        kernel_library()


def test_a_damaged_library_is_refused(tmp_path: Path):
    path = tmp_path / "libpi0_kernels.so"
    path.write_bytes(b"not a library")
    with pytest.raises(KernelError, match=r"does not load: .*build it again: make kernels"):
        KernelLibrary(path)


def test_a_library_of_another_version_is_refused(tmp_path: Path):
    needs("gcc")
    source, path = tmp_path / "old.c", tmp_path / "libpi0_kernels.so"
    source.write_text("int pi0_library_version(void) { return 0; }")
    subprocess.run(["gcc", "-shared", "-fPIC", str(source), "-o", str(path)], check=True)
    with pytest.raises(KernelError, match=r"has version 0, expected \d+: build it again"):
        KernelLibrary(path)


def test_header_and_module_agree():
    header = (CUDA / "pi0_kernels.h").read_text()
    assert re.findall(r"PI0_LIBRARY_VERSION (\d+)", header) == [str(library.VERSION)]
    for name, code in re.findall(r"PI0_(\w+) = (\d)", header):
        assert library.TYPE_CODES[C_TYPES[name.lower()]] == int(code)


def test_arguments_that_no_kernel_takes_are_refused():
    there = emulated_library()
    with pytest.raises(KernelError, match=r"quantize: a tensor of shape \[4, 2\] is not contiguous"):
        there.call("quantize", torch.empty(2, 4).t(), *quantize_arguments()[1:])
    with pytest.raises(
        KernelError, match=r"quantize: torch.float64 is not a type of any kernel; expected one of bfloat16"
    ):
        there.call("quantize", *quantize_arguments()[:-1], torch.float64)


def quantize_arguments() -> tuple:
    x = torch.zeros(1, 8, dtype=torch.bfloat16)
    out = torch.zeros(1, 8, dtype=torch.int8)
    return x, out, torch.zeros(1), 1, 8, 1, x.dtype, out.dtype


@pytest.mark.parametrize(
    ("place", "argument", "said"),
    [
        (2, torch.zeros(1, dtype=torch.int8), r"expected torch.float32, found a torch.int8 tensor"),
        (3, torch.zeros(1), r"expected int64_t, found a torch.float32 tensor"),
        (3, 1.0, r"expected int64_t, found 1.0"),
        (6, 0, r"expected pi0_type, found 0"),
    ],
)
def test_an_argument_of_another_kind_than_the_c_function_takes_is_refused(place: int, argument, said: str):
    arguments = list(quantize_arguments())
    arguments[place] = argument
    with pytest.raises(KernelError, match=f"quantize: {said}"):
        emulated_library().call("quantize", *arguments)


KINDS = {"void *": ANY, "float *": F32, "int *": I32, "uint8_t *": U8, "int8_t *": I8, "float": FLOAT, "int64_t": SIZE}


def kind(parameter: str) -> Kind:
    parts = re.fullmatch(r"(.*?)(\w+)", parameter.strip().removeprefix("const "))
    assert parts is not None, parameter
    declared, name = parts.groups()
    if declared.strip() == "struct pi0_gemm *":
        return GEMM
    return TYPE if name.endswith("type") else KINDS[declared.strip()]


def test_every_c_function_is_declared_as_in_the_table_of_ctypes():
    header = (CUDA / "pi0_kernels.h").read_text()
    declared = {
        name: tuple(map(kind, parameters.split(",")[:-1]))
        for name, parameters in re.findall(r"PI0_API int pi0_(\w+)\(([^)]*int64_t stream)\);", header)
    }
    assert declared == FUNCTIONS


def test_the_fields_of_a_gemm_are_those_of_the_c_struct():
    struct = re.search(r"struct pi0_gemm \{(.*?)\n\};", (CUDA / "pi0_kernels.h").read_text(), re.S)
    assert struct is not None
    lines = [line.split(";")[0] for line in struct[1].splitlines() if line.strip()]
    fields = [
        (name.strip(" *"), ctypes.c_void_p if "*" in line else ctypes.c_int64)
        for line in lines
        for name in re.sub(r"^\s*(const )?\w+ ", "", line).split(",")
    ]
    assert fields == list(GemmArguments._fields_)


def test_make_kernels_builds_for_this_processor_whatever_it_is_told():
    """nvcc compiles for the machine that it runs on: a folder of another processor would hold the wrong library."""
    needs("make")
    argv = ["make", "-n", "kernels", "PROCESSOR=sparc64"]
    said = subprocess.run(argv, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    assert f"build/{platform.machine()}" in said and "sparc64" not in said


@pytest.mark.slow
def test_the_built_library_needs_only_libc_and_speaks_without_a_gpu():
    needs("nvcc", "cmake", "make", "readelf")
    subprocess.run(["make", "kernels"], cwd=ROOT, check=True, capture_output=True)
    path = library.BUILD / platform.machine() / library.NAME
    needed = subprocess.run(["readelf", "-d", str(path)], capture_output=True, text=True, check=True).stdout
    names = {name.split(".")[0] for name in re.findall(r"NEEDED.*\[(.*)\]", needed)}
    assert names <= {"libc", "libm", "ld-linux-x86-64"}
    there = KernelLibrary(path)
    if torch.cuda.is_available():
        return there.require_device()
    for attempt in (there.require_device, lambda: there.call("norm", *norm_arguments())):
        with pytest.raises(
            KernelError, match="no CUDA driver, or one that is too old: CUDA driver version is insufficient"
        ):
            attempt()


def test_a_gpu_with_too_little_shared_memory_is_refused_in_words():
    """GeForce RTX 30, 40 and 50 give a block 99 KB: every chunk would end in "attention: invalid argument"."""
    emulated = emulated_library()
    emulated.require_device()
    try:
        emulated.shared_memory(101_376)
        with pytest.raises(KernelError, match=r"needs 159744 bytes of shared memory, .*gives it 101376; .*RTX 30, 40"):
            emulated.require_device()
    finally:
        emulated.shared_memory()


def test_the_shared_memory_that_is_asked_for_is_that_of_the_largest_kernel():
    emulated = emulated_library()
    launches = [launch.shared for _, launch in recorded_launches(emulated)]
    try:
        emulated.shared_memory(max(launches))
        emulated.require_device()
        emulated.shared_memory(max(launches) - 1)
        with pytest.raises(KernelError, match=f"needs {max(launches)} bytes"):
            emulated.require_device()
    finally:
        emulated.shared_memory()


def norm_arguments() -> tuple:
    x = torch.zeros(1, 8, dtype=torch.bfloat16)
    return x, None, None, None, x.clone(), None, 1, 8, 0, 1, 1e-6, x.dtype, x.dtype
