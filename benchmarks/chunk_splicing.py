"""Splice policies against injected inference delay, in closed loop on a task of the simulation.

    python -m benchmarks.chunk_splicing [--episodes 30] [--delay 0 --delay 200] [--splice rtc] [--checkpoint FOLDER]
        [--task transfer-cube]

Time is counted in ticks of 20 ms, so the figures do not depend on the machine or its load. Every chunk takes the given
delay and a uniform random 0 to 10 % of it on top; a new observation is taken every 25 ticks. All policies play the same
scenes (seeds from 500 on; training never saw those below 1000) with the same noise. Setpoints are judged as they
are commanded, before the limits of the firmware.

Every episode is one line of `--output`; a run that was interrupted goes on there. The table of the cube transfer
replaces the one in docs/real-time-chunking.md, the plot is docs/images/chunk_splicing.png.

Columns: `success` of the episodes; `time` until success; `jerk` of the arm joints' setpoints across chunk borders, root
mean square and largest third difference, in rad/s³ (`inside`: the same away from the borders, root mean square);
`path`: distance per arm joint from the path of the scripted expert; `starved`: ticks without a setpoint.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.chunk_splicing_plot import plot_splicing
from benchmarks.kept import KeptLines
from firmware_bridge.replanning import ChunkScheduler
from firmware_bridge.splice import (
    HoldSwap,
    LinearBlend,
    Plan,
    RealTimeChunking,
    Splice,
    TemporalEnsemble,
    TrainedRealTimeChunking,
)
from pi0_edge.evaluation.delayed_rollout import DelayedRollout, injected_delay, roll_out_delayed
from pi0_edge.evaluation.rollout import prompt_of
from pi0_edge.evaluation.statistics import wilson_interval
from pi0_edge.policy import Policy
from pi0_edge.processing import Observation
from pi0_edge.protos.policy_pb2 import Continuation
from pi0_edge.serving.messages import read_plan
from pi0_edge.shipped import shipped_checkpoint
from pi0_edge.sim.aloha import CONTROL_HZ
from pi0_edge.sim.tasks import TASKS, TRANSFER_CUBE, SimulatedTask, simulated_task

ROOT = Path(__file__).resolve().parents[1]
DOCUMENT = ROOT / "docs" / "real-time-chunking.md"
PLOT = ROOT / "docs" / "images" / "chunk_splicing.png"
FIRST_SEED = 500
REPLAN_TICKS = 25
EXTRA_SHARE = 0.1
SHOWN_DELAY_MS = 200


class FirstActionSwap(HoldSwap):
    """What a client without a common clock does, and the bridge never: it enters every chunk at its first action."""

    name = "first-action"

    def enter(self, plan: Plan, chunk: Plan, tick: int) -> Plan:
        """The chunk, moved to now."""
        return Plan(tick, chunk.setpoints)


def splices(policy: Policy) -> dict[str, Callable[[], Splice]]:
    """Every splice policy that the checkpoint allows."""
    kinds: list[type[HoldSwap]] = [FirstActionSwap, HoldSwap, TemporalEnsemble, LinearBlend, RealTimeChunking]
    made: dict[str, Callable[[], Splice]] = {kind.name: kind for kind in kinds}
    if trained := policy.engine.config.trained_delay:
        made[TrainedRealTimeChunking.name] = lambda: TrainedRealTimeChunking(trained)
    return made


@dataclass(frozen=True)
class Episode:
    """What is kept of one rollout; jerks as sums of squares, so that episodes can be pooled.

    `checkpoint` is the hash of the weights.
    """

    task: str
    checkpoint: str
    splice: str
    delay_ms: int
    seed: int
    success: bool
    ticks: int
    border_jerk_max: float
    border_jerk_square: float
    border_jerk_count: int
    inner_jerk_square: float
    inner_jerk_count: int
    path_error: float
    starved: int

    @classmethod
    def of(cls, player: Player, splice: str, delay_ms: int, rollout: DelayedRollout) -> Episode:
        """The figures of a rollout."""
        border, inner = rollout.jerk()
        return cls(
            task=player.task.name,
            checkpoint=player.policy.checkpoint_sha256,
            splice=splice,
            delay_ms=delay_ms,
            seed=rollout.seed,
            success=rollout.success,
            ticks=len(rollout.executed) - 1,
            border_jerk_max=float(np.abs(border).max(initial=0.0)),
            border_jerk_square=float(np.square(border).sum()),
            border_jerk_count=border.size,
            inner_jerk_square=float(np.square(inner).sum()),
            inner_jerk_count=inner.size,
            path_error=rollout.path_error(),
            starved=rollout.starved,
        )


@dataclass(frozen=True)
class Cell:
    """One splice policy under one delay."""

    splice: str
    delay_ms: int
    episodes: int
    success_rate: float
    interval_95: tuple[float, float]
    seconds: float
    border_jerk_rms: float
    border_jerk_max: float
    inner_jerk_rms: float
    path_error: float
    starved: int

    @classmethod
    def of(cls, episodes: list[Episode]) -> Cell:
        """Pools the episodes of one cell."""
        won = [episode for episode in episodes if episode.success]
        return cls(
            splice=episodes[0].splice,
            delay_ms=episodes[0].delay_ms,
            episodes=len(episodes),
            success_rate=len(won) / len(episodes),
            interval_95=wilson_interval(len(won), len(episodes)),
            seconds=float(np.mean([episode.ticks for episode in won])) / CONTROL_HZ if won else float("nan"),
            border_jerk_rms=_rms(episodes, "border"),
            border_jerk_max=max(episode.border_jerk_max for episode in episodes),
            inner_jerk_rms=_rms(episodes, "inner"),
            path_error=float(np.mean([episode.path_error for episode in episodes])),
            starved=sum(episode.starved for episode in episodes),
        )


def _rms(episodes: list[Episode], where: str) -> float:
    rows: list[dict[str, Any]] = [asdict(episode) for episode in episodes]
    square = sum(row[f"{where}_jerk_square"] for row in rows)
    return float(np.sqrt(square / max(1, sum(row[f"{where}_jerk_count"] for row in rows))))


class Player:
    """Plays single episodes of one task."""

    def __init__(self, policy: Policy, task: SimulatedTask = TRANSFER_CUBE) -> None:
        self.policy = policy
        self.task = task
        self.splices = splices(policy)
        self._env = task.environment()
        self._prompt = prompt_of(policy, task)

    def play(self, splice: str, delay_ms: int, seed: int) -> DelayedRollout:
        """One episode; a function of its arguments alone."""
        rng = np.random.default_rng((seed, delay_ms))
        actions = self.policy.processor.robot.action_dim

        def answer(observation: Observation, tick: int, continuation: Continuation | None) -> np.ndarray:
            plan = None if continuation is None else read_plan(continuation, actions)
            return self.policy.infer(observation, seed * 10_000 + tick, plan).actions

        return roll_out_delayed(
            env=self._env,
            task=self.task,
            answer=answer,
            scheduler=ChunkScheduler(self.splices[splice](), REPLAN_TICKS),
            delay=lambda: injected_delay(delay_ms, EXTRA_SHARE, rng),
            prompt=self._prompt,
            image_size=self.policy.engine.config.vision.image_size,
            seed=seed,
        )


def measure(player: Player, chosen: list[str], delays: list[int], episodes: int, output: Path) -> list[Cell]:
    """Plays what `output` does not hold yet of this task and checkpoint, and pools it.

    Raises:
        ConfigError: If `output` was written by a version that did not tell the checkpoint of an episode.
    """
    kept, played = KeptLines(output), (player.task.name, player.policy.checkpoint_sha256)
    own = [episode for episode in kept.read(Episode) if (episode.task, episode.checkpoint) == played]
    found = {(episode.splice, episode.delay_ms, episode.seed): episode for episode in own}
    cells = []
    for delay_ms in delays:
        for splice in chosen:
            for seed in range(FIRST_SEED, FIRST_SEED + episodes):
                key = splice, delay_ms, seed
                if key not in found:
                    found[key] = Episode.of(player, splice, delay_ms, player.play(*key))
                    kept.add(asdict(found[key]))
            cells.append(Cell.of([found[splice, delay_ms, FIRST_SEED + k] for k in range(episodes)]))
            print(_row(cells[-1]), flush=True)
    return cells


HEADER = (
    "| delay | splice | success | time | border jerk RMS | largest | inside RMS | path | starved |\n"
    "|---|---|---|---|---|---|---|---|---|"
)


def _row(cell: Cell) -> str:
    won = round(cell.success_rate * cell.episodes)
    seconds = f"{cell.seconds:.2f} s" if won else "–"
    return (
        f"| {cell.delay_ms} ms | `{cell.splice}` | {won} of {cell.episodes} | {seconds} "
        f"| {cell.border_jerk_rms:,.0f} | {cell.border_jerk_max:,.0f} | {cell.inner_jerk_rms:,.0f} "
        f"| {1e3 * cell.path_error:.1f} mrad | {cell.starved} |"
    )


def write_table(cells: list[Cell], document: Path) -> None:
    """Puts the table between the two marks in the document."""
    table = "\n".join([HEADER, *map(_row, cells)])
    text = document.read_text()
    marks = r"(<!-- chunk_splicing: begin -->\n).*?(<!-- chunk_splicing: end -->)"
    document.write_text(re.sub(marks, lambda found: f"{found[1]}{table}\n{found[2]}", text, flags=re.DOTALL))


def main() -> None:
    """Measures, prints the table, and writes document and plot where all policies and delays were measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, help="default: the shipped policy")
    parser.add_argument("--task", choices=sorted(TASKS), default=TRANSFER_CUBE.name)
    parser.add_argument("--engine", default="reference")
    parser.add_argument("--episodes", type=int, default=30)
    parser.add_argument("--delay", type=int, action="append", help="ms; repeat it; default 0, 100, 200, 300, 400")
    parser.add_argument("--splice", action="append", help="repeat it; default all")
    parser.add_argument("--output", type=Path, default=Path("runs/chunk_splicing.jsonl"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    task = simulated_task(options.task)
    player = Player(Policy.load(options.checkpoint or shipped_checkpoint(), options.engine), task)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    print(HEADER)
    chosen, delays = options.splice or list(player.splices), options.delay or [0, 100, 200, 300, 400]
    cells = measure(player, chosen, delays, options.episodes, options.output)
    if options.splice is None and options.delay is None and task is TRANSFER_CUBE:
        write_table(cells, DOCUMENT)
        traces = {name: player.play(name, SHOWN_DELAY_MS, FIRST_SEED) for name in ("hold-swap", "rtc")}
        plot_splicing([asdict(cell) for cell in cells], traces, SHOWN_DELAY_MS, PLOT)


if __name__ == "__main__":
    main()
