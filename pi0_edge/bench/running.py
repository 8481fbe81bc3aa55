"""One bench: warm up, judge the vectors, time, judge them again, and say whether the figures may be told."""

from __future__ import annotations

import datetime
import platform
import secrets
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path

import torch

from pi0_edge.bench.calibrated import expected_stages
from pi0_edge.bench.clock import ClockWatch
from pi0_edge.bench.drivers import Extent, closed_run, overhead_ms, paced_run
from pi0_edge.bench.interference import interference
from pi0_edge.bench.path.target import PathTarget, path_figures
from pi0_edge.bench.result import Accuracy, BenchResult, Mode, PathFigures, Run, Verdict, WarmUp
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
IDLE_S = 20
"""How long a board with rails is left alone, in seconds."""


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
    own: Collection[int] = (),
    on_progress: ProgressCallback | None = None,
) -> list[BenchResult]:
    """Times one target, or several in turns.

    Args:
        targets: What is timed, each with the bundle whose vectors judge it; None where it has none. Several are asked
            in turns, in a closed run, so that their samples are pairs.
        plan: How.
        root: Of the file system that tells the state of the board.
        own: Ids of processes that are part of what is timed, besides this one and what it starts.
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
    clock, board = ClockWatch(), Board(root, own)
    with interference(plan.loads) as commands, BoardWatcher(board) as watcher:
        warmed = [_warm_up(target, on_progress) for target, _ in targets]
        idle_ns = _idle(on_progress) if board.has_rails else None
        before = [_judged(target, bundle, on_progress) for target, bundle in targets]
        timed = _Timed(plan, watcher, on_progress)
        runs = timed.path(targets[0][0]) if isinstance(targets[0][0], PathTarget) else timed.runs(targets)
        after = [_judged(target, bundle, on_progress) for target, bundle in targets]
    ids = [secrets.token_hex(8) for _ in targets]
    session = secrets.token_hex(8) if len(targets) > 1 else ids[0]
    results = []
    for place, (target, _) in enumerate(targets):
        result = BenchResult(
            id=ids[place],
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
            estimate_ms=expected_stages(_model(watcher), target.policy, target.config),
            verdict=Verdict(False, ("nobody has judged it yet",)),
            idle_ns=idle_ns,
            path=timed.path_figures,
        )
        verdict = judge(result)
        also = (*(() if result.path is None else result.path.remarks), *watcher.problems)
        results.append(replace(result, verdict=replace(verdict, remarks=(*verdict.remarks, *also))))
    return results


class _Timed:
    """Makes the timed runs, and says what watching them cost.

    Attributes:
        path_figures: Of the whole path, once it was played.
    """

    def __init__(self, plan: BenchPlan, watcher: BoardWatcher, on_progress: ProgressCallback | None) -> None:
        self.path_figures: PathFigures | None = None
        self._plan = plan
        self._watcher = watcher
        self._on_progress = on_progress

    def runs(self, targets: Sequence[tuple[Target, Bundle | None]]) -> list[list[Run]]:
        """One list for each target, with a run for each mode."""
        plan, asks = self._plan, [target.ask for target, _ in targets]
        period_s = plan.period_s or REPLAN_TICKS / _control_hz(targets[0][0])
        runs: list[list[Run]] = [[] for _ in targets]
        for mode in plan.modes:
            progress, cost = self._stage(mode), _Cost(self._watcher)
            if mode == "closed":
                found = closed_run(asks, plan.extent, progress)
            else:
                found = [paced_run(asks[0], period_s, plan.extent, progress)]
            for place, samples in enumerate(found):
                runs[place].append(self._run(mode, period_s, samples, cost))
        return runs

    def path(self, target: PathTarget) -> list[list[Run]]:
        """The one run of a whole path, which is paced by nature."""
        control_hz = _control_hz(target)
        replan_ticks = max(1, round((self._plan.period_s or REPLAN_TICKS / control_hz) * control_hz))
        progress, cost = self._stage("path"), _Cost(self._watcher)
        measured = target.play(self._plan.seconds, replan_ticks)
        progress.set(max(1, round(self._plan.seconds)))
        self.path_figures = path_figures(measured)
        return [[self._run("paced", replan_ticks / control_hz, measured.samples, cost)]]

    def _run(self, mode: Mode, period_s: float, samples: Samples, cost: _Cost) -> Run:
        own_ms = overhead_ms() + cost.share() * float(samples.latency_ms.mean())
        period_ms = 1e3 * period_s if mode == "paced" else None
        return Run(mode, period_ms, self._plan.budget_ms, samples, own_ms, self._plan.seconds)

    def _stage(self, name: str) -> Stage:
        return Stage(name, max(1, round(self._plan.seconds)), self._on_progress)


class _Cost:
    """What the watching of the board takes of a processor, from its making on."""

    def __init__(self, watcher: BoardWatcher) -> None:
        self._watcher = watcher
        self._begin_s, self._took_before_s = time.monotonic(), watcher.thread_s

    def share(self) -> float:
        """Of the time until now."""
        return (self._watcher.thread_s - self._took_before_s) / (time.monotonic() - self._begin_s)


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


def _idle(on_progress: ProgressCallback | None) -> tuple[int, int]:
    """Begin and end of a time in which nothing is asked, so that energy can be told net of it."""
    stage = Stage("idle", IDLE_S, on_progress)
    begin_ns = time.monotonic_ns()
    for _ in range(IDLE_S):
        time.sleep(1.0)
        stage.advance()
    return begin_ns, time.monotonic_ns()


def _model(watcher: BoardWatcher) -> str:
    """Of the computer; empty where it could not be read."""
    return watcher.readings[0].state.model if watcher.readings else ""


def _control_hz(target: Target) -> float:
    return target.policy.control_hz or CONTROL_HZ
