"""Records demonstrations with several worker processes into a LeRobotDataset v3.0 folder.

Every episode is a function of its seed alone, so the dataset does not depend on the number of workers. Episodes
that fail are left out.
"""

from __future__ import annotations

import multiprocessing
import signal
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path

from pi0_edge.datasets.lerobot_writer import LeRobotWriter
from pi0_edge.errors import ConfigError, DatasetError
from pi0_edge.progress import ProgressCallback, Stage
from pi0_edge.sim.aloha import CONTROL_HZ, SimulatedAloha
from pi0_edge.sim.demonstration import IMAGE_SIZE, Demonstration, demonstrate
from pi0_edge.sim.tasks import TRANSFER_CUBE, Expert, SimulatedTask, simulated_task

EVALUATION_SEEDS = range(1000)
"""Scenes kept for evaluation; no demonstration may start from one of them."""

FIRST_TRAINING_SEED = 100_000


@dataclass(frozen=True)
class RecordingReport:
    """What a recording holds.

    Attributes:
        kept: Episodes that succeeded and are in the dataset.
        tried: All episodes that were run.
    """

    kept: int
    tried: int


def record(
    output: str | Path,
    episodes: int = 600,
    *,
    task: str = TRANSFER_CUBE.name,
    first_seed: int = FIRST_TRAINING_SEED,
    workers: int = 2,
    on_progress: ProgressCallback | None = None,
) -> RecordingReport:
    """Records demonstrations of a task by its scripted expert as a LeRobotDataset v3.0.

    Args:
        output: New or empty folder for the dataset.
        episodes: Successful episodes to keep.
        task: Name in `pi0_edge.sim.tasks.TASKS`.
        first_seed: Scene of the first episode; those below 1000 are kept for evaluation.
        workers: Processes that simulate and render.
        on_progress: Is called after every episode; it counts those that are kept.

    Raises:
        ConfigError: If no episode is asked for, a seed is kept for evaluation, or there is no such task.
        DatasetError: If the folder is not empty, or fewer than half of the attempts succeed.
        MissingDependencyError: If the simulation is not installed.
    """
    if episodes < 1 or workers < 1:
        raise ConfigError(f"episodes and workers must be at least 1, found {episodes} and {workers}")
    if first_seed < EVALUATION_SEEDS.stop:
        raise ConfigError(f"first_seed is {first_seed}; seeds below {EVALUATION_SEEDS.stop} are kept for evaluation")
    demonstrated = simulated_task(task)
    seeds = range(first_seed, first_seed + 2 * episodes + 10)
    return write_demonstrations(
        Path(output), demonstrations_of(task, seeds, workers), demonstrated, episodes, on_progress
    )


def write_demonstrations(
    root: Path,
    demonstrations: Iterable[Demonstration],
    task: SimulatedTask,
    episodes: int,
    on_progress: ProgressCallback | None = None,
) -> RecordingReport:
    """Writes the first `episodes` successful ones of `demonstrations`, which are of `task`.

    Raises:
        DatasetError: If the folder is not empty, or there are too few successful demonstrations.
    """
    stage = Stage("recording", episodes, on_progress)
    report = RecordingReport(kept=0, tried=0)
    size = (IMAGE_SIZE, IMAGE_SIZE)
    names = task.environment.joint_names()
    with LeRobotWriter(root, CONTROL_HZ, names, {"top": size}, robot_type="aloha") as writer:
        for episode in demonstrations:
            if episode.success:
                writer.add_episode(episode.state, episode.action, {"top": episode.images}, task.prompt)
            report = RecordingReport(report.kept + episode.success, report.tried + 1)
            stage.set(report.kept, f"{report.tried} tried")
            if report.kept == episodes:
                return report
        raise DatasetError(f"only {report.kept} of {report.tried} episodes succeeded, {episodes} were asked for")


def demonstrations_of(task: str, seeds: Iterable[int], workers: int) -> Iterator[Demonstration]:
    """Demonstrations of a task in the order of their seeds, at most one per worker ahead of the reader."""
    context = multiprocessing.get_context("spawn")  # a forked OpenGL context does not work
    executor = ProcessPoolExecutor(workers, mp_context=context, initializer=_start_worker, initargs=(task,))
    pending: deque[Future[Demonstration]] = deque()
    try:
        for seed in seeds:
            pending.append(executor.submit(_demonstrate, seed))
            if len(pending) > workers:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    except BrokenProcessPool as error:
        raise DatasetError("a recording worker was killed (out of memory?); record again with fewer workers") from error
    finally:
        executor.shutdown(cancel_futures=True)


_worker: tuple[SimulatedAloha, Expert] | None = None


def _start_worker(name: str) -> None:
    global _worker
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the recorder, which then stops its workers
    task = simulated_task(name)
    _worker = task.environment(), task.expert()


def _demonstrate(seed: int) -> Demonstration:
    if _worker is None:
        raise RuntimeError("a recording worker was used before it was started")
    return demonstrate(*_worker, seed)
