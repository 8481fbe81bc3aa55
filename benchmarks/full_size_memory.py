"""Runs a π0 of full size with random weights: how much memory it needs at its peak, and how long one chunk takes.

    python -m benchmarks.full_size_memory --engine cpu-int8 --cameras 2 --tokens 20

Meant to be a process of its own, because the peak is that of the process. Weights are drawn layer by layer from a fixed
seed, so the run needs no checkpoint; a real one has the same sizes, hence the same memory and time. What this cannot
tell is accuracy. The last line of the output is one JSON object. Linux only (reads /proc/self/status).
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.machine import describe_machine
from pi0_edge.engine import build_engine
from pi0_edge.engine.assembly import blank_model, fill_model
from pi0_edge.model import PRESETS, ModelInputs, Pi0, Pi0Config
from pi0_edge.model.precision import apply_bf16_policy
from quant.schemes import FP32, INT8_W8A8

SCHEMES = {"bf16": FP32, "cpu-int8": INT8_W8A8}


def random_parameters(model: Pi0) -> Iterator[tuple[str, Tensor]]:
    """Matrices of standard deviation 1/sqrt(fan in), zeros elsewhere, in the model's dtypes; always the same."""
    generator = torch.Generator().manual_seed(0)
    for name, parameter in list(model.named_parameters()):
        values = torch.zeros(parameter.shape, dtype=parameter.dtype)
        if values.ndim > 1:
            values.normal_(std=values[0].numel() ** -0.5, generator=generator)
        yield name, values


def random_observation(config: Pi0Config, cameras: int, tokens: int) -> tuple[ModelInputs, Tensor]:
    """One observation and the noise of its chunk."""
    generator = torch.Generator().manual_seed(1)
    size = config.vision.image_size
    inputs = ModelInputs(
        images=torch.rand(1, cameras, 3, size, size, generator=generator) * 2 - 1,
        image_mask=torch.ones(1, cameras, dtype=torch.bool),
        tokens=torch.randint(config.vocab_size, (1, tokens), generator=generator),
        token_mask=torch.ones(1, tokens, dtype=torch.bool),
        state=torch.randn(1, config.action_dim, generator=generator),
    )
    return inputs, torch.randn(1, config.horizon, config.action_dim, generator=generator)


def memory(field: str) -> float:
    """GB of this process: `VmRSS` now, `VmHWM` at its peak."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024 / 1e9
    raise RuntimeError(f"/proc/self/status has no {field}")


def measure(preset: str, engine_name: str, cameras: int, tokens: int, chunks: int) -> dict[str, object]:
    """Builds the network, runs it, and returns the figures."""
    config = PRESETS[preset]
    started = time.perf_counter()
    model = blank_model(config)
    if engine_name == "bf16":
        apply_bf16_policy(model)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    report = fill_model(model, random_parameters(model), SCHEMES[engine_name])
    engine = build_engine(engine_name, model)
    filled = time.perf_counter()
    resident = memory("VmRSS")
    inputs, noise = random_observation(config, cameras, tokens)
    seconds, finite = [], True
    for _ in range(chunks):
        before = time.perf_counter()
        actions = engine.infer(inputs, noise)
        seconds.append(round(time.perf_counter() - before, 2))
        finite = finite and bool(torch.isfinite(actions).all())
    return {
        "preset": preset,
        "engine": engine_name,
        "cameras": cameras,
        "prompt_tokens": tokens,
        "parameters": parameters,
        "quantized_layers": len(report.layers),
        "weights_gb": round(report.bytes_after / 1e9, 2),
        "resident_after_fill_gb": round(resident, 2),
        "peak_resident_gb": round(memory("VmHWM"), 2),
        "fill_s": round(filled - started, 1),
        "chunk_s": seconds,
        "actions_finite": finite,
    }


def main() -> None:
    """Reads the options, measures and prints."""
    parser = argparse.ArgumentParser(description="Memory and time of a π0 of full size with random weights.")
    parser.add_argument("--preset", choices=sorted(PRESETS), default="pi0")
    parser.add_argument("--engine", choices=sorted(SCHEMES), default="cpu-int8")
    parser.add_argument("--cameras", type=int, default=2)
    parser.add_argument("--tokens", type=int, default=20, help="prompt tokens")
    parser.add_argument("--chunks", type=int, default=2, help="the first one also warms caches up")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    machine = describe_machine()
    figures = measure(options.preset, options.engine, options.cameras, options.tokens, options.chunks)
    for name, value in (machine | figures).items():
        print(f"{name:>24}  {value}")
    print(json.dumps({**figures, "machine": machine}))


if __name__ == "__main__":
    main()
