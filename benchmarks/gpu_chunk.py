"""Whole chunks of the full-size π0 on a CUDA device: accuracy against fp32 and latency at 1, 2 and 3 cameras.

    python -m benchmarks.gpu_chunk [--schemes bf16 orin int8-w8a8 fp8-w8a8] [--tokens 20] [--save truth.safetensors]

Random weights, the same for every scheme and for transformers (`benchmarks.gpu_transformers`). `replay` is the device
time of the graph, `infer` the wall time of the engine's call with copies in both directions. The Euler loop is the
difference between graphs of ten steps and of one, and its share of the memory limit counts the weights of the expert
once per step. `infer_on_old_prefix` is the call where a stale prefix is allowed, 100 ms after the one before. Static
scales come from the observation itself: they are for timing, and say nothing about calibration.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from benchmarks.gpu_clock import describe_clock, ramp_clock
from benchmarks.gpu_limits import Limits, measure_limits, milliseconds
from pi0_edge.bench.random_weights import random_observation, random_parameters
from pi0_edge.engine import build_engine
from pi0_edge.engine.cuda.engine import CudaEngine, check_cuda_scheme
from pi0_edge.engine.cuda.graphs import Graph
from pi0_edge.engine.loading import blank_model, fill_model
from pi0_edge.errors import EngineError
from pi0_edge.estimation.work import Chunk, kernels
from pi0_edge.model import PRESETS, ModelInputs, Pi0
from pi0_edge.model.flow import EULER_STEPS, euler_times
from pi0_edge.quant import compare_actions, find_scheme

CONFIG = PRESETS["pi0"]
CAMERAS = (1, 2, 3)
CALLS = 50


def on_gpu(inputs: ModelInputs) -> ModelInputs:
    return ModelInputs(**{name: value.cuda() for name, value in vars(inputs).items()})


def truths(model: Pi0, tokens: int) -> tuple[dict[int, Tensor], dict[str, Tensor]]:
    """Actions of the fp32 reference by number of cameras, and the largest magnitude into every linear."""
    amax: dict[str, Tensor] = {}

    def look(path: str, _: nn.Module, given: tuple[Tensor]) -> None:
        largest = given[0].detach().flatten(0, -2).abs().amax(0)
        amax[path] = torch.maximum(amax.get(path, largest), largest)

    reference = copy.deepcopy(model).cuda()
    for path, layer in reference.named_modules():
        if isinstance(layer, nn.Linear):
            layer.register_forward_pre_hook(partial(look, path))
    engine, actions = build_engine("reference", reference), {}
    engine.times = engine.times.cuda()
    for cameras in CAMERAS:
        inputs, noise = random_observation(CONFIG, cameras, tokens)
        actions[cameras] = engine.infer(on_gpu(inputs), noise.cuda()).cpu()
    return actions, {path: largest.cpu() for path, largest in amax.items()}


def measured(engine: CudaEngine, truth: dict[int, Tensor], tokens: int, limits: Limits) -> Iterator[dict[str, object]]:
    """One dictionary per number of cameras."""
    for cameras in CAMERAS:
        inputs, noise = random_observation(CONFIG, cameras, tokens)
        engine.times = euler_times(EULER_STEPS)
        found = compare_actions(truth[cameras], engine.infer(inputs, noise))
        ramp_clock()
        graph = captured_graph(engine, cameras, tokens)
        replay = milliseconds(graph.replay, CALLS)
        engine.times = euler_times(1)
        once = statistics.median(milliseconds(captured_graph(engine, cameras, tokens).replay, CALLS))
        engine.times = euler_times(EULER_STEPS)
        engine.allow_stale_prefix(limit_s=10)
        stale = statistics.median(wall(engine, inputs, noise, pause_s=0.1))
        engine.stale_prefix_s = 0.0
        loop = (statistics.median(replay) - once) / (EULER_STEPS - 1) * EULER_STEPS
        work = kernels(Chunk(CONFIG, find_scheme(engine.scheme), cameras, tokens, EULER_STEPS))
        streamed = sum(k.weight_bytes * k.launches for k in work if k.stage == "Euler loop")
        yield {
            "scheme": engine.scheme,
            "cameras": cameras,
            "cosine": found.cosine,
            "largest_difference": found.max_abs_error,
            "replay_ms": {"p50": statistics.median(replay), "p95": replay[int(0.95 * len(replay))]},
            "infer_on_old_prefix_ms": stale,
            "infer_ms": statistics.median(wall(engine, inputs, noise)),
            "loop_ms": loop,
            "loop_share_of_memory_limit": streamed / limits.read / (loop * 1e-3),
            "nodes": graph.nodes,
            **describe_clock(),
        }


def captured_graph(engine: CudaEngine, cameras: int, tokens: int) -> Graph:
    graph = engine.captured(cameras, tokens).graph
    assert graph is not None
    return graph


def wall(engine: CudaEngine, inputs: ModelInputs, noise: Tensor, pause_s: float = 0.0) -> list[float]:
    """Milliseconds of whole calls, with a pause before each."""
    found = []
    for _ in range(CALLS):
        time.sleep(pause_s)
        started = time.perf_counter()
        engine.infer(inputs, noise)
        found.append((time.perf_counter() - started) * 1e3)
    return found


def main() -> None:
    """Prints one JSON object per scheme and number of cameras."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--schemes", nargs="+", default=["bf16", "orin", "int8-w8a8", "fp8-w8a8"])
    parser.add_argument("--tokens", type=int, default=20)
    parser.add_argument("--save", type=Path, help="Where the reference's actions go, for benchmarks.gpu_transformers.")
    given = parser.parse_args()
    limits = measure_limits()
    print(json.dumps({"device": torch.cuda.get_device_name(), **describe_clock()}), flush=True)
    torch.cuda.empty_cache()
    model = blank_model(CONFIG)
    assert isinstance(model, Pi0)
    fill_model(model, random_parameters(CONFIG))
    truth, amax = truths(model, given.tokens)
    torch.cuda.empty_cache()
    if given.save is not None:
        save_file({str(cameras): actions for cameras, actions in truth.items()}, given.save)
    for name in given.schemes:
        scheme = find_scheme(name)
        try:
            check_cuda_scheme(scheme, torch.cuda.get_device_capability())
        except EngineError as refusal:
            print(json.dumps({"scheme": name, "refused": str(refusal)}), flush=True)
            continue
        made = blank_model(CONFIG, scheme)
        assert isinstance(made, Pi0)
        fill_model(made, model.named_parameters(), scheme, amax)
        engine = CudaEngine(made, scheme)
        for line in measured(engine, truth, given.tokens, limits):
            print(json.dumps(line), flush=True)
        del engine, made
        torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
