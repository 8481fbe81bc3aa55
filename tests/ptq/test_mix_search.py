"""Ranking and search: the result passes, is the cheapest on its path, and depends on nothing but the numbers."""

from __future__ import annotations

import random
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pi0_edge.errors import QuantizationError
from pi0_edge.ptq.mix_search import Choice, cheapest_mix, ranked, steps_by_price

LEVELS = ("16-bit", "w8a16", "w8a8")
figures = st.floats(1e-8, 1.0)


@st.composite
def problems(draw: st.DrawFn) -> list[Choice]:
    """Up to four groups; cost falls with the level, damage is anything."""
    choices = []
    for group in range(draw(st.integers(1, 4))):
        weight = draw(st.floats(0.1, 10))
        costs = [2 * weight, draw(st.floats(1.0, 1.5)) * weight, draw(st.floats(0.2, 0.9)) * weight]
        damages = [0.0, draw(figures), draw(figures)]
        choices += [Choice(f"g{group}", *row) for row in zip(LEVELS, damages, costs, strict=True)]
    return choices


def gate(choices: list[Choice], budget: float):
    damages = {(choice.group, choice.level): choice.damage for choice in choices}
    return lambda mix: sum(damages[pair] for pair in mix.items()) <= budget


@given(problems(), st.floats(0, 3))
def test_the_result_has_passed_and_no_further_step_does(choices, budget):
    passes = gate(choices, budget)
    mix = cheapest_mix(choices, "16-bit", passes)
    assert mix is not None  # the start damages nothing
    assert passes(mix.levels)
    assert mix.damage <= budget
    assert mix.taken == mix.steps or (mix.taken + 1, False) in mix.attempts
    assert len(mix.attempts) <= 2 + mix.steps.bit_length()


@settings(max_examples=40)
@given(problems(), st.floats(0, 3))
def test_greedy_misses_the_optimum_by_less_than_one_step(choices, budget):
    """The bound of the greedy knapsack: no mix saves more than the greedy one plus the step that did not fit."""
    mix = cheapest_mix(choices, "16-bit", gate(choices, budget))
    assert mix is not None
    passes, costs = gate(choices, budget), {(c.group, c.level): c.cost for c in choices}
    groups = sorted({choice.group for choice in choices})
    every = (dict(zip(groups, levels, strict=True)) for levels in product(LEVELS, repeat=len(groups)))
    best = min(sum(costs[pair] for pair in levels.items()) for levels in every if passes(levels))
    largest = max(costs[group, "16-bit"] - costs[group, "w8a8"] for group in groups)
    assert best - 1e-9 <= mix.cost <= best + largest + 1e-9


@given(problems(), st.integers(0, 99))
def test_the_order_of_the_choices_does_not_matter(choices, seed):
    shuffled = random.Random(seed).sample(choices, len(choices))
    assert steps_by_price(shuffled, "16-bit") == steps_by_price(choices, "16-bit")
    assert ranked(shuffled) == ranked(choices)


@given(problems())
def test_prices_rise_and_each_group_only_gets_cheaper(choices):
    steps = steps_by_price(choices, "16-bit")
    assert [step.price for step in steps] == sorted(step.price for step in steps)
    for group in {step.choice.group for step in steps}:
        costs = [step.choice.cost for step in steps if step.choice.group == group]
        assert costs == sorted(costs, reverse=True) and len(set(costs)) == len(costs)


def test_a_level_that_costs_more_and_damages_more_is_skipped():
    choices = [
        Choice("mlp", "16-bit", 0.0, 2.0),
        Choice("mlp", "w8a16", 0.9, 1.9),  # saves little, damages most
        Choice("mlp", "w8a8", 0.1, 1.0),
    ]
    assert [step.choice.level for step in steps_by_price(choices, "16-bit")] == ["w8a8"]


def test_nothing_passes_where_not_even_the_start_does():
    choices = [Choice("a", "16-bit", 0.0, 2.0), Choice("a", "w8a8", 0.1, 1.0)]
    assert cheapest_mix(choices, "16-bit", lambda mix: False) is None


def test_the_ranking_starts_with_the_worst():
    choices = [Choice("a", "x", 0.1, 1), Choice("b", "x", 0.3, 1), Choice("c", "x", 0.1, 1)]
    assert [choice.group for choice in ranked(choices)] == ["b", "a", "c"]


@pytest.mark.parametrize("levels", [["w8a8"], ["16-bit", "w8a8", "w8a8"], ["16-bit", "16-bit"]])
def test_levels_that_lack_the_start_or_repeat_are_refused(levels):
    with pytest.raises(QuantizationError, match="expected each once"):
        steps_by_price([Choice("a", level, 0.0, 1.0) for level in levels], "16-bit")
