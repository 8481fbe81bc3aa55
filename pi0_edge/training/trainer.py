"""The training loop: the loss of the head over the real action dimensions, AdamW, cosine schedule, EMA, resumable.

The average of the weights, not the weights themselves, is the policy. A run folder holds `state.safetensors`: weights,
average, optimizer moments and, in its metadata, where the run stands. It is one file, replaced atomically, so that a
run killed at any moment goes on from its last save. Of a network that is partly frozen, only what learns is saved.

A step may be made of several batches whose gradients are added (`accumulate`), each from the next of several sources:
one source per robot, so that a batch has one number of real dimensions and of cameras.
"""

from __future__ import annotations

import json
import math
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from pi0_edge.errors import ConfigError
from pi0_edge.heads import training_times
from pi0_edge.model import PolicyNetwork
from pi0_edge.model.flow import TimeDistribution
from pi0_edge.model.rtc import frozen_actions
from pi0_edge.synced_files import replace_synced
from pi0_edge.training.optimizer import MasterOptimizer
from pi0_edge.training.prefix_cache import PrefixCache
from pi0_edge.training.sources import Batch, Source
from pi0_edge.training.tuning import merged_parameters
from pi0_edge.training.watching import Watch


@dataclass(frozen=True)
class TrainConfig:
    """Settings of a training run, apart from data and model.

    Attributes:
        steps: Optimizer steps of the whole run; the cosine ends there.
        real_dims: Action dimensions that carry meaning, most of all robots; padding is left out of the loss.
        batch: Observations per optimizer step.
        draws: Noise draws per observation that share one pass over the prefix.
        max_delay: Training-time RTC (arXiv 2512.05964): of each chunk, 0 to this many leading actions, drawn uniformly,
            are given without noise and left out of the loss; 0 trains whole chunks.
        free_share: Share of the draws, besides those that draw 0, that freeze nothing whatever `max_delay` is.
        accumulate: Parts that a batch is computed in, one after the other; a multiple of the number of sources.
        validate_every: Optimizer steps between two validations; 0 for none.
        tune: What learns, see `pi0_edge.training.tuning`.
        lora: Name of the LoRA plan, where there is one.
        weights: Dtype of the network's large weights, "fp32" or "bf16".
        times: Distribution of the noise times of flow matching.
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
    accumulate: int = 1
    validate_every: int = 0
    tune: str = "full"
    lora: str | None = None
    weights: str = "fp32"
    times: TimeDistribution = "beta"
    free_share: float = 0.0


@dataclass(frozen=True)
class Validation:
    """The averaged weights on held-out episodes.

    Attributes:
        step: Optimizer steps before it.
        loss: As in training, on the same observations, noise and times each time.
        action_error: Mean absolute difference of generated and demonstrated actions, normalized units, real dimensions.
    """

    step: int
    loss: float
    action_error: float


@dataclass
class TrainingState:
    """Where a run stands.

    Attributes:
        step: Optimizer steps that are done.
        seconds: Time spent in them.
        losses: Loss of every step.
        norms: Norm of the gradients of every step, before it is cut.
        validations: In their order.
    """

    step: int = 0
    seconds: float = 0.0
    losses: list[float] = field(default_factory=list)
    norms: list[float] = field(default_factory=list)
    validations: list[Validation] = field(default_factory=list)


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
    """One run on demonstrations of one robot or of several.

    Attributes:
        optimizer: Masters and average of what learns.
        state: Where the run stands.
    """

    def __init__(
        self,
        model: PolicyNetwork,
        sources: Source | Sequence[Source],
        config: TrainConfig,
        folder: Path,
        *,
        prefixes: PrefixCache | None = None,
        validate: Callable[[], tuple[float, float]] | None = None,
    ) -> None:
        """Prepares a run.

        Args:
            model: The network; what of it requires gradients learns.
            sources: Demonstrations, one source per robot.
            config: The settings.
            folder: Of the run.
            prefixes: Remembers keys and values of the prefix, which must be frozen then.
            validate: Gives loss and action error of the network; needed where `validate_every` is not 0.

        Raises:
            ConfigError: If the parts of a batch do not fit batch or sources.
        """
        self.model = model
        self.sources: Sequence[Source] = sources if isinstance(sources, Sequence) else (sources,)
        self.config = config
        self.folder = folder
        self.prefixes = prefixes
        self.optimizer = MasterOptimizer(model, config.weight_decay)
        self.state = TrainingState()
        self._validate = validate
        self._watch = Watch()
        self._check_parts()

    def run(self, report: Callable[[TrainingState], None]) -> dict[str, Tensor]:
        """Trains to the last step and returns the averaged weights; calls `report` after every step.

        Returns:
            Every parameter of the network by its usual name, LoRA factors merged.

        Raises:
            TrainingError: If loss or gradients are not finite; the last save is untouched.
            ConfigError: If the folder holds a run with other settings or other frozen weights.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        self._resume()
        for state in self._steps():
            self._maybe_validate()
            report(state)
            if state.step % self.config.save_every == 0 or state.step == self.config.steps:
                self._save()
        return dict(merged_parameters(self.model, self.optimizer.average))

    def _check_parts(self) -> None:
        parts, robots = self.config.accumulate, len(self.sources)
        if self.config.batch % parts or parts % robots:
            raise ConfigError(
                f"a batch of {self.config.batch} in {parts} parts does not fit: expected a batch that is a multiple of "
                f"the parts (accumulate), and parts that are a multiple of the {robots} dataset(s)"
            )

    def _steps(self) -> Iterator[TrainingState]:
        self.model.train()
        while self.state.step < self.config.steps:
            started = time.monotonic()
            loss, norm = self._step(self.state.step)
            self.state.losses.append(loss)
            self.state.norms.append(norm)
            self.state.step += 1
            self.state.seconds += time.monotonic() - started
            yield self.state

    def _step(self, step: int) -> tuple[float, float]:
        """Loss and norm of the gradients of one optimizer step."""
        config = self.config
        # Seeded per step, so that a resumed run gets the batches that an unbroken one would have got.
        rng = np.random.default_rng((config.seed, step))
        generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
        loss = 0.0
        for part in range(config.accumulate):
            batch = self.sources[part % len(self.sources)].batch(config.batch // config.accumulate, rng)
            one = self._loss(batch, generator) / config.accumulate
            one.backward()
            loss += one.item()
        norm = self.optimizer.clip(config.clip_norm)
        self._watch.check(step, loss, norm, self.state.norms, self._last_save())
        # An average over the first steps would remember the initial weights for too long.
        self.optimizer.step(learning_rate(config, step), min(config.ema_decay, (1 + step) / (10 + step)))
        return loss, norm

    def _loss(self, batch: Batch, generator: torch.Generator) -> Tensor:
        config, chunks = self.config, batch.chunks
        rows = len(chunks) * config.draws
        noise = torch.randn(rows, *chunks.shape[1:], generator=generator)
        times = training_times(self.model, rows, generator, config.times)
        frozen = torch.randint(config.max_delay + 1, (rows,), generator=generator) if config.max_delay else None
        if frozen is not None and config.free_share:
            frozen[torch.rand(rows, generator=generator) < config.free_share] = 0
        prefix = None if self.prefixes is None else self.prefixes.context(self.model, batch)
        loss = self.model.loss(batch.inputs, chunks, noise, times, frozen, prefix)
        loss = loss[..., : min(config.real_dims, batch.real_dims)].mean(-1)
        return loss.mean() if frozen is None else loss[~frozen_actions(frozen, loss.shape[1])].mean()

    def _maybe_validate(self) -> None:
        every, step = self.config.validate_every, self.state.step
        if self._validate is None or not every or (step % every and step != self.config.steps):
            return
        self.model.eval()
        with self.optimizer.averaged():
            loss, error = self._validate()
        self.model.train()
        self.state.validations.append(Validation(step, loss, error))

    def _last_save(self) -> Path | None:
        return self.folder / STATE_FILE if has_state(self.folder) else None

    def _save(self) -> None:
        metadata = {
            "config": json.dumps(asdict(self.config)),
            "progress": json.dumps(asdict(self.state)),
            "frozen": str(self._frozen_fingerprint()),
        }
        save_file(self.optimizer.state(), self.folder / "state.tmp", metadata=metadata)
        replace_synced(self.folder / "state.tmp", self.folder / STATE_FILE)

    def _resume(self) -> None:
        if not has_state(self.folder):
            return
        path = self.folder / STATE_FILE
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata()
        if {**_DEFAULTS, **json.loads(metadata["config"])} != asdict(self.config):
            raise ConfigError(
                f"{path} holds a run with other settings ({metadata['config']}): repeat those to go on with it, "
                "or name another folder"
            )
        if metadata.get("frozen", "") not in ("", str(self._frozen_fingerprint())):
            raise ConfigError(
                f"{path} holds a run beside other frozen weights: start it from the same checkpoint to go on with it, "
                "or name another folder"
            )
        progress = json.loads(metadata["progress"])
        validations = [Validation(**one) for one in progress.pop("validations", [])]
        self.state = TrainingState(**progress, validations=validations)
        self.optimizer.restore(load_file(path), self.state.step)

    def _frozen_fingerprint(self) -> int:
        """A checksum of some numbers of every frozen parameter: the saved state means nothing beside others."""
        checksum = 0
        for name, parameter in self.model.named_parameters():
            if not parameter.requires_grad:
                flat = parameter.detach().flatten()
                some = flat[:: max(1, len(flat) // SAMPLED)].float().contiguous()
                checksum = zlib.crc32(some.numpy().tobytes(), zlib.crc32(name.encode(), checksum))
        return checksum


SAMPLED = 64
"""Numbers of a frozen parameter that its fingerprint is made of, about."""
_DEFAULTS = {name: value for name, value in asdict(TrainConfig(steps=0, real_dims=0)).items()}
"""What a run of an earlier version, which does not record a setting, was made with."""
