"""Stacks of layers in the C library against the same layers one by one, at full width, in one table.

    python -m benchmarks.cpu_layers [--depth 2] [--turns 4]

A π0 of full width with a few layers, random weights, three cameras and 48 tokens. `--depth` counts the layers of vision
tower, prefix and expert each; the last one of the prefix ends with its keys and values.

* ms: CPU time of the calling thread, the least of some turns, so that other work on the machine disturbs little. All
  forms take turns in one process, on one thread.
* ×: beside the layers one by one with oneDNN's products.
* cosine: of the actions, to those of the network in fp32. Weights are random, so that it compares the forms with each
  other and says nothing about a trained policy.
"""

from __future__ import annotations

import argparse
import time
from contextlib import AbstractContextManager
from dataclasses import replace
from unittest.mock import patch

import torch
from torch import Tensor

from benchmarks.machine import describe_machine
from pi0_edge.bench.random_weights import random_observation, random_parameters
from pi0_edge.engine import assemble_engine
from pi0_edge.engine.cpu import CpuEngine, engine
from pi0_edge.engine.reference import ReferenceEngine
from pi0_edge.model import PRESETS, ModelInputs, Pi0Config
from pi0_edge.quant import compare_actions, native, quantized_linear
from pi0_edge.quant.integer_matmul import SMALL_WEIGHT, OneDnnMatmul, TorchIntMatmul

CAMERAS, TOKENS = 3, 48
PARTS = ("vision", "prefix", "Euler loop", "all")
ONE_DNN, SINGLE = "layers one by one, oneDNN's products", "layers one by one, our products"
STACKS = "stacks, attention in INT8"


def config(depth: int) -> Pi0Config:
    """π0 with fewer layers and a small vocabulary."""
    full = PRESETS["pi0"]
    shallow = {name: replace(getattr(full, name), depth=depth) for name in ("vision", "prefix", "expert")}
    return replace(full, vocab_size=1000, **shallow)


def forms(sizes: Pi0Config) -> dict[str, ReferenceEngine]:
    """Every way to run the network, by name."""
    with _single_layers(), patch.object(quantized_linear, "choose_matmul", _of_torch):
        found = {ONE_DNN: _built(sizes)}
    with _single_layers():
        found[SINGLE] = _built(sizes)
    return {**found, STACKS: _built(sizes)}


def milliseconds(form: ReferenceEngine, inputs: ModelInputs, noise: Tensor) -> tuple[dict[str, float], Tensor]:
    """CPU time of each of `PARTS` for one chunk, and its actions."""
    times: dict[str, float] = {part: 0.0 for part in PARTS}
    before = time.thread_time()

    def stage(name: str) -> None:
        nonlocal before
        now = time.thread_time()
        part = "Euler loop" if name.startswith("Euler") else name
        if part in times:
            times[part] += 1e3 * (now - before)
        times["all"] += 1e3 * (now - before)
        before = now

    form.on_stage = stage
    before = time.thread_time()
    return times, form.infer(inputs, noise)


def measure(depth: int, turns: int) -> dict[str, tuple[dict[str, float], float]]:
    """(milliseconds of each part, cosine to fp32) of every form."""
    sizes = config(depth)
    inputs, noise = random_observation(sizes, CAMERAS, TOKENS)
    exact = assemble_engine("reference", sizes, random_parameters(sizes)).infer(inputs, noise)
    least: dict[str, dict[str, float]] = {}
    cosines: dict[str, float] = {}
    candidates = forms(sizes)
    for _ in range(turns):
        for name, form in candidates.items():
            times, actions = milliseconds(form, inputs, noise)
            least[name] = {part: min(times[part], least.get(name, times)[part]) for part in PARTS}
            cosines[name] = compare_actions(exact, actions).cosine
    return {name: (times, cosines[name]) for name, times in least.items()}


def table(results: dict[str, tuple[dict[str, float], float]]) -> str:
    """In Markdown; ratios to the first form, its own times in milliseconds."""
    base = results[ONE_DNN][0]
    lines = [f"| | {' | '.join(PARTS)} | cosine to fp32 |", f"|---|{'---|' * (len(PARTS) + 1)}"]
    for name, (times, cosine) in results.items():
        cells = [f"{times[part] / base[part]:.2f} × ({times[part]:.0f} ms)" for part in PARTS]
        lines.append(f"| {name} | {' | '.join(cells)} | {cosine:.6f} |")
    return "\n".join(lines)


def _built(sizes: Pi0Config) -> ReferenceEngine:
    built = assemble_engine("cpu", sizes, random_parameters(sizes))
    assert isinstance(built, CpuEngine)
    return built


def _single_layers() -> AbstractContextManager[object]:
    return patch.object(engine, "use_stacks", lambda model: None)


def _of_torch(weight: Tensor) -> type:
    """What `choose_matmul` takes without our library."""
    return TorchIntMatmul if weight.numel() <= SMALL_WEIGHT else OneDnnMatmul


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description="Stacks of layers against single layers on one CPU core.")
    parser.add_argument("--depth", type=int, default=2)
    parser.add_argument("--turns", type=int, default=4)
    options = parser.parse_args()
    torch.set_num_threads(1)
    facts = {**describe_machine(), "instructions": native.level().name, "depth": options.depth, "turns": options.turns}
    print(*(f"{name}: {value}" for name, value in facts.items()), sep="\n")
    print(f"\n{table(measure(options.depth, options.turns))}")


if __name__ == "__main__":
    main()
