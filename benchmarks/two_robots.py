"""One network for two simulated robots of 14 and 7 dimensions: success of each, beside networks of one robot alone.

    python -m benchmarks.two_robots --folder runs/two_robots [--start RUN/checkpoint] [--steps 3000] [--episodes 100]
        [--alone] [--table two_robots.md]

Both robots reach the target behind the post (`docs/simulated-tasks.md`): `aloha_sim` with 14 joints, and
`aloha_sim_right`, the right arm alone with 7. Demonstrations are recorded as `pi0-edge record` does, each robot's from
scenes of its own. One run trains on both from random weights, as

    pi0-edge train --dataset FOLDER/demos-two-ways --robot aloha_sim
        --dataset FOLDER/demos-two-ways-one-arm --robot aloha_sim_right --output FOLDER/together

does with the same numbers. With `--start` the run fine-tunes all weights of a policy of `aloha_sim` instead (`--start
RUN/checkpoint --tune full`), which has met neither the other robot nor its prompt; such networks are kept apart.

A step has as many observations of one robot as of the other. `--alone` also trains a network for each robot, in as many
steps with as many observations of this robot per step: the other robot is all that differs.

What is in FOLDER already, demonstrations, runs and episodes, is not made again: the same command goes on after an
interruption, and one with other demonstrations, steps or another start is refused.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.kept import KeptLines, checkpoint_hash, keep_budget
from benchmarks.machine import describe_machine
from pi0_edge.evaluation.rollout import evaluate
from pi0_edge.evaluation.statistics import Evaluation, Rollout
from pi0_edge.policy import Policy
from pi0_edge.progress import Progress
from pi0_edge.sim.aloha import CONTROL_HZ
from pi0_edge.sim.record import record
from pi0_edge.sim.tasks import TWO_WAYS, TWO_WAYS_ONE_ARM, SimulatedTask
from pi0_edge.training.fine_tuning import FineTuning, fine_tune
from pi0_edge.training.run import train

BATCH = 32
VISION_STEPS = 600
SAVE_EVERY = 100
FINE_TUNING_RATE = 3e-4
TOGETHER = "together"
FROM_START = "-from-start"
RESULTS = "episodes.jsonl"
HEADER = "| network | robot | dimensions | success | interval | time |\n|---|---|---|---|---|---|"


@dataclass(frozen=True)
class SimulatedRobot:
    """One robot with its task.

    Attributes:
        name: Of its layout.
        dims: Joints.
        task: Scene and prompt.
        first_seed: Of its demonstrations.
    """

    name: str
    dims: int
    task: SimulatedTask
    first_seed: int


ROBOTS = (
    SimulatedRobot("aloha_sim", 14, TWO_WAYS, 100_000),
    SimulatedRobot("aloha_sim_right", 7, TWO_WAYS_ONE_ARM, 200_000),
)


@dataclass(frozen=True)
class Played:
    """The episodes of one network with one robot.

    Attributes:
        network: Name of its run.
        robot: Name of the layout.
        rollouts: The episodes.
    """

    network: str
    robot: str
    rollouts: tuple[Rollout, ...]

    @classmethod
    def of_line(cls, network: str, robot: str, rollouts: Sequence[dict[str, Any]]) -> Played:
        """Reads a line of the episodes' file, given as its values by name."""
        return cls(network, robot, tuple(Rollout(**one) for one in rollouts))


@dataclass(frozen=True)
class Network:
    """One network to train.

    Attributes:
        name: Of its run.
        robots: That it learns.
        batch: Observations per step.
    """

    name: str
    robots: tuple[SimulatedRobot, ...]
    batch: int


@dataclass(frozen=True)
class Budget:
    """What each network gets.

    Attributes:
        demonstrations: Episodes of each robot to learn from.
        steps: Optimizer steps.
        episodes: To play with each robot; scenes that no demonstration had.
        start: Checkpoint that is fine-tuned; None for random weights.
    """

    demonstrations: int
    steps: int
    episodes: int
    start: Path | None = None


def networks(alone: bool, start: Path | None = None) -> list[Network]:
    """The network of both robots; with `alone`, also one of each with its share of the observations."""
    share, ending = BATCH // len(ROBOTS), FROM_START if start else ""
    single = [Network(f"alone-{robot.name}{ending}", (robot,), share) for robot in ROBOTS]
    return [Network(f"{TOGETHER}{ending}", ROBOTS, BATCH), *(single if alone else [])]


def demonstrations_of(robot: SimulatedRobot, folder: Path, count: int) -> Path:
    """The dataset of a robot; it is recorded unless it is there."""
    dataset = folder / f"demos-{robot.task.name}"
    if not (dataset / "meta/info.json").exists():
        record(dataset, count, task=robot.task.name, first_seed=robot.first_seed)
    return dataset


def trained(network: Network, budget: Budget, folder: Path) -> dict[str, Path]:
    """Checkpoints of a network by robot; it is trained unless they are there."""
    run = folder / network.name
    names = [robot.name for robot in network.robots]
    found = {name: run / ("checkpoint" if len(names) == 1 else f"checkpoint-{name}") for name in names}
    if all(checkpoint.exists() for checkpoint in found.values()):
        return found
    datasets = [demonstrations_of(robot, folder, budget.demonstrations) for robot in network.robots]
    common: dict[str, Any] = {"steps": budget.steps, "batch": network.batch, "save_every": SAVE_EVERY}
    if budget.start is None:
        train(datasets, run, robot=names, vision_steps=VISION_STEPS, on_progress=_report, **common)
    else:
        how = FineTuning(tune="full", learning_rate=FINE_TUNING_RATE, recompute=False, **common)
        fine_tune(datasets, run, budget.start, how, robots=names, on_progress=_report)
    return found


def measure(chosen: Sequence[Network], budget: Budget, folder: Path) -> list[Played]:
    """Records, trains and plays what the folder does not hold yet.

    Args:
        chosen: The networks.
        budget: Of each.
        folder: Of demonstrations, runs and episodes.

    Raises:
        ConfigError: If the folder holds demonstrations or networks of another budget.
    """
    start = None if budget.start is None else checkpoint_hash(budget.start)
    keep_budget(folder / "demonstrations.json", {"demonstrations": budget.demonstrations})
    keep_budget(folder / f"budget{FROM_START if start else ''}.json", {"steps": budget.steps, "start_sha256": start})
    kept = KeptLines(folder / RESULTS)
    known = {(one.network, one.robot, len(one.rollouts)): one for one in kept.read(Played.of_line)}
    found = []
    for network in chosen:
        for robot in network.robots:
            played = known.get((network.name, robot.name, budget.episodes))
            if played is None:
                checkpoint = trained(network, budget, folder)[robot.name]
                policy = Policy.load(checkpoint, "cpu", "fp32")
                # By name: the task must not hang on what the policy is told by default.
                rollouts = evaluate(policy, range(budget.episodes), task=robot.task.name).rollouts
                played = Played(network.name, robot.name, rollouts)
                kept.add(asdict(played))
            found.append(played)
    return found


def table(played: Sequence[Played]) -> str:
    """The result as Markdown."""
    rows = [HEADER]
    dims = {robot.name: robot.dims for robot in ROBOTS}
    for one in played:
        figures = Evaluation(one.rollouts)
        low, high = figures.interval
        ticks = figures.mean_ticks_to_success
        rows.append(
            f"| {one.network} | {one.robot} | {dims[one.robot]} | {figures.successes} of {figures.episodes} "
            f"| {100 * low:.0f} to {100 * high:.0f} % | {'–' if ticks is None else f'{ticks / CONTROL_HZ:.2f} s'} |"
        )
    return "\n".join(rows)


def _report(progress: Progress) -> None:
    if progress.done % 100 == 0:
        print(f"{progress.stage}: {progress.done} of {progress.total}, {progress.note}", flush=True)


def main() -> None:
    """Measures, prints the table and writes it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("runs/two_robots"))
    parser.add_argument("--start", type=Path, help="policy of aloha_sim to fine-tune instead of random weights")
    parser.add_argument("--demonstrations", type=int, default=300, help="episodes of each robot to learn from")
    parser.add_argument("--steps", type=int, default=3000, help="optimizer steps of each network")
    parser.add_argument("--episodes", type=int, default=100, help="to play with each robot of each network")
    parser.add_argument("--alone", action="store_true", help="also train a network for each robot")
    parser.add_argument("--table", type=Path, help="write the table there too (.md)")
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.folder.mkdir(parents=True, exist_ok=True)
    budget = Budget(options.demonstrations, options.steps, options.episodes, options.start)
    played = measure(networks(options.alone, options.start), budget, options.folder)
    shown = table(played)
    print(shown)
    if options.table is not None:
        machine = "\n".join(f"- {name}: {value}" for name, value in describe_machine().items())
        sizes = (
            f"{options.demonstrations} demonstrations of each robot, {options.steps} steps, "
            f"{BATCH // len(ROBOTS)} observations of each robot per step"
        )
        options.table.write_text(f"{machine}\n- training: {sizes}\n\n{shown}\n")


if __name__ == "__main__":
    main()
