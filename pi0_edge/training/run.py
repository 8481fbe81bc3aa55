"""A whole training run: from a folder of demonstrations to a checkpoint that `evaluate` and `serve` open.

    train("demonstrations/", "runs/cube").checkpoint

    OUTPUT/
        checkpoint/         the averaged weights with statistics, tokenizer and robot, as an ordinary checkpoint
        state.safetensors   the state of the run; the same call goes on from it
        loss.png            the loss over the steps

One camera and one prompt per robot: what the shipped policy needs. Several datasets are several robots, which share the
network by padding, each with its own statistics and prompt; each then gets a checkpoint of its own,
`checkpoint-ROBOT/`, with the same weights. A run starts from random weights, or from a policy that such a run has made
(`start`). A published π0 is fine-tuned by `fine_tuning`.

A published π0 has PaliGemma's vocabulary of 257k tokens. A policy that is trained on one prompt gets a byte-level
vocabulary that can still spell anything, in the file format of Gemma's `tokenizer.json`: Gemma's special tokens (pad 0,
eos 1, bos 2, unk 3), the 256 bytes, and merges for its prompt.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from pi0_edge.checkpoints import open_checkpoint, save_checkpoint
from pi0_edge.datasets.lerobot_reader import LeRobotDataset
from pi0_edge.errors import ConfigError, DatasetError
from pi0_edge.heads import HEADS, build_network, fit_actions, parameter_counts
from pi0_edge.model import PRESETS, Head, Pi0Config
from pi0_edge.model.flow import TIME_DISTRIBUTIONS, TimeDistribution
from pi0_edge.processing import (
    Mode,
    Normalization,
    ObservationProcessor,
    load_processor,
    load_robot,
    load_tokenizer,
)
from pi0_edge.processing.prompts import PromptStyle, prompt_tokens
from pi0_edge.processing.settings import ProcessingSettings
from pi0_edge.progress import ProgressCallback, Stage
from pi0_edge.robots import Robot
from pi0_edge.training.plots import plot_run
from pi0_edge.training.result import TrainingResult
from pi0_edge.training.samples import (
    AlternatingBatches,
    Augmentation,
    Demonstration,
    SampleBatches,
    load_demonstrations,
    moments,
)
from pi0_edge.training.trainer import TrainConfig, Trainer, TrainingState, has_state
from pi0_edge.training.vision_warmup import warm_up_vision

STRIDE = 2
"""Ticks per image held in memory: neighbouring images are nearly the same."""
AUGMENTATION = Augmentation(opening_share=0.4, opening_ticks=60, state_noise=0.05)
WARM_UP_HORIZON = 50
"""Ticks that the vision warm-up looks ahead, whatever the chunk of the head."""
LOSSES: dict[Head, str] = {
    "flow": "flow-matching loss",
    "rt2": "cross-entropy of a token, nats",
    "octo": "squared error of the predicted noise",
    "tinyvla": "squared error of the predicted noise",
    "mse": "squared error of the normalized actions",
}
SMOOTHED = 50
"""Steps that the loss in a progress note is averaged over."""
SPECIAL_TOKENS = ["<pad>", "<eos>", "<bos>", "<unk>"]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Options:
    """The arguments of `train`, checked."""

    datasets: tuple[Path, ...]
    output: Path
    steps: int
    vision_steps: int
    batch: int
    draws: int
    learning_rate: float
    seed: int
    save_every: int
    preset: str
    robots: tuple[str, ...]
    cameras: tuple[str, ...]
    start: Path | None
    max_delay: int
    head: str | None
    horizon: int | None
    times: TimeDistribution
    accumulate: int | None


def train(
    dataset: str | Path | Sequence[str | Path],
    output: str | Path,
    *,
    steps: int = 4800,
    vision_steps: int = 800,
    batch: int = 64,
    draws: int = 1,
    learning_rate: float = 1e-3,
    seed: int = 0,
    save_every: int = 500,
    preset: str = "pi0-cube",
    robot: str | Path | Sequence[str | Path] = "aloha_sim",
    camera: str | Sequence[str] = "top",
    start: str | Path | None = None,
    max_delay: int = 0,
    head: str | None = None,
    horizon: int | None = None,
    times: TimeDistribution = "beta",
    accumulate: int | None = None,
    on_progress: ProgressCallback | None = None,
) -> TrainingResult:
    """Trains a small π0, or a network with another action head, or goes on with a run that was interrupted.

    Args:
        dataset: LeRobotDataset folder with the demonstrations; or several, one per robot.
        output: Folder of the run. A run that is there goes on; its arguments must be the same.
        steps: Optimizer steps of flow matching.
        vision_steps: Steps of the vision warm-up before it.
        batch: Observations per step.
        draws: Noise draws per observation.
        learning_rate: Peak of the cosine schedule.
        seed: Fixes initial weights, batches and noise.
        save_every: Steps between two saves.
        preset: Sizes of the network, a name in `pi0_edge.model.PRESETS`.
        robot: Robot layout, by name or .yaml path; one for each dataset, in their order.
        camera: The camera of dataset and robot that the policy gets images of; one for all, or one for each dataset.
        start: A π0 checkpoint of such a run to train further; its sizes, robot, statistics and tokenizer are kept, and
            its vision tower needs no warm-up.
        max_delay: Longest frozen prefix of training-time RTC in actions, see `TrainConfig`; only flow has one.
        head: A name in `pi0_edge.heads.HEADS`; that of `start`, or flow, where None.
        horizon: Actions of a chunk; as the head was published where None.
        times: Distribution of the noise times of flow, a name in `pi0_edge.model.flow.TIME_DISTRIBUTIONS`.
        accumulate: Parts that a batch is computed in, one after the other; one per dataset where None.
        on_progress: Is called after every step of the stages "vision" and "flow" (or the head's name); its note is the
            loss.

    Raises:
        ConfigError: If an argument is out of range, or the run in `output` had other arguments.
        DatasetError: If the dataset cannot be read or does not fit robot and network.
    """
    datasets = _several(dataset)
    options = _Options(
        datasets=tuple(Path(root) for root in datasets),
        output=Path(output),
        steps=steps,
        vision_steps=vision_steps,
        batch=batch,
        draws=draws,
        learning_rate=learning_rate,
        seed=seed,
        save_every=save_every,
        preset=preset,
        robots=tuple(map(str, _several(robot))),
        cameras=tuple(map(str, _several(camera))) * (len(datasets) if isinstance(camera, str) else 1),
        start=None if start is None else Path(start),
        max_delay=max_delay,
        head=head,
        horizon=horizon,
        times=times,
        accumulate=accumulate,
    )
    _check_options(options)
    processors, demonstrations = _prepared(options)
    config = processors[0].config
    prompts = [_only_task(root) for root in options.datasets]

    def batches_of(horizon: int) -> list[SampleBatches]:
        return [sample_batches(*each, horizon) for each in zip(processors, demonstrations, prompts, strict=True)]

    batches = batches_of(config.horizon)
    log.info("training on %d episodes, %d images", sum(map(len, demonstrations)), sum(map(len, batches)))
    torch.manual_seed(seed)
    model = build_network(config)
    if options.start is not None:
        open_checkpoint(options.start).load_into(model)
    else:
        fit_actions(model, torch.cat([of_one.actions for of_one in batches]))
    if options.start is None and not has_state(options.output):  # that of a run that goes on is trained already
        vision = Stage("vision", vision_steps, on_progress)
        for loss in warm_up_vision(model, AlternatingBatches(batches_of(WARM_UP_HORIZON)), vision_steps, batch, seed):
            vision.advance(f"loss {loss:.4f}")
    trainer = Trainer(model, batches, _train_config(options, processors), options.output)
    learning = Stage(config.head, steps, on_progress)

    def report(state: TrainingState) -> None:
        learning.set(state.step, f"loss {np.mean(state.losses[-SMOOTHED:]):.4f}")

    average = trainer.run(report)
    names = [processor.robot.name for processor in processors]
    folders = [options.output / ("checkpoint" if len(names) == 1 else f"checkpoint-{name}") for name in names]
    for folder, processor in zip(folders, processors, strict=True):
        save_checkpoint(folder, average, config, processor.description())
    plot = options.output / "loss.png"
    plot_run(trainer.state, plot, LOSSES[config.head])
    state = trainer.state
    loss = float(np.mean(state.losses[-100:]))
    return TrainingResult(folders[0], plot, state.step, state.seconds, loss, config.head, parameter_counts(model))


def _several(given: str | Path | Sequence[str | Path]) -> list[str | Path]:
    return [given] if isinstance(given, str | Path) else list(given)


def _prepared(options: _Options) -> tuple[list[ObservationProcessor], list[list[Demonstration]]]:
    """Processing and demonstrations of each robot; the sizes of the network are the same in all."""
    recorded = None if options.start is None else _processor_of(options.start, options)
    layouts = [recorded.robot] if recorded else [load_robot(robot) for robot in options.robots]
    config = recorded.config if recorded else _preset(options, layouts)
    demonstrations = []
    for root, layout, camera in zip(options.datasets, layouts, options.cameras, strict=True):
        demonstrations.append(load_demonstrations(root, camera, STRIDE))
        _check_demonstrations(demonstrations[-1], config, layout, camera, root, options.preset)
    if recorded:
        return [recorded], demonstrations
    tokenizer = options.output / "tokenizer.json"
    prompts = [_only_task(root) for root in options.datasets]
    write_prompt_tokenizer(prompts, config.vocab_size, tokenizer)
    each = zip(demonstrations, layouts, prompts, strict=True)
    return [new_processor(tokenizer, *of_one, config) for of_one in each], demonstrations


def sample_batches(
    processor: ObservationProcessor,
    demonstrations: list[Demonstration],
    prompt: str,
    horizon: int,
    augmentation: Augmentation = AUGMENTATION,
) -> SampleBatches:
    """Samples of the demonstrations of one robot, in the units and with the prompt of its processor."""
    cleaned = processor.settings.prompt_cleaning
    tokens = prompt_tokens(processor.tokenizer, prompt, np.zeros(0), PromptStyle.TEXT, cleaned)
    stats = {"state": processor.normalization.state.stats, "actions": processor.normalization.actions.stats}
    return SampleBatches(demonstrations, STRIDE, stats, tokens, horizon, processor.config.action_dim, augmentation)


def write_prompt_tokenizer(prompts: list[str], vocab_size: int, path: Path) -> None:
    """Trains a byte-level BPE on the prompts and writes it to `path`."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))  # noqa: S106
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=SPECIAL_TOKENS,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator([f"{prompt}\n" for prompt in prompts], trainer)
    path.parent.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(path))


def _check_options(options: _Options) -> None:
    for name in ("steps", "vision_steps", "batch", "draws", "save_every"):
        if getattr(options, name) < 1:
            raise ConfigError(f"{name} is {getattr(options, name)}, expected at least 1")
    if not options.learning_rate > 0:
        raise ConfigError(f"learning_rate is {options.learning_rate}, expected more than 0, such as 1e-3")
    if options.times not in TIME_DISTRIBUTIONS:
        raise ConfigError(f"times is {options.times!r}, expected one of {', '.join(TIME_DISTRIBUTIONS)}")
    counts = {"robot": len(options.robots), "camera": len(options.cameras)}
    for name, count in counts.items():
        if count != len(options.datasets):
            raise ConfigError(
                f"{count} {name}(s) are given for {len(options.datasets)} dataset(s), expected one for each"
            )
    if len(set(options.robots)) < len(options.robots):
        raise ConfigError("two datasets have the same robot, whose statistics would differ; merge the datasets")
    if options.start is not None and len(options.datasets) > 1:
        raise ConfigError("a run with start and several datasets is fine-tuning; give tune as well")


def _preset(options: _Options, robots: Sequence[Robot]) -> Pi0Config:
    if options.preset not in PRESETS:
        raise ConfigError(f"preset {options.preset!r} is not known; expected one of {', '.join(PRESETS)}")
    head = _head(options.head or "flow")
    config = _trainable(PRESETS[options.preset], options.preset)
    sizes: dict[str, Any] = {"trained_delay": options.max_delay}
    if head != "flow":
        sizes |= {"head": head, "real_dims": max(robot.action_dim for robot in robots), "horizon": HEADS[head].horizon}
    if options.horizon is not None:
        sizes["horizon"] = options.horizon
    return _resized(config, sizes)


def _head(name: str) -> Head:
    if name not in HEADS:
        raise ConfigError(f"head {name!r} is not known; expected one of {', '.join(HEADS)}")
    return name  # pyright: ignore[reportReturnType] - the keys of HEADS are all values of Head


def _trainable(config: Pi0Config, origin: object) -> Pi0Config:
    if config.variant != "pi0":
        raise ConfigError(f"{origin} is a π0.5, which this loop does not train yet; expected a π0")
    return config


def _resized(config: Pi0Config, sizes: Mapping[str, Any]) -> Pi0Config:
    try:
        return dataclasses.replace(config, **sizes)
    except ValueError as error:
        given = ", ".join(f"{'max_delay' if name == 'trained_delay' else name} {size}" for name, size in sizes.items())
        raise ConfigError(f"the options do not fit ({given}): {error}") from error


def _processor_of(start: Path, options: _Options) -> ObservationProcessor:
    """The processing of the policy that is trained further, with the sizes of the new one."""
    opened = open_checkpoint(start)
    config = _trainable(opened.infer_config(), start)
    for name, wanted, found in (("head", options.head, config.head), ("horizon", options.horizon, config.horizon)):
        if wanted not in (None, found):
            raise ConfigError(f"{name} is {wanted}, but {start} has {found}; leave the option out to train it further")
    config = _resized(config, {"trained_delay": options.max_delay})
    processor = load_processor(opened.folder, config)
    for normalizer in (processor.normalization.state, processor.normalization.actions):
        if normalizer.mode is not Mode.OPENPI_ZSCORE:
            raise ConfigError(f"{start} normalizes by {normalizer.mode.value}; expected {Mode.OPENPI_ZSCORE.value}")
    return processor


def _only_task(dataset: Path) -> str:
    tasks = LeRobotDataset(dataset).tasks
    if len(tasks) != 1:
        raise DatasetError(f"{dataset} has {len(tasks)} tasks, expected exactly one: this loop trains one prompt")
    return tasks[0]


def _check_demonstrations(
    demonstrations: list[Demonstration], config: Pi0Config, robot: Robot, camera: str, root: Path, preset: str
) -> None:
    if camera not in robot.cameras:
        raise ConfigError(f"{robot.name} has no camera {camera!r}; expected one of {', '.join(robot.cameras)}")
    size = config.vision.image_size
    expected = {"images": (size, size, 3), "state": (robot.state_dim,), "actions": (robot.action_dim,)}
    first = demonstrations[0]
    for name, array in (("images", first.images), ("state", first.states), ("actions", first.actions)):
        if array.shape[1:] != expected[name]:
            raise DatasetError(
                f"{name} of {root} have shape {list(array.shape[1:])}, expected {list(expected[name])} "
                f"({preset}, {robot.name})"
            )


def new_processor(
    tokenizer: Path, demonstrations: list[Demonstration], robot: Robot, prompt: str, config: Pi0Config
) -> ObservationProcessor:
    """The processing of a new policy, with the statistics of its demonstrations."""
    stats = {
        "state": moments([demonstration.states for demonstration in demonstrations]),
        "actions": moments([demonstration.actions for demonstration in demonstrations]),
    }
    normalization = Normalization.of_openpi(stats, config.variant)
    told = dataclasses.replace(robot, default_prompt=prompt)  # the only prompt that it learns for this robot
    settings = ProcessingSettings.of_openpi(config.variant)
    if config.head != "flow":
        settings = dataclasses.replace(settings, euler_steps=HEADS[config.head].steps)
    return ObservationProcessor(told, load_tokenizer(tokenizer), normalization, config, settings)


def _train_config(options: _Options, processors: Sequence[ObservationProcessor]) -> TrainConfig:
    return TrainConfig(
        steps=options.steps,
        real_dims=max(processor.robot.action_dim for processor in processors),
        batch=options.batch,
        draws=options.draws,
        learning_rate=options.learning_rate,
        seed=options.seed,
        save_every=options.save_every,
        max_delay=options.max_delay,
        accumulate=len(processors) if options.accumulate is None else options.accumulate,
        times=options.times,
    )
