"""Fine-tuning of a checkpoint of any size and origin on the demonstrations of one robot or of several.

    fine_tune([Path("demonstrations/")], Path("runs/mine"), Path("pi0_base/"), FineTuning(tune="lora"))

    OUTPUT/
        checkpoint/ or checkpoint-ROBOT/   the averaged weights, LoRA factors merged, with each robot's processing
        state.safetensors                  the state of the run: only what learns; the same call goes on from it
        loss.png                           loss, norm of the gradients and validations over the steps

Every dataset goes through the processing that also serves the policy (`processed_samples`). A robot that the checkpoint
records keeps its statistics; one that is named gets those of its demonstrations. All robots share one network: theirs
are the leading dimensions, the rest is padding and left out of the loss.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from pi0_edge.checkpoints import Checkpoint, open_checkpoint, save_checkpoint
from pi0_edge.datasets.lerobot_reader import LeRobotDataset
from pi0_edge.engine.loading import blank_model, fill_model, parameter_shapes
from pi0_edge.errors import ConfigError, DatasetError
from pi0_edge.heads import parameter_counts
from pi0_edge.model import Pi0, Pi0Config
from pi0_edge.model.flow import TIME_DISTRIBUTIONS, TimeDistribution, euler_times
from pi0_edge.processing import Normalization, ObservationProcessor, load_processor
from pi0_edge.processing.loading import load_settings
from pi0_edge.processing.prompts import PromptStyle, prompt_tokens
from pi0_edge.processing.tokenizer import find_tokenizer, load_tokenizer
from pi0_edge.progress import ProgressCallback, Stage
from pi0_edge.quant.schemes import BF16_POLICY, FP32
from pi0_edge.robots import Robot, load_robot
from pi0_edge.training.plots import plot_run
from pi0_edge.training.prefix_cache import PrefixCache
from pi0_edge.training.processed_samples import ProcessedSamples
from pi0_edge.training.recomputing import recompute_layers
from pi0_edge.training.result import TrainingResult
from pi0_edge.training.robot_statistics import robot_statistics
from pi0_edge.training.trainer import TrainConfig, Trainer, TrainingState
from pi0_edge.training.tuning import LORA_PLANS, TUNES, choose_learned, prefix_is_frozen
from pi0_edge.training.validating import validation_of

STRIDE = 2
"""Ticks per observation that is used: neighbouring images are nearly the same."""
LARGE = 500_000_000
"""Parameters from which a network's weights are kept in bf16 unless asked otherwise."""
VALIDATED = 16
"""Observations of each dataset that a validation looks at."""
MOST_PROMPT_TOKENS = 1024
"""Longest prompt that a network is made larger for, about five times the longest that openpi takes (200, π0.5)."""
SMOOTHED = 50
GB = 10**9

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class FineTuning:
    """How a checkpoint is fine-tuned.

    Attributes:
        tune: What learns, "full", "expert" or "lora".
        lora: The plan of LoRA, a name in `LORA_PLANS`; only with `tune="lora"`.
        steps: Optimizer steps.
        batch: Observations per step.
        accumulate: Parts a batch is computed in; None for one per dataset.
        draws: Noise draws per observation.
        learning_rate: Peak of the cosine schedule.
        warmup_steps: Steps until the peak.
        seed: Fixes batches, noise and LoRA factors.
        save_every: Steps between two saves.
        weights: "bf16" or "fp32"; None for bf16 where the network has more than 500 million parameters.
        recompute: Layers compute their activations again instead of keeping them.
        held_out: The last episodes of each dataset, so many, are for validation alone.
        validate_every: Steps between two validations.
        times: Distribution of the noise times.
        max_delay: Longest frozen prefix of training-time RTC in actions; None keeps the checkpoint's.
        prefix_memory: Gigabytes of prefixes kept in memory where the prefix is frozen.
        prefix_disk: Gigabytes of further prefixes kept in files of the run.

    Raises:
        ConfigError: If a value is not possible.
    """

    tune: str = "expert"
    lora: str | None = None
    steps: int = 1000
    batch: int = 8
    accumulate: int | None = None
    draws: int = 1
    learning_rate: float = 2.5e-5
    warmup_steps: int = 100
    seed: int = 0
    save_every: int = 200
    weights: str | None = None
    recompute: bool = True
    held_out: int = 0
    validate_every: int = 200
    times: TimeDistribution = "beta"
    max_delay: int | None = None
    prefix_memory: float = 2.0
    prefix_disk: float = 0.0

    def __post_init__(self) -> None:
        choices = {
            "tune": (self.tune, TUNES),
            "weights": (self.weights, (None, "bf16", "fp32")),
            "times": (self.times, TIME_DISTRIBUTIONS),
            "lora": (self.lora, (None, *LORA_PLANS) if self.tune == "lora" else (None,)),
        }
        for name, (value, known) in choices.items():
            if value not in known:
                also = " unless tune is lora" if name == "lora" and self.tune != "lora" else ""
                raise ConfigError(f"{name} is {value!r}, expected one of {', '.join(map(str, known))}{also}")
        for name in ("steps", "batch", "draws", "save_every", "validate_every", "warmup_steps"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}, expected at least 1")
        for name in ("held_out", "prefix_memory", "prefix_disk"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name} is {getattr(self, name)}, expected 0 or more")
        if not 0 < self.learning_rate < math.inf:
            raise ConfigError(f"learning_rate is {self.learning_rate}, expected more than 0, such as 2.5e-5")


@dataclass(frozen=True)
class _Robot:
    """One dataset with the processing of its robot."""

    processor: ObservationProcessor
    learned: ProcessedSamples
    held_out: ProcessedSamples | None


def fine_tune(
    datasets: Sequence[Path],
    output: Path,
    start: Path,
    how: FineTuning,
    *,
    robots: Sequence[str] = (),
    tokenizer: Path | None = None,
    norm_stats: Path | None = None,
    on_progress: ProgressCallback | None = None,
) -> TrainingResult:
    """Fine-tunes a checkpoint, or goes on with a run that was interrupted.

    Args:
        datasets: LeRobotDataset folders, one per robot.
        output: Folder of the run. A run that is there goes on; its settings must be the same.
        start: A π0 or π0.5 checkpoint of any layout.
        how: The settings.
        robots: Layout of each dataset's robot, by name or .yaml path, with statistics of its demonstrations; empty for
            the robot that the checkpoint records, with its statistics.
        tokenizer: Where the checkpoint has none.
        norm_stats: Statistics in openpi's format, for a single dataset, instead of recorded or new ones.
        on_progress: Is called after every step; its note is the loss.

    Raises:
        ConfigError: If settings, checkpoint and datasets do not fit together.
        CheckpointError: If the checkpoint cannot be loaded.
        DatasetError: If a dataset cannot be read or does not fit its robot.
        TrainingError: If loss or gradients become infinite or NaN; the last save stays.
    """
    _check_robots(datasets, robots, norm_stats)
    opened = open_checkpoint(start)
    config = _with_room_for_prompts(opened, _config(opened, how), datasets, tokenizer)
    processors = _processors(opened, config, datasets, robots, tokenizer, norm_stats, how.held_out)
    prepared = [_robot(root, processor, how) for root, processor in zip(datasets, processors, strict=True)]
    weights = how.weights or ("bf16" if _size(config) > LARGE else "fp32")
    model = load_for_training(opened, config, weights)
    torch.manual_seed(how.seed)
    plan = LORA_PLANS[how.lora or "openpi"] if how.tune == "lora" else None
    choose_learned(model, how.tune, plan)
    if how.recompute:
        recompute_layers(model)
    trainer = Trainer(
        model,
        [robot.learned for robot in prepared],
        _train_config(how, prepared, weights),
        output,
        prefixes=_prefixes(model, how, output),
        validate=_validation(model, prepared),
    )
    log.info("%s learns %d of %d numbers", how.tune, trainer.optimizer.count, _size(config))
    stage = Stage(config.head, how.steps, on_progress)

    def report(state: TrainingState) -> None:
        stage.set(state.step, _note(state))

    average = trainer.run(report)
    folders = [_folder(output, robot.processor, prepared) for robot in prepared]
    for folder, robot in zip(folders, prepared, strict=True):
        save_checkpoint(folder, average, config, robot.processor.description())
    plot = output / "loss.png"
    plot_run(trainer.state, plot, "flow-matching loss")
    state = trainer.state
    loss = float(np.mean(state.losses[-100:]))
    counts = {**parameter_counts(model), "learned": trainer.optimizer.count}
    return TrainingResult(folders[0], plot, state.step, state.seconds, loss, config.head, counts)


def load_for_training(opened: Checkpoint, config: Pi0Config, weights: str) -> Pi0:
    """The network of a checkpoint with gradients, its large weights in `weights`; no fp32 copy of it ever exists.

    Args:
        opened: The checkpoint.
        config: Its sizes.
        weights: "bf16", with openpi's exceptions (see `pi0_edge.model.precision`), or "fp32".

    Raises:
        ConfigError: If its head is not flow matching.
        CheckpointError: If it does not fit its sizes.
    """
    scheme = BF16_POLICY if weights == "bf16" else FP32
    model = blank_model(config, scheme)
    if not isinstance(model, Pi0):
        raise ConfigError(f"{opened.path} has the head {config.head}; expected flow, the only one that is fine-tuned")
    opened.check(parameter_shapes(config))
    fill_model(model, opened.tensors(parameter_shapes(config)), scheme)
    model.requires_grad_(True)
    return model


def _check_robots(datasets: Sequence[Path], robots: Sequence[str], norm_stats: Path | None) -> None:
    if not datasets:
        raise ConfigError("no dataset is given, expected at least one")
    if robots and len(robots) != len(datasets):
        raise ConfigError(
            f"{len(robots)} robot(s) are named for {len(datasets)} dataset(s), expected one for each, in their order, "
            "or none for the robot that the checkpoint records"
        )
    if norm_stats is not None and len(datasets) > 1:
        raise ConfigError("norm_stats are given for several datasets; each robot's are taken from its demonstrations")


def _config(opened: Checkpoint, how: FineTuning) -> Pi0Config:
    config = opened.infer_config()
    if how.max_delay is None:
        return config
    try:
        return replace(config, trained_delay=how.max_delay)
    except ValueError as error:
        raise ConfigError(f"max_delay is {how.max_delay}: {error}") from error


def _with_room_for_prompts(
    opened: Checkpoint, config: Pi0Config, datasets: Sequence[Path], tokenizer: Path | None
) -> Pi0Config:
    """Sizes that take every prompt of the demonstrations: positions are rotated, so that no weight depends on them."""
    settings, found = load_settings(opened.folder, config), tokenizer or find_tokenizer(opened.folder)
    if found is None or settings.prompt_style is not PromptStyle.TEXT or settings.truncate_prompts:
        return config
    spelling, nothing = load_tokenizer(found), np.zeros(0)
    prompts = {task for root in datasets for task in LeRobotDataset(root).tasks}
    cleaned = settings.prompt_cleaning
    lengths = {prompt: len(prompt_tokens(spelling, prompt, nothing, PromptStyle.TEXT, cleaned)) for prompt in prompts}
    longest = max(lengths.values(), default=0)
    if longest <= config.max_prompt_tokens:
        return config
    if longest > MOST_PROMPT_TOKENS:
        prompt = max(lengths, key=lambda told: lengths[told])
        raise DatasetError(
            f"the task {prompt[:40]!r}… of the demonstrations has {longest} tokens, expected at most "
            f"{MOST_PROMPT_TOKENS}; shorten it in the dataset"
        )
    log.info(
        "prompts have up to %d tokens: the checkpoint takes %d, the new one as many", longest, config.max_prompt_tokens
    )
    return replace(config, max_prompt_tokens=longest)


def _processors(
    opened: Checkpoint,
    config: Pi0Config,
    datasets: Sequence[Path],
    robots: Sequence[str],
    tokenizer: Path | None,
    norm_stats: Path | None,
    held_out: int,
) -> list[ObservationProcessor]:
    if not robots:
        recorded = load_processor(opened.folder, config, tokenizer=tokenizer, norm_stats=norm_stats)
        return [_with_prompt_of(datasets, recorded)] * len(datasets)
    return [
        _of_new_robot(opened, config, root, robot, tokenizer, norm_stats, held_out)
        for root, robot in zip(datasets, robots, strict=True)
    ]


def _of_new_robot(
    opened: Checkpoint,
    config: Pi0Config,
    root: Path,
    name: str,
    tokenizer: Path | None,
    norm_stats: Path | None,
    held_out: int,
) -> ObservationProcessor:
    """The processing of a robot that is named: the checkpoint's, but with statistics of the demonstrations."""
    if norm_stats is not None:
        given = load_processor(opened.folder, config, name, tokenizer, norm_stats)
        return _with_prompt_of([root], given)
    robot, settings = _told(load_robot(name), [root]), load_settings(opened.folder, config)
    learned, _ = _split(root, held_out)
    stats = robot_statistics(root, robot, learned, config.horizon, STRIDE)
    found = tokenizer or find_tokenizer(opened.folder)
    if found is None:
        raise ConfigError(f"{opened.folder} has no tokenizer; give the one that the policy was made with")
    normalization = Normalization.of_openpi(stats, config.variant)
    return ObservationProcessor(robot, load_tokenizer(found), normalization, config, settings)


def _told(robot: Robot, roots: Sequence[Path]) -> Robot:
    """The robot with the prompt of its demonstrations as default, where they have one: its own is of another task."""
    tasks = {task for root in roots for task in LeRobotDataset(root).tasks}
    return replace(robot, default_prompt=tasks.pop()) if len(tasks) == 1 else robot


def _with_prompt_of(roots: Sequence[Path], given: ObservationProcessor) -> ObservationProcessor:
    robot = _told(given.robot, roots)
    return ObservationProcessor(robot, given.tokenizer, given.normalization, given.config, given.settings)


def _robot(root: Path, processor: ObservationProcessor, how: FineTuning) -> _Robot:
    learned, held_out = _split(root, how.held_out)
    samples = ProcessedSamples(root, processor, learned, STRIDE)
    log.info("%s: %d episodes, %d observations, %d held out", root, len(learned), len(samples), len(held_out))
    return _Robot(processor, samples, ProcessedSamples(root, processor, held_out, STRIDE) if held_out else None)


def _split(root: Path, held_out: int) -> tuple[list[int], list[int]]:
    """Numbers of the episodes to learn from, and of the last ones, which are held out."""
    episodes = [info.index for info in LeRobotDataset(root).episodes]
    if len(episodes) <= held_out:
        raise DatasetError(f"{root} has {len(episodes)} episodes, expected more than the {held_out} that are held out")
    return episodes[: len(episodes) - held_out], episodes[len(episodes) - held_out :]


def _size(config: Pi0Config) -> int:
    return sum(math.prod(shape) for shape in parameter_shapes(config).values())


def _train_config(how: FineTuning, robots: Sequence[_Robot], weights: str) -> TrainConfig:
    return TrainConfig(
        steps=how.steps,
        real_dims=max(robot.processor.robot.action_dim for robot in robots),
        batch=how.batch,
        draws=how.draws,
        learning_rate=how.learning_rate,
        warmup_steps=how.warmup_steps,
        seed=how.seed,
        save_every=how.save_every,
        max_delay=robots[0].processor.config.trained_delay,
        accumulate=len(robots) if how.accumulate is None else how.accumulate,
        validate_every=how.validate_every if any(robot.held_out for robot in robots) else 0,
        tune=how.tune,
        lora=(how.lora or "openpi") if how.tune == "lora" else None,
        weights=weights,
        times=how.times,
    )


def _prefixes(model: Pi0, how: FineTuning, output: Path) -> PrefixCache | None:
    kept = how.prefix_memory + how.prefix_disk > 0
    if not (kept and prefix_is_frozen(model)):
        return None
    return PrefixCache(output, int(how.prefix_memory * GB), int(how.prefix_disk * GB))


def _validation(model: Pi0, robots: Sequence[_Robot]) -> Callable[[], tuple[float, float]] | None:
    """Measures the network as it is at that moment; None where nothing is held out."""
    batches = [robot.held_out.spread(VALIDATED) for robot in robots if robot.held_out is not None]
    if not batches:
        return None
    times = euler_times(robots[0].processor.settings.euler_steps)

    return lambda: validation_of(model, batches, times)


def _note(state: TrainingState) -> str:
    note = f"loss {np.mean(state.losses[-SMOOTHED:]):.4f}, gradients {np.mean(state.norms[-SMOOTHED:]):.3g}"
    if not state.validations:
        return note
    last = state.validations[-1]
    return f"{note}; held out at {last.step}: loss {last.loss:.4f}, action error {last.action_error:.3f}"


def _folder(output: Path, processor: ObservationProcessor, robots: Sequence[_Robot]) -> Path:
    names = {robot.processor.robot.name for robot in robots}
    return output / ("checkpoint" if len(names) == 1 else f"checkpoint-{processor.robot.name}")
