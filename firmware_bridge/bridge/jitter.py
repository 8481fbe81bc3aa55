"""The jitter test: how late a thread with the settings of the bridge wakes up, and how evenly the firmware ticks.

The two are not the same. The thread is the host's, and what it does late (a heartbeat, a chunk) the firmware bridges
with the setpoints that it holds. The ticks are the microcontroller's timer interrupt by the microcontroller's own
counter, and no load of the host reaches them. On an emulated board, a process of this machine, they are the emulator's.
"""

import json
import re
import shutil
import subprocess
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from firmware_bridge.bridge.thread_settings import ThreadSettings
from firmware_bridge.bridge.wake_ups import command
from firmware_bridge.client import BridgeClient, Tick
from firmware_bridge.errors import BridgeError, LinkError
from pi0_edge.errors import BenchError
from pi0_edge.latency.percentiles import Latency, fewest_samples

INTERVAL_US = 1000
"""As `cyclictest` has it."""

NOTHING = ThreadSettings()

COLUMNS = ("what", "n", "p50, µs", "p90, µs", "p99, µs", "p99.9, µs", "max, µs")
TICKS_REMARK = (
    "the ticks are the firmware's timer interrupt by the firmware's own counter; on an emulated board they are those "
    "of the emulator, a process of this machine"
)

_START_S = 10.0
_PERCENTILES = {"p90_ms": 0.9, "p99_ms": 0.99, "p999_ms": 0.999}
_BUCKETS_US = [step * 10**power for power in range(7) for step in (1, 2, 5)]
_CYCLICTEST = re.compile(r"C:\s*(\d+) Min:\s*(\d+) Act:\s*\d+ Avg:\s*(\d+) Max:\s*(\d+)")


@dataclass(frozen=True)
class TickJitter:
    """How evenly the firmware ticked, by its counter.

    Attributes:
        late: After the due time of each tick, against the earliest of them.
        shortest_ms: Between two consecutive ticks.
        longest_ms: The same.
        period_ms: What lies between them nominally.
        missing: Ticks between the first and the last that no telemetry came of.
        counter_hz: Frequency of the counter: no figure is finer than one count.
    """

    late: Latency
    shortest_ms: float
    longest_ms: float
    period_ms: float
    missing: int
    counter_hz: int

    @classmethod
    def of(cls, ticks: Sequence[tuple[int, int]], counter_hz: int, period_us: int) -> "TickJitter":
        """Of at least two ticks, each with the counter at its begin; of those since the firmware's last start.

        Raises:
            LinkError: There are no two consecutive ones.
        """
        number, counted = np.array(ticks, np.int64).reshape(-1, 2).T
        starts = np.flatnonzero(np.diff(number) <= 0)
        first = int(starts[-1]) + 1 if starts.size else 0
        number, counted = number[first:], counted[first:]
        periods = np.diff(counted)[np.diff(number) == 1] / counter_hz * 1e3
        if not periods.size:
            raise LinkError(f"{len(ticks)} ticks came from the bridge, expected consecutive ones; is its link up?")
        late = counted - number * (counter_hz * period_us // 1_000_000)  # in counts, as the firmware rounds a period
        return cls(
            late=Latency.of(((late - late.min()) / counter_hz * 1e3).tolist()),
            shortest_ms=float(periods.min()),
            longest_ms=float(periods.max()),
            period_ms=period_us * 1e-3,
            missing=int(number[-1] - number[0] + 1 - len(number)),
            counter_hz=counter_hz,
        )


class Cyclictest(NamedTuple):
    """What `cyclictest` itself said, in microseconds."""

    cycles: int
    min_us: int
    mean_us: int
    max_us: int


@dataclass(frozen=True)
class JitterResult:
    """What a jitter test found.

    Attributes:
        interval_us: Between two due times.
        settings: That the thread had.
        lateness_ns: int64 [n], how long after each due time it went on, in their order.
        ticks: Of the firmware in the same period; None where no bridge was given.
        cyclictest: Of the same thread settings and interval, afterwards; None where it was not run.
    """

    interval_us: int
    settings: ThreadSettings
    lateness_ns: NDArray[np.int64]
    ticks: TickJitter | None = None
    cyclictest: Cyclictest | None = None

    @property
    def wake_ups(self) -> Latency:
        """How late they were. They depend on each other, within a stall: the more so, the less a percentile says."""
        return Latency.of((self.lateness_ns * 1e-6).tolist())

    @property
    def histogram(self) -> dict[int, int]:
        """Whole microseconds of lateness -> wake-ups."""
        return dict(sorted(Counter((self.lateness_ns // 1000).tolist()).items()))

    def worst(self, count: int = 10) -> list[tuple[float, float]]:
        """Seconds after the begin and microseconds of the latest wake-ups, in their order; a stall counts once."""
        stalls = np.flatnonzero(self._begins_late())
        latest = stalls[np.argsort(self.lateness_ns[stalls], kind="stable")[::-1][:count]]
        return [
            (place * self.interval_us / 1e6, int(self.lateness_ns[place]) / 1000) for place in sorted(latest.tolist())
        ]

    def to_dict(self) -> dict[str, Any]:
        """In types that JSON has; the histogram holds every wake-up, to a microsecond."""
        return {
            "interval_us": self.interval_us,
            "settings": self.settings.to_dict(),
            "wake_ups_us": _in_us(self.wake_ups),
            "histogram_us": {str(late): count for late, count in self.histogram.items()},
            "worst": [{"at_s": at_s, "late_us": late_us} for at_s, late_us in self.worst()],
            "ticks": None if self.ticks is None else _tick_values(self.ticks),
            "cyclictest_us": None if self.cyclictest is None else self.cyclictest._asdict(),
        }

    def rows(self) -> list[tuple[object, ...]]:
        """Of a table with `COLUMNS`."""
        rows = [("thread of the host", *_cells(self.wake_ups))]
        if self.cyclictest is not None:
            cycles, _, mean_us, max_us = self.cyclictest
            rows.append(("cyclictest, afterwards", cycles, f"mean {mean_us}", "", "", "", float(max_us)))
        if self.ticks is not None:
            rows.append(("ticks of the firmware", *_cells(self.ticks.late)))
        return rows

    def histogram_rows(self) -> list[tuple[str, int]]:
        """Wake-ups by lateness, in steps of 1, 2, 5, 10 … microseconds, from the first that has some to the last."""
        counts = np.histogram(self.lateness_ns // 1000, [-1, *_BUCKETS_US, np.inf])[0]
        names = [f"below {limit} µs" for limit in _BUCKETS_US] + [f"{_BUCKETS_US[-1]} µs and more"]
        some = np.flatnonzero(counts)
        return [(names[place], int(counts[place])) for place in range(some[0], some[-1] + 1)]

    def _begins_late(self) -> NDArray[np.bool_]:
        """Whether the lateness of each wake-up is its own, and not merely what the one before it left."""
        left = np.concatenate(([0], self.lateness_ns[:-1] - self.interval_us * 1000))
        return (left <= 0) | (self.lateness_ns > left + self.interval_us * 500)


def measure_jitter(
    seconds: float,
    interval_us: int = INTERVAL_US,
    bridge: BridgeClient | None = None,
    started_with: ThreadSettings = NOTHING,
    *,
    with_cyclictest: bool = False,
) -> JitterResult:
    """Measures how late a thread of a process of its own wakes up, and the ticks of a running bridge meanwhile.

    The thread asks for what the bridge asks for; `JitterResult.settings` says what it got.

    Args:
        seconds: How long. Without load, 10 of them prove nothing (docs/real-time.md).
        interval_us: Between two due times, in microseconds.
        bridge: A client of the bridge whose ticks are watched, if any.
        started_with: What whoever starts the bridge gives it, such as the priority in a drop-in of its unit.
        with_cyclictest: Run `cyclictest` afterwards, for as long, if it is installed.

    Raises:
        BenchError: Fewer than two wake-ups were asked for, or `started_with` is not allowed here.
        LinkError: The bridge does not answer, or no ticks come from it.
    """
    count = round(seconds * 1e6 / interval_us) if interval_us > 0 else 0
    if count < 2:
        raise BenchError(f"{seconds:g} s at an interval of {interval_us} µs; give at least two intervals")
    argv = command(count, interval_us, started_with)
    if bridge is None:
        (had, lateness_ns), ticks = run_wake_ups(argv), None
    else:
        period_us = round(bridge.status().tick_period_s * 1e6)
        with watched_ticks(bridge) as seen:
            had, lateness_ns = run_wake_ups(argv)
        ticks = TickJitter.of([(tick.tick, tick.counter) for tick in seen], _counter_hz(seen), period_us)
    reference = cyclictest(seconds, interval_us, had) if with_cyclictest else None
    return JitterResult(interval_us, had, lateness_ns, ticks, reference)


def cyclictest(seconds: float, interval_us: int, settings: ThreadSettings) -> Cyclictest | None:
    """Runs `cyclictest` of rt-tests with one thread.

    Args:
        seconds: How long; whole seconds, at least one.
        interval_us: Between two due times, in microseconds.
        settings: Of its thread; it has no niceness.

    Returns:
        What it said; None where it is not installed.

    Raises:
        BenchError: It ended with an error.
    """
    program = shutil.which("cyclictest")
    if program is None:
        return None
    argv = [program, "--quiet", "--threads=1", f"--interval={interval_us}", f"--duration={max(1, round(seconds))}"]
    argv += ["--laptop"]  # else it keeps the processors from idling, which the bridge does not
    argv += [f"--priority={settings.priority}"] if settings.priority else ["--policy=other"]
    argv += [f"--affinity={','.join(map(str, sorted(settings.cpus)))}"] if settings.cpus else []
    argv += ["--mlockall"] if settings.lock_memory else []
    ran = subprocess.run(argv, capture_output=True, text=True, timeout=seconds + _START_S, check=False)
    found = _CYCLICTEST.search(ran.stdout)
    if ran.returncode or found is None:
        said = (ran.stderr or ran.stdout).strip()[-200:]
        raise BenchError(f"`{' '.join(argv)}` ended with {ran.returncode} ({said}); run it by hand")
    return Cyclictest(*map(int, found.groups()))


def run_wake_ups(argv: Sequence[str]) -> tuple[ThreadSettings, NDArray[np.int64]]:
    """Runs the command of a measuring process (`wake_ups.command`).

    Returns:
        The settings that it had, and int64 [n], nanoseconds after each due time.

    Raises:
        BenchError: It could not take the settings that it was to start with, or was ended from outside.
    """
    root = Path(__file__).parents[2]  # so that `-m firmware_bridge...` is found without an installation
    child = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=root)
    try:
        written, problem = child.communicate()
    finally:
        if child.poll() is None:
            child.kill()
            child.wait()
    if child.returncode:
        said = problem.decode(errors="replace").strip()
        raise BenchError(said or f"the process that measures ended with {child.returncode}; run the test again")
    had, _, lateness = written.partition(b"\n")
    return ThreadSettings.from_dict(json.loads(had)), np.frombuffer(lateness, np.int64)


@contextmanager
def watched_ticks(bridge: BridgeClient) -> Iterator[list[Tick]]:
    """The ticks that come while the context lasts, complete when it has ended.

    Raises:
        BridgeError: At the end, if the bridge went away.
    """
    seen: list[Tick] = []
    problems: list[BridgeError] = []

    def collect(ticks: Iterator[Tick]) -> None:
        try:
            seen.extend(ticks)
        except BridgeError as error:
            problems.append(error)

    with bridge.telemetry() as ticks:
        thread = threading.Thread(target=collect, args=(ticks,), name="jitter-ticks", daemon=True)
        thread.start()
        yield seen
    thread.join()
    if problems:
        raise problems[0]


def _counter_hz(ticks: Sequence[Tick]) -> int:
    if not ticks:
        raise LinkError("no tick came from the bridge; is its link to the firmware up? `pi0-edge bridge` says it")
    return ticks[-1].counter_hz


def _cells(figures: Latency) -> tuple[object, ...]:
    percentiles = [
        f"not enough: {figures.count} of {fewest_samples(share)}"
        if (value := getattr(figures, name)) is None
        else value
        for name, share in _PERCENTILES.items()
    ]
    in_us = [value * 1e3 if isinstance(value, float) else value for value in percentiles]
    return (figures.count, figures.p50_ms * 1e3, *in_us, figures.max_ms * 1e3)


def _in_us(figures: Latency) -> dict[str, float | None]:
    values = figures.to_dict()
    return {name: value if value is None or name == "n" else value * 1e3 for name, value in values.items()}


def _tick_values(ticks: TickJitter) -> dict[str, Any]:
    return {
        "late_us": _in_us(ticks.late),
        "shortest_ms": ticks.shortest_ms,
        "longest_ms": ticks.longest_ms,
        "period_ms": ticks.period_ms,
        "missing": ticks.missing,
        "counter_hz": ticks.counter_hz,
        "remark": TICKS_REMARK,
    }
