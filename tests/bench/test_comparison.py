"""Two runs of the same thing do not differ in 19 of 20 tries, also where neighbours are alike; real differences do."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from pi0_edge.bench.comparison import compare_samples, run_noise
from pi0_edge.bench.samples import Samples
from pi0_edge.errors import BenchError

TRIES = 100


def samples(latency_ms: NDArray[np.float64]) -> Samples:
    begin = np.arange(len(latency_ms), dtype=np.int64) * 10**9
    return Samples(begin, begin, begin + (latency_ms * 1e6).astype(np.int64), np.zeros_like(begin))


def wandering(rng: np.random.Generator, count: int, slowness: NDArray[np.float64] | None = None) -> NDArray[np.float64]:
    """Latencies of about 50 ms whose neighbours are alike, as on a machine that is slow for a while, with outliers."""
    noise = rng.normal(0, 0.01, count)
    slow = slow_while(rng, count) if slowness is None else slowness
    return 50.0 * np.exp(slow + noise) * np.where(rng.random(count) < 0.01, 3.0, 1.0)


def slow_while(rng: np.random.Generator, count: int) -> NDArray[np.float64]:
    steps = rng.normal(0, 0.004, count)
    slow = np.zeros(count)
    for place in range(1, count):
        slow[place] = 0.98 * slow[place - 1] + steps[place]
    return slow


def test_the_same_in_two_sessions_shows_no_difference_in_19_of_20_tries():
    rng = np.random.default_rng(0)
    told = [
        compare_samples(samples(wandering(rng, 300)), samples(wandering(rng, 300)), paired=False, seed=k).differs
        for k in range(TRIES)
    ]
    assert sum(told) <= TRIES / 20


def test_the_same_in_turns_shows_no_difference_in_19_of_20_tries():
    rng = np.random.default_rng(1)
    told = []
    for k in range(TRIES):
        slow = slow_while(rng, 200)
        pair = [samples(wandering(rng, 200, slow)) for _ in range(2)]
        told.append(compare_samples(pair[0], pair[1], paired=True, seed=k).differs)
    assert sum(told) <= TRIES / 20


@pytest.mark.parametrize("factor", [0.7, 0.9, 1.1, 1.5])
def test_in_turns_a_tenth_is_found_although_the_machine_wanders_more(factor: float):
    rng = np.random.default_rng(2)
    slow = 5 * slow_while(rng, 300)
    found = compare_samples(
        samples(wandering(rng, 300, slow)), samples(factor * wandering(rng, 300, slow)), paired=True
    )
    assert found.differs
    assert found.low <= factor <= found.high or abs(found.ratio / factor - 1) < 0.02
    assert ("slower" if factor > 1 else "faster") in str(found)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), factor=st.floats(0.5, 2.0))
def test_a_ratio_does_not_depend_on_the_unit_and_turns_round_with_the_order(seed: int, factor: float):
    rng = np.random.default_rng(seed)
    a, b = wandering(rng, 100), factor * wandering(rng, 100)
    there = compare_samples(samples(a), samples(b), paired=True)
    back = compare_samples(samples(b), samples(a), paired=True)
    assert there.ratio == pytest.approx(1 / back.ratio, rel=1e-3)
    bigger = compare_samples(samples(10 * a), samples(10 * b), paired=True)
    assert bigger.ratio == pytest.approx(there.ratio, rel=1e-3)
    assert there.differs == back.differs


def test_too_few_samples_are_refused():
    few = samples(np.full(29, 50.0))
    with pytest.raises(BenchError, match="29 and 29 samples are too few; expected 30"):
        compare_samples(few, few, paired=True)


def test_a_chunk_that_took_no_time_is_refused():
    changed = samples(np.array([50.0] * 40 + [0.0]))
    with pytest.raises(BenchError, match="a chunk took 0 ms"):
        compare_samples(changed, changed, paired=True)


def test_a_run_that_wanders_says_so():
    rng = np.random.default_rng(3)
    still = samples(50.0 * np.exp(rng.normal(0, 0.01, 400)))
    drifting = samples(50.0 * np.linspace(1.0, 1.5, 400))
    assert run_noise(still) < 0.01 < 0.2 < run_noise(drifting)
