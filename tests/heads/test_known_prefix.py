"""A prefix that is known gives the loss that the images give, with every head."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from head_cases import DIMS, HORIZON, config_of, inputs_of, network_of, noise_of

from pi0_edge.heads import HEADS, training_times


@pytest.mark.parametrize("head", HEADS)
def test_the_images_are_not_looked_at(head):
    model, inputs = network_of(head), inputs_of(3)
    chunks, noise = torch.randn(3, HORIZON, config_of(head).action_dim), noise_of(3, config_of(head))
    times = training_times(model, 3, torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = model.loss(inputs, chunks, noise, times)
        blind = dataclasses.replace(inputs, images=torch.full_like(inputs.images, float("nan")))
        found = model.loss(blind, chunks, noise, times, None, model.attend_prefix(inputs))
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    assert found[..., :DIMS].abs().sum() > 0
