"""The result of a bench, and the JSON file that holds it: everything that was measured, and what it was measured of."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, get_args

from pi0_edge.bench.samples import Samples
from pi0_edge.board.state import BoardState
from pi0_edge.errors import BenchError
from pi0_edge.json_files import read_json_object
from pi0_edge.json_values import to_json_values
from pi0_edge.synced_files import save_synced

SCHEMA = "pi0-edge-bench"
VERSION = 1

Mode = Literal["closed", "paced"]


@dataclass(frozen=True)
class PolicyUnderTest:
    """What was measured: no speed is told without this.

    Attributes:
        name: Folder of the bundle, or `random pi0`.
        bundle_sha256: Of the bundle's manifest; empty where the weights are random.
        gate: Verdict of the accuracy gate: `passed`, `failed`, `missing`, or `random weights`.
        overrides: Rules that the user overrode by name.
        scheme: How it is quantized.
        engine: What ran it.
        threads: CPU threads of the engine; None where another process ran it.
        euler_steps: In each chunk.
        cameras: That delivered images.
        tokens: Of the prompt.
        horizon: Actions in a chunk.
        control_hz: Rate of the robot's control loop; None where the bundle does not say.
        trained_delay: Longest frozen prefix, in actions, that the policy was trained with and the engine takes; 0 is
            none.
        protocol: What its server was asked with, `grpc` or `openpi`; empty where no server was asked, and in results
            of releases that knew gRPC alone.
    """

    name: str
    bundle_sha256: str
    gate: str
    overrides: tuple[str, ...]
    scheme: str
    engine: str
    threads: int | None
    euler_steps: int
    cameras: int
    tokens: int
    horizon: int
    control_hz: float | None
    trained_delay: int = 0
    protocol: str = ""


@dataclass(frozen=True)
class Accuracy:
    """The bundle's self-test vectors through what was timed, judged by the thresholds of its gate.

    Attributes:
        passed: Whether they were within the thresholds before and after; None where the bundle has no vectors.
        before: Findings before the timed runs, one sentence each.
        after: And after them.
    """

    passed: bool | None
    before: tuple[str, ...]
    after: tuple[str, ...]


@dataclass(frozen=True)
class WarmUp:
    """What came before the timed runs.

    Attributes:
        over: Whether the latency had become steady.
        samples_ms: Of every chunk of the warm-up, the first one being the cold one.
        load_s: From the begin of loading until the policy could answer, in seconds; None where it ran before.
    """

    over: bool
    samples_ms: tuple[float, ...]
    load_s: float | None


@dataclass(frozen=True)
class Run:
    """One timed run.

    Attributes:
        mode: `closed`: each chunk is asked for when the last is there; `paced`: at due times.
        period_ms: Between two due times; None in a closed run.
        budget_ms: What a chunk may take; None where no limit is known.
        samples: All of them.
        overhead_ms: What the bench itself took for each chunk, in milliseconds of a processor.
        seconds: How long it was to be.
    """

    mode: Mode
    period_ms: float | None
    budget_ms: float | None
    samples: Samples
    overhead_ms: float
    seconds: float = 0.0


@dataclass(frozen=True)
class Reading:
    """The board at one moment of the runs.

    Attributes:
        time_ns: On the clock of `time.monotonic_ns`.
        state: What it said.
    """

    time_ns: int
    state: BoardState


@dataclass(frozen=True)
class ClockCheck:
    """The clock that everything was measured by.

    Attributes:
        name: Of the clock.
        uncertainty_us: Longest time between two readings of it that followed each other, in microseconds.
        problem: In words, such as a suspended machine; empty where there was none.
    """

    name: str
    uncertainty_us: float
    problem: str


@dataclass(frozen=True)
class PathFigures:
    """What the run of a whole path tells besides its samples.

    Attributes:
        uncertainty_ms: Largest bound of the error of the time of a timer interrupt.
        age_p50_ms: Median age of the image behind each executed tick, at its timer interrupt.
        age_p99_ms: 99th percentile of it; None where the ticks are too few.
        age_max_ms: The worst age of information.
        tick_late_p99_ms: How late the timer interrupt was by the board's own counter; None where ticks are too few.
        tick_late_max_ms: The latest.
        starved_ticks: In which the arm ran out of chunks.
        missed_ticks: Whose timer interrupt came a whole tick late.
        not_executed: Accepted chunks that a newer one replaced before their first tick.
        replan_ticks: Ticks between two observations.
        emulated: Whether the arm is.
        held: Whether the arm was held still.
        remarks: What a reader must know, one sentence each.
    """

    uncertainty_ms: float
    age_p50_ms: float
    age_p99_ms: float | None
    age_max_ms: float
    tick_late_p99_ms: float | None
    tick_late_max_ms: float
    starved_ticks: int
    missed_ticks: int
    not_executed: int
    replan_ticks: int
    emulated: bool
    held: bool
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True)
class Verdict:
    """Whether the figures may be told.

    Attributes:
        valid: Whether they may.
        reasons: Why not, one sentence each; empty where they may.
        remarks: What a reader must know although it voids nothing, one sentence each.
    """

    valid: bool
    reasons: tuple[str, ...]
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True)
class BenchResult:
    """Everything about one bench.

    Attributes:
        id: Of this result: 16 hexadecimal digits.
        session: Shared by results whose chunks were taken in turns, whose samples are paired; else the id.
        started: Coordinated universal time, ISO 8601.
        command: What makes such a result again.
        boundary: Name of the `Boundary`.
        policy: What was measured.
        accuracy: Of what was measured.
        software: Package or driver -> version.
        interference: What was run beside it on purpose, one line each.
        warm_up: What came before.
        runs: The timed ones.
        readings: Of the board, in the order of time: the first before the runs, the last after them.
        clock: By which all times were taken.
        estimate_ms: Stage -> what `pi0-edge estimate` expects of this device, in milliseconds; empty where the device
            is not known to it.
        verdict: Whether the figures may be told.
        idle_ns: Begin and end of a time in which nothing was asked, on the clock of `time.monotonic_ns`; None where the
            bench kept none.
        path: Of the whole path, at that boundary; else None.
    """

    id: str
    session: str
    started: str
    command: tuple[str, ...]
    boundary: str
    policy: PolicyUnderTest
    accuracy: Accuracy
    software: Mapping[str, str]
    interference: tuple[str, ...]
    warm_up: WarmUp
    runs: tuple[Run, ...]
    readings: tuple[Reading, ...]
    clock: ClockCheck
    estimate_ms: Mapping[str, float]
    verdict: Verdict
    idle_ns: tuple[int, int] | None = None
    path: PathFigures | None = None

    def run(self, mode: Mode) -> Run | None:
        """The run of a mode; None where there was none."""
        return next((run for run in self.runs if run.mode == mode), None)

    def to_dict(self) -> dict[str, Any]:
        """In types that JSON has, with schema and version."""
        plain = {item.name: getattr(self, item.name) for item in fields(self) if item.name != "runs"}
        runs = [{**_plain(run), "samples": run.samples.to_dict()} for run in self.runs]
        return {"schema": SCHEMA, "version": VERSION, **to_json_values(plain), "runs": runs}

    def save(self, path: Path) -> None:
        """Writes the JSON file, whole or not at all.

        Raises:
            BenchError: If it cannot be written.
        """
        content = json.dumps(self.to_dict(), separators=(",", ":"), allow_nan=False) + "\n"
        try:
            save_synced(path, content.encode())
        except OSError as error:
            raise BenchError(f"{path} cannot be written ({error.strerror})") from error


def load_result(path: Path) -> BenchResult:
    """Reads the JSON file of a result.

    Raises:
        BenchError: If it is none, or of a version that is not known here.
    """
    return parse_result(read_json_object(path, BenchError, "give the .json that `pi0-edge bench` wrote"), str(path))


def parse_result(read: Mapping[str, Any], name: str) -> BenchResult:
    """The result that an object holds; `name` stands in errors.

    Raises:
        BenchError: If it holds none, or one of a version that is not known here.
    """
    if read.get("schema") != SCHEMA or read.get("version") != VERSION:
        found = f"{read.get('schema')} version {read.get('version')}"
        raise BenchError(f"{name} holds {found}, expected {SCHEMA} version {VERSION}; run `pi0-edge bench` again")
    try:
        return BenchResult(
            id=str(read["id"]),
            session=str(read["session"]),
            started=str(read["started"]),
            command=tuple(read["command"]),
            boundary=str(read["boundary"]),
            policy=_made(PolicyUnderTest, read["policy"]),
            accuracy=_made(Accuracy, read["accuracy"]),
            software=dict(read["software"]),
            interference=tuple(read["interference"]),
            warm_up=_made(WarmUp, read["warm_up"]),
            runs=tuple(_run(run) for run in read["runs"]),
            readings=tuple(
                Reading(int(one["time_ns"]), BoardState.from_dict(one["state"])) for one in read["readings"]
            ),
            clock=_made(ClockCheck, read["clock"]),
            estimate_ms={str(name): float(value) for name, value in read["estimate_ms"].items()},
            verdict=_made(Verdict, read["verdict"]),
            idle_ns=_pair(read.get("idle_ns")),
            path=None if read.get("path") is None else _made(PathFigures, read["path"]),
        )
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise BenchError(f"{name} is incomplete ({error!r}); run `pi0-edge bench` again") from error


def _plain(run: Run) -> dict[str, Any]:
    return {item.name: getattr(run, item.name) for item in fields(run) if item.name != "samples"}


def _run(read: Mapping[str, Any]) -> Run:
    if read["mode"] not in get_args(Mode):
        raise ValueError(f"a run is {read['mode']!r}, expected one of {', '.join(get_args(Mode))}")
    return Run(**{**read, "samples": Samples.from_dict(read["samples"])})


def _pair(read: Any) -> tuple[int, int] | None:
    if read is None:
        return None
    begin, end = read
    return int(begin), int(end)


def _made(kind: Any, read: Mapping[str, Any]) -> Any:
    """A dataclass of plain values, its lists as tuples."""
    return kind(**{name: tuple(value) if isinstance(value, list) else value for name, value in read.items()})
