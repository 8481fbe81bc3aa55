"""Trains an untrained vision tower alone, before the flow is trained on top of it.

A published π0 starts from a vision-language model whose tokens already say where objects are; a network trained from
scratch does not, and flow matching alone trains it slowly: one token in fifty shows the object, and its effect on the
actions is small against the noise. So the tower and its projector first learn to predict from a single image where the
arms will be in half a chunk and in a whole one. The prediction is a linear readout of the mean of the image tokens,
which is what an untrained attention computes of them. The readout is discarded.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn

from pi0_edge.model import ModelInputs, PolicyNetwork
from pi0_edge.training.samples import AlternatingBatches, SampleBatches

LEARNING_RATE = 1e-3
WARMUP_STEPS = 100


class VisionReadout(nn.Module):
    """Vision tower and projector of a network under a linear readout of the mean image token."""

    def __init__(self, model: PolicyNetwork, seed: int) -> None:
        """The parts of `model` themselves, and a readout with the weights of `seed`."""
        super().__init__()
        self.vision, self.projector = model.vision, model.projector
        self.readout = nn.Linear(model.config.prefix.width, 2 * model.config.action_dim)
        generator = torch.Generator().manual_seed(seed)
        nn.init.normal_(self.readout.weight, std=model.config.prefix.width**-0.5, generator=generator)

    def loss(self, inputs: ModelInputs, chunks: Tensor) -> Tensor:
        """Mean squared error of the actions in the middle and at the end of `chunks` [batch, horizon, action_dim]."""
        horizon = chunks.shape[1]
        target = chunks[:, [horizon // 2 - 1, horizon - 1]].flatten(1)
        tokens = self.projector(self.vision(inputs.images[inputs.image_mask])).unflatten(0, inputs.image_mask.shape)
        return (self.readout(tokens.mean((1, 2))) - target).square().mean()


def warm_up_vision(
    model: PolicyNetwork, batches: SampleBatches | AlternatingBatches, steps: int, batch: int, seed: int
) -> Iterator[float]:
    """Trains `model.vision` and `model.projector` in place and yields the loss of every step.

    Args:
        model: The network.
        batches: Demonstrations; their normalized actions are the targets. Their chunks may be longer than those of the
            network: a head of four actions learns where the arms will be in a second as well.
        steps: Optimizer steps.
        batch: Images per step.
        seed: Fixes the batches and the readout.
    """
    readout = VisionReadout(model, seed)
    parameters = list(readout.parameters())
    optimizer = torch.optim.AdamW(parameters, lr=LEARNING_RATE, betas=(0.9, 0.95), weight_decay=1e-4)
    for step in range(steps):
        loss = readout.loss(*batches.draw(batch, np.random.default_rng((seed, step, 1))))
        for group in optimizer.param_groups:
            ramp = min(1.0, (step + 1) / WARMUP_STEPS)
            group["lr"] = LEARNING_RATE * ramp * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * step / steps)))
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        yield loss.item()
