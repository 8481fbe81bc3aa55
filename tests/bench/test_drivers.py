"""Closed and paced runs: what they count, and that neither hides a stall."""

from __future__ import annotations

import time

import numpy as np
import pytest

from pi0_edge.bench.drivers import Extent, closed_run, overhead_ms, paced_run
from pi0_edge.bench.figures import figures_of
from pi0_edge.bench.result import Run
from pi0_edge.errors import BenchError

pytestmark = pytest.mark.real_time

CHUNK_S = 0.004
PERIOD_S = 0.02
STALL_S = 0.2


class Robot:
    """Takes 4 ms for a chunk, and 200 ms for some."""

    def __init__(self, stalls: frozenset[int] = frozenset()) -> None:
        self.asked: list[int] = []
        self._stalls = stalls

    def ask(self, number: int) -> dict[str, float]:
        self.asked.append(number)
        time.sleep(STALL_S if number in self._stalls else CHUNK_S)
        return {"network": 1e3 * CHUNK_S}


def test_a_closed_run_asks_again_at_once_until_time_and_chunks_are_enough():
    robot = Robot()
    (samples,) = closed_run([robot.ask], Extent(0.05, chunks=3))
    assert robot.asked == list(range(len(samples))) and len(samples) >= 3
    assert (samples.due_ns == samples.begin_ns).all() and not samples.skipped.any()
    assert (samples.begin_ns[1:] >= samples.end_ns[:-1]).all()
    assert samples.latency_ms.min() >= 1e3 * CHUNK_S
    assert samples.stages_ms["network"].tolist() == [1e3 * CHUNK_S] * len(samples)
    (few,) = closed_run([Robot().ask], Extent(0.0, chunks=7))
    assert len(few) == 7


def test_two_in_turns_get_the_same_numbers_and_neither_is_always_second():
    order: list[str] = []
    asks = [lambda number, name=name: order.append(f"{name}{number}") or {} for name in "ab"]
    first, second = closed_run(asks, Extent(0.0, chunks=4))
    assert len(first) == len(second) == 4
    assert order == ["a0", "b0", "b1", "a1", "a2", "b2", "b3", "a3"]


def test_a_paced_run_counts_from_the_due_time_and_skips_no_period_silently():
    robot = Robot(stalls=frozenset({3}))
    samples = paced_run(robot.ask, PERIOD_S, Extent(0.6))
    steps = np.diff(samples.due_ns)
    assert (steps % round(PERIOD_S * 1e9) == 0).all()
    assert (steps // round(PERIOD_S * 1e9) - 1 == samples.skipped[1:]).all()
    assert (samples.begin_ns >= samples.due_ns).all()
    assert samples.latency_ms[3] >= 1e3 * STALL_S
    assert samples.skipped[4] >= STALL_S / PERIOD_S - 2  # the period of the stall and the newest one are no skips
    misses = figures_of(Run("paced", 1e3 * PERIOD_S, None, samples, 0.0)).misses
    assert misses is not None
    assert misses.expected == len(samples) + misses.skipped >= 30
    assert misses.count >= STALL_S / PERIOD_S - 1


def test_a_closed_run_says_what_a_robot_would_have_missed():
    robot = Robot(stalls=frozenset({5, 25}))
    (samples,) = closed_run([robot.ask], Extent(0.0, chunks=40))
    figures = figures_of(Run("closed", None, None, samples, 0.0))
    assert figures.stalls >= 2
    assert figures.would_miss is not None and figures.would_miss >= 2 * (STALL_S / (2 * 0.02) - 1)
    assert figures.stalled_share >= 2 * STALL_S / (samples.latency_ms.sum() * 1e-3)


def test_a_run_of_nothing_is_refused():
    for seconds, chunks in ((-1.0, 1), (float("nan"), 1), (float("inf"), 1), (1.0, 0)):
        with pytest.raises(BenchError, match="expected at least one chunk"):
            Extent(seconds, chunks)
    for period in (0.0, -1.0, float("inf"), float("nan")):
        with pytest.raises(BenchError, match="expected more than 0"):
            paced_run(Robot().ask, period, Extent(1.0))


def test_the_loop_itself_takes_next_to_nothing_of_a_chunk():
    assert 0.0 < overhead_ms() < 0.5  # measured: about 0.002
