"""Octo's diffusion head: one pass of the transformer, then twenty DDPM steps of an MLP over the flat chunk.

As published (octo/model/components/action_heads.py and diffusion.py, commit 241fb35): cosine schedule with s = 0.008
and β at most 0.999, 20 steps of which all are taken, ε-prediction, learned Fourier features of the time (32, from
N(0, 0.2)), MLP 64-32 with swish, the order [time, observation, noisy actions], three blocks LayerNorm → 4·width → swish
→ width, clipping to ±5 at every step of actions normalized by mean and deviation, chunk of 4 actions, one noise draw.

Scaled: the width of the blocks is Octo's 256 as long as the flat chunk is not wider. Noise has as many independent
numbers as the chunk, and what must pass through fewer cannot be predicted; a chunk of 50 actions of 14 joints (700)
gets the next multiple of 256. Left out: `embodiment_action_dim`, since only the robot's own dimensions are diffused.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pi0_edge.heads.network import ReadoutNetwork, draw_normal, refuse_continuation, row_generators
from pi0_edge.heads.schedules import add_noise, ddpm_step, kept_shares, spaced_steps
from pi0_edge.latency.stages import Stage, StageCallback, euler_step, not_timed
from pi0_edge.model import Continuation, ModelInputs, Pi0Config
from pi0_edge.model.pi0 import Context

STEPS = 20
MAX_ACTION = 5.0
WIDTH = 256
BLOCKS = 3
TIME_WIDTH = 32
FOURIER_DEVIATION = 0.2


class Block(nn.Module):
    """LayerNorm → Dense(4·width) → swish → Dense(width), and a residual."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.widen = nn.Linear(width, 4 * width)
        self.narrow = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """[batch, width] -> the same shape."""
        return x + self.narrow(F.silu(self.widen(self.norm(x))))


class ScoreNetwork(nn.Module):
    """Predicts the noise in a flat chunk."""

    def __init__(self, observed: int, numbers: int) -> None:
        """Sizes of the observation and of the flat chunk."""
        super().__init__()
        width = max(1, math.ceil(numbers / WIDTH)) * WIDTH
        self.frequencies = nn.Parameter(torch.empty(TIME_WIDTH // 2).normal_(std=FOURIER_DEVIATION))
        self.time_in = nn.Linear(TIME_WIDTH, 2 * TIME_WIDTH)
        self.time_out = nn.Linear(2 * TIME_WIDTH, TIME_WIDTH)
        self.first = nn.Linear(TIME_WIDTH + observed + numbers, width)
        self.blocks = nn.ModuleList(Block(width) for _ in range(BLOCKS))
        self.last = nn.Linear(width, numbers)

    def forward(self, observed: Tensor, x: Tensor, step: Tensor) -> Tensor:
        """Observation [batch, observed], noisy chunk [batch, numbers] and step [batch] -> ε [batch, numbers]."""
        phase = 2 * math.pi * step[:, None].to(x) * self.frequencies
        time = self.time_out(F.silu(self.time_in(torch.cat((phase.cos(), phase.sin()), dim=-1))))
        hidden = self.first(torch.cat((time, observed, x), dim=-1))
        for block in self.blocks:
            hidden = block(hidden)
        return self.last(F.silu(hidden))


class OctoNetwork(ReadoutNetwork):
    """The readout token and the score network behind it."""

    def __init__(self, config: Pi0Config) -> None:
        super().__init__(config)
        self.score = ScoreNetwork(config.expert.width, config.horizon * config.head_dims)

    def loss(
        self,
        inputs: ModelInputs,
        actions: Tensor,
        noise: Tensor,
        times: Tensor,
        frozen: Tensor | None = None,
        prefix: Context | None = None,
    ) -> Tensor:
        """(ε − ε̂)² per element, as `Pi0.loss`; times are uniform in [0, 1) and choose the step, nothing is frozen."""
        observed, actions = self.read(self.attend(inputs, prefix)), self.given(actions)
        draws = len(noise) // len(actions)
        observed, actions = (x.repeat_interleave(draws, 0) for x in (observed, actions))
        noise, step = self.given(noise), (times * STEPS).long()
        x = add_noise(actions, noise, kept_shares(STEPS)[step.cpu()])
        predicted = self.score(observed, x.flatten(1), step).view_as(noise)
        return self.padded((noise - predicted).square())

    def sample_actions(
        self,
        inputs: ModelInputs,
        noise: Tensor,
        times: Tensor,
        continuation: Continuation | None = None,
        on_stage: StageCallback = not_timed,
    ) -> Tensor:
        """As `Pi0.sample_actions`; len(times) is the number of DDPM steps, 20 as published."""
        refuse_continuation(self.config.head, continuation)
        steps = spaced_steps(STEPS, len(times), "the head octo")
        observed = self.read(self.attend_state(self.attend_prefix(inputs, on_stage), inputs.state))
        on_stage(Stage.STATE)
        kept, generators = kept_shares(STEPS).tolist(), row_generators(noise)
        x = self.given(noise).flatten(1)
        for place, step in enumerate(steps):
            epsilon = self.score(observed, x, torch.full((len(x),), step, device=x.device))
            last = place == len(steps) - 1
            drawn = None if last else draw_normal(generators, x)
            x = ddpm_step(x, epsilon, kept[step], 1.0 if last else kept[steps[place + 1]], drawn)
            x = x.clamp(-MAX_ACTION, MAX_ACTION)
            on_stage(euler_step(place))
        return self.padded(x.view(len(x), self.config.horizon, self.config.head_dims))
