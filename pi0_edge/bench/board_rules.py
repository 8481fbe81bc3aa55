"""What the board did during the runs that voids them, and what a reader must know about it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from pi0_edge.bench.result import Reading, Run
from pi0_edge.bench.spans import Span, around, junction, span_of
from pi0_edge.board.state import BoardState

STEADY_S = 300.0
"""A run that is at least so long calls itself steady."""
MOST_CLIMB_K_PER_MIN = 1.0
"""Of the junction temperature at the end of a steady run."""
MOST_SWAP_GROWTH_BYTES = 1 << 20
MOST_OTHER_SHARE = 0.05
"""Of one processor, that any other process may take."""
MOST_UNNAMED_SHARE = 0.20
"""Of one processor, that all processes together may take which ended before anybody could name them."""
FEWEST_FORKS_PER_S = 1.0
"""Below so many new processes and threads, what nobody named is an error of the kernel's own sampling."""
LONGEST_GAP_S = 10.0
"""Between two readings in a run: throttling could pass unseen in a longer one."""

_END_OF_RUN_S = 120.0
_PINNED = 1.001
_EVENTS = {"oc1": "under-voltage", "oc2": "average over-current"}


def board_reasons(readings: Sequence[Reading], runs: Sequence[Run]) -> Iterator[str]:
    """Why the state of the board voids the runs, one sentence each.

    Args:
        readings: In the order of time.
        runs: The timed ones.
    """
    timed = [run for run in runs if len(run.samples)]
    if not timed:
        return
    whole = around(_whole(readings), _span_of_all(timed))
    for run in timed:
        yield from _gap(readings, run)
    yield from _changes(whole)
    yield from _throttling(around(readings, _span_of_all(timed)))
    yield from _counters(whole)
    for run in timed:
        yield from _climbing(readings, run)
        yield from _others(readings, run)
    yield from _swap(whole)


def board_remarks(readings: Sequence[Reading], runs: Sequence[Run]) -> Iterator[str]:
    """What a reader must know of the board although it voids nothing, one sentence each.

    Args:
        readings: In the order of time.
        runs: The timed ones.
    """
    timed = [run for run in runs if len(run.samples)]
    if not timed:
        return
    whole = around(_whole(readings), _span_of_all(timed))
    if not whole:
        yield "this computer says nothing of its state (no Linux): what disturbed the runs is not known"
        return
    states = [reading.state for reading in whole]
    yield from _clock_remarks(states)
    if not any(state.rails_mw or state.energy_uj for state in states):
        yield "this computer tells no power (no INA3221 or INA238, RAPL only for root): no energy is told"
    if not any(state.temperatures_c for state in states):
        yield "this computer tells no temperatures: whether it throttled is not known"
    yield from _instantaneous_over_current(whole)
    yield from _short_runs(timed, states)
    yield from _stolen(whole)
    for run in timed:
        if len(_looks(readings, run)) < 2:
            yield f"nobody looked at other processes during the {run.mode} run: what they took is not known"


def _span_of_all(runs: Sequence[Run]) -> Span:
    spans = [span_of(run) for run in runs]
    return Span(min(span.begin_ns for span in spans), max(span.end_ns for span in spans))


def _whole(readings: Sequence[Reading]) -> list[Reading]:
    """Without those of rails, energy counters and alerts alone: they do not even name the kernel."""
    return [reading for reading in readings if reading.state.kernel]


def _looks(readings: Sequence[Reading], run: Run) -> list[Reading]:
    """Readings around a run in which all processes were looked at."""
    return around([reading for reading in readings if reading.state.cpu_own_s is not None], span_of(run))


def _gap(readings: Sequence[Reading], run: Run) -> Iterator[str]:
    span = span_of(run)
    times = [reading.time_ns for reading in around(readings, span)]
    if not times:
        yield f"the board was never read during the {run.mode} run; expected every {LONGEST_GAP_S:g} s at least"
        return
    edges = np.clip([span.begin_ns, *times, span.end_ns], span.begin_ns, span.end_ns)
    longest = float(np.diff(edges).max()) * 1e-9
    if longest > LONGEST_GAP_S:
        yield (
            f"the board was not read for {longest:.3g} s of the {run.mode} run; expected every {LONGEST_GAP_S:g} s at "
            "least, or throttling can pass unseen"
        )


def _changes(readings: Sequence[Reading]) -> Iterator[str]:
    """Everything that has to stay as it was, each told once."""
    states = [reading.state for reading in readings]
    if not states:
        return
    words: tuple[tuple[str, Callable[[BoardState], str]], ...] = (
        ("start of the computer", lambda state: state.boot_id),
        ("power mode", lambda state: state.power_mode),
    )
    for name, of in words:
        yield from _changed(f"the {name}", [of(state) for state in states], "{}")
    for clock in states[0].governors:
        values = [state.governors.get(clock, "nothing") for state in states]
        yield from _changed(f"the governor of {clock}", values, "{}")
    for clock in states[0].clock_limits_mhz:
        values = [state.clock_limits_mhz.get(clock, 0.0) for state in states]
        yield from _changed(f"the highest allowed clock of {clock}", values, "{:g} MHz")


def _changed(name: str, values: Sequence[object], form: str) -> Iterator[str]:
    other = next((value for value in values if value != values[0]), None)
    if other is not None:
        yield f"{name} changed from {form.format(values[0])} to {form.format(other)}; expected no change"


def _throttling(readings: Sequence[Reading]) -> Iterator[str]:
    for alert in sorted({alert for reading in readings for alert in reading.state.throttling}):
        found = [reading for reading in readings if alert in reading.state.throttling]
        after_s = (found[0].time_ns - readings[0].time_ns) * 1e-9
        hottest = max((junction(reading.state)[1] for reading in readings), default=float("nan"))
        heat = f", at up to {hottest:.3g} °C" if np.isfinite(hottest) else ""
        yield (
            f"{alert} was active in {len(found)} of {len(readings)} readings, first after {after_s:.3g} s{heat}; "
            "expected in none"
        )


def _counters(readings: Sequence[Reading]) -> Iterator[str]:
    for counter, meaning in _EVENTS.items():
        first, last = _ends(readings, lambda state, name=counter: state.over_current_events.get(name))
        if first is not None and last is not None and last > first:
            yield f"{counter} ({meaning}) rose from {first:g} to {last:g} during the runs; expected no event"
    for package in sorted({name for reading in readings for name in reading.state.throttle_counts}):
        first, last = _ends(readings, lambda state, name=package: state.throttle_counts.get(name))
        if first is not None and last is not None and last > first:
            yield f"{package} slowed down for heat {last - first:g} times during the runs; expected never"


def _climbing(readings: Sequence[Reading], run: Run) -> Iterator[str]:
    span = span_of(run)
    if span.seconds < STEADY_S:
        return
    begin_ns = span.end_ns - _END_OF_RUN_S * 1e9
    rows = [
        ((reading.time_ns - begin_ns) * 1e-9 / 60, junction(reading.state)[1])
        for reading in readings
        if begin_ns <= reading.time_ns <= span.end_ns and reading.state.temperatures_c
    ]
    if len(rows) < 3:
        return
    minutes, degrees = np.array(rows).T
    slope = float(np.polyfit(minutes, degrees, 1)[0])
    if slope > MOST_CLIMB_K_PER_MIN:
        yield (
            f"the junction temperature still rose by {slope:.3g} K a minute at the end of the {run.mode} run of "
            f"{span.seconds / 60:.3g} minutes, to {degrees[-1]:.3g} °C; expected {MOST_CLIMB_K_PER_MIN:g} K a minute "
            "at most"
        )


def _swap(readings: Sequence[Reading]) -> Iterator[str]:
    first, last = _ends(readings, lambda state: state.swap_used_bytes)
    if first is not None and last is not None and last - first > MOST_SWAP_GROWTH_BYTES:
        mib = 1 << 20
        yield (
            f"used swap grew from {first / mib:.4g} to {last / mib:.4g} MiB during the runs; expected less than "
            f"{MOST_SWAP_GROWTH_BYTES / mib:g} MiB more"
        )


def _others(readings: Sequence[Reading], run: Run) -> Iterator[str]:
    """Other processes, by name where they could be named."""
    looked = _looks(readings, run)
    if len(looked) < 2:
        return
    first, last = looked[0].state, looked[-1].state
    seconds = (looked[-1].time_ns - looked[0].time_ns) * 1e-9
    taken = {name: took - first.busiest.get(name, 0.0) for name, took in last.busiest.items()}
    processes = {name: took for name, took in taken.items() if not name.startswith("[")}
    for name, took in sorted(processes.items(), key=lambda one: -one[1]):
        if took / seconds > MOST_OTHER_SHARE:
            process, _, number = name.rpartition(" ")
            yield (
                f"another process, {process} ({number}), took {100 * took / seconds:.3g} % of a processor during the "
                f"{run.mode} run; expected {100 * MOST_OTHER_SHARE:g} % at most"
            )
    unnamed = _grown(first, last) - sum(taken.values())
    forks = None if None in (first.forks, last.forks) else (last.forks or 0) - (first.forks or 0)
    if unnamed / seconds > MOST_UNNAMED_SHARE and (forks is None or forks / seconds >= FEWEST_FORKS_PER_S):
        yield (
            f"processes that ended before they could be named took {100 * unnamed / seconds:.3g} % of a processor "
            f"during the {run.mode} run; expected {100 * MOST_UNNAMED_SHARE:g} % at most"
        )


def _grown(first: BoardState, last: BoardState) -> float:
    """Seconds of a processor that others than the measurement took."""
    if None in (first.cpu_busy_s, last.cpu_busy_s, first.cpu_own_s, last.cpu_own_s):
        return 0.0
    busy = (last.cpu_busy_s or 0.0) - (first.cpu_busy_s or 0.0)
    return busy - ((last.cpu_own_s or 0.0) - (first.cpu_own_s or 0.0))


def _clock_remarks(states: Sequence[BoardState]) -> Iterator[str]:
    first = states[0]
    slow = [
        f"{name} {governor}"
        for name, governor in first.governors.items()
        if name.startswith("policy") and governor != "performance"
    ]
    if slow:
        yield f"the governor of the processors is not performance ({', '.join(slow)}): their clocks follow the load"
    loose = [
        f"{name} {lowest:g} to {first.clock_limits_mhz[name]:g} MHz"
        for name, lowest in first.lowest_clocks_mhz.items()
        if name != "memory" and first.clock_limits_mhz.get(name, 0.0) > lowest * _PINNED
    ]
    if loose:
        yield f"clocks were not pinned ({', '.join(loose)}): on a Jetson, `sudo jetson_clocks` pins them"
    if not first.clock_limits_mhz:
        yield "this computer does not tell its clocks, as is usual for a virtual machine"


def _instantaneous_over_current(readings: Sequence[Reading]) -> Iterator[str]:
    first, last = _ends(readings, lambda state: state.over_current_events.get("oc3"))
    seconds = (readings[-1].time_ns - readings[0].time_ns) * 1e-9
    if first is not None and last is not None and last > first and seconds > 0:
        rose = last - first
        yield (
            f"oc3 (instantaneous over-current) rose by {rose:g}, {rose / seconds:.3g} a second: usual in the fastest "
            "power modes, and without an effect on latency"
        )


def _short_runs(runs: Sequence[Run], states: Sequence[BoardState]) -> Iterator[str]:
    if not any(state.temperatures_c for state in states):
        return
    longest = max(span_of(run).seconds for run in runs)
    if longest < STEADY_S:
        zone, before = junction(states[0])
        after = junction(states[-1])[1]
        yield (
            f"the longest run took {longest:.3g} s; a temperature that stays is told of {STEADY_S / 60:g} minutes and "
            f"more ({zone} went from {before:.3g} to {after:.3g} °C)"
        )


def _stolen(readings: Sequence[Reading]) -> Iterator[str]:
    first, last = _ends(readings, lambda state: state.cpu_stolen_s)
    seconds = (readings[-1].time_ns - readings[0].time_ns) * 1e-9
    if first is not None and last is not None and seconds > 0 and (last - first) / seconds > MOST_OTHER_SHARE:
        yield (
            f"the hypervisor gave {100 * (last - first) / seconds:.3g} % of a processor to other machines during the "
            "runs: what they did is in the latencies"
        )


def _ends(readings: Sequence[Reading], of: Callable[[BoardState], float | None]) -> tuple[float | None, float | None]:
    """Its first and its last value that was told."""
    told = [value for reading in readings if (value := of(reading.state)) is not None]
    return (told[0], told[-1]) if told else (None, None)
