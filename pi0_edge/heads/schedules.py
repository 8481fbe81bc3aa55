"""Diffusion: how much noise a step has, and how a sample takes a step.

A chunk A becomes x_k = √ᾱ_k·A + √(1 − ᾱ_k)·ε with ᾱ_k = Π_{i ≤ k} (1 − β_i); the network predicts ε. Here steps count
up from 0, which has the least noise. Sources: Ho et al. (arXiv 2006.11239) for DDPM, Song et al. (arXiv 2010.02502) for
DDIM, Nichol and Dhariwal (arXiv 2102.09672) for the cosine and for taking fewer steps.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from pi0_edge.errors import ConfigError

COSINE_OFFSET = 0.008
MAX_BETA = 0.999


def cosine_betas(steps: int) -> Tensor:
    """β of every step, float64 [steps]: ᾱ(t) = cos²((t + 0.008)/1.008 · π/2) at t = k/steps, β clipped to 0.999.

    It is `cosine_beta_schedule` of Octo and, clipped at the same value, `squaredcos_cap_v2` of diffusers.
    """
    times = torch.arange(steps + 1, dtype=torch.float64) / steps
    kept = ((times + COSINE_OFFSET) / (1 + COSINE_OFFSET) * math.pi / 2).cos().square()
    return (1 - kept[1:] / kept[:-1]).clamp(0, MAX_BETA)


def kept_shares(steps: int) -> Tensor:
    """ᾱ of every step, float64 [steps]."""
    return (1 - cosine_betas(steps)).cumprod(0)


def spaced_steps(trained: int, taken: int, what: str) -> list[int]:
    """The steps of a sampler that takes fewer than were trained, from the noisiest on.

    Every (trained // taken)-th, counted from 0, as diffusers' "leading" spacing; all of them where both are equal.

    Args:
        trained: Steps of the schedule.
        taken: Steps of the sampler.
        what: The head, for the error.

    Raises:
        ConfigError: If more steps are asked for than were trained.
    """
    if not 1 <= taken <= trained:
        raise ConfigError(f"{what} was trained with {trained} noise levels: steps is {taken}, expected 1 to {trained}")
    return [step * (trained // taken) for step in reversed(range(taken))]


def add_noise(actions: Tensor, noise: Tensor, kept: Tensor) -> Tensor:
    """x_k of chunks [batch, ...] for ᾱ [batch]."""
    kept = kept.to(actions).view(-1, *[1] * (actions.ndim - 1))
    return kept.sqrt() * actions + (1 - kept).sqrt() * noise


def ddpm_step(x: Tensor, epsilon: Tensor, kept: float, kept_next: float, drawn: Tensor | None) -> Tensor:
    """One ancestral step: x ← (x − (1 − α)/√(1 − ᾱ)·ε)/√α + √β·z with α = ᾱ/ᾱ_next and β = 1 − α.

    Args:
        x: The sample.
        epsilon: The predicted noise.
        kept: ᾱ of the step of x.
        kept_next: ᾱ of the step that is taken; 1 for the last one.
        drawn: z, standard normal; None for the last step, which adds none.
    """
    alpha = kept / kept_next
    x = (x - (1 - alpha) / math.sqrt(1 - kept) * epsilon) / math.sqrt(alpha)
    return x if drawn is None else x + math.sqrt(1 - alpha) * drawn


def ddim_step(x: Tensor, epsilon: Tensor, kept: float, kept_next: float, limit: float) -> Tensor:
    """One deterministic step (η = 0) with the predicted chunk clipped to ±limit, as diffusers' `clip_sample`.

    The direction keeps the predicted noise, which is not computed again from the clipped chunk.
    """
    chunk = ((x - math.sqrt(1 - kept) * epsilon) / math.sqrt(kept)).clamp(-limit, limit)
    return math.sqrt(kept_next) * chunk + math.sqrt(1 - kept_next) * epsilon
