"""Flow matching: which way time runs, where it is sampled, and how it is embedded.

Time follows openpi: t = 1 is pure noise ε and t = 0 is the action chunk A. The network gets x_t = t·ε + (1 − t)·A and
predicts the velocity u = dx_t/dt = ε − A, so that inference starts from noise and steps with dt = −1/N. The π0 paper
(arXiv 2410.24164) writes τ = 1 − t; under its own convention the printed target ε − A has the wrong sign.
"""

from __future__ import annotations

import math
from typing import Literal, get_args

import torch
from torch import Tensor

Schedule = Literal["accumulated", "exact"]
TimeDistribution = Literal["beta", "uniform", "logit-normal"]
TIME_DISTRIBUTIONS: tuple[TimeDistribution, ...] = get_args(TimeDistribution)

EULER_STEPS = 10
MIN_PERIOD = 4e-3
MAX_PERIOD = 4.0


def euler_times(steps: int, schedule: Schedule = "accumulated") -> Tensor:
    """The times at which the velocity is evaluated, float32 [steps], from 1 down to 1/steps.

    `accumulated` adds float32(−1/steps) again and again as openpi does; `exact` rounds 1 − k/steps once, as LeRobot
    and transformers do. They differ by 6e-8, which the shortest period of the time embedding turns into up to 5e-5
    on the actions.
    """
    if steps < 1:
        raise ValueError(f"at least one Euler step is needed, found {steps}")
    if schedule == "exact":
        return torch.tensor([1.0 - k / steps for k in range(steps)], dtype=torch.float32)
    dt = torch.tensor(-1.0 / steps, dtype=torch.float32)
    times = [torch.tensor(1.0)]
    for _ in range(steps - 1):
        times.append(times[-1] + dt)
    return torch.stack(times)


def time_embedding(times: Tensor, width: int) -> Tensor:
    """Sines and cosines over log-spaced periods from 4e-3 to 4, float32 [times, width].

    Computed in float64: with a period of 4e-3, float32 phases would already be off by 1e-4.
    """
    fraction = torch.linspace(0.0, 1.0, width // 2, dtype=torch.float64, device=times.device)
    period = MIN_PERIOD * (MAX_PERIOD / MIN_PERIOD) ** fraction
    phase = times.double()[:, None] * (2 * math.pi / period)
    return torch.cat((phase.sin(), phase.cos()), dim=-1).float()


def sample_training_times(
    count: int, generator: torch.Generator | None = None, distribution: TimeDistribution = "beta"
) -> Tensor:
    """T = 0.999·z + 0.001, float32 [count], never exactly t = 0.

    z is drawn from Beta(1.5, 1), π0's: more weight on noisy chunks; from the uniform distribution; or from the
    logit-normal one with location 0 and scale 1, which has more weight in the middle (Esser et al., arXiv 2403.03206).
    Beta(a, 1) has the distribution function z^a, so a uniform draw to the power 1/a samples it.
    """
    if distribution == "logit-normal":
        return 0.999 * torch.randn(count, generator=generator).sigmoid() + 0.001
    uniform = torch.rand(count, generator=generator)
    return 0.999 * (uniform ** (1 / 1.5) if distribution == "beta" else uniform) + 0.001


def noisy_chunk(actions: Tensor, noise: Tensor, times: Tensor) -> Tensor:
    """x_t = t·ε + (1 − t)·A for chunks [batch, horizon, action_dim] and times [batch]."""
    t = times[:, None, None]
    return t * noise + (1 - t) * actions
