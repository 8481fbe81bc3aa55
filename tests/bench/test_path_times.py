"""The stages of the path from times alone: they add up, follow the board's counter, and come from one clock."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pi0_edge.bench.path.times import PassedChunk, PassedTicks, PathTimes, path_times
from pi0_edge.errors import BenchError
from pi0_edge.latency.stages import WHOLE_NETWORK, Stage

PERIOD_S = 0.02
COUNTER_HZ = 50_000_000
START_S = 1000.0
WAY: tuple[str, ...] = ("capture", "preprocess", "network", "postprocess", "back", "to_bridge", "splice", "serial")

durations = st.fixed_dictionaries({name: st.floats(0.0, 50.0) for name in WAY})


def chunk_of(number: int, observed_tick: int, way_ms: dict[str, float]) -> PassedChunk:
    observed_s = START_S + observed_tick * PERIOD_S + 0.003
    chunk_s = observed_s + 1e-3 * sum(way_ms[name] for name in ("preprocess", "network", "postprocess", "back"))
    decided_s = chunk_s + 1e-3 * sum(way_ms[name] for name in ("to_bridge", "splice", "serial"))
    return PassedChunk(
        chunk_id=number,
        observed_tick=observed_tick,
        image_ns=round(1e9 * (observed_s - 1e-3 * way_ms["capture"])),
        observed_ns=round(1e9 * observed_s),
        chunk_ns=round(1e9 * chunk_s),
        reported_ns=round(1e9 * (decided_s + 1e-3)),
        preprocess_ms=way_ms["preprocess"],
        network_ms=way_ms["network"],
        postprocess_ms=way_ms["postprocess"],
        splice_ms=way_ms["splice"],
        serial_ms=way_ms["serial"],
        decided_s=decided_s,
    )


def ticks_of(executed: list[int], late_ms: list[float] | None = None, first: int = 0) -> PassedTicks:
    """Ticks from `first` on with the chunk that each executed, and how late its interrupt ran."""
    tick = np.arange(first, first + len(executed))
    late = np.array(late_ms or [0.0] * len(executed))
    counter = tick * round(COUNTER_HZ * PERIOD_S) + 12345 + np.round(1e-3 * late * COUNTER_HZ).astype(np.int64)
    begin_s = (START_S + tick * PERIOD_S).astype(np.float64)
    return PassedTicks(tick, counter, np.array(executed), begin_s, np.full(len(tick), 0.4), COUNTER_HZ, PERIOD_S)


def whole_ms(times: PathTimes) -> np.ndarray:
    return np.sum(list(times.samples.stages_ms.values()), axis=0)


@given(st.lists(durations, min_size=1, max_size=8), st.data())
def test_the_stages_add_up_to_the_way_from_the_image_to_the_command(ways: list[dict[str, float]], data: st.DataObject):
    observed = [25 * number for number in range(len(ways))]
    chunks = [chunk_of(number + 1, tick, way) for number, (tick, way) in enumerate(zip(observed, ways, strict=True))]
    executed = [0] * 20 + [number for number in range(1, len(ways) + 1) for _ in range(25)]
    late = data.draw(st.lists(st.floats(0.0, 9.0), min_size=len(executed), max_size=len(executed)))
    late[0] = 0.0
    ticks = ticks_of(executed, late)
    left = np.sort(data.draw(st.lists(st.floats(0.0, 30.0), min_size=1, max_size=40)))
    buses = [START_S + left, np.arange(START_S, START_S + 40, 0.004)]
    times = path_times(chunks, ticks, buses, replan_ticks=25)
    known = np.isfinite(times.samples.stages_ms.get(Stage.SERVO, np.full(len(chunks), np.nan)))
    np.testing.assert_allclose(whole_ms(times)[known], times.samples.latency_ms[known], atol=2e-5)
    parts = np.sum(list(times.transport_ms.values()), axis=0)
    np.testing.assert_allclose(times.samples.stages_ms[Stage.TRANSPORT], parts, atol=1e-9)
    for row, way in enumerate(ways):
        for stage in (Stage.CAPTURE.value, WHOLE_NETWORK, Stage.SPLICE.value, Stage.SERIAL.value):
            assert times.samples.stages_ms[stage][row] == pytest.approx(way[stage], abs=2e-6)
        assert times.transport_ms["to the bridge"][row] == pytest.approx(way["to_bridge"], abs=1e-4)


def test_a_late_interrupt_is_in_the_stage_tick_and_told_by_the_counter_of_the_board():
    way = dict.fromkeys(WAY, 1.0)
    executed = [0] * 5 + [1] * 5
    on_time = path_times([chunk_of(1, 0, way)], ticks_of(executed), None, 25)
    late = path_times([chunk_of(1, 0, way)], ticks_of(executed, [0.0] * 5 + [7.0] + [0.0] * 4), None, 25)
    grown = late.samples.stages_ms[Stage.TICK] - on_time.samples.stages_ms[Stage.TICK]
    np.testing.assert_allclose(grown, 7.0, atol=1e-4)
    np.testing.assert_allclose(ticks_of(executed, [0.0] * 9 + [3.5]).late_ms, [0.0] * 9 + [3.5], atol=1e-4)


def test_without_a_servo_bus_that_tells_the_way_ends_at_the_interrupt():
    times = path_times([chunk_of(1, 0, dict.fromkeys(WAY, 2.0))], ticks_of([0] * 4 + [1] * 4), None, 25)
    assert Stage.SERVO not in times.samples.stages_ms
    np.testing.assert_allclose(times.samples.end_ns * 1e-9, START_S + 4 * PERIOD_S, atol=1e-6)
    np.testing.assert_allclose(whole_ms(times), times.samples.latency_ms, atol=2e-5)


def test_the_command_has_left_when_the_slowest_bus_has_sent_it():
    interrupt_s = START_S + 4 * PERIOD_S
    buses = [np.array([interrupt_s - 0.003, interrupt_s + 0.001]), np.array([interrupt_s + 0.0025])]
    times = path_times([chunk_of(1, 0, dict.fromkeys(WAY, 2.0))], ticks_of([0] * 4 + [1] * 4), buses, 25)
    np.testing.assert_allclose(times.samples.stages_ms[Stage.SERVO], 2.5, atol=1e-4)


def test_a_chunk_that_was_replaced_before_its_first_tick_is_counted_and_its_period_was_skipped():
    chunks = [chunk_of(number, tick, dict.fromkeys(WAY, 1.0)) for number, tick in ((1, 0), (2, 25), (3, 50))]
    times = path_times(chunks, ticks_of([0] * 5 + [1] * 50 + [3] * 10), None, 25)
    assert times.not_executed == 1 and times.samples.skipped.tolist() == [0, 1]


def test_every_executed_tick_has_the_age_of_its_image():
    way = dict.fromkeys(WAY, 1.0) | {"capture": 3.0}
    times = path_times([chunk_of(1, 0, way)], ticks_of([0] * 10 + [1] * 3 + [0] * 2), None, 25)
    np.testing.assert_allclose(times.ages_ms, [200.0, 220.0, 240.0], atol=1e-4)  # taken at the begin of tick 0


@pytest.mark.parametrize("shift_s", [-3600.0, -0.1, 0.1, 3600.0])
def test_a_bridge_with_another_clock_is_refused(shift_s: float):
    chunk = chunk_of(1, 0, dict.fromkeys(WAY, 1.0))
    moved = dataclasses.replace(chunk, decided_s=chunk.decided_s + shift_s)
    with pytest.raises(BenchError, match="one clock for the whole path"):
        path_times([moved], ticks_of([1] * 5), None, 25)


def test_a_bridge_that_says_no_times_is_refused():
    chunk = dataclasses.replace(chunk_of(1, 0, dict.fromkeys(WAY, 1.0)), decided_s=0.0, splice_ms=0.0, serial_ms=0.0)
    with pytest.raises(BenchError, match="older than this program"):
        path_times([chunk], ticks_of([1] * 5), None, 25)


def test_a_run_in_which_nothing_was_executed_has_no_path():
    with pytest.raises(BenchError, match="none of 1 accepted chunks was executed"):
        path_times([chunk_of(1, 0, dict.fromkeys(WAY, 1.0))], ticks_of([0] * 5), None, 25)
    with pytest.raises(BenchError, match="none of 0"):
        path_times([], ticks_of([]), None, 25)
