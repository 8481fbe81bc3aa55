"""Energy against power curves whose integral is known, and counters that begin again at zero."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from judged_results import BEGIN_NS, latencies, result_of, run_of

from pi0_edge.bench.energy import FEWEST_READINGS, SHORTEST_IDLE_S, Energy, energies, energies_of_run
from pi0_edge.bench.result import Reading
from pi0_edge.bench.spans import Span
from pi0_edge.board.state import BoardState

RANGE = 262_143_328_850


def nanoseconds(seconds: float) -> int:
    return BEGIN_NS + round(seconds * 1e9)


def span(begin_s: float, end_s: float) -> Span:
    return Span(nanoseconds(begin_s), nanoseconds(end_s))


def with_rails(watts: Callable[[float], dict[str, float]], times_s: np.ndarray) -> list[Reading]:
    return [
        Reading(nanoseconds(time), BoardState(rails_mw={name: 1000 * value for name, value in watts(time).items()}))
        for time in times_s
    ]


def with_counter(joules: Callable[[float], float], times_s: np.ndarray, ranges: bool = True) -> list[Reading]:
    """Of a counter that shows at most `RANGE` microjoules."""
    return [
        Reading(
            nanoseconds(time),
            BoardState(
                energy_uj={"package-0": round(joules(time) * 1e6) % RANGE},
                energy_range_uj={"package-0": RANGE} if ranges and place == 0 else {},
            ),
        )
        for place, time in enumerate(times_s)
    ]


def by_group(found: tuple[Energy, ...]) -> dict[str, Energy]:
    assert len({one.group for one in found}) == len(found)
    return {one.group: one for one in found}


def test_a_curve_with_a_known_integral():
    """P = 20 W + 5 W sin(2π t / 4 s) over 10 s: 200 J + 5 · 2/π · (1 - cos 5π) J."""
    readings = with_rails(lambda t: {"VDD_IN": 20 + 5 * math.sin(math.pi * t / 2)}, np.arange(-1, 11.05, 0.1))
    (found,) = energies(readings, span(0, 10), chunks=50, actions=50)
    expected = 200 + 5 * (2 / math.pi) * (1 - math.cos(5 * math.pi))
    assert found.group == "module" and found.rails == ("VDD_IN",)
    assert found.joules == pytest.approx(expected, rel=2e-4)  # the trapezoid's error: h² / 12 · P''
    assert found.mean_w == pytest.approx(found.joules / 10)
    assert found.per_chunk_j == pytest.approx(found.joules / 50)
    assert found.per_action_j == pytest.approx(found.joules / 2500)
    assert found.net_per_chunk_j is None
    assert found.readings == 101


@given(
    offset=st.floats(0, 100),
    slope=st.floats(-3, 3),
    begin=st.floats(0, 5),
    length=st.floats(2, 20),
    step=st.floats(0.05, 0.19),
)
def test_a_line_is_integrated_exactly_wherever_the_readings_lie(
    offset: float, slope: float, begin: float, length: float, step: float
):
    times = np.arange(-1, 30, step)
    readings = with_rails(lambda t: {"VDD_IN": offset + slope * t}, times)
    (found,) = energies(readings, span(begin, begin + length), 1, 1)
    exact = offset * length + slope * ((begin + length) ** 2 - begin**2) / 2
    assert found.joules == pytest.approx(exact, abs=1e-4)


def test_uneven_readings_count_by_their_time():
    times = np.concatenate((np.arange(0, 5, 0.1), np.arange(5, 10.5, 0.5)))
    readings = with_rails(lambda t: {"VDD_IN": 10.0 if t < 5 else 30.0}, times)
    (found,) = energies(readings, span(0, 10), 1, 1)
    assert found.joules == pytest.approx(200, abs=2)


def test_rails_stand_in_groups_that_are_never_added():
    rails = {"VDD_GPU_SOC": 13.0, "VDD_CPU_CV": 4.5, "VIN_SYS_5V0": 5.0, "VDDQ_VDD2_1V8AO": 0.9}
    found = by_group(energies(with_rails(lambda t: rails, np.arange(0, 11, 0.1)), span(0, 10), 10, 50))
    assert set(found) == {"compute", "module"}
    assert found["compute"].mean_w == pytest.approx(17.5)
    assert found["module"].mean_w == pytest.approx(22.5)  # what VIN_SYS_5V0 feeds is in it already

    rails = {"VDD_IN": 14.75, "VDD_CPU_GPU_CV": 5.5, "VDD_SOC": 3.0}
    found = by_group(energies(with_rails(lambda t: rails, np.arange(0, 11, 0.1)), span(0, 10), 10, 50))
    assert {group: round(one.mean_w, 6) for group, one in found.items()} == {"compute": 8.5, "module": 14.75}

    rails = {"VDD_GPU": -0.4, "VDD_CPU_SOC_MSS": 6.5, "VIN_SYS_5V0": 6.5, "VIN": 23.0}
    found = by_group(energies(with_rails(lambda t: rails, np.arange(0, 11, 0.1)), span(0, 10), 10, 50))
    assert {group: round(one.mean_w, 6) for group, one in found.items()} == {
        "compute": 6.1,
        "module": 12.6,
        "board": 23.0,
    }


def test_readings_without_rails_between_them_are_passed_over():
    """A reading can fail, and one of two sensors too."""
    readings = with_rails(lambda t: {"VDD_GPU_SOC": 10.0, "VDD_CPU_CV": 5.0}, np.arange(0, 11, 0.1))
    readings[20] = replace(readings[20], state=BoardState())
    readings[40] = replace(readings[40], state=BoardState(rails_mw={"VDD_GPU_SOC": 10_000.0}))
    (found,) = energies(readings, span(0, 10), 1, 1)
    assert found.joules == pytest.approx(150)
    assert found.readings == 99


def test_too_few_readings_tell_no_energy():
    readings = with_rails(lambda t: {"VDD_IN": 10.0}, np.arange(0, 20, 1.0))
    assert energies(readings, span(0.5, 0.5 + FEWEST_READINGS - 1), 1, 1) == ()
    assert len(energies(readings, span(0.5, 0.5 + FEWEST_READINGS), 1, 1)) == 1
    assert energies([], span(0, 10), 1, 1) == ()
    assert energies(readings, span(10, 10), 1, 1) == () == energies(readings, span(0, 15), 0, 1)


def test_what_the_idle_computer_takes_is_subtracted():
    readings = with_rails(lambda t: {"VDD_IN": 8.0 if t < 30 else 20.0}, np.arange(0, 60, 0.1))
    (found,) = energies(readings, span(31, 51), chunks=100, actions=50, idle=span(1, 1 + SHORTEST_IDLE_S))
    assert found.idle_w == pytest.approx(8)
    assert found.per_chunk_j == pytest.approx(4)
    assert found.net_per_chunk_j == pytest.approx((20 - 8) * 20 / 100)
    (found,) = energies(readings, span(31, 51), chunks=100, actions=50, idle=span(1, SHORTEST_IDLE_S))
    assert found.net_per_chunk_j is None


@given(start=st.integers(0, 3 * RANGE), watts=st.floats(0.1, 400), step=st.floats(0.1, 5.0))
def test_a_counter_that_begins_again_at_zero(start: int, watts: float, step: float):
    times = np.arange(-6, 40, step)
    readings = with_counter(lambda t: start * 1e-6 + watts * (t + 10), times)
    (found,) = energies(readings, span(0, 30), 100, 50)
    assert found.group == "package-0"
    assert found.joules == pytest.approx(30 * watts, rel=1e-5, abs=1e-4)


def test_a_counter_that_wraps_every_few_seconds_is_followed():
    """At 90 kW a 262-kJ counter wraps every 3 s: ten times in the run."""
    readings = with_counter(lambda t: 90_000 * (t + 1), np.arange(-0.5, 31, 1.0))
    (found,) = energies(readings, span(0, 30), 1, 1)
    assert found.joules == pytest.approx(2.7e6, rel=1e-6)


def test_a_counter_whose_end_is_not_known_tells_nothing_when_it_wraps():
    times = np.arange(-1, 31, 1.0)
    wraps = with_counter(lambda t: (RANGE * 1e-6) + 100 * (t - 10), times, ranges=False)
    assert energies(wraps, span(0, 30), 1, 1) == ()
    goes_on = with_counter(lambda t: 100 * (t + 10), times, ranges=False)
    assert len(energies(goes_on, span(0, 30), 1, 1)) == 1


def test_a_counter_is_not_told_beyond_its_readings():
    readings = with_counter(lambda t: 100 * (t + 10), np.arange(0, 20, 1.0))
    assert energies(readings, span(0, 30), 1, 1) == ()
    assert energies(readings, span(-1, 10), 1, 1) == ()


def test_energy_of_a_run_of_a_result():
    run = run_of(latencies(200))
    seconds = float(run.samples.latency_ms.sum()) / 1000
    readings = with_rails(lambda t: {"VDD_IN": 12.0 if t >= 0 else 7.0}, np.arange(-30, seconds + 1, 0.1))
    result = result_of([run], readings, idle_ns=(nanoseconds(-29), nanoseconds(-2)))
    (found,) = energies_of_run(result, run)
    assert found.chunks == 200 and found.actions == 50
    assert found.per_chunk_j == pytest.approx(12 * seconds / 200, rel=1e-3)
    assert found.net_per_chunk_j == pytest.approx(5 * seconds / 200, rel=1e-3)
    (gross,) = energies_of_run(result_of([run], readings), run)
    assert gross.idle_w is None
    assert energies_of_run(result, run_of(np.empty(0))) == ()


def test_two_targets_in_turns_have_no_energy_of_their_own():
    run = run_of(latencies(200))
    samples = run.samples
    half = replace(samples, end_ns=samples.begin_ns + (samples.end_ns - samples.begin_ns) // 2)
    readings = with_rails(lambda t: {"VDD_IN": 12.0}, np.arange(-1, 25, 0.1))
    turns, paced = replace(run, samples=half), replace(run, samples=half, mode="paced", period_ms=100.0)
    assert energies_of_run(result_of([turns], readings), turns) == ()
    assert len(energies_of_run(result_of([paced], readings), paced)) == 1
