"""The tick estimate under drift, uneven and heavy-tailed delays, jumps and restarts, all in simulated time."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from firmware_bridge.errors import LinkError
from firmware_bridge.link.clock import ClockRegression, TickClock, Verdict

HZ = 50_000_000
PERIOD_US = 20_000
PERIOD = HZ * PERIOD_US // 1_000_000
PING_S = 0.05
Delay = Callable[[random.Random], float]


@dataclass
class Board:
    """A board whose crystal drifts, and a host whose clock begins anywhere."""

    drift_ppm: float = 0.0
    booted_s: float = 1000.0
    epoch: int = 12_345

    def counter(self, host_s: float) -> int:
        return round((host_s - self.booted_s) * HZ * (1 + self.drift_ppm * 1e-6))

    def tick(self, host_s: float) -> float:
        return (self.counter(host_s) - self.epoch) / PERIOD


def ns(seconds: float) -> int:
    return round(seconds * 1e9)


def exchange(
    clock: TickClock, board: Board, start_s: float, seconds: float, out: Delay, back: Delay, seed: int = 0
) -> Iterator[float]:
    """Simulates pings and ticks for a duration, over a line that keeps their order; yields the host time after each."""
    chooser = random.Random(seed)
    read, received, reported = start_s, start_s, 0
    for number in range(round(seconds / PING_S)):
        sent = start_s + number * PING_S
        read = max(read, sent + out(chooser))
        received = max(received, read + back(chooser))
        if (tick := int(board.tick(received))) > reported:
            reported = tick
            late = round(abs(chooser.gauss(0.0, 1e-4)) * HZ)  # the interrupt never runs early
            clock.add_tick(tick, board.epoch + tick * PERIOD + late)
        clock.add_round_trip(ns(sent), ns(received), board.counter(read))
        yield max(sent + PING_S, received)


def steady(seconds: float) -> Delay:
    return lambda _: seconds


def jittery(least_s: float, mean_s: float) -> Delay:
    return lambda chooser: least_s + chooser.expovariate(1.0 / mean_s)


def heavy_tailed(least_s: float) -> Delay:
    """Delays with a Pareto tail of index 1.2: infinite variance, sometimes a second."""
    return lambda chooser: min(1.0, least_s * chooser.paretovariate(1.2))


def error_s(clock: TickClock, board: Board, host_s: float) -> float:
    return (clock.tick_at(ns(host_s)) - board.tick(host_s)) * clock.tick_period_s


def uncertainty_s(clock: TickClock, host_s: float) -> float:
    return clock.estimate(ns(host_s)).uncertainty_s


def synchronized(board: Board, seconds: float, out: Delay, back: Delay, seed: int = 0) -> tuple[TickClock, float]:
    clock = TickClock(HZ, PERIOD_US)
    return clock, list(exchange(clock, board, 2000.0, seconds, out, back, seed))[-1]


def test_unknown_clock_is_an_error():
    with pytest.raises(LinkError, match="not known yet"):
        TickClock(HZ, PERIOD_US).tick_at(0)


def test_exact_round_trip_gives_the_exact_tick():
    clock = TickClock(HZ, PERIOD_US)
    clock.add_round_trip(1_000_000_000, 1_002_000_000, 50_050_000)
    clock.add_tick(50, 50_000_000)
    assert clock.tick_at(1_001_000_000) == pytest.approx(50.05)
    assert clock.round_trip_s == pytest.approx(0.002)


@pytest.mark.parametrize("drift_ppm", [-200.0, -37.0, 0.0, 200.0])
def test_drift_is_estimated(drift_ppm: float):
    board = Board(drift_ppm)
    clock, now = synchronized(board, 60.0, jittery(0.2e-3, 0.1e-3), jittery(0.2e-3, 0.1e-3))
    assert clock.estimate(ns(now)).drift_ppm == pytest.approx(drift_ppm, abs=1.0)
    assert abs(error_s(clock, board, now)) < 50e-6
    # Half a minute without an answer: what was learnt of the drift holds.
    assert abs(error_s(clock, board, now + 30.0)) < 200e-6


@settings(max_examples=40, deadline=None)
@given(
    drift_ppm=st.floats(-200, 200),
    out_ms=st.floats(0.05, 8),
    back_ms=st.floats(0.05, 8),
    noise_ms=st.floats(0.01, 2),
    seconds=st.floats(0.2, 20),
    seed=st.integers(0, 2**32),
)
def test_error_stays_within_the_reported_uncertainty(
    drift_ppm: float, out_ms: float, back_ms: float, noise_ms: float, seconds: float, seed: int
):
    board = Board(drift_ppm)
    clock = TickClock(HZ, PERIOD_US)
    out, back = jittery(out_ms * 1e-3, noise_ms * 1e-3), jittery(back_ms * 1e-3, noise_ms * 1e-3)
    for now in exchange(clock, board, 2000.0, seconds, out, back, seed):
        assert abs(error_s(clock, board, now)) <= uncertainty_s(clock, now)


@pytest.mark.parametrize(("out_s", "back_s"), [(0.2e-3, 6.2e-3), (6.2e-3, 0.2e-3), (3e-3, 3e-3)])
def test_constant_asymmetry_shifts_the_tick_by_half_of_itself(out_s: float, back_s: float):
    board = Board(50.0)
    clock, now = synchronized(board, 30.0, steady(out_s), steady(back_s))
    assert error_s(clock, board, now) == pytest.approx((out_s - back_s) / 2, abs=20e-6)
    assert uncertainty_s(clock, now) >= abs(out_s - back_s) / 2


@pytest.mark.parametrize("seed", range(5))
def test_heavy_tailed_delays_do_not_shift_the_clock(seed: int):
    board = Board(120.0)
    clock, now = synchronized(board, 60.0, heavy_tailed(0.2e-3), heavy_tailed(0.2e-3), seed)
    estimate = clock.estimate(ns(now))
    assert estimate.rejected > 100
    assert abs(error_s(clock, board, now)) < 200e-6
    assert estimate.drift_ppm == pytest.approx(120.0, abs=5.0)


def test_load_on_the_line_delays_pings_but_does_not_shift_the_clock():
    """Every fifth ping waits up to 17 ms behind fragments."""
    board = Board(-80.0)

    def behind_fragments(chooser: random.Random) -> float:
        return 0.3e-3 + (chooser.uniform(0, 17e-3) if chooser.random() < 0.2 else 0.0)

    clock, now = synchronized(board, 30.0, behind_fragments, jittery(0.3e-3, 0.1e-3))
    assert abs(error_s(clock, board, now)) < 200e-6


def test_line_that_becomes_slow_for_good_is_followed():
    board = Board(100.0)
    clock, now = synchronized(board, 30.0, steady(0.3e-3), steady(0.3e-3))
    for later in exchange(clock, board, now, 30.0, steady(12e-3), steady(12e-3)):
        assert abs(error_s(clock, board, later)) < 200e-6
    assert clock.round_trip_s == pytest.approx(24e-3)


@pytest.mark.parametrize("jump_s", [-900.0, -1.0, -0.2])
def test_counter_that_falls_back_is_a_restart(jump_s: float):
    board = Board(20.0)
    clock, now = synchronized(board, 5.0, steady(0.5e-3), steady(0.5e-3))
    with pytest.raises(LinkError, match="restarted"):
        clock.add_round_trip(ns(now), ns(now + 1e-3), board.counter(now + 0.5e-3 + jump_s))


def test_tick_that_falls_back_is_a_restart():
    clock, _ = synchronized(Board(), 1.0, steady(0.5e-3), steady(0.5e-3))
    with pytest.raises(LinkError, match="restarted"):
        clock.add_tick(1, PERIOD)


def test_one_slow_round_trip_is_no_restart():
    board = Board()
    clock, now = synchronized(board, 5.0, steady(0.5e-3), steady(0.5e-3))
    for read_at in (0.01, 0.45, 0.89):
        assert clock.add_round_trip(ns(now), ns(now + 0.9), board.counter(now + read_at)) is Verdict.REJECTED
    assert abs(error_s(clock, board, now + 1.0)) < 50e-6


def test_pause_of_the_whole_machine_is_no_restart():
    """One answer takes 34 s, because host and line were suspended while the board's clock ran."""
    board = Board(60.0)
    clock, now = synchronized(board, 20.0, steady(0.3e-3), steady(0.3e-3))
    assert clock.add_round_trip(ns(now), ns(now + 34.0), board.counter(now + 0.3e-3)) is Verdict.REJECTED
    for later in exchange(clock, board, now + 34.0, 5.0, steady(0.3e-3), steady(0.3e-3)):
        assert abs(error_s(clock, board, later)) < 200e-6


@pytest.mark.parametrize("read_after_s", [0.01, 0.99])
def test_slow_first_answer_is_corrected_by_the_next_and_is_no_restart(read_after_s: float):
    board = Board()
    clock = TickClock(HZ, PERIOD_US)
    clock.add_round_trip(ns(2000.0), ns(2001.0), board.counter(2000.0 + read_after_s))
    for later in exchange(clock, board, 2001.0, 1.0, steady(0.3e-3), steady(0.3e-3)):
        assert abs(error_s(clock, board, later)) < 1e-3


@pytest.mark.parametrize("suspended_s", [0.03, 0.3, 60.0])
def test_first_ping_after_a_suspend_corrects_the_tick(suspended_s: float):
    """The monotonic clock of the host stands still while the counter of the board runs."""
    board = Board(150.0)
    clock, now = synchronized(board, 60.0, jittery(0.2e-3, 0.1e-3), jittery(0.2e-3, 0.1e-3))
    board.booted_s -= suspended_s
    steps = clock.estimate(ns(now)).steps
    for woken in exchange(clock, board, now, PING_S, steady(0.3e-3), steady(0.3e-3)):
        assert abs(error_s(clock, board, woken)) < 100e-6
        assert clock.estimate(ns(woken)).steps == steps + 1
        assert clock.estimate(ns(woken)).drift_ppm == pytest.approx(150.0, abs=2.0)  # not forgotten


def test_host_time_of_a_tick_agrees_with_the_tick_at_that_time():
    clock, now = synchronized(Board(-170.0), 20.0, jittery(0.2e-3, 0.1e-3), jittery(0.2e-3, 0.1e-3))
    tick = round(clock.tick_at(ns(now)))
    for due in (tick - 100, tick, tick + 100_000):
        assert clock.tick_at(clock.host_ns_at(due)) == pytest.approx(due, abs=1e-5)


def test_uncertainty_grows_while_no_answers_arrive():
    clock, now = synchronized(Board(), 2.0, steady(0.5e-3), steady(0.5e-3))
    assert uncertainty_s(clock, now) < uncertainty_s(clock, now + 10) < uncertainty_s(clock, now + 100)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 10**10), st.integers(0, 10**10), st.integers(0, 2**64 - 1)), max_size=60))
def test_answers_of_any_content_raise_no_error(answers: list[tuple[int, int, int]]):
    line = ClockRegression(HZ)
    now = 0
    for wait, duration, counter in answers:
        now += wait
        line.add(now, now + duration, counter)
        assert line.uncertainty_at(now) >= 0.0
        assert abs(line.counter_at(now)) < 1e30
