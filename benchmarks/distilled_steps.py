"""Ten, two and one Euler steps, fp32 and INT8, in pairs on the same scenes: success, time, tasks per hour, jerk.

    python -m benchmarks.distilled_steps --student RUN2/checkpoint --student RUN1/checkpoint
        [--task transfer-cube] [--teacher FOLDER] [--episodes 200] [--delay 0 --delay 200 --delay 400]
        [--scheme int8-w8a8]

Every policy plays the same scenes (seeds from 700 on; training never saw those below 1000) with the same noise. A
chunk arrives after the given delay and a uniform random 0 to 10 % of it on top, whatever the policy: so the columns
show what fewer steps do to the motion, and not how much sooner a chunk is there. A policy that was trained to continue
a plan does so with a frozen prefix (`trained-rtc`), another one by guidance (`rtc`). Besides the teacher and its
students plays what must fail: the teacher in as few steps as each student, `undistilled`.

Every episode is one line of `--output`, with the hash of its checkpoint; a run that was interrupted goes on there.

Columns: `success` of the episodes, `time` until it, `tasks/h`: successes per hour of motion, those that fail counted at
full length; `jerk` of the arm joints' setpoints across chunk borders, root mean square of the third difference, rad/s³.
`success − first` and `time − first` are against the first policy, the teacher in fp32, under the same delay and on the
same seeds: with the interval of 95 % (Newcombe 1998, method 10, and a bootstrap over the pairs) and the p of McNemar.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from benchmarks.chunk_splicing import CONTROL_HZ, Player
from benchmarks.kept import KeptLines, checkpoint_hash
from benchmarks.machine import describe_machine
from pi0_edge.errors import ConfigError
from pi0_edge.evaluation.delayed_rollout import DelayedRollout
from pi0_edge.evaluation.statistics import Pairing, Rollout, pair, wilson_interval
from pi0_edge.policy import Policy
from pi0_edge.shipped import shipped_checkpoint
from pi0_edge.sim.tasks import TASKS, TRANSFER_CUBE, SimulatedTask, simulated_task

FIRST_SEED = 700
RESAMPLES = 4000
FP32 = "fp32"
DELAYS = (0, 100, 200, 300, 400)


@dataclass(frozen=True)
class Variant:
    """One policy of the comparison.

    Attributes:
        name: In table and output, such as "1 step, int8-w8a8".
        checkpoint: Folder.
        sha256: Of its weights.
        scheme: How it is quantized; fp32 runs on the reference engine.
        euler_steps: Instead of those of the checkpoint; None keeps them.
    """

    name: str
    checkpoint: str
    sha256: str
    scheme: str
    euler_steps: int | None = None

    def load(self) -> Policy:
        """The policy, on the engine of its scheme."""
        sizes = None if self.euler_steps is None else {"euler_steps": self.euler_steps}
        if self.scheme == FP32:
            return Policy.load(self.checkpoint, "reference", sizes=sizes)
        return Policy.load(self.checkpoint, "cpu", self.scheme, sizes=sizes)


@dataclass(frozen=True)
class Episode:
    """What is kept of one episode; the jerk as a sum of squares, so that episodes can be pooled.

    An episode that failed has all ticks of its task, however early the failure was final. `checkpoint` is the hash of
    the weights: students of one number of steps share their name.
    """

    task: str
    variant: str
    checkpoint: str
    delay_ms: int
    seed: int
    success: bool
    ticks: int
    border_jerk_square: float
    border_jerk_count: int

    @classmethod
    def of(cls, task: SimulatedTask, variant: Variant, delay_ms: int, rollout: DelayedRollout) -> Episode:
        """The figures of a rollout."""
        border, _ = rollout.jerk()
        return cls(
            task=task.name,
            variant=variant.name,
            checkpoint=variant.sha256,
            delay_ms=delay_ms,
            seed=rollout.seed,
            success=rollout.success,
            ticks=len(rollout.executed) - 1 if rollout.success else task.max_ticks,
            border_jerk_square=float(np.square(border).sum()),
            border_jerk_count=border.size,
        )


@dataclass(frozen=True)
class Cell:
    """One policy under one delay, beside the first policy.

    Attributes:
        variant: Its name.
        delay_ms: Of every chunk.
        episodes: How many were played.
        successes: How many of them succeeded.
        interval: Of the rate, 95 % (Wilson).
        seconds: Mean time to success; NaN where none succeeded.
        tasks_per_hour: Successes per hour of motion.
        border_jerk: Root mean square, rad/s³.
        pairing: Successes of the first policy and of this one.
        slower: Mean difference of the time to success over the seeds on which both succeed, seconds, with its interval
            of 95 %; None where there are fewer than two.
    """

    variant: str
    delay_ms: int
    episodes: int
    successes: int
    interval: tuple[float, float]
    seconds: float
    tasks_per_hour: float
    border_jerk: float
    pairing: Pairing
    slower: tuple[float, float, float] | None

    @classmethod
    def of(cls, episodes: Sequence[Episode], first: Sequence[Episode]) -> Cell:
        """Pools the episodes of one policy, in the order of those of the first one."""
        won = [episode for episode in episodes if episode.success]
        ticks = sum(episode.ticks for episode in episodes)
        squares = sum(episode.border_jerk_square for episode in episodes)
        count = sum(episode.border_jerk_count for episode in episodes)
        return cls(
            variant=episodes[0].variant,
            delay_ms=episodes[0].delay_ms,
            episodes=len(episodes),
            successes=len(won),
            interval=wilson_interval(len(won), len(episodes)),
            seconds=float(np.mean([episode.ticks for episode in won])) / CONTROL_HZ if won else float("nan"),
            tasks_per_hour=3600 * CONTROL_HZ * len(won) / ticks,
            border_jerk=float(np.sqrt(squares / max(1, count))),
            pairing=pair(_rollouts(first), _rollouts(episodes)),
            slower=_slower(episodes, first),
        )

    def row(self) -> str:
        """One line of the table."""
        low, high = self.pairing.interval
        beside = (
            f"{100 * self.pairing.difference:+.1f} ({100 * low:+.1f} to {100 * high:+.1f}), {self.pairing.p_value:.2g}"
        )
        slower = "–" if self.slower is None else "{:+.2f} s ({:+.2f} to {:+.2f})".format(*self.slower)
        seconds = f"{self.seconds:.2f} s" if self.successes else "–"
        return (
            f"| {self.delay_ms} ms | {self.variant} | {self.successes} of {self.episodes} | {seconds} "
            f"| {self.tasks_per_hour:.0f} | {self.border_jerk:,.0f} | {beside} | {slower} |"
        )


HEADER = (
    "| delay | policy | success | time | tasks/h | jerk | success − first, points, p | time − first |\n"
    "|---|---|---|---|---|---|---|---|"
)


def _rollouts(episodes: Sequence[Episode]) -> list[Rollout]:
    return [Rollout(episode.seed, episode.success, episode.ticks, 0.0) for episode in episodes]


def _slower(episodes: Sequence[Episode], first: Sequence[Episode]) -> tuple[float, float, float] | None:
    pairs = zip(episodes, first, strict=True)
    differences = np.array([a.ticks - b.ticks for a, b in pairs if a.success and b.success]) / CONTROL_HZ
    if len(differences) < 2:
        return None
    drawn = np.random.default_rng(0).integers(len(differences), size=(RESAMPLES, len(differences)))
    low, high = np.percentile(differences[drawn].mean(1), (2.5, 97.5))
    return float(differences.mean()), float(low), float(high)


def variants(teacher: str, students: Sequence[str], scheme: str) -> list[Variant]:
    """The teacher first, each student, and what must fail."""
    found, taught, master = [], _steps(teacher), checkpoint_hash(Path(teacher))
    for quantized in (FP32, scheme):
        found.append(Variant(f"{taught} steps, {quantized}", teacher, master, quantized))
    for student in students:
        steps, own = _steps(student), checkpoint_hash(Path(student))
        words = f"{steps} step{'s' if steps > 1 else ''}"
        found += [Variant(f"{words}, {quantized}", student, own, quantized) for quantized in (FP32, scheme)]
        found.append(Variant(f"{words}, undistilled", teacher, master, FP32, steps))
    if len({variant.name for variant in found}) < len(found):
        raise ConfigError("two of the policies take the same number of steps; compare one of each")
    return found


def _steps(checkpoint: str) -> int:
    return Policy.load(checkpoint, "reference").processor.settings.euler_steps


Play = Callable[[Variant, int, int], DelayedRollout]
"""One episode of a policy under a delay, ms, on a seed."""


class Players:
    """Plays single episodes of a task, with one policy in memory at a time."""

    def __init__(self, task: SimulatedTask) -> None:
        self._task = task
        self._variant: Variant | None = None
        self._player: Player | None = None

    def __call__(self, variant: Variant, delay_ms: int, seed: int) -> DelayedRollout:
        """One episode; a function of its arguments alone."""
        if self._player is None or self._variant != variant:
            self._player, self._variant = Player(variant.load(), self._task), variant
        splice = "trained-rtc" if "trained-rtc" in self._player.splices else "rtc"
        return self._player.play(splice, delay_ms, seed)


def measure(
    play: Play, task: SimulatedTask, chosen: Sequence[Variant], delays: Sequence[int], episodes: int, output: Path
) -> list[Cell]:
    """Plays what `output` does not hold yet, one policy after the other, and pools it.

    Args:
        play: Plays one episode.
        task: Which one it plays.
        chosen: The policies; the others are compared with the first.
        delays: Of the chunks, ms.
        episodes: Seeds of each.
        output: One episode a line (.jsonl).

    Raises:
        ConfigError: If `output` was written by a version that did not tell the checkpoint of an episode.
    """
    kept = KeptLines(output)
    own = [episode for episode in kept.read(Episode) if episode.task == task.name]
    found = {(episode.variant, episode.checkpoint, episode.delay_ms, episode.seed): episode for episode in own}
    seeds = range(FIRST_SEED, FIRST_SEED + episodes)
    for variant in chosen:
        for delay_ms in delays:
            for seed in seeds:
                key = variant.name, variant.sha256, delay_ms, seed
                if key not in found:
                    found[key] = Episode.of(task, variant, delay_ms, play(variant, delay_ms, seed))
                    kept.add(asdict(found[key]))
            won = sum(found[variant.name, variant.sha256, delay_ms, seed].success for seed in seeds)
            print(f"{variant.name}, {delay_ms} ms: {won} of {episodes}", flush=True)

    def played(variant: Variant, delay_ms: int) -> list[Episode]:
        return [found[variant.name, variant.sha256, delay_ms, seed] for seed in seeds]

    return [Cell.of(played(variant, delay), played(chosen[0], delay)) for delay in delays for variant in chosen]


def main() -> None:
    """Measures, prints the table, and writes it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", choices=sorted(TASKS), default=TRANSFER_CUBE.name)
    parser.add_argument("--teacher", default=None, help="default: the shipped policy")
    parser.add_argument("--student", action="append", required=True, help="checkpoint of `pi0-edge distill`; repeat it")
    parser.add_argument("--scheme", default="int8-w8a8")
    parser.add_argument("--episodes", type=int, default=200)
    parser.add_argument("--delay", type=int, action="append", help=f"ms; repeat it; default {DELAYS}")
    parser.add_argument("--output", type=Path, default=Path("runs/distilled_steps.jsonl"))
    parser.add_argument("--table", type=Path, help="write the table there too (.md)")
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    chosen = variants(str(options.teacher or shipped_checkpoint()), options.student, options.scheme)
    task = simulated_task(options.task)
    cells = measure(Players(task), task, chosen, options.delay or DELAYS, options.episodes, options.output)
    table = "\n".join([HEADER, *(cell.row() for cell in cells)])
    print(table)
    if options.table is not None:
        machine = "\n".join(f"- {name}: {value}" for name, value in describe_machine().items())
        options.table.write_text(f"{machine}\n\n{table}\n")


if __name__ == "__main__":
    main()
