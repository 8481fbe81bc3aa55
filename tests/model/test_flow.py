"""Time: schedules, embedding, sampling."""

from __future__ import annotations

import math

import pytest
import torch

from pi0_edge.model.flow import euler_times, noisy_chunk, sample_training_times, time_embedding


def test_accumulated_schedule_has_the_rounding_of_openpi():
    times = euler_times(10, "accumulated").tolist()
    assert [f"{t:.10f}" for t in times[1:3]] == ["0.8999999762", "0.7999999523"]
    assert f"{times[-1]:.10f}" == "0.0999999270"


def test_exact_schedule_has_the_rounding_of_lerobot():
    times = euler_times(10, "exact").tolist()
    assert f"{times[2]:.10f}" == "0.8000000119" and f"{times[-1]:.10f}" == "0.1000000015"


@pytest.mark.parametrize("schedule", ["accumulated", "exact"])
@pytest.mark.parametrize("steps", [1, 2, 7, 10, 100])
def test_schedules_run_from_one_down_to_one_step_above_zero(schedule, steps):
    times = euler_times(steps, schedule)
    assert times.dtype == torch.float32 and len(times) == steps and times[0] == 1
    assert times[-1].item() == pytest.approx(1 / steps, abs=1e-5)


def test_no_steps_is_refused():
    with pytest.raises(ValueError, match="at least one Euler step"):
        euler_times(0)


def test_time_embedding_is_sines_then_cosines_of_log_spaced_periods():
    embedded = time_embedding(torch.tensor([0.3]), 8)[0].tolist()
    periods = [4e-3 * 1000 ** (k / 3) for k in range(4)]
    expected = [math.sin(2 * math.pi * 0.30000001192092896 / p) for p in periods]
    expected += [math.cos(2 * math.pi * 0.30000001192092896 / p) for p in periods]
    assert embedded == pytest.approx(expected, abs=1e-6)


def test_training_times_follow_the_shifted_beta():
    times = sample_training_times(200_000, torch.Generator().manual_seed(0))
    assert times.min() >= 0.001 and times.max() <= 1.0
    # Beta(1.5, 1): mean 0.6, P(z < 1/2) = 0.5^1.5.
    assert times.mean().item() == pytest.approx(0.999 * 0.6 + 0.001, abs=3e-3)
    assert (times < 0.5005).float().mean().item() == pytest.approx(0.5**1.5, abs=5e-3)


def test_other_training_times_follow_their_distributions():
    uniform, middle = (
        sample_training_times(200_000, torch.Generator().manual_seed(0), kind) for kind in ("uniform", "logit-normal")
    )
    assert all(times.min() >= 0.001 and times.max() <= 1.0 for times in (uniform, middle))
    for quantile in (0.1, 0.5, 0.9):
        assert float(uniform.quantile(quantile)) == pytest.approx(0.999 * quantile + 0.001, abs=5e-3)
    # Logit-normal (0, 1): the quantiles of the normal distribution through the logistic function.
    for quantile, normal in ((0.1, -1.2816), (0.5, 0.0), (0.9, 1.2816)):
        wanted = 0.999 / (1 + math.exp(-normal)) + 0.001
        assert float(middle.quantile(quantile)) == pytest.approx(wanted, abs=5e-3)


def test_noisy_chunk_is_noise_at_one_and_actions_at_zero():
    actions, noise = torch.randn(2, 5, 3), torch.randn(2, 5, 3)
    assert torch.equal(noisy_chunk(actions, noise, torch.ones(2)), noise)
    assert torch.equal(noisy_chunk(actions, noise, torch.zeros(2)), actions)
