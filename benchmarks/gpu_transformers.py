"""Transformers' PI0 in bf16 on a CUDA device, eager and compiled: what `benchmarks.gpu_chunk` is compared with.

    python -m benchmarks.gpu_transformers [--tokens 20] [--truth truth.safetensors]

The same random weights, observations and noise; exact prompts and no missing camera, so that nothing is padded. `ms` is
the wall time of `sample_actions` with inputs on the device. The cosine is with our fp32 reference.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from benchmarks.full_size_worker import load_transformers
from benchmarks.gpu_chunk import CAMERAS, CONFIG, on_gpu
from benchmarks.gpu_clock import describe_clock, ramp_clock
from pi0_edge.bench.random_weights import random_observation
from pi0_edge.quant import compare_actions

CALLS = {"eager": 10, "compiled": 20}


def wall(call: Callable[[], Tensor], count: int) -> list[float]:
    """Milliseconds, after two calls that are not counted."""
    found = []
    for i in range(count + 2):
        torch.cuda.synchronize()
        started = time.perf_counter()
        call()
        torch.cuda.synchronize()
        if i >= 2:
            found.append((time.perf_counter() - started) * 1e3)
    return sorted(found)


@torch.inference_mode()
def main() -> None:
    """Prints one JSON object per mode and number of cameras."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=20)
    parser.add_argument("--truth", type=Path, help="From benchmarks.gpu_chunk --save.")
    given = parser.parse_args()
    truth = load_file(given.truth) if given.truth else {}
    for mode in ("eager", "compiled"):
        infer = load_transformers(torch.device("cuda"), torch.bfloat16, compiled=mode == "compiled")
        for cameras in CAMERAS:
            inputs, noise = random_observation(CONFIG, cameras, given.tokens)
            there, start = on_gpu(inputs), noise.cuda()
            with torch.autocast("cuda", torch.bfloat16):
                actions = infer(there, start).float().cpu()
                ramp_clock()
                times = wall(partial(infer, there, start), CALLS[mode])
            line: dict[str, object] = {"peer": f"transformers {mode}", "cameras": cameras, **describe_clock()}
            line |= {"ms": {"p50": statistics.median(times), "p95": times[int(0.95 * len(times))]}}
            if truth:
                line["cosine"] = compare_actions(truth[str(cameras)], actions).cosine
            print(json.dumps(line), flush=True)
        infer = None  # frees the network before the next one is loaded
        torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
