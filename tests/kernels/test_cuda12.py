"""The kernels are also CUDA 12.6, which JetPack 6 has: every kernel of π0 through that version's own compiler."""

import csv
import ctypes
import sysconfig
from pathlib import Path

import pytest
from emulated_kernels import CUDA, emulated_library
from kernel_resources import TABLE, demangled, readable, recorded_launches

NVIDIA = Path(sysconfig.get_paths()["purelib"]) / "nvidia"
COMPILER = NVIDIA / "cuda_nvrtc" / "lib" / "libnvrtc.so.12"
HEADERS = NVIDIA / "cuda_runtime" / "include"

# This compiler takes device code alone and brings no C headers.
STDINT = """
typedef signed char int8_t; typedef unsigned char uint8_t; typedef short int16_t; typedef unsigned short uint16_t;
typedef int int32_t; typedef unsigned int uint32_t; typedef long int64_t; typedef unsigned long uint64_t;
"""
CUDA_RUNTIME = """
#define INFINITY __int_as_float(0x7f800000)
typedef struct CUstream_st *cudaStream_t;
cudaError_t cudaFuncSetAttribute(const void *, cudaFuncAttribute, int);
cudaError_t cudaFuncGetAttributes(cudaFuncAttributes *, const void *);
cudaError_t cudaGetLastError();
namespace std {
template <class T> struct remove_pointer { typedef T type; };
template <class T> struct remove_pointer<T *> { typedef T type; };
template <class T> using remove_pointer_t = typename remove_pointer<T>::type;
}
"""


def kernels_by_source() -> dict[Path, list[str]]:
    """Every kernel that π0 launches, as C++ names it, under the source that the table of resources names for it."""
    _, *table = TABLE.read_text().splitlines()
    sources = {row["kernel"]: CUDA / row["source"] for row in csv.DictReader(table)}
    mangled = {launch.kernel for _, launch in recorded_launches(emulated_library())}
    full, short = demangled(mangled), readable(mangled)
    found: dict[Path, list[str]] = {}
    for kernel in sorted(mangled):
        found.setdefault(sources[short[kernel]], []).append(full[kernel])
    return found


@pytest.mark.slow
@pytest.mark.skipif(not COMPILER.is_file() or not HEADERS.is_dir(), reason="CUDA 12 wheels are not installed")
def test_every_kernel_compiles_for_orin_with_cuda_12(tmp_path: Path):
    """Needs pip install nvidia-cuda-nvrtc-cu12==12.6.85 nvidia-cuda-runtime-cu12==12.6.77."""
    (tmp_path / "stdint.h").write_text(STDINT)
    (tmp_path / "cuda_runtime.h").write_text(CUDA_RUNTIME)
    nvrtc = ctypes.CDLL(str(COMPILER))
    options = ["--gpu-architecture=sm_87", "-std=c++17", "-default-device", "-diag-suppress=1097"]
    encoded = [option.encode() for option in (*options, f"-I{tmp_path}", f"-I{CUDA}", f"-I{HEADERS}")]
    for source, names in kernels_by_source().items():
        device_code = source.read_text().split("\nPI0_API")[0]
        program = ctypes.c_void_p()
        nvrtc.nvrtcCreateProgram(ctypes.byref(program), device_code.encode(), source.name.encode(), 0, None, None)
        for name in names:
            assert nvrtc.nvrtcAddNameExpression(program, name.encode()) == 0
        failed = nvrtc.nvrtcCompileProgram(program, len(encoded), (ctypes.c_char_p * len(encoded))(*encoded))
        size = ctypes.c_size_t()
        nvrtc.nvrtcGetProgramLogSize(program, ctypes.byref(size))
        log = ctypes.create_string_buffer(size.value)
        nvrtc.nvrtcGetProgramLog(program, log)
        assert not failed, log.value.decode()
        assert nvrtc.nvrtcGetCUBINSize(program, ctypes.byref(size)) == 0 and size.value > 1000
        for name in names:
            lowered = ctypes.c_char_p()
            assert nvrtc.nvrtcGetLoweredName(program, name.encode(), ctypes.byref(lowered)) == 0, name
        nvrtc.nvrtcDestroyProgram(ctypes.byref(program))
