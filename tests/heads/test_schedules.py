"""Noise schedules and sampler steps against their formulas."""

from __future__ import annotations

import math

import pytest
import torch

from pi0_edge.errors import ConfigError
from pi0_edge.heads.schedules import add_noise, cosine_betas, ddim_step, ddpm_step, kept_shares, spaced_steps


@pytest.mark.parametrize("steps", [20, 100])
def test_betas_are_those_of_the_squared_cosine_clipped(steps):
    def kept(t: float) -> float:
        return math.cos((t + 0.008) / 1.008 * math.pi / 2) ** 2

    expected = [min(1 - kept((k + 1) / steps) / kept(k / steps), 0.999) for k in range(steps)]
    assert cosine_betas(steps).tolist() == pytest.approx(expected, abs=1e-12)
    assert cosine_betas(steps)[-1] == 0.999  # unclipped it would be 1, and the last α 0


def test_the_least_noisy_step_is_the_first_and_almost_nothing_is_left_at_the_last():
    kept = kept_shares(20)
    assert (kept.diff() < 0).all() and kept[0] > 0.98 and 0 < kept[-1] < 1e-4


def test_all_steps_are_taken_from_the_noisiest_on_and_fewer_are_evenly_spaced():
    assert spaced_steps(20, 20, "x") == list(range(19, -1, -1))
    assert spaced_steps(100, 10, "x") == [90, 80, 70, 60, 50, 40, 30, 20, 10, 0]
    assert spaced_steps(100, 1, "x") == [0]


@pytest.mark.parametrize("taken", [0, 21])
def test_steps_that_were_not_trained_are_refused(taken):
    with pytest.raises(ConfigError, match="expected 1 to 20"):
        spaced_steps(20, taken, "the head octo")


def test_the_ancestral_step_is_octos_formula_where_no_level_is_skipped():
    betas, kept = cosine_betas(20), kept_shares(20)
    x, epsilon, drawn = torch.randn(3, 5, 4, generator=torch.Generator().manual_seed(0)).double()
    for k in (1, 7, 18):
        alpha = 1 - betas[k]
        octo = (x - (1 - alpha) / (1 - kept[k]).sqrt() * epsilon) / alpha.sqrt() + betas[k].sqrt() * drawn
        ours = ddpm_step(x, epsilon, float(kept[k]), float(kept[k - 1]), drawn)
        torch.testing.assert_close(ours, octo, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("step", [ddpm_step, ddim_step])
def test_a_network_that_knows_the_noise_leads_to_the_chunk(step):
    """The last step of either sampler gives the chunk exactly, whatever the level it starts from."""
    generator = torch.Generator().manual_seed(1)
    chunk = torch.rand(6, 4, generator=generator).double() * 1.8 - 0.9
    noise = torch.randn(6, 4, generator=generator).double()
    kept = kept_shares(100)
    for level in (0, 30, 90):
        x = add_noise(chunk, noise, kept[[level] * 6])
        extra = (None,) if step is ddpm_step else (1.0,)
        torch.testing.assert_close(step(x, noise, float(kept[level]), 1.0, *extra), chunk, rtol=1e-6, atol=1e-6)


def test_a_predicted_chunk_beyond_the_limit_is_clipped_and_the_direction_is_not():
    kept, following = 0.5, 0.8
    x, epsilon = torch.tensor([[3.0]]), torch.tensor([[0.25]])
    expected = math.sqrt(following) * 1.0 + math.sqrt(1 - following) * 0.25
    assert ddim_step(x, epsilon, kept, following, 1.0).item() == pytest.approx(expected)
