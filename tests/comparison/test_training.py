"""Training for a time: how much of it, with which rate, and what comes of it."""

from __future__ import annotations

import time

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pi0_edge.comparison.training import RAMP, generator_of, rate_at, shares_of, train_for


@given(st.floats(0, 1))
def test_the_rate_stays_between_nothing_and_its_peak(share):
    assert 0 < rate_at(share) <= 1


@given(st.floats(RAMP, 1), st.floats(RAMP, 1))
def test_the_rate_falls_after_the_ramp(first, second):
    assert (rate_at(first) >= rate_at(second)) == (first <= second) or rate_at(first) == pytest.approx(rate_at(second))


def test_waiting_is_not_charged():
    shares = shares_of(0.05)
    assert next(shares) == 0
    time.sleep(0.2)
    assert next(shares) < 1


def test_working_ends_the_time():
    begin, seen = time.process_time(), []
    for share in shares_of(0.05):
        sum(range(20_000))
        seen.append(share)
    assert time.process_time() - begin >= 0.05
    assert seen[0] == 0 and seen[-1] < 1 and seen == sorted(seen)


def test_a_line_is_found_and_what_is_frozen_stays():
    torch.manual_seed(0)
    model = torch.nn.Linear(3, 1)
    model.bias.requires_grad_(False)
    before = model.bias.clone()
    wanted = torch.tensor([[1.0, -2.0, 0.5]])

    def loss_of_step(step):
        x = torch.randn(64, 3, generator=generator_of(step)[1])
        return (model(x) - x @ wanted.T - before).square().mean()

    heard = []
    trained = train_for(model, loss_of_step, 0.8, 0.1, lambda share, loss: heard.append((share, loss)))
    assert set(trained.weights) == {"weight"} and torch.equal(model.bias, before)
    assert (trained.weights["weight"] - wanted).abs().max() < 0.1
    assert trained.steps == len(heard) and trained.seconds >= 0.8
    assert trained.loss == pytest.approx(np.mean([loss for _, loss in heard[-100:]]))


@given(st.integers(0, 2**31), st.integers(0, 2**31))
def test_random_numbers_follow_from_the_numbers(seed, step):
    (first, torch_first), (second, torch_second) = generator_of(seed, step), generator_of(seed, step)
    assert first.random() == second.random()
    assert torch.rand(1, generator=torch_first) == torch.rand(1, generator=torch_second)
