"""`make kernels-jetson`: the kernel library of a Jetson, made on any Linux machine for JetPack 6 and JetPack 7 at once.

    python tools/jetson_kernels.py [--processor aarch64]

The device code comes from NVRTC of both CUDA versions, which the Python package index has for every processor (no nvcc
for CUDA 12.6 is there, and no static runtime for its aarch64). The host code comes from a C++ cross compiler, by
`pi0_edge/kernels/cuda/driver_api.h`, and launches through the driver. Both halves are one file without any library but
libc. Which device code runs is chosen on the board, by the version of its driver.

Compilers are downloaded once into build/cuda. Device code is compiled once per content into build/cuda/code.
"""

from __future__ import annotations

import argparse
import ctypes
import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CUDA = ROOT / "pi0_edge" / "kernels" / "cuda"
COMPILERS = ROOT / "build" / "cuda"
NAME = "libpi0_kernels.so"


class KernelBuildError(Exception):
    """The library cannot be built; the message says what to do."""


@dataclass(frozen=True)
class Toolkit:
    """NVRTC of one CUDA version.

    Attributes:
        version: As the driver says it: 12060 for 12.6.
        packages: Of the Python package index: the compiler, and the headers it needs.
        library: The compiler, below the folder that the packages are unpacked into.
        headers: The folder of cuda_bf16.h there.
        architectures: What device code is made for: 87 for Orin, 110 for Thor.
        serves: Which release of JetPack has a driver for it.
    """

    version: int
    packages: tuple[str, ...]
    library: str
    headers: str
    architectures: tuple[int, ...]
    serves: str

    @property
    def name(self) -> str:
        """Such as 12.6."""
        return f"{self.version // 1000}.{self.version % 1000 // 10}"


TOOLKITS = (
    Toolkit(
        version=12060,
        packages=("nvidia-cuda-nvrtc-cu12==12.6.85", "nvidia-cuda-runtime-cu12==12.6.77"),
        library="nvidia/cuda_nvrtc/lib/libnvrtc.so.12",
        headers="nvidia/cuda_runtime/include",
        architectures=(87,),
        serves="JetPack 6.1 and 6.2 (Orin)",
    ),
    Toolkit(
        version=13000,
        packages=("nvidia-cuda-nvrtc==13.0.88", "nvidia-cuda-runtime==13.0.96", "nvidia-cuda-crt==13.0.88"),
        library="nvidia/cu13/lib/libnvrtc.so.13",
        headers="nvidia/cu13/include",
        architectures=(87, 110),
        serves="JetPack 7 (Orin from 7.2 on, Thor)",
    ),
)
"""The oldest first. Each is the version of the oldest driver that is served: a driver takes no newer device code."""

# NVRTC takes device code alone and brings no headers of C. What the host side of the sources names is declared here.
_STDINT = """
typedef signed char int8_t; typedef unsigned char uint8_t; typedef short int16_t; typedef unsigned short uint16_t;
typedef int int32_t; typedef unsigned int uint32_t; typedef long int64_t; typedef unsigned long uint64_t;
"""
_CUDA_RUNTIME = """
#define INFINITY __int_as_float(0x7f800000)
typedef struct CUstream_st *cudaStream_t;
cudaError_t cudaFuncSetAttribute(const void *, cudaFuncAttribute, int);
cudaError_t cudaFuncGetAttributes(cudaFuncAttributes *, const void *);
cudaError_t cudaGetLastError();
cudaError_t cudaGetDevice(int *);
cudaError_t cudaDeviceGetAttribute(int *, cudaDeviceAttr, int);
namespace std {
template <class T> struct remove_pointer { typedef T type; };
template <class T> struct remove_pointer<T *> { typedef T type; };
template <class T> using remove_pointer_t = typename remove_pointer<T>::type;
}
"""
_COMPLETE = ".complete"
"""In the folder of a toolkit: all of it is there."""
_EXPORTS = "{ global: pi0_*; _ZN3pi0*_kernel*; local: *; };\n"
"""The C functions, and the kernels: `dladdr` finds the name of what is exported only."""
_DEVICE_FLAGS = ("-std=c++17", "-default-device", "-diag-suppress=1097")
_HOST_FLAGS = (
    *("-std=c++17", "-O2", "-fPIC", "-DPI0_DRIVER_API", "-fno-exceptions", "-fno-rtti", "-fno-ipa-icf", "-g0"),
    *("-ffunction-sections", "-fdata-sections", "-w"),
)


def build(processor: str, output: Path, compilers: Path = COMPILERS, toolkits: Sequence[Toolkit] = TOOLKITS) -> None:
    """Builds the library.

    Args:
        processor: As `uname -m` says it.
        output: The file.
        compilers: Folder of downloaded compilers and of what they made.
        toolkits: Whose device code goes in, the oldest first.

    Raises:
        KernelBuildError: If a compiler is missing or refuses something.
    """
    cross = _cross_compiler(processor)
    with _alone(compilers):
        _build(cross, processor, output, compilers, toolkits)


@contextmanager
def _alone(compilers: Path) -> Iterator[None]:
    """Holds the folder against another process that fetches or builds there; the lock ends with the process."""
    compilers.mkdir(parents=True, exist_ok=True)
    with (compilers / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _build(cross: str, processor: str, output: Path, compilers: Path, toolkits: Sequence[Toolkit]) -> None:
    work = compilers / "host" / processor
    work.mkdir(parents=True, exist_ok=True)
    sources = sorted(CUDA.glob("*.cu"))
    write_headers(compilers / "code")  # before the jobs, which read them at the same time
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        hosts = list(pool.map(lambda source: _host_code(cross, source, work), [*sources, CUDA / "driver_api.cpp"]))
        wanted = {source: names for source, host in zip(sources, hosts, strict=False) if (names := kernels_of(host))}
        jobs = [(t, a, s) for t in toolkits for a in t.architectures for s in wanted]
        folders = {toolkit: _unpacked(toolkit, compilers) for toolkit in toolkits}
        made = [
            pool.submit(device_code, t, a, source, wanted[source], folders[t], compilers / "code")
            for t, a, source in jobs
        ]
        table = _table(work, [(job[0].version, job[1], code.result()) for job, code in zip(jobs, made, strict=True)])
    exports = work / "exports.map"
    exports.write_text(_EXPORTS)
    new = output.with_name(f".{output.name}.new")
    output.parent.mkdir(parents=True, exist_ok=True)
    link = ["-shared", "-s", f"-Wl,-soname,{NAME}", f"-Wl,--version-script,{exports}", "-Wl,-Bsymbolic", "-Wl,-z,now"]
    link += ["-Wl,--no-undefined", "-Wl,--gc-sections", "-Wl,-z,noexecstack", "-static-libgcc"]
    # Linked as C: the C++ library is not used, and would need a newer libc.
    _run(
        [
            cross.removesuffix("g++") + "gcc",
            *link,
            *map(str, hosts),
            str(table),
            "-Wl,--as-needed",
            "-ldl",
            "-lm",
            "-o",
            str(new),
        ]
    )
    new.replace(output)


def fetched(toolkit: Toolkit, compilers: Path = COMPILERS) -> Path:
    """The folder of a toolkit; its packages are downloaded where they are missing.

    Raises:
        KernelBuildError: If the package index does not give them.
    """
    with _alone(compilers):
        return _unpacked(toolkit, compilers)


def _unpacked(toolkit: Toolkit, compilers: Path) -> Path:
    """See `fetched`. The folder has its name once everything is in it: what was interrupted is fetched again."""
    folder = compilers / toolkit.name
    if (folder / _COMPLETE).is_file():
        return folder
    wheels = compilers / "wheels" / toolkit.name
    argv = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:"]
    _run([*argv, "--dest", str(wheels), *toolkit.packages])
    with tempfile.TemporaryDirectory(dir=compilers) as temporary:
        new = Path(temporary) / "new"
        for wheel in sorted(wheels.glob("*.whl")):
            with zipfile.ZipFile(wheel) as archive:
                archive.extractall(new)
        for expected in (toolkit.library, f"{toolkit.headers}/cuda_bf16.h"):
            if not (new / expected).is_file():
                raise KernelBuildError(f"{', '.join(toolkit.packages)} have no {expected}, which is expected in them")
        (new / _COMPLETE).touch()
        if folder.exists():
            shutil.rmtree(folder)
        new.rename(folder)
    return folder


def write_headers(cache: Path) -> None:
    """Writes what device code includes instead of headers of C and of the CUDA runtime.

    Args:
        cache: Of `device_code`.
    """
    small = cache / "headers"
    small.mkdir(parents=True, exist_ok=True)
    (small / "stdint.h").write_text(_STDINT)
    (small / "cuda_runtime.h").write_text(_CUDA_RUNTIME)


def kernels_of(host: Path) -> dict[str, str]:
    """The kernels that a host object launches: their names in the object file -> as C++ writes them."""
    listed = _run(["nm", "--defined-only", str(host)])
    mangled = re.findall(r"^\S+ [TW] (_ZN3pi0\w*_kernel\w*)$", listed, re.MULTILINE)
    plain = _run(["c++filt"], text="\n".join(mangled)).splitlines()
    found = {}
    for name, line in zip(mangled, plain, strict=True):
        signature = re.fullmatch(r"(?:void )?(pi0::[\w:]*_kernel(?:<.*>)?)\(.*\)", line)
        if signature is not None:
            found[name] = _without_parameters(line.removeprefix("void "))
    return found


def _without_parameters(signature: str) -> str:
    """`pi0::kernel<T>(…)` -> `pi0::kernel<T>`: the first parenthesis outside of angle brackets opens the parameters."""
    depth = 0
    for place, character in enumerate(signature):
        depth += (character == "<") - (character == ">")
        if character == "(" and depth == 0:
            return signature[:place]
    return signature


def device_code(
    toolkit: Toolkit, architecture: int, source: Path, kernels: dict[str, str], folder: Path, cache: Path
) -> Path:
    """The device code of a source for one GPU, compiled once per content.

    Args:
        toolkit: Whose compiler.
        architecture: Compute capability without the dot.
        source: Of the kernels.
        kernels: Name that the device code must have -> as C++ writes it.
        folder: Where the toolkit lies.
        cache: Folder of what was compiled, with the headers of `write_headers`.

    Raises:
        KernelBuildError: If the compiler refuses the source, or gives a kernel another name.
    """
    headers = b"".join(path.read_bytes() for path in (*sorted(CUDA.glob("*.cuh")), CUDA / "pi0_kernels.h"))
    ours = (_STDINT, _CUDA_RUNTIME, _DEVICE_FLAGS)
    made_of = source.read_bytes() + headers + repr((toolkit, architecture, sorted(kernels), *ours)).encode()
    target = cache / f"{source.stem}_{toolkit.name}_{architecture}_{hashlib.sha256(made_of).hexdigest()[:16]}.cubin"
    if target.is_file():
        return target
    options = [f"--gpu-architecture=sm_{architecture}", *_DEVICE_FLAGS]
    options += [f"-I{path}" for path in (cache / "headers", CUDA, folder / toolkit.headers)]
    code = _compiled(_loaded(folder / toolkit.library), source, options, kernels)
    for outdated in cache.glob(f"{source.stem}_{toolkit.name}_{architecture}_*.cubin"):
        outdated.unlink(missing_ok=True)
    temporary = target.with_suffix(".new")
    temporary.write_bytes(code)
    temporary.replace(target)
    return target


def _loaded(library: Path) -> ctypes.CDLL:
    """The compiler, with the library beside it that it looks for by name and does not find from version 13 on."""
    for builtins in library.parent.glob("libnvrtc-builtins.so.*"):
        ctypes.CDLL(str(builtins), ctypes.RTLD_GLOBAL)
    return ctypes.CDLL(str(library))


def _compiled(nvrtc: ctypes.CDLL, source: Path, options: list[str], kernels: dict[str, str]) -> bytes:
    program, size = ctypes.c_void_p(), ctypes.c_size_t()
    text = source.read_text().split("\nPI0_API")[0]  # the C functions behind it are the host's
    nvrtc.nvrtcCreateProgram(ctypes.byref(program), text.encode(), source.name.encode(), 0, None, None)
    try:
        for name in kernels.values():
            nvrtc.nvrtcAddNameExpression(program, name.encode())
        encoded = (ctypes.c_char_p * len(options))(*(option.encode() for option in options))
        if nvrtc.nvrtcCompileProgram(program, len(options), encoded):
            nvrtc.nvrtcGetProgramLogSize(program, ctypes.byref(size))
            log = ctypes.create_string_buffer(size.value)
            nvrtc.nvrtcGetProgramLog(program, log)
            raise KernelBuildError(f"{source.name} does not compile with {options[0]}:\n{log.value.decode()}")
        for name, written in kernels.items():
            lowered = ctypes.c_char_p()
            nvrtc.nvrtcGetLoweredName(program, written.encode(), ctypes.byref(lowered))
            if lowered.value != name.encode():
                raise KernelBuildError(f"{written} is {lowered.value} in device code and {name} in host code")
        nvrtc.nvrtcGetCUBINSize(program, ctypes.byref(size))
        code = ctypes.create_string_buffer(size.value)
        nvrtc.nvrtcGetCUBIN(program, code)
        return code.raw
    finally:
        nvrtc.nvrtcDestroyProgram(ctypes.byref(program))


def _cross_compiler(processor: str) -> str:
    name = f"{processor}-linux-gnu-g++"
    if shutil.which(name) is None:
        raise KernelBuildError(f"{name} is not installed: apt-get install g++-{processor.replace('_', '-')}-linux-gnu")
    return name


def _host_code(cross: str, source: Path, work: Path) -> Path:
    headers = b"".join(path.read_bytes() for path in sorted(CUDA.glob("*.*h")))
    made_of = hashlib.sha256(source.read_bytes() + headers + repr(_HOST_FLAGS).encode()).hexdigest()[:16]
    target = work / f"{source.stem}_{made_of}.o"
    if not target.is_file():
        temporary = target.with_suffix(".new")
        _run([cross, *_HOST_FLAGS, "-x", "c++", "-c", str(source), "-o", str(temporary)])
        temporary.replace(target)
    return target


def _table(work: Path, images: list[tuple[int, int, Path]]) -> Path:
    """`pi0_images` of driver_api.h, as assembler, with the device code behind it."""
    rows, codes = [], []
    for number, (version, architecture, code) in enumerate(images):
        rows.append(f"  .quad {version}, {architecture}, image_{number}, {code.stat().st_size}")
        codes.append(f'  .balign 16\nimage_{number}:\n  .incbin "{code}"')
    lines = [
        '  .section .data.rel.ro, "aw"',
        "  .balign 8",
        "  .globl pi0_images, pi0_image_count",
        "pi0_images:",
        *rows,
    ]
    lines += ["pi0_image_count:", f"  .quad {len(images)}", "  .section .rodata", *codes]
    path = work / "images.S"
    path.write_text("\n".join([*lines, '  .section .note.GNU-stack, "", %progbits', ""]))
    return path


def _run(argv: list[str], text: str | None = None) -> str:
    ran = subprocess.run(argv, input=text, capture_output=True, text=True, check=False)
    if ran.returncode:
        raise KernelBuildError(f"{' '.join(argv[:2])} … failed:\n{ran.stdout}{ran.stderr}")
    return ran.stdout


def main() -> int:
    """Builds the library and says what it is for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--processor", default="aarch64")
    parser.add_argument("--output", type=Path, help="instead of where a wheel takes it from")
    given = parser.parse_args()
    output = given.output or CUDA.parent / "build" / given.processor / NAME
    try:
        build(given.processor, output)
    except KernelBuildError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    served = "; ".join(f"CUDA {t.name}, {t.serves}" for t in TOOLKITS)
    print(f"{output}: {output.stat().st_size / 1e6:.1f} MB, for {served}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
