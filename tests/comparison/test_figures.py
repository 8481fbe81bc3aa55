"""Rows of the table from results that are made up."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pi0_edge.comparison.figures import row_of
from pi0_edge.comparison.tables import success_table, ways_table
from pi0_edge.evaluation.statistics import wilson_interval

WAYS = {"paths": 64, "collisions": 16, "near": 12, "far": 36, "distance": 0.2, "floor": 0.1}
WAYS |= {"mode_error": 0.1, "jerk": 60.0, "expert_jerk": 30.0}


def played(outcomes, **more):
    episodes = [
        {
            "seed": k,
            "success": won,
            "ticks": 50 if won else 150,
            "failed": not won,
            "jerk": 2.0,
            "path_error": 0.1,
            "chunks": 3,
        }
        for k, won in enumerate(outcomes)
    ]
    named = {"task": "two-ways", "variant": "flow-50", "decoding": "10 steps"}
    return {**named, "episodes": episodes, "precision": {"first": 0.01, "executed": 0.02, "observations": 4}, **more}


@given(st.lists(st.lists(st.booleans(), min_size=1, max_size=20), min_size=1, max_size=4))
def test_episodes_are_pooled_and_seeds_are_told_apart(seeds):
    row = row_of([played(outcomes) for outcomes in seeds])
    flat = [won for outcomes in seeds for won in outcomes]
    assert (row.successes, row.episodes) == (sum(flat), len(flat))
    assert row.interval == wilson_interval(sum(flat), len(flat))
    assert row.by_seed == pytest.approx([sum(outcomes) / len(outcomes) for outcomes in seeds])
    assert row.seconds == (pytest.approx(1.0) if any(flat) else None)
    assert row.failed == pytest.approx(1 - row.success)
    assert row.ways is None


def test_ways_are_pooled_by_paths():
    other = {**WAYS, "collisions": 64, "near": 0, "far": 0, "distance": 0.4}
    row = row_of([played([True], ways=WAYS), played([False], ways=other)])
    assert row.ways is not None
    assert row.ways.collision == 80 / 128 and row.ways.near == 0.25
    assert row.ways.distance == pytest.approx(0.3)


def test_a_policy_that_passes_nothing_has_no_share():
    row = row_of([played([False], ways={**WAYS, "collisions": 64, "near": 0, "far": 0})])
    assert row.ways is not None and row.ways.near is None
    (cells,) = ways_table([row]).rows
    assert cells[2] == "100 %" and cells[4] == "–"
    (told,) = success_table("two-ways", [row]).rows
    assert told[1] == "0 of 1 (0 %)" and told[4] == "–"
