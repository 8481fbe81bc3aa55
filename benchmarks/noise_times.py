"""Noise times of training and Euler steps of inference: success on the task with two ways, three seeds each.

    python -m benchmarks.noise_times --start RUN/checkpoint --dataset DEMONSTRATIONS --output runs/noise_times
        [--steps 800] [--seeds 3] [--episodes 34] [--times beta --times uniform --times logit-normal]

Every network is trained with the noise times of one distribution and then makes its chunks in 10, 5, 2 and 1 Euler
steps. `--start` gives vision tower, token table and prefix, trained on the same task, and they stay as they are: keys
and values of an observation are computed once for all runs, and a step costs a third. The action expert and the
projections of state, actions and time, which alone see the noise time, start from random weights. A trained expert
would not do: it has learned the times that its own run drew.

Two things follow. Runs of one seed start from the same random expert and are given the same observations and the same
normal noise, so that distributions are compared in pairs. And the prefix was itself trained with `beta`: if that
favours a distribution, then this one.

Columns: success of the episodes of all seeds, with the Wilson interval of 95 % and the rate of each seed; mean time to
success; `success − beta` on the same scenes and seeds with as many Euler steps, interval of Newcombe (1998, method 10)
and p of McNemar. The intervals take the networks as given; the rates of the seeds show how far networks differ.

Each network is a run that goes on where it was interrupted; each finished cell is one line of `OUTPUT/cells.jsonl`. The
same command with fewer `--times` or `--seeds` trains and plays a part of it; one with other `--steps`, `--start` or
`--dataset` is refused there.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.kept import KeptLines, checkpoint_hash, folder_hash, keep_budget
from benchmarks.machine import describe_machine
from pi0_edge.checkpoints import open_checkpoint, save_checkpoint
from pi0_edge.errors import ConfigError
from pi0_edge.evaluation.rollout import evaluate
from pi0_edge.evaluation.statistics import Rollout, pair, wilson_interval
from pi0_edge.model import Pi0, Pi0Config
from pi0_edge.model.flow import TIME_DISTRIBUTIONS, TimeDistribution
from pi0_edge.policy import Policy
from pi0_edge.processing import ObservationProcessor, load_processor
from pi0_edge.sim.aloha import CONTROL_HZ
from pi0_edge.sim.tasks import TWO_WAYS
from pi0_edge.training.prefix_cache import PrefixCache
from pi0_edge.training.run import STRIDE, sample_batches
from pi0_edge.training.samples import SampleBatches, load_demonstrations
from pi0_edge.training.trainer import TrainConfig, Trainer, TrainingState
from pi0_edge.training.tuning import choose_learned, prefix_is_frozen

EULER_STEPS = (10, 5, 2, 1)
REFERENCE: TimeDistribution = "beta"
BATCH = 32
LEARNING_RATE = 1e-3
PREFIX_BYTES = 4 * 10**9
CAMERA = "top"
CELLS = "cells.jsonl"
HEADER = (
    "| noise times | Euler steps | success | interval | of each seed | time | success − beta, points, p |\n"
    "|---|---|---|---|---|---|---|"
)


@dataclass(frozen=True)
class Cell:
    """One network with one number of Euler steps.

    Attributes:
        times: Noise times that it was trained with.
        seed: Of its training.
        euler_steps: That its chunks took.
        rollouts: Its episodes.
    """

    times: TimeDistribution
    seed: int
    euler_steps: int
    rollouts: tuple[Rollout, ...]

    @property
    def key(self) -> tuple[str, int, int]:
        """What makes it unique."""
        return self.times, self.seed, self.euler_steps

    @classmethod
    def of_line(cls, rollouts: Sequence[dict[str, Any]], **rest: Any) -> Cell:
        """Reads a line of the cells' file, given as its values by name."""
        return cls(**rest, rollouts=tuple(Rollout(**one) for one in rollouts))


def started_network(start: Path, config: Pi0Config, seed: int) -> Pi0:
    """A network with the vision tower, token table and prefix of a checkpoint, frozen, and a random rest.

    Args:
        start: The checkpoint.
        config: Its sizes, with flow matching as head.
        seed: Fixes the random weights.

    Raises:
        CheckpointError: If the checkpoint cannot be loaded.
    """
    torch.manual_seed(seed)
    model = Pi0(config)
    fresh = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    open_checkpoint(start).load_into(model)
    choose_learned(model, "expert")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                parameter.copy_(fresh[name])
    assert prefix_is_frozen(model)
    return model


def samples_of(dataset: Path, processor: ObservationProcessor) -> SampleBatches:
    """Batches of demonstrations as `pi0-edge train` draws them, normalized as the checkpoint normalizes.

    Args:
        dataset: LeRobotDataset folder, for the checkpoint's robot and prompt.
        processor: Of the checkpoint.

    Raises:
        ConfigError: If the checkpoint has no prompt.
        DatasetError: If the dataset cannot be read.
    """
    robot = processor.robot
    if robot.default_prompt is None:
        raise ConfigError(
            f"the checkpoint's robot {robot.name} has no prompt, expected one that `pi0-edge train` wrote"
        )
    demonstrations = load_demonstrations(dataset, CAMERA, STRIDE)
    return sample_batches(processor, demonstrations, robot.default_prompt, processor.config.horizon)


class Networks:
    """Trains the networks of the comparison, one after the other, on the same prefixes."""

    def __init__(self, start: Path, dataset: Path, folder: Path, steps: int) -> None:
        """Reads checkpoint and demonstrations.

        Args:
            start: Checkpoint whose vision tower and prefix are kept.
            dataset: Demonstrations of its task.
            folder: Of the runs.
            steps: Optimizer steps of each run.

        Raises:
            CheckpointError: If the checkpoint cannot be loaded.
            ConfigError: If it does not fit, or the folder holds networks of other steps, start or dataset.
            DatasetError: If the dataset cannot be read.
        """
        budget = {"steps": steps, "start_sha256": checkpoint_hash(start), "dataset_sha256": folder_hash(dataset)}
        keep_budget(folder / "budget.json", budget)
        opened = open_checkpoint(start)
        config = dataclasses.replace(opened.infer_config(), trained_delay=0)
        self._start, self._dataset, self._folder, self._steps = start, dataset, folder, steps
        self._processor = load_processor(opened.folder, config)
        self._samples: SampleBatches | None = None
        self._prefixes = PrefixCache(None, PREFIX_BYTES)

    def train(self, times: TimeDistribution, seed: int) -> Path:
        """Checkpoint of one network; it is trained unless it is there."""
        folder = self._folder / f"{times}-{seed}"
        checkpoint = folder / "checkpoint"
        if checkpoint.exists():
            return checkpoint
        if self._samples is None:
            self._samples = samples_of(self._dataset, self._processor)
        model = started_network(self._start, self._processor.config, seed)
        settings = TrainConfig(
            steps=self._steps,
            real_dims=self._processor.robot.action_dim,
            batch=BATCH,
            learning_rate=LEARNING_RATE,
            seed=seed,
            save_every=200,
            tune="expert",
            times=times,
        )
        trainer = Trainer(model, self._samples, settings, folder, prefixes=self._prefixes)

        def report(state: TrainingState) -> None:
            if state.step % 100 == 0:
                print(f"{times}, seed {seed}: step {state.step}, loss {np.mean(state.losses[-100:]):.4f}", flush=True)

        average = trainer.run(report)
        save_checkpoint(checkpoint, average, self._processor.config, self._processor.description())
        return checkpoint


def play(checkpoint: Path, euler_steps: int, seeds: Sequence[int]) -> tuple[Rollout, ...]:
    """Episodes of a network that makes its chunks in so many Euler steps."""
    policy = Policy.load(checkpoint, "cpu", "fp32", sizes={"euler_steps": euler_steps})
    return evaluate(policy, seeds, task=TWO_WAYS.name).rollouts


def measure(
    train: Callable[[TimeDistribution, int], Path],
    play: Callable[[Path, int, Sequence[int]], tuple[Rollout, ...]],
    distributions: Sequence[TimeDistribution],
    seeds: int,
    episodes: int,
    output: Path,
) -> list[Cell]:
    """Trains and plays what `output` does not hold yet.

    Networks of one seed play the same scenes; those of another seed play others, so that no scene is counted twice.

    Args:
        train: Gives the checkpoint of noise times and seed.
        play: Plays its episodes with so many Euler steps, on scenes.
        distributions: Of the noise times.
        seeds: Networks of each distribution.
        episodes: Of each network with each number of steps.
        output: One cell a line (.jsonl).

    Returns:
        All cells of these distributions and seeds.

    Raises:
        ConfigError: If `output` holds cells of another number of episodes.
    """
    kept = KeptLines(output)
    found = {cell.key: cell for cell in kept.read(Cell.of_line)}
    for seed in range(seeds):
        for times in distributions:
            for euler_steps in EULER_STEPS:
                scenes = range(seed * episodes, (seed + 1) * episodes)
                known = found.get((times, seed, euler_steps))
                if known is None:
                    cell = Cell(times, seed, euler_steps, play(train(times, seed), euler_steps, scenes))
                    found[cell.key] = cell
                    kept.add(asdict(cell))
                    won = sum(one.success for one in cell.rollouts)
                    print(f"{times}, seed {seed}, {euler_steps} steps: {won} of {episodes}", flush=True)
                elif [one.seed for one in known.rollouts] != list(scenes):
                    raise ConfigError(
                        f"{output} holds {len(known.rollouts)} episodes of a cell, expected {episodes}: repeat its "
                        "number of episodes, or name another folder"
                    )
    return [found[times, seed, steps] for times in distributions for seed in range(seeds) for steps in EULER_STEPS]


def table(cells: Sequence[Cell]) -> str:
    """The result as Markdown, the seeds of each distribution and number of Euler steps pooled."""
    pooled: dict[tuple[TimeDistribution, int], list[Cell]] = {}
    for cell in sorted(cells, key=lambda cell: cell.seed):
        pooled.setdefault((cell.times, cell.euler_steps), []).append(cell)
    rows = [HEADER]
    for (times, steps), networks in pooled.items():
        reference = pooled.get((REFERENCE, steps)) if times != REFERENCE else None
        rows.append(_row(times, steps, networks, reference))
    return "\n".join(rows)


def _row(times: str, steps: int, networks: Sequence[Cell], reference: Sequence[Cell] | None) -> str:
    rollouts = _pooled(networks)
    won = [one for one in rollouts if one.success]
    low, high = wilson_interval(len(won), len(rollouts))
    rates = ", ".join(f"{100 * np.mean([one.success for one in cell.rollouts]):.0f}" for cell in networks)
    seconds = f"{np.mean([one.ticks for one in won]) / CONTROL_HZ:.2f} s" if won else "–"
    beside = "–"
    if reference is not None:
        paired = pair(_pooled(reference), rollouts)
        below, above = paired.interval
        beside = f"{100 * paired.difference:+.1f} ({100 * below:+.1f} to {100 * above:+.1f}), {paired.p_value:.2g}"
    return (
        f"| {times} | {steps} | {len(won)} of {len(rollouts)} | {100 * low:.0f} to {100 * high:.0f} % | {rates} % "
        f"| {seconds} | {beside} |"
    )


def _pooled(networks: Sequence[Cell]) -> list[Rollout]:
    return [one for cell in networks for one in cell.rollouts]


def main() -> None:
    """Trains, plays, prints the table and writes it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--start", type=Path, required=True, help="checkpoint trained on two-ways")
    parser.add_argument("--dataset", type=Path, required=True, help="demonstrations of two-ways")
    parser.add_argument("--output", type=Path, default=Path("runs/noise_times"))
    parser.add_argument("--steps", type=int, default=800, help="optimizer steps of each run")
    parser.add_argument("--seeds", type=int, default=3, help="networks of each distribution")
    parser.add_argument("--episodes", type=int, default=34, help="of each network with each number of Euler steps")
    parser.add_argument("--times", action="append", choices=TIME_DISTRIBUTIONS, help="repeat it; default all")
    parser.add_argument("--table", type=Path, help="write the table there too (.md)")
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.output.mkdir(parents=True, exist_ok=True)
    networks = Networks(options.start, options.dataset, options.output, options.steps)
    distributions = options.times or TIME_DISTRIBUTIONS
    cells = measure(networks.train, play, distributions, options.seeds, options.episodes, options.output / CELLS)
    shown = table(cells)
    print(shown)
    if options.table is not None:
        machine = "\n".join(f"- {name}: {value}" for name, value in describe_machine().items())
        size = f"{options.steps} steps of {BATCH} observations per network"
        options.table.write_text(f"{machine}\n- training: {size}\n\n{shown}\n")


if __name__ == "__main__":
    main()
