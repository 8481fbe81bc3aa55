"""Matrix products of the kernel library on a CUDA device, against the limits of that device, all in one run.

    python -m benchmarks.kernels_gemm [--tune] [--cameras 1 2 3]

First the limits: INT8 operations of the vendor's product (`torch._int_mm`, 8192³) and the bytes per second of a
reduction that only reads. Then one line per linear of π0:

* `µs`: median of graph replays, each over so many copies of the weights that no cache holds them, per product;
* `TOP/s` or `GB/s` of weights, and their share of the limit;
* `plan`: rows of the tile and blocks; `best` is the fastest of all candidates, with its time over that of the plan;
* `error`: of the result, relative to float64.

With `--tune`, the fastest plans become those of this kind of GPU (`pi0_edge/kernels/gemm_plan.py`). A product whose
error is too large has no speed: the program ends there.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from benchmarks.gpu_clock import describe_clock, fastest, ramp_clock
from benchmarks.machine import describe_machine
from pi0_edge.errors import KernelError
from pi0_edge.kernels.gemm import gemm_into
from pi0_edge.kernels.gemm_epilogue import Epilogue
from pi0_edge.kernels.gemm_packing import pack_weights
from pi0_edge.kernels.gemm_plan import (
    TILES,
    Measured,
    Plan,
    candidates,
    plan_bytes,
    plan_weight_only,
    tuned_path,
    write_tuned,
)
from pi0_edge.kernels.library import KernelLibrary, kernel_library
from pi0_edge.model import PRESETS, GemmaConfig, Pi0Config

PROMPT_TOKENS = 48
UNCACHED_BYTES = 2**28
"""Weights of one graph: five times the largest L2 there is."""
REPLAYS = 25
E4M3 = torch.float8_e4m3fn
LARGEST_ERROR = 0.01

Linear = tuple[str, int, int, int, str]
"""Name, m, n, k, activation."""


def gemma_linears(name: str, tokens: int, config: GemmaConfig) -> list[Linear]:
    """Of one layer, with q, k, v and gate, up as one product each."""
    heads = config.heads * config.head_dim
    qkv = heads + 2 * config.kv_heads * config.head_dim
    return [
        (f"{name} q, k, v", tokens, qkv, config.width, "linear"),
        (f"{name} o", tokens, config.width, heads, "linear"),
        (f"{name} gate, up", tokens, 2 * config.mlp_dim, config.width, "geglu"),
        (f"{name} down", tokens, config.width, config.mlp_dim, "linear"),
    ]


def prefix_linears(config: Pi0Config, cameras: int) -> list[Linear]:
    """Of one layer of the vision tower and one of the prefix."""
    vision, tokens = config.vision, cameras * config.vision.tokens
    return [
        ("vision q, k, v", tokens, 3 * vision.width, vision.width, "linear"),
        ("vision out", tokens, vision.width, vision.width, "linear"),
        ("vision fc1", tokens, vision.mlp_dim, vision.width, "gelu"),
        ("vision fc2", tokens, vision.width, vision.mlp_dim, "linear"),
        *gemma_linears("prefix", tokens + PROMPT_TOKENS, config.prefix),
    ]


@dataclass
class Product:
    """One linear, with copies of its weights: `enqueue(copy, plan)` runs it into `out`."""

    linear: Linear
    weights: list[Tensor]
    out: Tensor
    expected: Tensor
    enqueue: Callable[[int, Plan], None]
    workspaces: dict[Plan, Tensor] = field(default_factory=dict)

    def error(self, plan: Plan) -> float:
        """Relative to float64."""
        self.out.fill_(float("nan"))
        self.enqueue(0, plan)
        return float((self.out.double() - self.expected).norm() / self.expected.norm())

    def seconds(self, plan: Plan) -> float:
        """Of one product, weights from memory."""
        return per_item([lambda copy=copy: self.enqueue(copy, plan) for copy in range(len(self.weights))])


def per_item(calls: list[Callable[[], object]]) -> float:
    """Seconds per call: the median of replays of a graph of all of them."""
    calls[0]()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for call in calls:
            call()
    times = []
    for _ in range(3 + REPLAYS):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        graph.replay()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end) / 1e3)
    return statistics.median(times[3:]) / len(calls)


def copies_of(n: int, k: int) -> int:
    return max(2, math.ceil(UNCACHED_BYTES / (n * k)))


def one_byte_product(library: KernelLibrary, linear: Linear, fp8: bool) -> Product:
    """Of random INT8 or E4M3 matrices."""
    _, m, n, k, activation = linear
    generator = torch.Generator("cuda").manual_seed(0)

    def integers(rows: int) -> Tensor:
        drawn = torch.randint(-127, 128, (rows, k), generator=generator, device="cuda", dtype=torch.int8)
        return drawn.float().to(E4M3) if fp8 else drawn

    a, weights = integers(m), [integers(n) for _ in range(copies_of(n, k))]
    a_scale = torch.full((1,) if fp8 else (m, 1), 1e-2, device="cuda")
    scale = torch.full((n,), 1e-2, device="cuda")
    epilogue = Epilogue(torch.bfloat16, activation)
    out = torch.empty(m, epilogue.columns(n), dtype=torch.bfloat16, device="cuda")
    expected = epilogue.before_rounding(a.double() @ weights[0].double().t(), a_scale, scale)
    format = "fp8" if fp8 else "int8"

    def enqueue(copy: int, plan: Plan) -> None:
        gemm_into(format, library, out, workspace(product, plan), a, weights[copy], a_scale, scale, epilogue, plan)

    product = Product(linear, weights, out, expected, enqueue)
    return product


def weight_only_product(library: KernelLibrary, linear: Linear, fp8: bool) -> Product:
    """Of bfloat16 activations and random packed weights."""
    _, m, n, k, activation = linear
    generator = torch.Generator("cuda").manual_seed(0)
    drawn = torch.randint(-127, 128, (n, k), generator=generator, device="cuda", dtype=torch.int8)
    weight = drawn.float().to(E4M3) if fp8 else drawn
    packed = [pack_weights(weight).clone() for _ in range(copies_of(n, k))]
    a = torch.randn(m, k, generator=generator, device="cuda").bfloat16()
    scale = torch.full((n,), 1e-2 / k**0.5, device="cuda")
    format = "fp8-weights" if fp8 else "int8-weights"
    epilogue = Epilogue(torch.bfloat16, activation)
    out = torch.empty(m, epilogue.columns(n), dtype=torch.bfloat16, device="cuda")
    expected = epilogue.before_rounding(a.double() @ weight.double().t(), None, scale)

    def enqueue(copy: int, plan: Plan) -> None:
        memory = workspace(product, plan)
        gemm_into(format, library, out, memory, a, packed[copy], None, scale, epilogue, plan)

    product = Product(linear, packed, out, expected, enqueue)
    return product


def workspace(product: Product, plan: Plan) -> Tensor:
    if plan not in product.workspaces:
        product.workspaces[plan] = torch.zeros(plan.workspace_bytes, dtype=torch.uint8, device="cuda")
    return product.workspaces[plan]


def measured_limits() -> tuple[float, float]:
    """INT8 operations per second and bytes read per second of this device."""
    a = torch.randint(-127, 128, (8192, 8192), device="cuda", dtype=torch.int8)
    operations = 2 * 8192**3 / per_item([lambda: torch.ops.aten._int_mm(a, a.t())] * 3)
    blocks = [torch.zeros(2**26, dtype=torch.int32, device="cuda") for _ in range(2)]
    return operations, blocks[0].nbytes / per_item([lambda block=block: block.sum() for block in blocks])


def checked(product: Product, plan: Plan) -> float:
    """The error, if it is one of rounding."""
    error = product.error(plan)
    if not error < LARGEST_ERROR:
        sys.exit(f"{product.linear}: wrong by {error:.3g} with {plan}; a wrong product has no speed")
    return error


def line(name: str, shape: str, seconds: float, rate: str, share: float, rest: str) -> str:
    return f"{name:<28} {shape:<18} {seconds * 1e6:9.1f} {rate:>12} {share:6.0%}  {rest}"


def one_byte_line(product: Product, multiprocessors: int, limit: float, fp8: bool, measured: list[Measured]) -> str:
    """Measures the plan of the model and every other one, and keeps the fastest."""
    name, m, n, k, _ = product.linear
    plan = plan_bytes(m, n, k, multiprocessors, fp8)
    others = [other for other in candidates(m, n, k, multiprocessors, fp8) if other != plan]
    error = max(checked(product, each) for each in (plan, *others))
    best, times = fastest([plan, *others], product.seconds)
    measured.append(Measured(fp8, m, n, k, best.tile, best.blocks))
    rate = 2 * m * n * k / times[plan]
    plans = " ".join(f"{TILES[p.tile].rows}x{p.blocks}" for p in (plan, best))
    rest = f"{plans} {times[best] / times[plan]:.2f}  {error:.1e}"
    kind = "FP8" if fp8 else "INT8"
    return line(f"{name}, {kind}", f"{m}x{k}x{n}", times[plan], f"{rate / 1e12:.1f} TOP/s", rate / limit, rest)


def weight_only_line(product: Product, multiprocessors: int, limit: float, fp8: bool) -> str:
    """Measures the product at its only plan."""
    name, m, n, k, _ = product.linear
    plan = plan_weight_only(m, n, k, multiprocessors)
    error, seconds = checked(product, plan), product.seconds(plan)
    rate = product.weights[0].nbytes / seconds
    kind = "FP8 weights" if fp8 else "INT8 weights"
    rest = f"{plan.blocks} blocks  {error:.1e}"
    return line(f"{name}, {kind}", f"{m}x{k}x{n}", seconds, f"{rate / 1e9:.0f} GB/s", rate / limit, rest)


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description="Matrix products of the kernel library against the device's limits.")
    parser.add_argument("--cameras", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--tune", action="store_true", help="let the engine use the fastest plans from now on")
    options = parser.parse_args()
    try:
        library = kernel_library()
        library.require_device()
    except KernelError as error:
        sys.exit(f"error: {error}")
    properties = torch.cuda.get_device_properties(0)
    multiprocessors = properties.multi_processor_count
    print(*(f"{name}: {value}" for name, value in describe_machine().items()), sep="\n")
    ramp_clock()
    print(*(f"{name}: {value}" for name, value in describe_clock().items()), sep="\n")
    operations, bandwidth = measured_limits()
    print(f"device: {properties.name}, {multiprocessors} multiprocessors")
    print(f"limits: {operations / 1e12:.1f} TOP/s INT8, {bandwidth / 1e9:.0f} GB/s read\n")
    print(f"{'linear':<28} {'m x k x n':<18} {'µs':>9} {'rate':>12} {'limit':>6}  plan, best, its time, error")

    config, tuned = PRESETS["pi0"], []
    for cameras in options.cameras:
        for linear in prefix_linears(config, cameras):
            for fp8 in (False, True):
                try:
                    product = one_byte_product(library, linear, fp8)
                    print(one_byte_line(product, multiprocessors, operations, fp8, tuned), flush=True)
                except KernelError as error:  # FP8 where there is none
                    print(f"{linear[0]}, {'FP8' if fp8 else 'INT8'}: {error}", flush=True)
    for linear in gemma_linears("expert", config.horizon, config.expert):
        for fp8 in (False, True):
            product = weight_only_product(library, linear, fp8)
            print(weight_only_line(product, multiprocessors, bandwidth, fp8), flush=True)
    if options.tune:
        path = tuned_path((properties.major, properties.minor), multiprocessors)
        write_tuned(path, tuned)
        print(f"\n{len(tuned)} plans are in {path}")


if __name__ == "__main__":
    main()
