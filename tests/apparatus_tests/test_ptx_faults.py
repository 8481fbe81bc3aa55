"""The PTX lane finds what it is there to find: kernels of nvcc with a known mistake, and their correct twins.

Some mistakes are in small sources of their own, the others are made in the PTX of the real kernels: a barrier taken
out, a wait that waits for less, an address that is moved.
"""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path

import pytest
import torch
from emulated_kernels import CUDA, contents, emulated_library
from ptx_kernels import PtxLibrary, compiled_to_ptx, machine, ptx_library, ptx_of_all_kernels

from pi0_edge.errors import KernelError
from pi0_edge.kernels.attention import attention_into, rope_attention_into
from pi0_edge.kernels.euler_step import embed_actions_into, euler_update_into
from pi0_edge.kernels.gemm import ForNorm, gemm_into
from pi0_edge.kernels.gemm_epilogue import Epilogue
from pi0_edge.kernels.gemm_plan import TILES, Plan, workspace_bytes
from pi0_edge.kernels.norm import norm_into
from pi0_edge.kernels.quantize import quantize_into

pytestmark = pytest.mark.ptx

PROBES = r"""
#include "device.cuh"
using namespace pi0;

extern "C" __global__ void neighbour(int *out, int barrier) {
  int *values = &shared_memory<int>();
  values[threadIdx.x] = threadIdx.x + 1;
  if (barrier) __syncthreads();
  out[threadIdx.x] = values[(threadIdx.x + 1) % blockDim.x];
}

extern "C" __global__ void overwrite(int *out, int barrier) {
  int *values = &shared_memory<int>();
  values[threadIdx.x] = 1;
  __syncthreads();
  const int other = values[(threadIdx.x + 32) % 64];
  if (barrier) __syncthreads();
  values[threadIdx.x] = 2;
  out[threadIdx.x] = other;
}

extern "C" __global__ void copy_without_wait(const float *in, float *out, int wait) {
  float *values = &shared_memory<float>();
  copy_async(values + 4 * threadIdx.x, in + 4 * threadIdx.x);
  commit_copies();
  if (wait) wait_for_copies<0>();
  out[threadIdx.x] = values[4 * threadIdx.x];
}

// A thread sees its own copies after it has waited, those of others after a barrier as well.
extern "C" __global__ void copy_of_another(const float *in, float *out, int barrier) {
  float *values = &shared_memory<float>();
  copy_async(values + 4 * threadIdx.x, in + 4 * threadIdx.x);
  commit_copies();
  wait_for_copies<0>();
  if (barrier) __syncthreads();
  out[threadIdx.x] = values[4 * ((threadIdx.x + 1) % blockDim.x)];
}

extern "C" __global__ void copy_over_what_is_read(const float *in, float *out, int barrier) {
  float *values = &shared_memory<float>();
  for (int i = 0; i < 4; i++) values[4 * threadIdx.x + i] = 1.0f;
  __syncthreads();
  out[threadIdx.x] = values[4 * ((threadIdx.x + 1) % blockDim.x)];
  if (barrier) __syncthreads();
  copy_async(values + 4 * threadIdx.x, in + 4 * threadIdx.x);
  commit_copies();
  wait_for_copies<0>();
}

extern "C" __global__ void beyond(int *out, int at) {
  int *values = &shared_memory<int>();
  values[threadIdx.x + at] = 1;
  out[threadIdx.x] = values[threadIdx.x + at];
}

extern "C" __global__ void vector(const float *in, float *out, int at) {
  const auto read = *reinterpret_cast<const Vector<float, 4> *>(in + at);
  out[threadIdx.x] = read.at[0] + read.at[1] + read.at[2] + read.at[3];
}

extern "C" __global__ void shared_vector(float *out, int at) {
  float *values = &shared_memory<float>();
  for (int i = 0; i < 2; i++) values[2 * threadIdx.x + i] = 1.0f;
  __syncthreads();
  const auto read = *reinterpret_cast<const Vector<float, 2> *>(values + at);
  out[threadIdx.x] = read.at[0] + read.at[1];
}

extern "C" __global__ void copy_from(const float *in, float *out, int at) {
  float *values = &shared_memory<float>();
  copy_async(values + 4 * threadIdx.x, in + at);
  commit_copies();
  wait_for_copies<0>();
  out[threadIdx.x] = values[4 * threadIdx.x];
}

extern "C" __global__ void shuffle(float *out, int lanes) {
  if (threadIdx.x < lanes) out[threadIdx.x] = warp_sum(threadIdx.x);
}

extern "C" __global__ void barrier_in_a_branch(float *out, int lanes) {
  float *values = &shared_memory<float>();
  values[threadIdx.x] = 1.0f;
  if (threadIdx.x < lanes) {
    __syncthreads();
    out[threadIdx.x] = values[threadIdx.x];
  } else {
    out[threadIdx.x] = 2.0f;
    __syncthreads();
  }
}

extern "C" __global__ void unwritten(float *out, int written) {
  float *values = &shared_memory<float>();
  if (threadIdx.x < written) values[threadIdx.x] = 1.0f;
  out[threadIdx.x] = values[threadIdx.x];
}
"""
NUMBERS, INTEGERS = partial(torch.zeros, 64), partial(torch.zeros, 64, dtype=torch.int32)
SOURCES = partial(torch.arange, 256.0)
MISTAKES: dict[str, tuple[int, tuple[Callable[[], torch.Tensor], ...], int, int, str]] = {
    "neighbour": (64, (INTEGERS,), 1, 0, r"read of shared memory that thread \d+ wrote, without a barrier"),
    "overwrite": (
        64,
        (INTEGERS,),
        1,
        0,
        "of shared memory that thread 0 wrote, without a barrier|shared memory that another thread read, without a",
    ),
    "copy_without_wait": (32, (SOURCES, NUMBERS), 1, 0, "that an asynchronous copy may still write"),
    "copy_of_another": (
        32,
        (SOURCES, NUMBERS),
        1,
        0,
        r"read of shared memory that thread \d+ wrote, without a barrier",
    ),
    "copy_over_what_is_read": (32, (SOURCES, NUMBERS), 1, 0, "that another thread read, without a barrier"),
    "beyond": (32, (INTEGERS,), 0, 97, "out of the 512 bytes of shared memory"),
    "vector": (32, (SOURCES, NUMBERS), 4, 6, "misaligned access to global memory, 16 bytes"),
    "shared_vector": (32, (NUMBERS,), 2, 3, "misaligned access to shared memory, 8 bytes"),
    "copy_from": (32, (SOURCES, NUMBERS), 4, 5, "misaligned source of an asynchronous copy"),
    "shuffle": (32, (NUMBERS,), 32, 7, "an instruction of the whole warp, at which not all lanes arrive"),
    "barrier_in_a_branch": (64, (NUMBERS,), 32, 40, "the lanes of a warp wait at different instructions"),
    "unwritten": (32, (NUMBERS,), 32, 31, "read of shared memory that nobody has written"),
}
"""Kernel -> threads, tensors, an argument with which it is right, one with which it is wrong, and what is said then."""


@pytest.fixture(scope="module")
def probes(tmp_path_factory: pytest.TempPathFactory) -> PtxLibrary:
    source = tmp_path_factory.mktemp("probes") / "probes.cu"
    source.write_text(PROBES)
    library = machine()
    library.load(compiled_to_ptx(source, contents(sorted(CUDA.glob("*.*h"))), f"-I{CUDA}"))
    return library


@pytest.mark.parametrize("kernel", MISTAKES)
@pytest.mark.parametrize("order", [0, 1])
def test_a_mistake_is_found_and_its_correct_twin_is_not(probes: PtxLibrary, kernel: str, order: int):
    threads, tensors, right, wrong, said = MISTAKES[kernel]
    probes.order(order)
    probes.run(kernel, 1, threads, 512, *(tensor() for tensor in tensors), right)
    with pytest.raises(KernelError, match=said) as error:
        probes.run(kernel, 1, threads, 512, *(tensor() for tensor in tensors), wrong)
    probes.order(0)
    assert re.search(r", at (.*called at )?(probes\.cu|device\.cuh):\d+", str(error.value)), "it does not say where"
    assert probes.findings() == []


def test_memory_behind_the_end_of_a_tensor_is_out_of_bounds(probes: PtxLibrary):
    memory = torch.zeros(64)
    probes.run("vector", 1, 32, 0, memory, NUMBERS(), 60)
    with pytest.raises(KernelError, match=r"outside all tensors, 16 bytes behind the end of one, .* at probes.cu:\d+"):
        probes.run("vector", 1, 32, 0, memory[:56], NUMBERS(), 60)


Call = Callable[[PtxLibrary], None]


def int8_product(library: PtxLibrary) -> None:
    """Two blocks share a tile, and a block does several."""
    m, n, k, tile = 70, 144, 640, TILES[0]
    plan = Plan(tile.number, 3, workspace_bytes(4, 3, tile.rows * tile.columns))
    a, weight = torch.ones(m, k, dtype=torch.int8), torch.ones(n, k, dtype=torch.int8)
    out, workspace = torch.empty(m, n), torch.zeros(plan.workspace_bytes, dtype=torch.uint8)
    scales = torch.ones(m, 1), torch.ones(n)
    gemm_into("int8", library, out, workspace, a, weight, *scales, Epilogue(torch.float32), plan)


def weight_only_product(library: PtxLibrary, blocks: int = 3, ahead: torch.Tensor | None = None) -> None:
    """Between two norms that it does the parts of; it may ask for what follows."""
    plan = Plan(0, blocks, workspace_bytes(2, blocks, 64 * 128))
    a, packed = torch.ones(50, 640, dtype=torch.bfloat16), torch.full((2, 10, 8192), 129, dtype=torch.uint8)
    out, workspace = torch.empty(50, 256), torch.zeros(plan.workspace_bytes, dtype=torch.uint8)
    epilogue = Epilogue(torch.float32, squares=torch.ones(50, 20))
    left = ForNorm(torch.ones(256), torch.empty(50, 256, dtype=torch.bfloat16), torch.empty(50, 8))
    given = ("int8-weights", library, out, workspace, a, packed, None, torch.ones(256), epilogue, plan)
    gemm_into(*given, ahead=ahead, for_norm=left)


def attention_over_a_cache(library: PtxLibrary) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(50, 3, 32, generator=generator).bfloat16()
    cache = torch.randn(2, 300, 1, 32, generator=generator).bfloat16()
    table, out = torch.rand(350, 32, generator=generator), torch.empty(50, 1, 32, dtype=torch.bfloat16)
    rope_attention_into(library, out, x.flatten(1), table, cache[0], cache[1], torch.tensor([300], dtype=torch.int32))


def attention_of_vision(library: PtxLibrary) -> None:
    x = torch.randn(3, 1, 100, 2, 72, generator=torch.Generator().manual_seed(0)).bfloat16()
    attention_into(library, torch.empty_like(x[0]), x[0], x[1], x[2])


def front_of_a_step(library: PtxLibrary) -> None:
    x, folded, bias = torch.rand(50, 32), torch.rand(256, 32), torch.rand(256)
    weight, out = torch.rand(256, 256).bfloat16(), torch.empty(50, 256, dtype=torch.bfloat16)
    embed_actions_into(library, out, x, folded, bias, None, weight, bias)


def back_of_a_step(library: PtxLibrary) -> None:
    hidden, weight = torch.rand(50, 256).bfloat16(), torch.rand(256, 32)
    euler_update_into(library, torch.rand(50, 32), hidden, None, torch.ones(256), None, weight, torch.ones(32), -0.1)


def norm_with_rotation(library: PtxLibrary) -> None:
    """LayerNorm, whose sum of squares follows another sum; with a rotation over several warps, and without any."""
    for hadamard_block in (2048, 1):
        out, scale, ones = torch.empty(3, 2048, dtype=torch.int8), torch.empty(3, 1), torch.ones(2048)
        norm_into(library, out, scale, torch.rand(3, 2048).bfloat16(), ones, ones, None, True, hadamard_block)


def quantized_rows(library: PtxLibrary) -> None:
    out, scale = torch.empty(3, 2048, dtype=torch.int8), torch.empty(3, 1)
    quantize_into(library, out, scale, torch.rand(3, 2048).bfloat16(), 2048)


CALLS: dict[str, tuple[str, Call]] = {
    "INT8 product": ("gemm_int8.cu", int8_product),
    "weight-only product": ("gemm_weight_only.cu", weight_only_product),
    "attention over a cache": ("attention.cu", attention_over_a_cache),
    "attention of vision": ("attention.cu", attention_of_vision),
    "embed actions": ("embed_actions.cu", front_of_a_step),
    "Euler update": ("euler_update.cu", back_of_a_step),
    "norm": ("norm.cu", norm_with_rotation),
    "quantize": ("quantize.cu", quantized_rows),
}


@cache
def kernel_of(call: str) -> str:
    """The PTX of the one kernel that a call launches, as a file of its own."""
    file, run = CALLS[call]
    library = ptx_library()
    library.launches()
    run(library)
    (launched,) = {launch.kernel for launch in library.launches()}
    text = ptx_of_all_kernels()[file]
    begin = text.index(".entry", text.index(f".entry {launched}(") - 1)
    head = [line for line in text.splitlines() if line.startswith((".extern .shared", "\t.file"))]
    return "\n".join([*head, text[begin : text.index("\n}\n", begin) + 3]])


@contextmanager
def loaded(text: str, original: str) -> Iterator[PtxLibrary]:
    library = ptx_library()
    library.load(text)
    try:
        yield library
    finally:
        library.load(original)
        library.order(0)


def is_found(call: str, changed: str) -> bool:
    """Whether the kernel with a change in its PTX fails, in one of two orders."""
    with loaded(changed, kernel_of(call)) as library:
        for order in (0, 1):
            library.order(order)
            try:
                CALLS[call][1](library)
            except KernelError:
                return True
    return False


def each_change(text: str, pattern: str, replacement: str | Callable[[re.Match[str]], str]) -> Iterator[str]:
    """The text with one match replaced at a time."""
    for found in re.finditer(pattern, text):
        new = found.expand(replacement) if isinstance(replacement, str) else replacement(found)
        yield text[: found.start()] + new + text[found.end() :]


NEEDLESS = {
    "attention over a cache": {6: "nothing that is written behind it is still read or copied before the next barrier"},
    "attention of vision": {4: "as above"},
    "norm": {0: "nothing was in shared memory before the first sum"},
    "quantize": {2: "nothing was where the first maximum goes"},
}
"""Barriers, by their numbers in the PTX, that can go without harm, and why."""


@pytest.mark.parametrize("call", CALLS)
def test_a_barrier_that_is_taken_out_of_a_real_kernel_is_found(call: str):
    changes = list(each_change(kernel_of(call), r"bar\.sync\s+0;", ""))
    missed = [number for number, changed in enumerate(changes) if not is_found(call, changed)]
    assert changes
    assert missed == list(NEEDLESS.get(call, {}))


@pytest.mark.parametrize("call", ["INT8 product", "weight-only product"])
def test_a_part_of_a_tile_that_is_announced_without_a_fence_is_found(call: str):
    """The first fence lies before the ticket; whether the last block fences before it reads cannot be seen."""
    changes = list(each_change(kernel_of(call), r"membar\.gl;", ""))
    assert [is_found(call, changed) for changed in changes] == [True, False]


NEEDLESS_WAITS = {
    "attention of vision": {2: "the last copies are of keys behind the last one, where nothing is written any more"},
    "embed actions": {1: "nothing has been copied since the wait before"},
}


@pytest.mark.parametrize("call", [call for call in CALLS if call.split()[0] not in ("Euler", "norm", "quantize")])
def test_a_wait_for_one_copy_less_is_found(call: str):
    def deeper(wait: re.Match[str]) -> str:
        return f"cp.async.wait_group {int(wait[1]) + 1};"

    changes = list(each_change(kernel_of(call), r"cp\.async\.wait_group (\d+);", deeper))
    missed = [number for number, changed in enumerate(changes) if not is_found(call, changed)]
    assert changes
    assert missed == list(NEEDLESS_WAITS.get(call, {}))


@pytest.mark.parametrize(
    ("pattern", "replacement"),
    [
        (r"(ldmatrix[^;]*\[%r\d+)\]", r"\1+200000]"),
        (r"(ldmatrix[^;]*\[%r\d+)\]", r"\1+8]"),
        (r"(cp\.async\.cg[^;]*global \[%r\d+)\]", r"\1+8]"),
        (r"(st\.global\.v4\.f32\s+\[%rd\d+)\]", r"\1+4]"),
        (r"(st\.global\.v4\.f32\s+\[%rd\d+)\]", r"\1+1048576]"),
        (r"(ld\.global\.f32\s+%f\d+, \[%rd\d+)\]", r"\1+1048576]"),
    ],
)
def test_an_address_that_is_moved_is_found(pattern: str, replacement: str):
    """One at least: the others may be in a part that this call does not come to, another type of the output."""
    changes = each_change(kernel_of("INT8 product"), pattern, replacement)
    assert any(is_found("INT8 product", changed) for changed in changes)


def attention_with_weights_ahead(library: PtxLibrary) -> None:
    """The L2 cache is asked for the lines of two arrays, as many as one thread asks for and more."""
    x, table = torch.zeros(50, 96).bfloat16(), torch.rand(350, 32)
    cache, out = torch.zeros(2, 300, 1, 32).bfloat16(), torch.empty(50, 1, 32, dtype=torch.bfloat16)
    seen, ahead, further = torch.tensor([300], dtype=torch.int32), torch.zeros(1000), torch.zeros(1001)
    rope_attention_into(library, out, x, table, cache[0], cache[1], seen, ahead=ahead, further_ahead=further)


def products_with_weights_ahead(library: PtxLibrary) -> None:
    """With stripes that are longer than the ring of stages, and with shorter ones."""
    for blocks in (3, 10):
        weight_only_product(library, blocks, torch.zeros(100_000))


@pytest.mark.parametrize(
    ("call", "run"),
    [("attention over a cache", attention_with_weights_ahead), ("weight-only product", products_with_weights_ahead)],
)
def test_a_prefetch_behind_the_end_of_its_array_is_found(call: str, run: Call):
    """A GPU ignores it where nothing is, and loads what nobody asked for elsewhere."""
    changes = list(each_change(kernel_of(call), r"(prefetch\.global\.L2 \[%rd\d+)\]", r"\1+1048576]"))
    assert changes
    for changed in changes:
        with (
            loaded(changed, kernel_of(call)) as library,
            pytest.raises(KernelError, match=r"outside all tensors.*prefetch\.global\.L2"),
        ):
            run(library)
    run(ptx_library())


def test_the_emulated_gpu_of_the_sources_in_the_same_process_is_another_one():
    """It knows nothing of PTX, of what launches may touch, and of the order of the other."""
    changed = next(each_change(kernel_of("quantize"), r"bar\.sync\s+0;", ""))
    with loaded(changed, kernel_of("quantize")) as library:
        with pytest.raises(KernelError):
            quantized_rows(library)
        sources = emulated_library()
        for each in (sources, library):
            each.launches()  # forgets those so far
        out, scale = torch.empty(3, 2048, dtype=torch.int8), torch.empty(3, 1)
        quantize_into(sources, out, scale, torch.rand(3, 2048).bfloat16(), 2048)
        assert len(sources.launches()) == 1 and library.launches() == []


def test_a_real_kernel_without_a_change_is_right():
    for call in CALLS:
        assert not is_found(call, kernel_of(call)), call


def test_an_instruction_that_is_not_known_is_refused_with_its_line(tmp_path: Path):
    text = kernel_of("quantize").replace("bar.sync", "bar.arrive", 1)
    line = next(number for number, each in enumerate(text.splitlines(), 1) if "bar.arrive" in each)
    with pytest.raises(KernelError, match=rf"PTX, line {line}: unknown instruction bar.arrive; add it"):
        ptx_library().load(text)
