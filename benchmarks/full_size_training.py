"""Fine-tuning of a full-size π0 on this machine: tokens per second and peak memory of expert-only and LoRA.

    python -m benchmarks.full_size_training [--tune expert --tune lora] [--steps 3] [--cameras 2]

The weights are random, bf16 where openpi has bf16, drawn into memory as a checkpoint would be read into it. Each way to
tune runs in a process of its own, whose peak resident memory is reported. A step has one observation of 224-pixel
images and 48 words; layers recompute their activations. `expert` looks at one observation again and again, so that its
first step computes the prefix and the others find it: both are reported. Tokens are image, prompt, state and action
tokens that a step trains on, whether or not their prefix is remembered. The last line of the output is one JSON object.
Linux only.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.machine import describe_machine
from pi0_edge.bench.random_weights import draw, random_observation
from pi0_edge.engine.loading import blank_model, fill_model
from pi0_edge.model import PRESETS, Pi0
from pi0_edge.quant.schemes import BF16_POLICY
from pi0_edge.training.prefix_cache import PrefixCache
from pi0_edge.training.recomputing import recompute_layers
from pi0_edge.training.sources import Batch
from pi0_edge.training.trainer import TrainConfig, Trainer, TrainingState
from pi0_edge.training.tuning import LORA_PLANS, choose_learned

ROOT = Path(__file__).resolve().parents[1]
WAYS = {"expert": ("expert", None), "lora": ("lora", "openpi"), "lora-lerobot": ("lora", "lerobot")}
TOKENS = 48
DIMS = 14


class OneObservation:
    """Always the same one, with random actions."""

    def __init__(self, cameras: int) -> None:
        self.inputs, _ = random_observation(PRESETS["pi0"], cameras, TOKENS)

    def batch(self, size: int, rng: np.random.Generator) -> Batch:
        """See `Source.batch`; the size is always one."""
        config = PRESETS["pi0"]
        chunks = torch.zeros(1, config.horizon, config.action_dim)
        chunks[..., :DIMS] = torch.from_numpy(rng.normal(size=(1, config.horizon, DIMS)))
        return Batch(self.inputs, chunks, DIMS, ("only",) * size)


def measure_one(way: str, steps: int, cameras: int, folder: Path) -> dict[str, Any]:
    """Trains a few steps in this process, and saves once at the end as a run does."""
    config = PRESETS["pi0"]
    tune, plan = WAYS[way]
    started = time.monotonic()
    model = blank_model(config, BF16_POLICY)
    shapes = {name: parameter.shape for name, parameter in model.named_parameters()}
    fill_model(model, ((name, draw(name, shape)) for name, shape in shapes.items()), BF16_POLICY)
    assert isinstance(model, Pi0)
    model.requires_grad_(True)
    choose_learned(model, tune, None if plan is None else LORA_PLANS[plan])
    recompute_layers(model)
    loaded = time.monotonic() - started
    weights = sum(parameter.nbytes for parameter in model.parameters())
    prefixes = PrefixCache(None, 10**9) if tune == "expert" else None
    settings = TrainConfig(
        steps=steps, real_dims=DIMS, batch=1, warmup_steps=1, learning_rate=2.5e-5, save_every=steps, tune=tune
    )
    trainer = Trainer(model, OneObservation(cameras), settings, folder, prefixes=prefixes)
    seconds: list[float] = []
    norms: list[float] = []

    def report(state: TrainingState) -> None:
        seconds.append(state.seconds - sum(seconds))
        norms.append(state.norms[-1])
        print(f"{way}: step {state.step} took {seconds[-1]:.1f} s, loss {state.losses[-1]:.4f}", flush=True)

    trainer.run(report)
    tokens = cameras * config.vision.tokens + TOKENS + 1 + config.horizon
    later = float(np.median(seconds[1:])) if len(seconds) > 1 else seconds[0]
    return {
        "way": way,
        "learned": trainer.optimizer.count,
        "weights_gb": round(weights / 1e9, 2),
        "peak_gb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9, 2),
        "filled_in_s": round(loaded, 1),
        "first_step_s": round(seconds[0], 1),
        "later_step_s": round(later, 1),
        "tokens": tokens,
        "first_tokens_per_s": round(tokens / seconds[0], 1),
        "later_tokens_per_s": round(tokens / later, 1),
        "finite": bool(np.isfinite(norms).all()),
    }


def main() -> None:
    """Reads the options, measures each way in a process of its own and prints."""
    parser = argparse.ArgumentParser(description="Fine-tuning of a full-size π0: tokens per second and memory.")
    parser.add_argument("--tune", action="append", choices=WAYS)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--cameras", type=int, default=2)
    parser.add_argument("--only", choices=WAYS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.only:
        with tempfile.TemporaryDirectory() as folder:
            print(json.dumps(measure_one(options.only, options.steps, options.cameras, Path(folder))))
        return
    machine = describe_machine()
    print(*(f"{name}: {value}" for name, value in machine.items()), sep="\n", flush=True)
    found = []
    for way in options.tune or list(WAYS):
        argv = ["--only", way, "--steps", str(options.steps), "--cameras", str(options.cameras)]
        command = [sys.executable, "-m", "benchmarks.full_size_training", *argv]
        ran = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
        print(ran.stdout, end="", flush=True)
        found.append(json.loads(ran.stdout.splitlines()[-1]))
    print(json.dumps({"ways": found, "cameras": options.cameras, "machine": machine}))


if __name__ == "__main__":
    main()
