"""What the board said of itself, before, during and after: nothing is lost, and what changed is marked."""

from __future__ import annotations

from dataclasses import replace

from bench_results import BEGIN_NS, readings, void_result

from pi0_edge.bench.report.board_rows import BoardRow, board_rows, busiest_processes
from pi0_edge.bench.result import Reading
from pi0_edge.bench.spans import Span
from pi0_edge.board.state import BoardState


def named(found: tuple[BoardRow, ...]) -> dict[str, BoardRow]:
    rows = {row.name: row for row in found}
    assert len(rows) == len(found)
    return rows


def with_state(*states: BoardState) -> list[Reading]:
    return [Reading(k * 10**9, state) for k, state in enumerate(states)]


def test_a_board_that_was_not_read_has_no_rows() -> None:
    assert board_rows(()) == ()
    assert board_rows(with_state(BoardState(), BoardState())) == ()


def test_every_name_that_the_board_tells_has_a_row() -> None:
    found = readings(100.0)
    rows = named(board_rows(found, [Span(BEGIN_NS, BEGIN_NS + 100 * 10**9)]))
    state = found[0].state
    for part in (state.clocks_mhz, state.temperatures_c, state.rails_mw, state.over_current_events, state.governors):
        for name in part:
            assert any(name in row.split() for row in rows), name
    power = rows["power of VDD_GPU_SOC"]
    assert (power.before, power.after) == ("6.1 W", "6.1 W")
    assert power.during == "21.2 to 22.6 W", "at work, without the rest before and after"
    assert named(board_rows(found))["power of VDD_GPU_SOC"].during == "6.1 to 22.6 W", "where the runs are not known"


def test_a_changed_power_mode_is_marked_with_both_modes() -> None:
    states = [BoardState(power_mode=mode) for mode in ("0 MAXN", "0 MAXN", "2 30W", "2 30W")]
    row = named(board_rows(with_state(*states)))["power mode"]
    assert row == BoardRow("power mode", "0 MAXN", "0 MAXN, then 2 30W", "2 30W", changed=True)


def test_an_alert_between_two_calm_readings_is_marked() -> None:
    row = named(board_rows(void_result().readings))["alerts"]
    assert row == BoardRow("alerts", "none", "cpu-throttle-alert", "none", changed=True)
    calm = named(board_rows(readings(100.0)))["alerts"]
    assert calm == BoardRow("alerts", "none", "none", "none")


def test_counters_tell_their_growth() -> None:
    states = [
        BoardState(over_current_events={"oc1": count}, energy_uj={"package-0": count * 10**6}) for count in (5, 9)
    ]
    rows = named(board_rows(with_state(*states)))
    assert rows["over-current events oc1"] == BoardRow("over-current events oc1", "5", "+4", "9")
    assert rows["energy of package-0"].during == "+4 J"


def test_work_of_others_is_what_the_bench_did_not_do() -> None:
    states = [BoardState(cpu_busy_s=10.0, cpu_own_s=4.0), BoardState(cpu_busy_s=14.0, cpu_own_s=7.0)]
    rows = named(board_rows([Reading(0, states[0]), Reading(2 * 10**9, states[1])]))
    assert rows["processors busy with the bench"].during == "1.5"
    assert rows["processors busy with others"].during == "0.5"


def test_processes_are_told_by_what_they_worked_meanwhile() -> None:
    first = BoardState(busiest={"old 1": 500.0, "browser 2": 10.0})
    last = BoardState(busiest={"old 1": 500.0, "browser 2": 14.0, "new 3": 1.0})
    assert busiest_processes(with_state(first, last)) == [("browser 2", 4.0), ("new 3", 1.0)]
    assert busiest_processes(with_state(first)) == []


def test_words_of_others_do_nothing() -> None:
    hostile = replace(BoardState(), model="a\x1b[2J\u202e", governors={"p\x00": "g\ud800"})
    rows = board_rows(with_state(hostile))
    assert all(text.isprintable() for row in rows for text in (row.name, row.before, row.during, row.after))
