"""TinyVLA's head: one pass of the transformer, then ten DDIM steps of a U-Net along the chunk.

As published (llava_pythia.py and droid_unet_diffusion.py, commit 94f4418): `ConditionalUnet1D` with kernel 5, 8 groups,
Mish and FiLM; 100 noise levels on the squared cosine, ε-prediction, DDIM without noise, predicted chunk clipped to ±1,
actions in [-1, 1] by their least and largest value, chunk of 16 actions; the observation is a LayerNorm of the
network's output, the robot's state behind it, and a linear layer. The "single step" in descriptions of it is the one
pass of the language model: the head takes ten. With one it runs as well (`euler_steps: 1`), and shows noise.

Scaled: the channels 256-512-1024 stand behind a language model of width 1024; here they are a quarter, a half and the
whole of the expert's width, in steps of 32. Different: TinyVLA takes the mean over all hidden states of its language
model, whose last layer π0 does not compute; a readout token attends to them instead. Time features are computed in
float32, where TinyVLA rounds them to bfloat16.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pi0_edge.heads.network import ActionRange, ReadoutNetwork, refuse_continuation
from pi0_edge.heads.schedules import add_noise, ddim_step, kept_shares, spaced_steps
from pi0_edge.heads.unet import ConditionalUnet1D
from pi0_edge.latency.stages import Stage, StageCallback, euler_step, not_timed
from pi0_edge.model import Continuation, ModelInputs, Pi0Config
from pi0_edge.model.pi0 import Context

LEVELS = 100
CLIP = 1.0
CHANNEL_STEP = 32


class TinyVlaNetwork(ReadoutNetwork):
    """The readout token and the U-Net behind it."""

    def __init__(self, config: Pi0Config) -> None:
        super().__init__(config)
        width = config.expert.width
        first = max(1, round(width / 4 / CHANNEL_STEP)) * CHANNEL_STEP
        self.read_norm = nn.LayerNorm(width)
        self.combine = nn.Linear(width + config.action_dim, width)
        self.unet = ConditionalUnet1D(config.head_dims, width, (first, 2 * first, 4 * first))
        self.range = ActionRange(config.head_dims)

    def fit_actions(self, actions: Tensor) -> None:
        """The range is from the least to the largest action of training."""
        known = self.given(actions)
        self.range.set(known.amin(0), known.amax(0))

    def loss(
        self,
        inputs: ModelInputs,
        actions: Tensor,
        noise: Tensor,
        times: Tensor,
        frozen: Tensor | None = None,
        prefix: Context | None = None,
    ) -> Tensor:
        """(ε − ε̂)² per element, as `Pi0.loss`; times are uniform in [0, 1) and choose the level, nothing is frozen."""
        observed = self._combined(self.read(self.attend(inputs, prefix)), inputs.state)
        actions = self.range.shrink(self.given(actions))
        draws = len(noise) // len(actions)
        observed, actions = (x.repeat_interleave(draws, 0) for x in (observed, actions))
        noise, level = self.given(noise), (times * LEVELS).long()
        x = add_noise(actions, noise, kept_shares(LEVELS)[level.cpu()])
        return self.padded((noise - self.unet(x, level, observed)).square())

    def sample_actions(
        self,
        inputs: ModelInputs,
        noise: Tensor,
        times: Tensor,
        continuation: Continuation | None = None,
        on_stage: StageCallback = not_timed,
    ) -> Tensor:
        """As `Pi0.sample_actions`; len(times) is the number of DDIM steps, 10 of 100 as published."""
        refuse_continuation(self.config.head, continuation)
        levels = spaced_steps(LEVELS, len(times), "the head tinyvla")
        read = self.read(self.attend_state(self.attend_prefix(inputs, on_stage), inputs.state))
        observed = self._combined(read, inputs.state)
        on_stage(Stage.STATE)
        kept, x = kept_shares(LEVELS).tolist(), self.given(noise)
        for place, level in enumerate(levels):
            epsilon = self.unet(x, torch.full((len(x),), level, device=x.device), observed)
            following = level - LEVELS // len(levels)
            x = ddim_step(x, epsilon, kept[level], kept[following] if following >= 0 else 1.0, CLIP)
            on_stage(euler_step(place))
        return self.padded(self.range.expand(x))

    def _combined(self, read: Tensor, state: Tensor) -> Tensor:
        return self.combine(torch.cat((self.read_norm(read), state), dim=-1))
