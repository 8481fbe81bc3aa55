"""Every kernel but the products at its size in π0, against the limits of the device, all in one run.

    python -m benchmarks.gpu_kernels [--cameras 2] [--tokens 20]

One line per kernel: µs of one launch inside a graph of many, the operations and bytes it cannot do without, and the
share of the limit that binds it. What lies in the cache is read from there, as it is in a chunk, so that a share of the
memory's limit above 1 says that the cache has helped. Products: `benchmarks.kernels_gemm`.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from benchmarks.gpu_clock import describe_clock
from benchmarks.gpu_limits import Limits, measure_limits, milliseconds
from pi0_edge.kernels.attention import attention, rope_attention
from pi0_edge.kernels.euler_step import embed_actions, euler_update
from pi0_edge.kernels.norm import norm, norm_quant
from pi0_edge.kernels.patches import patches, resize_plan
from pi0_edge.kernels.quantize import quantize
from pi0_edge.kernels.rope import rope, rope_table
from pi0_edge.model import PRESETS

LAUNCHES = 50
BF16 = torch.bfloat16


@dataclass(frozen=True)
class Timed:
    """One kernel to be timed.

    Attributes:
        name: What it does.
        call: Enqueues it once.
        operations: On tensor cores.
        bytes: In and out.
    """

    name: str
    call: Callable[[], object]
    operations: float
    bytes: float


def half(*shape: int) -> Tensor:
    return torch.randn(shape, device="cuda").to(BF16)


def single(*shape: int) -> Tensor:
    return torch.randn(shape, device="cuda")


def timed_kernels(cameras: int, tokens: int) -> Iterator[Timed]:
    """At the sizes of π0."""
    config = PRESETS["pi0"]
    vision, prefix, expert = config.vision, config.prefix, config.expert
    seen, horizon = cameras * vision.tokens, config.horizon
    length = seen + tokens
    frames = torch.randint(0, 256, (cameras, 480, 640, 3), dtype=torch.uint8, device="cuda")
    plan = resize_plan(480, 640, vision.image_size, "cuda")
    tables = (plan.row_first, plan.row_weights, plan.column_first, plan.column_weights)
    yield Timed(
        "frames to patches",
        lambda: patches(frames, *tables, plan.side, 14),
        0,
        frames.nbytes + seen * 588 * 4,
    )
    x, scale = half(seen, vision.width), single(vision.width)
    yield Timed("vision: norm", lambda: norm(x, scale, scale, None, True, 1, BF16), 0, 2 * x.nbytes)
    qkv = half(cameras, vision.tokens, 3, vision.heads, vision.width // vision.heads)
    yield Timed(
        "vision: attention",
        lambda: attention(*qkv.unbind(2)),
        4.0 * seen * vision.tokens * vision.width,
        qkv.nbytes * 4 / 3,
    )
    y, scale_y = half(length, prefix.width), single(prefix.width)
    yield Timed("prefix: norm, quantize", lambda: norm_quant(y, scale_y, None, None, False, 128), 0, y.nbytes * 1.5)
    hidden = half(length, prefix.mlp_dim)
    yield Timed("prefix: quantize hidden", lambda: quantize(hidden, 128), 0, hidden.nbytes * 1.5)
    table = rope_table(length + 1 + horizon, prefix.head_dim, "cuda")
    keys, values = half(2, length + 1, prefix.kv_heads, prefix.head_dim).unbind(0)
    wide = half(length, (prefix.heads + 2 * prefix.kv_heads) * prefix.head_dim)
    yield Timed("prefix: rope", lambda: rope(wide, table, keys, values, 0), 0, 2 * wide.nbytes)
    q = half(1, length, prefix.heads, prefix.head_dim)
    width = prefix.heads * prefix.head_dim
    yield Timed(
        "prefix: attention",
        lambda: attention(q, keys[None, :length], values[None, :length]),
        4.0 * length * length * width,
        2 * q.nbytes + 2 * keys.nbytes,
    )
    actions, step = single(horizon, config.action_dim), half(horizon, expert.width)
    front, bias = single(expert.width, config.action_dim), single(expert.width)
    out = half(expert.width, expert.width)
    yield Timed(
        "step: embed actions",
        lambda: embed_actions(actions, front, bias, None, out, bias, torch.float32),
        2.0 * horizon * expert.width * (expert.width + config.action_dim),
        out.nbytes + front.nbytes,
    )
    yield Timed("step: norm", lambda: norm(step, bias, None, None, False, 1, BF16), 0, 2 * step.nbytes)
    narrow = half(horizon, wide.shape[1])
    yield Timed(
        "step: rope and attention",
        lambda: rope_attention(narrow, table, keys, values),
        4.0 * horizon * (length + 1 + horizon) * width,
        2 * keys.nbytes + narrow.nbytes * 1.8,
    )
    back, back_bias = front.t().contiguous(), single(config.action_dim)
    yield Timed(
        "step: Euler update",
        lambda: euler_update(actions, step, None, bias, None, back, back_bias, -0.1),
        2.0 * horizon * expert.width * config.action_dim,
        step.nbytes + back.nbytes,
    )


def microseconds(call: Callable[[], object]) -> float:
    """Of one launch, inside a graph of many."""
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        call()
    stream.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        for _ in range(LAUNCHES):
            call()
    return statistics.median(milliseconds(graph.replay)) * 1e3 / LAUNCHES


def share(kernel: Timed, limits: Limits, us: float) -> tuple[str, float]:
    """Which limit binds the kernel, and how much of it is reached."""
    arithmetic, memory = kernel.operations / limits.bf16, kernel.bytes / limits.read
    return ("arithmetic" if arithmetic > memory else "memory"), max(arithmetic, memory) / (us * 1e-6)


def main() -> None:
    """Prints one line per kernel."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cameras", type=int, default=2)
    parser.add_argument("--tokens", type=int, default=20)
    given = parser.parse_args()
    limits = measure_limits()
    print(f"{torch.cuda.get_device_name()}: {limits}, {describe_clock()}")
    for kernel in timed_kernels(given.cameras, given.tokens):
        us = microseconds(kernel.call)
        bound, reached = share(kernel, limits, us)
        print(f"{kernel.name:28s} {us:8.2f} µs  {kernel.operations / 1e9:8.3f} GFLOP  {kernel.bytes / 1e6:8.3f} MB  "
              f"{reached:6.1%} of {bound}", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
