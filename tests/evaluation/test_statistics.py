"""Two policies on the same seeds: published intervals, and what must hold for every table."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pi0_edge.evaluation.statistics import Pairing, Rollout, pair

tables = st.tuples(*[st.integers(0, 200)] * 4).filter(any).map(lambda cells: Pairing(*cells))


@pytest.mark.parametrize(
    ("table", "expected", "digits"),
    [
        ((20, 12, 2, 16), (0.0562, 0.3292), 4),  # Newcombe 1998, Statistics in Medicine 17, his method 10
        ((1, 1, 7, 12), (-0.507, -0.026), 3),  # Fagerland, Lydersen, Laake 2014, Statistics in Medicine 33
        ((8, 3, 1, 2), (-0.1574, 0.4136), 4),  # Tang et al. 2010, Statistics in Medicine 29
        ((7, 25, 2, 68), (0.133, 0.318), 3),  # Chang et al. 2024, Journal of Applied Statistics 51
    ],
)
def test_published_intervals(table, expected, digits):
    """As collected in the tests of the R package ratesci; these authors subtract the second rate from the first."""
    low, high = Pairing(*table).interval
    assert (round(-high, digits), round(-low, digits)) == expected


@given(tables)
def test_the_interval_contains_the_difference_and_stays_in_range(table: Pairing):
    low, high = table.interval
    assert -1 - 1e-12 <= low <= table.difference <= high <= 1 + 1e-12
    assert low < high


@given(tables)
def test_exchanging_the_policies_mirrors_the_interval(table: Pairing):
    mirrored = Pairing(table.both, table.only_second, table.only_first, table.neither)
    low, high = table.interval
    assert mirrored.interval == pytest.approx((-high, -low), abs=1e-12)
    assert mirrored.p_value == table.p_value


def test_more_seeds_make_the_interval_narrower():
    widths = [high - low for low, high in (Pairing(80 * n, 5 * n, 5 * n, 10 * n).interval for n in (1, 4, 16))]
    assert widths[0] > 1.8 * widths[1] > 3.2 * widths[2]


def test_the_interval_has_a_width_where_both_policies_always_succeed():
    low, high = Pairing(100, 0, 0, 0).interval
    assert -0.06 < low < -0.03 and 0.03 < high < 0.06


def test_pairing_counts_the_four_cases():
    def play(*outcomes: bool) -> list[Rollout]:
        return [Rollout(seed, success, 100, 4.0) for seed, success in enumerate(outcomes)]

    found = pair(play(True, True, False, False, True), play(True, False, True, False, True))
    assert found == Pairing(2, 1, 1, 1)
    assert found.difference == 0
    with pytest.raises(ValueError, match="same seeds"):
        pair(play(True), play(True, False))
    with pytest.raises(ValueError, match="found none"):
        pair([], [])
