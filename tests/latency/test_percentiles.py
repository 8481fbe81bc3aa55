"""The early-stopping rule against its published table, and what it promises against drawn samples."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pi0_edge.latency.percentiles import RISK, Latency, early_stopping_percentile, fewest_samples
from pi0_edge.self_test.running import timed

FEWEST = {
    0.9: {0: 44, 1: 64, 2: 81, 5: 127, 10: 197},
    0.95: {0: 90, 1: 130, 2: 165, 5: 259, 10: 398},
    0.99: {0: 459, 1: 662, 2: 838, 5: 1307, 10: 2010},
    0.999: {0: 4603, 1: 6636, 2: 8403},
}
"""Percentile -> slower samples that are allowed -> the fewest samples of which so many may be slower."""
ROWS = [(percentile, slower, count) for percentile, row in FEWEST.items() for slower, count in row.items()]


@pytest.mark.parametrize(("percentile", "slower", "count"), ROWS)
def test_the_rule_is_that_of_the_table(percentile: float, slower: int, count: int) -> None:
    assert early_stopping_percentile(range(1, count + 1), percentile) == count - slower
    one_less = early_stopping_percentile(range(1, count), percentile)
    assert one_less == (None if slower == 0 else count - slower)


@pytest.mark.parametrize("percentile", FEWEST)
def test_too_few_samples_have_no_percentile(percentile: float) -> None:
    assert fewest_samples(percentile) == FEWEST[percentile][0]
    for count in (0, 1, fewest_samples(percentile) - 1):
        assert early_stopping_percentile([1.0] * count, percentile) is None


@pytest.mark.parametrize("count", [44, 64, 100, 1000])
def test_the_true_percentile_is_above_the_estimate_in_one_run_of_a_hundred(count: int) -> None:
    runs = np.random.default_rng(count).random((2000, count))
    estimates = np.array([early_stopping_percentile(run.tolist(), 0.9) for run in runs])
    assert (estimates < 0.9).mean() <= RISK + 0.007  # three standard deviations of the share


@given(samples=st.lists(st.floats(0, 1e4), min_size=1, max_size=300), seed=st.integers(0, 9))
def test_figures_do_not_depend_on_the_order(samples: list[float], seed: int) -> None:
    shuffled = np.random.default_rng(seed).permutation(samples).tolist()
    found = Latency.of(samples)
    assert found == Latency.of(shuffled)
    assert found.count == len(samples) and found.max_ms == max(samples)
    assert found.p50_ms == pytest.approx(float(np.median(samples)))
    assert (found.p90_ms is None) == (len(samples) < 44)
    if found.p90_ms is not None:
        assert np.percentile(samples, 90, method="lower") <= found.p90_ms <= found.max_ms


def test_every_call_is_timed_and_counted() -> None:
    asked: list[int] = []
    assert len(timed(asked.append, 5)) == 5
    assert asked == [0, 1, 2, 3, 4]
