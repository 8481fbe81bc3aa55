"""The plan says what is compared, and its heads are as they were published."""

from __future__ import annotations

import dataclasses
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pi0_edge.comparison.plan import FULL, RT2_LONG, SHORT, TOKENS, VARIANTS, command_of, expected_s
from pi0_edge.comparison.report import Found, facts
from pi0_edge.comparison.tables import plan_lines
from pi0_edge.heads import HEADS, build_network
from pi0_edge.sim.tasks import TASKS


def test_every_head_is_compared_as_it_was_published():
    published = {variant.head: variant for variant in VARIANTS if variant.published}
    assert published.keys() == HEADS.keys()
    for head, told in HEADS.items():
        assert published[head].horizon == told.horizon
        assert published[head].decodings[0].steps == told.steps
    assert not TOKENS[0].sampled and TOKENS[1].sampled


@pytest.mark.parametrize("plan", [FULL, SHORT])
def test_every_cell_can_be_built_and_the_plan_can_be_written(plan):
    for variant in (*plan.variants, *plan.timed):
        assert 1 <= variant.executed <= variant.horizon
        network = build_network(variant.config(plan.network, 14))
        assert network.config.horizon == variant.horizon
    assert json.loads(json.dumps(plan.to_dict()))["seeds"] == list(plan.seeds)
    assert all(task.name in TASKS and 0 < task.held_out < task.episodes for task in plan.tasks)
    assert len(list(plan.cells())) == len(plan.tasks) * len(plan.variants) * len(plan.seeds)


def test_the_full_table_has_three_seeds_and_fits_into_three_hours_of_two_cores():
    seconds = expected_s(FULL)
    alone = seconds["latency"] + seconds["clock"]
    assert len(FULL.seeds) == 3 and FULL.timed == (RT2_LONG,)
    assert (sum(seconds.values()) - alone) / 2 + alone < 3 * 3600


def test_the_command_is_that_of_the_plan():
    assert command_of(FULL) == "pi0-edge compare-heads" and command_of(SHORT) == "pi0-edge compare-heads --short"
    assert "a plan of its own" in command_of(dataclasses.replace(FULL, batch=8))


def test_the_facts_tell_what_trains_for_how_long():
    told = dict(facts(Found(FULL, "", (), (), (), ())))
    two_ways, cube = (told[task.name] for task in FULL.tasks)
    assert "shipped policy, then vision alone 100 s, then all heads in turn 720 s" in two_ways
    assert "shipped policy, then all heads in turn 600 s" in cube and "vision" not in cube
    for one in (two_ways, cube):
        assert "experts and heads alone for the first 35 % of it" in one
        assert "15 s for each learning rate, 120 s for each cell" in one
    assert told["chunk not as published"] == "octo-50, rt2-50"


@given(st.integers(1, 64))
def test_the_plan_is_told_before_it_begins(workers):
    first, *stages = plan_lines(FULL, workers)
    assert "36 cells" in first and f"{workers} idle core" in first
    assert len(stages) == len(expected_s(FULL))
