"""Every scheme and what well-kept libraries offer, on the same linears of full-size π0, in one table.

    python -m benchmarks.scheme_linears [--threads 1]

* ms: CPU time of the calling thread per call, median of calls that take turns, so that a busy machine disturbs all
  rows alike; activations are quantized inside the call. `×` is the speed against fp32 prepacked by oneDNN.
* error: relative error of the output against float64, on Gaussian activations in which every 97th channel is six times
  as large, as in the facts that the schemes were chosen by.
* bits: stored per weight, scales included.
* on sm_87: what the scheme's arithmetic is on Jetson Orin. This column is knowledge, not a measurement of this run.

`pip install torchao bitsandbytes` adds the libraries' rows.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import logging
import statistics
import time
import warnings
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn

from benchmarks.machine import describe_machine
from pi0_edge.quant import SCHEMES, QuantizedLinear
from pi0_edge.quant.bitsandbytes_linear import BitsAndBytesLinear

SHAPES = {"prefix gate": (816, 2048, 16384), "prefix down": (816, 16384, 2048), "expert gate": (50, 1024, 4096)}
PATHS = {
    "prefix gate": "prefix.layers.0.mlp.gate",
    "prefix down": "prefix.layers.0.mlp.down",
    "expert gate": "expert.layers.0.mlp.gate",
}
ON_ORIN = {
    "fp32": "slow",
    "fp32, prepacked": "slow",
    "bf16": "tensor cores, 16-bit",
    "orin": "INT8 tensor cores (prefix MLP); weights INT8, 16-bit arithmetic (expert)",
    "orin-vision8": "as orin",
    "orin-int8": "as orin",
    "orin-expert4": "INT8 tensor cores (prefix); weights INT4, 16-bit arithmetic (expert): no kernel yet",
    "orin-prefix4": "INT4 tensor cores (prefix gate), INT8 (prefix down): no kernel yet",
    "int8-w8a8": "INT8 tensor cores",
    "int8-w8a8-static": "INT8 tensor cores",
    "int8-w8a16": "weights INT8, 16-bit arithmetic",
    "fp8-w8a16": "weights FP8, 16-bit arithmetic",
    "fp8-w8a8": "no: FP8 arithmetic needs Ada, Hopper or Thor",
    "bnb-int8": "builds from source only; 2.4 to 4.7 × slower than 16-bit",
    "bnb-nf4": "builds from source only; memory, not speed",
    "int4-per-tensor": "deliberately bad",
    "torchao int8 dynamic": "pure Python on aarch64, GEMM of cuBLAS or Triton",
    "torchao int8 weight-only": "pure Python on aarch64",
}
LEAST_SECONDS = 0.6
Call = Callable[[Tensor], Tensor]


def candidates(path: str, linear: nn.Linear, x: Tensor) -> Iterator[tuple[str, Call, float]]:
    """(name, call, bits per weight) of everything that can run this linear here."""
    weights = linear.weight.numel()
    yield "fp32", linear, 32.0
    packed = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach(), len(x))
    yield "fp32, prepacked", lambda x: torch.ops.mkldnn._linear_pointwise(x, packed, None, "none", [], ""), 32.0
    half = nn.Linear(linear.in_features, linear.out_features, bias=False, dtype=torch.bfloat16)
    half.load_state_dict(linear.state_dict())
    yield "bf16", lambda x: half(x.bfloat16()), 16.0
    for scheme in SCHEMES.values():
        rule = scheme.rule_for(path)
        if rule is None:
            continue
        if rule.library is None:
            product = x.t() @ x if rule.rounding == "gptq" else None
            layer = QuantizedLinear.of(linear, rule, float(x.abs().max()), product)
            bits = 8.0 * layer.bytes / weights
            layer.pack()
        elif importlib.util.find_spec("bitsandbytes"):
            layer = BitsAndBytesLinear(linear, rule)
            bits = 8.0 * layer.bytes / weights
        else:
            continue
        yield scheme.name, layer, bits
    if importlib.util.find_spec("torchao"):
        yield from torchao_candidates(linear)


def torchao_candidates(linear: nn.Linear) -> Iterator[tuple[str, Call, float]]:
    """Torchao's presets, eager: compiled they need a C++ compiler on the robot."""
    quantization = importlib.import_module("torchao.quantization")
    presets = {
        "torchao int8 dynamic": quantization.Int8DynamicActivationInt8WeightConfig,
        "torchao int8 weight-only": quantization.Int8WeightOnlyConfig,
    }
    for name, preset in presets.items():
        model = nn.Sequential(nn.Linear(linear.in_features, linear.out_features, bias=False))
        model[0].load_state_dict(linear.state_dict())
        quantization.quantize_(model, preset())
        yield name, model, 8.0 + 32.0 / linear.in_features


def milliseconds(calls: Sequence[Callable[[], object]]) -> list[float]:
    """Median thread time of each call; the calls take turns."""
    times: list[list[float]] = [[] for _ in calls]
    started = time.perf_counter()
    while len(times[0]) < 4 or time.perf_counter() - started < LEAST_SECONDS * len(calls):
        for call, own in zip(calls, times, strict=True):
            before = time.thread_time()
            call()
            own.append(time.thread_time() - before)
    return [1e3 * statistics.median(own[1:]) for own in times]


def measure(shape: str) -> dict[str, tuple[float, float, float, float]]:
    """(ms, speed against prepacked fp32, error, bits) of every candidate on one shape."""
    m, k, n = SHAPES[shape]
    generator = torch.Generator().manual_seed(0)
    x, linear = torch.randn(m, k, generator=generator), nn.Linear(k, n, bias=False)
    linear.weight.data = torch.randn(n, k, generator=generator) * k**-0.5
    x[:, ::97] *= 6
    exact = x.double() @ linear.weight.detach().double().t()
    found = list(candidates(PATHS[shape], linear, x))
    errors = [float((call(x).double() - exact).norm() / exact.norm()) for _, call, _ in found]
    times = milliseconds([lambda call=call: call(x) for _, call, _ in found])
    fair = times[[name for name, _, _ in found].index("fp32, prepacked")]
    rows = zip(found, times, errors, strict=True)
    return {name: (ms, fair / ms, error, bits) for (name, _, bits), ms, error in rows}


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description="Every scheme on the linears of full-size π0.")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    torch.set_num_threads(options.threads)
    print(*(f"{name}: {value}" for name, value in describe_machine().items()), sep="\n")
    with torch.inference_mode():
        results = {shape: measure(shape) for shape in SHAPES}
    head = "".join(f"{f'{shape} {m}x{k}x{n}':^38}" for shape, (m, k, n) in SHAPES.items())
    print(f"\n{'':<26}{head}")
    print(f"{'scheme':<26}" + f"{'ms':>9} {'×':>6} {'error':>9} {'bits':>6}      " * len(SHAPES) + "on sm_87")
    for name in results["prefix gate"]:
        cells = [results[shape].get(name) for shape in SHAPES]
        columns = "".join(f"{c[0]:9.2f} {c[1]:6.2f} {c[2]:9.1e} {c[3]:6.2f}      " if c else " " * 38 for c in cells)
        print(f"{name:<26}{columns}{ON_ORIN[name]}")


if __name__ == "__main__":
    main()
