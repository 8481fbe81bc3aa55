"""The emulated GPU finds what it is there to find: kernels with a known mistake, and their correct twins."""

import shutil
import subprocess
from functools import cache
from pathlib import Path

import pytest
import torch
from emulated_kernels import CUDA, EMULATED_GPU, FLAGS, EmulatedLibrary

from pi0_edge.errors import KernelError
from pi0_edge.kernels.library import F32, I32, SIZE

PROBES = r"""
#include "device.cuh"
namespace pi0 {

// out[t] = t + 1 of the neighbour, through shared memory.
template <bool barrier> __global__ void neighbour_kernel(int *out) {
  int *values = &shared_memory<int>();
  values[threadIdx.x] = threadIdx.x + 1;
  if (barrier) __syncthreads();
  out[threadIdx.x] = values[(threadIdx.x + 1) % blockDim.x];
}

// Reads what the other warp has written, and writes over its own.
template <bool barrier> __global__ void overwrite_kernel(float *out) {
  float *values = &shared_memory<float>();
  values[threadIdx.x] = 1.0f;
  __syncthreads();
  const float sum = warp_sum(warp_sum(1.0f) * values[(threadIdx.x + 32) % 64]);
  if (barrier) __syncthreads();
  values[threadIdx.x] = 2.0f;
  out[threadIdx.x] = sum;
}

// out[t] = in[t], by an asynchronous copy.
template <bool wait> __global__ void copy_kernel(const float *in, float *out) {
  float *values = &shared_memory<float>();
  copy_async(values + 4 * threadIdx.x, in + 4 * threadIdx.x);
  commit_copies();
  if (wait) wait_for_copies<0>();
  for (int i = 0; i < 4; i++) out[4 * threadIdx.x + i] = values[4 * threadIdx.x + i];
}

template <bool whole> __global__ void shuffle_kernel(float *out) {
  if (whole || threadIdx.x < 7) out[threadIdx.x] = warp_sum(threadIdx.x);
}

}  // namespace pi0
PI0_API int pi0_neighbour(int *out, int64_t barrier, int64_t stream) {
  return pi0::launch(barrier ? pi0::neighbour_kernel<true> : pi0::neighbour_kernel<false>, 1, 64, 256, stream, out);
}
PI0_API int pi0_overwrite(float *out, int64_t barrier, int64_t stream) {
  return pi0::launch(barrier ? pi0::overwrite_kernel<true> : pi0::overwrite_kernel<false>, 1, 64, 256, stream, out);
}
PI0_API int pi0_copy(const float *in, float *out, int64_t wait, int64_t stream) {
  return pi0::launch(wait ? pi0::copy_kernel<true> : pi0::copy_kernel<false>, 1, 32, 512, stream, in, out);
}
PI0_API int pi0_shuffle(float *out, int64_t whole, int64_t stream) {
  return pi0::launch(whole ? pi0::shuffle_kernel<true> : pi0::shuffle_kernel<false>, 1, 32, 0, stream, out);
}
"""


PROBE_FUNCTIONS = {
    "neighbour": (I32, SIZE),
    "overwrite": (F32, SIZE),
    "copy": (F32, F32, SIZE),
    "shuffle": (F32, SIZE),
}


@cache
def compiled_probes(folder: Path) -> Path:
    (folder / "probes.cu").write_text(PROBES)
    sources = [folder / "probes.cu", CUDA / "library.cu", EMULATED_GPU / "emulation.cpp"]
    command = ["g++", *FLAGS, "-shared", "-x", "c++", *map(str, sources), "-o", str(folder / "probes.so")]
    subprocess.run([*command, "-ldl"], check=True)
    return folder / "probes.so"


@pytest.fixture
def probes(tmp_path_factory: pytest.TempPathFactory) -> EmulatedLibrary:
    if shutil.which("g++") is None:
        pytest.skip("g++ is not installed: the kernels cannot be run on the CPU")
    return EmulatedLibrary(compiled_probes(tmp_path_factory.getbasetemp()), PROBE_FUNCTIONS)


def neighbours(probes: EmulatedLibrary, barrier: bool, order: int) -> list[int]:
    out = torch.zeros(64, dtype=torch.int32)
    probes.order(order)
    probes.call("neighbour", out, barrier)
    probes.order(0)
    return out.tolist()


def test_a_missing_barrier_shows(probes: EmulatedLibrary):
    expected = [*range(2, 65), 1]
    for order in range(3):
        assert neighbours(probes, True, order) == expected
        assert neighbours(probes, False, order) != expected


def test_a_warp_that_runs_ahead_shows(probes: EmulatedLibrary):
    out = torch.zeros(64)
    for barrier in (True, False):
        probes.order(1)
        probes.call("overwrite", out, barrier)
        probes.order(0)
        assert (out == 32 * 32).all() == barrier


def test_an_asynchronous_copy_that_is_not_waited_for_shows(probes: EmulatedLibrary):
    values, out = torch.arange(128.0), torch.zeros(128)
    probes.call("copy", values, out, True)
    assert torch.equal(out, values)
    probes.call("copy", values, out, False)
    assert out.isnan().all()


def test_a_warp_that_is_not_complete_is_an_error(probes: EmulatedLibrary, capfd: pytest.CaptureFixture[str]):
    out = torch.zeros(32)
    probes.call("shuffle", out, True)
    assert out.tolist() == [sum(range(32))] * 32
    with pytest.raises(KernelError, match="shuffle: launch failure"):
        probes.call("shuffle", out, False)
    assert "threads wait for others that never come" in capfd.readouterr().err
