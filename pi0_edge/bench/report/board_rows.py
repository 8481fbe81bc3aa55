"""The state of the board before, during and after the runs, one row for each thing that it says of itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from pi0_edge.bench.report.wording import plain
from pi0_edge.bench.result import Reading
from pi0_edge.bench.spans import Span
from pi0_edge.board.state import BoardState

_WORDS = (
    ("model", "board"),
    ("release", "system"),
    ("kernel", "kernel"),
    ("power_mode", "power mode"),
    ("boot_id", "start of the computer"),
)
_NUMBERS = (
    ("clocks_mhz", "clock of", "MHz", 1.0),
    ("clock_limits_mhz", "highest allowed clock of", "MHz", 1.0),
    ("temperatures_c", "temperature of", "°C", 1.0),
    ("rails_mw", "power of", "W", 1e-3),
    ("fan_rpm", "fan", "a minute", 1.0),
)
_COUNTERS = (("over_current_events", "over-current events", "", 1.0), ("energy_uj", "energy of", "J", 1e-6))
_MIB = 1 / (1 << 20)
_BUSIEST = 5


@dataclass(frozen=True)
class BoardRow:
    """One thing that the board says of itself.

    Attributes:
        name: What it is.
        before: In the first reading.
        during: In those between, as a range or as all different words; of a counter its growth.
        after: In the last reading.
        changed: Whether words differ, or an alert was there; numbers always differ a little.
    """

    name: str
    before: str
    during: str
    after: str
    changed: bool = False


def board_rows(readings: Sequence[Reading], spans: Sequence[Span] = ()) -> tuple[BoardRow, ...]:
    """Every row that at least one reading has something for.

    Args:
        readings: In the order of time.
        spans: Of the runs. The range of a number during them is that of the readings in them; where there is none,
            that of all readings but the first and the last.
    """
    if not readings:
        return ()
    states = [reading.state for reading in readings]
    inside = [
        reading.state for reading in readings if any(span.begin_ns <= reading.time_ns <= span.end_ns for span in spans)
    ]
    during = [states[0], *(inside or states[1:-1]), states[-1]]
    rows = [_words(label, [getattr(state, field) for state in states]) for field, label in _WORDS]
    rows += [
        _words(f"governor of {plain(name)}", [state.governors.get(name, "") for state in states])
        for name in _names(states, lambda state: state.governors)
    ]
    rows.append(_alerts(states))
    for field, label, unit, scale in _NUMBERS:
        rows += _of_each(during, lambda state, field=field: getattr(state, field), label, unit, scale, _range)
    rows.append(_range("memory available", [_bytes(state.memory_available_bytes) for state in during], "MiB"))
    rows.append(_range("swap used", [_bytes(state.swap_used_bytes) for state in during], "MiB"))
    for field, label, unit, scale in _COUNTERS:
        rows += _of_each(states, lambda state, field=field: getattr(state, field), label, unit, scale, _growth)
    rows += _load(readings)
    return tuple(row for row in rows if row.before or row.during or row.after)


def busiest_processes(readings: Sequence[Reading]) -> list[tuple[str, float]]:
    """Other processes that worked most between the first and the last reading, with their seconds of a processor."""
    if len(readings) < 2:
        return []
    first, last = readings[0].state.busiest, readings[-1].state.busiest
    grown = [(name, seconds - first.get(name, 0.0)) for name, seconds in last.items()]
    return sorted(((name, grew) for name, grew in grown if grew > 0), key=lambda pair: -pair[1])[:_BUSIEST]


def _words(name: str, values: Sequence[str]) -> BoardRow:
    seen = [plain(value) for value in values]
    between = list(dict.fromkeys(value for value in seen[1:-1] if value))
    changed = len({value for value in seen if value}) > 1
    return BoardRow(name, seen[0], ", then ".join(between), seen[-1], changed)


def _alerts(states: Sequence[BoardState]) -> BoardRow:
    def told(alerts: Sequence[str]) -> str:
        return ", ".join(sorted({plain(alert) for alert in alerts})) or "none"

    between = [alert for state in states[1:-1] for alert in state.throttling]
    changed = any(state.throttling for state in states)
    known = changed or any(state.temperatures_c for state in states)
    if not known:
        return BoardRow("alerts", "", "", "")
    return BoardRow("alerts", told(states[0].throttling), told(between), told(states[-1].throttling), changed)


def _of_each(
    states: Sequence[BoardState],
    of: Callable[[BoardState], Mapping[str, float]],
    label: str,
    unit: str,
    scale: float,
    row: Callable[[str, Sequence[float | None], str], BoardRow],
) -> list[BoardRow]:
    rows: list[BoardRow] = []
    for name in _names(states, of):
        values = [of(state).get(name) for state in states]
        scaled = [None if value is None else value * scale for value in values]
        rows.append(row(f"{label} {plain(name)}", scaled, unit))
    return rows


def _range(name: str, values: Sequence[float | None], unit: str) -> BoardRow:
    between = [value for value in values[1:-1] if value is not None]
    during = ""
    if between:
        low, high = _number(min(between)), _number(max(between))
        during = f"{low} {unit}" if low == high else f"{low} to {high} {unit}"
    return BoardRow(name, _with_unit(values[0], unit), during, _with_unit(values[-1], unit))


def _growth(name: str, values: Sequence[float | None], unit: str) -> BoardRow:
    first, last = values[0], values[-1]
    during = "" if first is None or last is None or len(values) < 2 else f"+{_number(last - first)} {unit}".rstrip()
    return BoardRow(name, _with_unit(first, unit), during, _with_unit(last, unit))


def _load(readings: Sequence[Reading]) -> list[BoardRow]:
    first, last = readings[0], readings[-1]
    seconds = (last.time_ns - first.time_ns) * 1e-9
    busy = _grown(first.state.cpu_busy_s, last.state.cpu_busy_s)
    own = _grown(first.state.cpu_own_s, last.state.cpu_own_s)
    if busy is None or own is None or seconds <= 0:
        return []
    work = (("processors busy with the bench", own), ("processors busy with others", max(busy - own, 0.0)))
    return [BoardRow(name, "", _number(spent / seconds), "") for name, spent in work]


def _grown(first: float | None, last: float | None) -> float | None:
    return None if first is None or last is None else last - first


def _names(states: Sequence[BoardState], of: Callable[[BoardState], Mapping[str, object]]) -> list[str]:
    return sorted({name for state in states for name in of(state)})


def _bytes(value: int | None) -> float | None:
    return None if value is None else value * _MIB


def _with_unit(value: float | None, unit: str) -> str:
    return "" if value is None else f"{_number(value)} {unit}".rstrip()


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
