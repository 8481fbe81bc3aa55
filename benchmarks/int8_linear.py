"""INT8 linears against fp32 on the shapes of π0 and of the demo policy, all in one run.

    python -m benchmarks.int8_linear [--preset pi0] [--threads 1]

Columns, in ms per call (CPU time of the calling thread, median of interleaved calls, so that a busy machine disturbs
all columns alike):

* `fp32`: `F.linear`, what the reference engine runs;
* `packed`: fp32 with weights prepacked by oneDNN, the fair opponent;
* `oneDNN`, `_int_mm`: `Int8Linear` as a whole, quantization of the activations included, over each integer product;
* `quant`: the quantization of the activations alone, included in the two before.

`×fp32` and `×packed` are the speed of the product that `Int8Linear` chooses over both fp32 columns; `error` is the
relative error of its result against float64 on Gaussian activations with some larger channels.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence

import torch
from quant.int8_linear import Int8Linear, quantize_rows
from torch import Tensor
from torch.nn import functional as F

from benchmarks.machine import describe_machine
from pi0_edge.model import PRESETS, GemmaConfig, Pi0Config
from quant.integer_matmul import IntegerMatmul, OneDnnMatmul, TorchIntMatmul, choose_matmul

Shape = tuple[str, int, int, int]
PROMPT_TOKENS = 48
LEAST_SECONDS = 0.4


def gemma_shapes(name: str, tokens: int, config: GemmaConfig) -> list[Shape]:
    """(name, M, K, N) of the linears of one Gemma layer."""
    queries = config.heads * config.head_dim
    return [
        (f"{name} q", tokens, config.width, queries),
        (f"{name} k, v", tokens, config.width, config.kv_heads * config.head_dim),
        (f"{name} o", tokens, queries, config.width),
        (f"{name} gate, up", tokens, config.width, config.mlp_dim),
        (f"{name} down", tokens, config.mlp_dim, config.width),
    ]


def shapes(config: Pi0Config, cameras: int) -> list[Shape]:
    """Of every kind of linear that is quantized, at the number of tokens it sees in one chunk."""
    pictures = cameras * config.vision.tokens
    vision = [
        ("vision q, k, v, out", pictures, config.vision.width, config.vision.width),
        ("vision fc1", pictures, config.vision.width, config.vision.mlp_dim),
        ("vision fc2", pictures, config.vision.mlp_dim, config.vision.width),
    ]
    prompt = min(PROMPT_TOKENS, config.max_prompt_tokens)
    prefix = gemma_shapes("prefix", pictures + prompt, config.prefix)
    return vision + prefix + gemma_shapes("expert", config.horizon, config.expert)


def with_product(weight: Tensor, matmul: type[IntegerMatmul]) -> Int8Linear:
    """An `Int8Linear` over a given integer product instead of the one it would choose."""
    layer = Int8Linear(weight, None)
    values, scale = quantize_rows(weight)
    layer.matmul = matmul(values, scale.flatten())
    return layer


def prepacked(weight: Tensor, tokens: int) -> Callable[[Tensor], Tensor]:
    """The fp32 linear of oneDNN on prepacked weights."""
    packed = torch.ops.mkldnn._reorder_linear_weight(weight, tokens)
    return lambda x: torch.ops.mkldnn._linear_pointwise(x, packed, None, "none", [], "")


def milliseconds(calls: Sequence[Callable[[], object]]) -> list[float]:
    """Median thread time of each call; the calls take turns."""
    for call in calls:
        call()
    times: list[list[float]] = [[] for _ in calls]
    started = time.perf_counter()
    while len(times[0]) < 5 or time.perf_counter() - started < LEAST_SECONDS:
        for call, own in zip(calls, times, strict=True):
            before = time.thread_time()
            call()
            own.append(time.thread_time() - before)
    return [1e3 * statistics.median(own) for own in times]


def row(shape: Shape) -> str:
    """One line of the table."""
    name, m, k, n = shape
    generator = torch.Generator().manual_seed(0)
    x, weight = torch.randn(m, k, generator=generator), torch.randn(n, k, generator=generator) * k**-0.5
    x[:, ::97] *= 6
    packed, onednn, int_mm = (
        prepacked(weight, m),
        with_product(weight, OneDnnMatmul),
        with_product(weight, TorchIntMatmul),
    )
    calls = [
        lambda: F.linear(x, weight),
        lambda: packed(x),
        lambda: onednn(x),
        lambda: int_mm(x),
        lambda: quantize_rows(x),
    ]
    ms = milliseconds(calls)
    values, _ = quantize_rows(weight)
    chosen = ms[2] if choose_matmul(values) is OneDnnMatmul else ms[3]
    exact = x.double() @ weight.double().t()
    error = float((Int8Linear(weight, None)(x) - exact).norm() / exact.norm())
    figures = " ".join(f"{value:9.3f}" for value in ms)
    mark = "oneDNN" if chosen == ms[2] else "_int_mm"
    return (
        f"{name:<20} {m:>4}x{k}x{n:<6}".ljust(40)
        + f"{figures} {mark:>8} {ms[0] / chosen:6.2f} {ms[1] / chosen:8.2f} {error:8.1e}"
    )


def main() -> None:
    """Prints the table of one preset or of all."""
    parser = argparse.ArgumentParser(description="INT8 linears against fp32 on the shapes of π0.")
    parser.add_argument("--preset", choices=sorted(PRESETS), action="append")
    parser.add_argument("--cameras", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(*(f"{name}: {value}" for name, value in describe_machine().items()), sep="\n")
    columns = " ".join(f"{name:>9}" for name in ("fp32", "packed", "oneDNN", "_int_mm", "quant"))
    with torch.inference_mode():
        for preset in options.preset or ["pi0", "pi0-cube"]:
            print(f"\n{preset}, ms".ljust(41) + f"{columns} {'chosen':>8} {'×fp32':>6} {'×packed':>8} {'error':>8}")
            for shape in shapes(PRESETS[preset], options.cameras if preset != "pi0-cube" else 1):
                print(row(shape), flush=True)


if __name__ == "__main__":
    main()
