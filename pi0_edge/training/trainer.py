"""The training loop: flow matching over the real action dimensions, AdamW, cosine schedule, EMA, resumable.

The average of the weights, not the weights themselves, is the policy. A run folder holds `state.safetensors`: weights,
average, optimizer moments and, in its metadata, where the run stands. It is one file, replaced atomically, so that a
run killed at any moment goes on from its last save.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from pi0_edge.errors import ConfigError
from pi0_edge.model import Pi0
from pi0_edge.model.flow import sample_training_times
from pi0_edge.model.rtc import frozen_actions
from pi0_edge.synced_files import replace_synced
from pi0_edge.training.samples import SampleBatches


@dataclass(frozen=True)
class TrainConfig:
    """Settings of a training run, apart from data and model.

    Attributes:
        steps: Optimizer steps of the whole run; the cosine ends there.
        draws: Noise draws per observation that share one pass over the prefix.
        real_dims: Action dimensions that carry meaning; padding is left out of the loss.
        max_delay: Training-time RTC (arXiv 2512.05964): of each chunk, 0 to this many leading actions, drawn uniformly,
            are given without noise and left out of the loss; 0 trains whole chunks.
    """

    steps: int
    real_dims: int
    batch: int = 64
    draws: int = 1
    learning_rate: float = 1e-3
    warmup_steps: int = 200
    weight_decay: float = 1e-4
    clip_norm: float = 1.0
    ema_decay: float = 0.999
    seed: int = 0
    save_every: int = 500
    max_delay: int = 0


@dataclass
class TrainingState:
    """Where a run stands.

    Attributes:
        step: Optimizer steps that are done.
        seconds: Time spent in them.
        losses: Flow-matching loss of every step.
    """

    step: int = 0
    seconds: float = 0.0
    losses: list[float] = field(default_factory=list)


def learning_rate(config: TrainConfig, step: int) -> float:
    """Linear warm-up, then a cosine down to a hundredth of the peak."""
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    fraction = (step - config.warmup_steps) / max(1, config.steps - config.warmup_steps)
    return config.learning_rate * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(1.0, fraction))))


STATE_FILE = "state.safetensors"


def has_state(folder: Path) -> bool:
    """True where a run was saved that can go on."""
    return (folder / STATE_FILE).exists()


class Trainer:
    """One run on one set of demonstrations."""

    def __init__(self, model: Pi0, batches: SampleBatches, config: TrainConfig, folder: Path) -> None:
        self.model = model
        self.batches = batches
        self.config = config
        self.folder = folder
        self.average = {name: p.detach().clone() for name, p in model.named_parameters()}
        self.optimizer = torch.optim.AdamW(
            [p for p in model.parameters() if p.requires_grad],
            lr=config.learning_rate,
            betas=(0.9, 0.95),
            weight_decay=config.weight_decay,
        )
        self.state = TrainingState()

    def run(self, report: Callable[[TrainingState], None]) -> dict[str, Tensor]:
        """Trains to the last step and returns the averaged weights; calls `report` after every step."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self._resume()
        for state in self._steps():
            report(state)
            if state.step % self.config.save_every == 0 or state.step == self.config.steps:
                self._save()
        return self.average

    def _steps(self) -> Iterator[TrainingState]:
        self.model.train()
        while self.state.step < self.config.steps:
            started = time.monotonic()
            self.state.losses.append(self._step(self.state.step))
            self.state.step += 1
            self.state.seconds += time.monotonic() - started
            yield self.state

    def _step(self, step: int) -> float:
        config = self.config
        # Seeded per step, so that a resumed run gets the batches that an unbroken one would have got.
        rng = np.random.default_rng((config.seed, step))
        generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
        inputs, chunks = self.batches.draw(config.batch, rng)
        rows = config.batch * config.draws
        noise = torch.randn(rows, *chunks.shape[1:], generator=generator)
        times = sample_training_times(rows, generator)
        frozen = torch.randint(config.max_delay + 1, (rows,), generator=generator) if config.max_delay else None
        loss = self.model.loss(inputs, chunks, noise, times, frozen)[..., : config.real_dims].mean(-1)
        loss = loss.mean() if frozen is None else loss[~frozen_actions(frozen, loss.shape[1])].mean()
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(config, step)
        self.optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), config.clip_norm)
        self.optimizer.step()
        self._update_average(step)
        return loss.item()

    @torch.no_grad()
    def _update_average(self, step: int) -> None:
        # An average over the first steps would remember the initial weights for too long.
        decay = min(self.config.ema_decay, (1 + step) / (10 + step))
        for name, p in self.model.named_parameters():
            self.average[name].lerp_(p, 1 - decay)

    def _save(self) -> None:
        tensors = {f"average.{name}": value for name, value in self.average.items()}
        for name, p in self.model.named_parameters():
            tensors[f"weight.{name}"] = p.detach()
            if p.requires_grad:
                moments = self.optimizer.state[p]
                tensors[f"moment1.{name}"], tensors[f"moment2.{name}"] = moments["exp_avg"], moments["exp_avg_sq"]
        metadata = {"config": json.dumps(asdict(self.config)), "progress": json.dumps(asdict(self.state))}
        save_file(tensors, self.folder / "state.tmp", metadata=metadata)
        replace_synced(self.folder / "state.tmp", self.folder / STATE_FILE)

    def _resume(self) -> None:
        if not has_state(self.folder):
            return
        path = self.folder / STATE_FILE
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata()
        if json.loads(metadata["config"]) != asdict(self.config):
            raise ConfigError(
                f"{path} holds a run with other settings ({metadata['config']}): repeat those to go on with it, "
                "or name another folder"
            )
        self.state = TrainingState(**json.loads(metadata["progress"]))
        tensors = load_file(path)
        with torch.no_grad():
            for name, p in self.model.named_parameters():
                p.copy_(tensors[f"weight.{name}"])
                self.average[name].copy_(tensors[f"average.{name}"])
                if p.requires_grad:
                    self.optimizer.state[p] = {
                        "step": torch.tensor(float(self.state.step)),
                        "exp_avg": tensors[f"moment1.{name}"],
                        "exp_avg_sq": tensors[f"moment2.{name}"],
                    }
