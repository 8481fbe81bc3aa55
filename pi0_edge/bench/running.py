"""One bench: warm up, judge the vectors, time, judge them again, and say whether the figures may be told."""

from __future__ import annotations

import datetime
import platform
import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path

import torch

from pi0_edge.bench.clock import ClockWatch
from pi0_edge.bench.drivers import Extent, closed_run, overhead_ms, paced_run
from pi0_edge.bench.interference import interference
from pi0_edge.bench.result import Accuracy, BenchResult, Mode, Run, Verdict, WarmUp
from pi0_edge.bench.samples import Samples
from pi0_edge.bench.targets import Target, targets_are_alike
from pi0_edge.bench.verdict import judge
from pi0_edge.bench.warm_up import warm_up
from pi0_edge.bench.watching import BoardWatcher
from pi0_edge.board.readings import Board
from pi0_edge.bundle import Bundle
from pi0_edge.errors import BenchError
from pi0_edge.progress import ProgressCallback, Stage
from pi0_edge.ptq.verdict import DEFAULT_THRESHOLDS
from pi0_edge.self_test.accuracy import judge_vectors, recorded_thresholds

REPLAN_TICKS = 25
"""Ticks between two observations of a paced run, where nothing else is said: as `pi0-edge run` observes."""
CONTROL_HZ = 50.0
"""Where the robot does not say."""


@dataclass(frozen=True)
class BenchPlan:
    """How something is timed.

    Attributes:
        modes: Of the runs, in order.
        seconds: Of each run.
        chunks: Fewest chunks of each run.
        period_s: Of a paced run; None paces as the robot replans.
        budget_ms: What a chunk may take; None where no limit is known.
        loads: What runs beside it, see `interference.LOADS`.
        command: What makes such a result again.
    """

    modes: tuple[Mode, ...] = ("closed", "paced")
    seconds: float = 60.0
    chunks: int = 1
    period_s: float | None = None
    budget_ms: float | None = None
    loads: tuple[str, ...] = ()
    command: tuple[str, ...] = ()

    @property
    def extent(self) -> Extent:
        """Of each run."""
        return Extent(self.seconds, self.chunks)


def run_bench(
    targets: Sequence[tuple[Target, Bundle | None]],
    plan: BenchPlan,
    *,
    root: Path = Path("/"),
    on_progress: ProgressCallback | None = None,
) -> list[BenchResult]:
    """Times one target, or several in turns.

    Args:
        targets: What is timed, each with the bundle whose vectors judge it; None where it has none. Several are asked
            in turns, in a closed run, so that their samples are pairs.
        plan: How.
        root: Of the file system that tells the state of the board.
        on_progress: Is called while chunks are made.

    Returns:
        One result for each target.

    Raises:
        BenchError: If several targets are not the same work or not timed in a closed run, or a load does not start.
        MissingDependencyError: If a load needs a tool that is not installed.
        Pi0EdgeError: If a target does not answer.
    """
    targets_are_alike([target for target, _ in targets])
    if len(targets) > 1 and plan.modes != ("closed",):
        raise BenchError(f"{len(targets)} in turns are timed in a closed run; leave the paced one out")
    period_s = plan.period_s or _replanning_period_s(targets[0][0])
    clock, board = ClockWatch(), Board(root)
    with interference(plan.loads) as commands, BoardWatcher(board) as watcher:
        warmed = [_warm_up(target, on_progress) for target, _ in targets]
        before = [_judged(target, bundle, on_progress) for target, bundle in targets]
        runs: list[list[Run]] = [[] for _ in targets]
        for mode in plan.modes:
            begin, took_before_s = time.monotonic(), watcher.thread_s
            found = _timed(mode, [target for target, _ in targets], plan, period_s, on_progress)
            watching = (watcher.thread_s - took_before_s) / (time.monotonic() - begin)
            for place, samples in enumerate(found):
                own_ms = overhead_ms() + watching * float(samples.latency_ms.mean())
                period_ms = 1e3 * period_s if mode == "paced" else None
                runs[place].append(Run(mode, period_ms, plan.budget_ms, samples, own_ms, plan.seconds))
        after = [_judged(target, bundle, on_progress) for target, bundle in targets]
    session = secrets.token_hex(8)
    results = []
    for place, (target, _) in enumerate(targets):
        result = BenchResult(
            id=secrets.token_hex(8),
            session=session,
            started=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
            command=plan.command,
            boundary=target.boundary.value,
            policy=target.policy,
            accuracy=_accuracy(before[place], after[place]),
            software=software(),
            interference=commands,
            warm_up=warmed[place],
            runs=tuple(runs[place]),
            readings=watcher.readings,
            clock=clock.check(),
            estimate_ms={},
            verdict=Verdict(False, ("nobody has judged it yet",)),
        )
        results.append(replace(result, verdict=judge(result)))
    return results


def software() -> Mapping[str, str]:
    """Versions of what takes part in a chunk."""
    found = {
        "pi0-edge": version("pi0-edge"),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }
    if torch.version.cuda is not None:
        found["cuda"] = torch.version.cuda
    return found


def _warm_up(target: Target, on_progress: ProgressCallback | None) -> WarmUp:
    stage = Stage("warm-up", None, on_progress)

    def ask(number: int) -> Mapping[str, float]:
        stages = target.ask(number)
        stage.advance()
        return stages

    samples, over = warm_up(ask)
    return WarmUp(over, samples, target.load_s)


@dataclass(frozen=True)
class _Judged:
    """What became of the vectors at one time."""

    passed: bool
    findings: tuple[str, ...]


def _accuracy(before: _Judged | None, after: _Judged | None) -> Accuracy:
    if before is None or after is None:
        return Accuracy(None, (), ())
    return Accuracy(before.passed and after.passed, before.findings, after.findings)


def _judged(target: Target, bundle: Bundle | None, on_progress: ProgressCallback | None) -> _Judged | None:
    """How the vectors are answered now; None where there are none."""
    vectors = None if bundle is None else bundle.self_test()
    if bundle is None or vectors is None:
        return None
    stage = Stage("accuracy", vectors.noise_seeds.size, on_progress)
    thresholds = recorded_thresholds(bundle) or DEFAULT_THRESHOLDS
    verdict = judge_vectors(target.chunk, vectors, thresholds, stage.advance).verdict
    passed = not verdict.refusals and all(one.passed for one in verdict.findings)
    return _Judged(passed, (*verdict.refusals, *map(str, verdict.findings)))


def _timed(
    mode: Mode, targets: Sequence[Target], plan: BenchPlan, period_s: float, on_progress: ProgressCallback | None
) -> list[Samples]:
    progress = Stage(mode, max(1, round(plan.seconds)), on_progress)
    if mode == "closed":
        return closed_run([target.ask for target in targets], plan.extent, progress)
    return [paced_run(targets[0].ask, period_s, plan.extent, progress)]


def _replanning_period_s(target: Target) -> float:
    return REPLAN_TICKS / (target.policy.control_hz or CONTROL_HZ)
