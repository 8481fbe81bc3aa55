"""The whole comparison, from an empty folder to its report; the same call goes on where it was stopped."""

from __future__ import annotations

import functools
import itertools
import json
import math
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from firmware_bridge.emulator.board import image_with_servos, require_image, require_qemu
from pi0_edge.comparison.backbone import Frozen, load_frozen, train_backbone
from pi0_edge.comparison.cell import train_cell, try_rate
from pi0_edge.comparison.clock import is_valid, play_through_firmware
from pi0_edge.comparison.jobs import Job, Workers
from pi0_edge.comparison.latency import time_heads
from pi0_edge.comparison.places import Places
from pi0_edge.comparison.plan import FULL, Plan, TaskBudget, Variant, backbone_s, expected_s, played_s
from pi0_edge.comparison.playing import play_cell
from pi0_edge.comparison.report import AGAIN, write_report
from pi0_edge.errors import ConfigError, TrainingError
from pi0_edge.json_files import read_json_object
from pi0_edge.progress import Progress, ProgressCallback, Stage
from pi0_edge.sim.demonstration import Demonstration, demonstrate
from pi0_edge.sim.record import FIRST_TRAINING_SEED, record, write_demonstrations
from pi0_edge.sim.tasks import TRANSFER_CUBE, SimulatedTask, simulated_task
from pi0_edge.synced_files import save_synced


def compare_heads(
    output: str | Path, plan: Plan = FULL, *, workers: int = 2, on_progress: ProgressCallback | None = None
) -> dict[str, Any]:
    """Records, trains, plays, times and reports; what is there already is not done again.

    Args:
        output: Folder of the comparison.
        plan: What is compared.
        workers: Processes that train and play, one thread each; 0 does all in this process.
        on_progress: Is called after every piece of work; the steps are expected processor seconds.

    Returns:
        The figures of `report.json`.

    Raises:
        ConfigError: If the folder holds another comparison.
        EmulatorError: If heads are to play through the firmware, and QEMU or the image is missing.
        EngineError: If a head could not play through the firmware; all other results are in the report by then.
        MissingDependencyError: If the simulation is not installed.
        TrainingError: If a process was killed, or a training diverged.
    """
    places = Places(Path(output))
    _keep_plan(plan, places.root)
    if any(_clock_lacks(plan, places, variant) for variant in plan.variants):
        require_qemu()
        require_image(image_with_servos("aloha"))
    seconds = expected_s(plan)
    stage = Stage("comparison", round(sum(seconds.values())), on_progress)
    passed = 0.0

    def done(name: str, expected: float) -> None:
        nonlocal passed
        passed += expected
        stage.set(round(passed), name)

    def recorded(progress: Progress) -> None:
        share = progress.done / (progress.total or 1) * seconds["recording"] / len(plan.tasks)
        stage.set(round(passed + share), f"{progress.done} demonstrations")

    for task in plan.tasks:
        _record(places, task, workers, recorded)
        done(f"{task.name}: demonstrations", seconds["recording"] / len(plan.tasks))
    with Workers(workers) as pool:
        for jobs in (_backbones(plan, places), _rates(plan, places)):
            _run(pool, list(jobs), done)
        _run(pool, list(_cells(plan, places)), done)
        _run(pool, list(_plays(plan, places)), done)
    if not places.latency.exists():
        time_heads(plan, places.latency)
    done("latency", seconds["latency"])
    content = write_report(plan, places)
    for variant in plan.variants if plan.clock_episodes else ():
        if _clock_lacks(plan, places, variant):
            _through_firmware(plan, places, variant, lambda line: done(line, 0.0))
            content = write_report(plan, places)
        done(f"{variant.name} through the firmware", seconds["clock"] / len(plan.variants))
    return content


def _keep_plan(plan: Plan, root: Path) -> None:
    root.mkdir(parents=True, exist_ok=True)
    path, content = root / "plan.json", json.dumps(plan.to_dict(), indent=2)
    if not path.exists():
        save_synced(path, content.encode())
    elif read_json_object(path, ConfigError, AGAIN) != json.loads(content):
        raise ConfigError(
            f"{path} is another comparison than the one that is asked for; name another folder, or repeat the options "
            "of that one to go on with it (a comparison of another version of pi0-edge does not go on)"
        )


def _record(places: Places, task: TaskBudget, workers: int, on_progress: ProgressCallback) -> None:
    folder, written = places.demonstrations(task), places.recorded(task)
    if written.exists():
        return
    if folder.exists():
        shutil.rmtree(folder)
    if workers:
        report = record(folder, task.episodes, task=task.name, workers=workers, on_progress=on_progress)
    else:
        simulated = simulated_task(task.name)
        report = write_demonstrations(folder, _demonstrations(simulated), simulated, task.episodes, on_progress)
    save_synced(written, json.dumps({"kept": report.kept, "tried": report.tried}).encode())


def _demonstrations(task: SimulatedTask) -> Iterator[Demonstration]:
    """As `record` makes them, in this process."""
    env, expert = task.environment(), task.expert()
    try:
        for seed in itertools.count(FIRST_TRAINING_SEED):
            yield demonstrate(env, expert, seed)
    finally:
        env.close()


def _run(pool: Workers, jobs: list[Job], done: Callable[[str, float], None]) -> None:
    for job in jobs:
        if job.done:
            done(job.name, job.expected_s)
    pool.run(jobs, lambda job: done(job.name, job.expected_s))


def _backbones(plan: Plan, places: Places) -> Iterator[Job]:
    for task in plan.tasks:
        folder = places.backbone(task)
        given = (plan, task, places.demonstrations(task), folder)
        yield Job(f"{task.name}: backbone", folder / "model.safetensors", backbone_s(task), train_backbone, given)


def _rates(plan: Plan, places: Places) -> Iterator[Job]:
    for task in plan.tasks:
        for variant in plan.variants:
            for rate in plan.rates:
                path = places.rate(task, variant, rate)
                name = f"{task.name}: {variant.name} at a rate of {rate:g}"
                yield Job(name, path, task.tuning_s, _rate, (plan, places, task, variant, rate))


def _cells(plan: Plan, places: Places) -> Iterator[Job]:
    for task, variant, seed in plan.cells():
        rate = best_rate(plan, places, task, variant)
        result = places.cell(task, variant, seed) / "cell.json"
        given = (plan, places, task, variant, seed, rate)
        yield Job(f"{task.name}: {variant.name}, seed {seed}", result, task.cell_s, _cell, given)


def _plays(plan: Plan, places: Places) -> Iterator[Job]:
    for task, variant, seed in plan.cells():
        for decoding in variant.decodings:
            result = places.played(task, variant, seed, decoding)
            name = f"{task.name}: {variant.name}, seed {seed}, plays ({decoding.name})"
            checkpoint = places.cell(task, variant, seed) / "checkpoint"
            given = (plan, task, variant, seed, decoding, checkpoint, result)
            yield Job(name, result, played_s(plan, task, variant), play_cell, given)


def best_rate(plan: Plan, places: Places, task: TaskBudget, variant: Variant) -> float:
    """The learning rate with the lowest loss on held-out episodes; those whose loss is no number are left out.

    Raises:
        TrainingError: If none is left.
    """
    tried = [read_json_object(places.rate(task, variant, rate), ConfigError, AGAIN) for rate in plan.rates]
    finite = [one for one in tried if math.isfinite(one["held_out"])]
    if not finite:
        raise TrainingError(
            f"{task.name}: {variant.name} diverged at every learning rate ({', '.join(map('{:g}'.format, plan.rates))})"
        )
    return float(min(finite, key=lambda one: one["held_out"])["rate"])


def _cube(plan: Plan) -> TaskBudget | None:
    """The cube transfer, the task of the emulated robot."""
    return next((task for task in plan.tasks if task.name == TRANSFER_CUBE.name), None)


def _clock_lacks(plan: Plan, places: Places, variant: Variant) -> bool:
    """Whether a head is still to play through the firmware: a void result is none."""
    path = places.clock(variant) / "clock.json"
    if not plan.clock_episodes or _cube(plan) is None:
        return False
    return not path.exists() or not is_valid(read_json_object(path, ConfigError, AGAIN))


def _through_firmware(plan: Plan, places: Places, variant: Variant, say: Callable[[str], None]) -> None:
    """Plays the cell of the first seed."""
    if (cube := _cube(plan)) is not None:
        checkpoint = places.cell(cube, variant, plan.seeds[0]) / "checkpoint"
        play_through_firmware(variant, checkpoint, plan.clock_episodes, places.clock(variant), say)


def _rate(plan: Plan, places: Places, task: TaskBudget, variant: Variant, rate: float) -> None:
    found = try_rate(_frozen(plan, places, task), plan, task, variant, rate)
    path = places.rate(task, variant, rate)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_synced(path, json.dumps(found, indent=2).encode())


def _cell(plan: Plan, places: Places, task: TaskBudget, variant: Variant, seed: int, rate: float) -> None:
    frozen = _frozen(plan, places, task)
    train_cell(frozen, plan, task, variant, seed, rate, places.cell(task, variant, seed))


@functools.lru_cache(maxsize=2)
def _frozen(plan: Plan, places: Places, task: TaskBudget) -> Frozen:
    """What the cells of a task share, read once in a process."""
    return load_frozen(places.backbone(task), places.demonstrations(task), plan.network)
