"""Which heads keep two equally good ways apart: past an obstacle on either side, and through it in the mean."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from head_cases import chunks_of, collisions, inputs_of, network_of, noise_of, share_above, train_on_two_ways

from pi0_edge.model import PolicyNetwork

STEPS = {"mse": 60, "rt2": 250, "flow": 300, "octo": 300, "tinyvla": 200}
pytestmark = pytest.mark.slow


def trained(head) -> PolicyNetwork:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # networks this small gain nothing from a second one
    try:
        model = network_of(head)
        train_on_two_ways(model, STEPS[head])
    finally:
        torch.set_num_threads(threads)
    return model


def asked(model: PolicyNetwork, count: int = 200) -> torch.Tensor:
    return chunks_of(model, inputs_of(count, same=True), noise_of(count, model.config))


@pytest.mark.parametrize("head", ["flow", "octo", "tinyvla"])
def test_heads_that_start_from_noise_take_both_ways(head):
    chunks = asked(trained(head))
    assert collisions(chunks) < 0.15
    assert 0.3 < share_above(chunks) < 0.7


def test_tokens_take_both_ways_where_they_are_drawn_and_one_where_they_are_the_likeliest():
    model = trained("rt2")
    greedy = asked(model)
    assert collisions(greedy) == 0.0 and share_above(greedy) in (0.0, 1.0)
    model.config = dataclasses.replace(model.config, decoding="sampled")
    sampled = asked(model)
    assert collisions(sampled) < 0.15
    assert 0.3 < share_above(sampled) < 0.7


def test_the_mean_of_two_ways_hits_the_obstacle():
    assert collisions(asked(trained("mse"))) == 1.0
