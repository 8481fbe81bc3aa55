"""Training for a given time: processor seconds of one thread, whatever a step costs and whatever else the machine does.

AdamW, a ramp over the first twentieth of the time and a cosine to its end, gradients clipped at a norm of 1, and an
average of the weights, which is the result; as in `pi0_edge.training.trainer`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from pi0_edge.training.optimizer import MasterOptimizer

WEIGHT_DECAY = 1e-4
CLIP_NORM = 1.0
AVERAGE_DECAY = 0.999
RAMP = 0.05
"""Share of the time in which the learning rate rises."""
SMOOTHED = 100
"""Last steps that the reported loss is the mean of."""


@dataclass(frozen=True)
class Trained:
    """What a time of training gave.

    Attributes:
        weights: The averaged parameters that learned, by name.
        steps: Optimizer steps.
        seconds: Processor seconds.
        loss: Mean of the last steps.
    """

    weights: dict[str, Tensor]
    steps: int
    seconds: float
    loss: float


def rate_at(share: float) -> float:
    """Factor of the learning rate after a share of the time: a ramp, then a cosine to a hundredth."""
    ramp = min(1.0, (share + RAMP / 50) / RAMP)
    return ramp * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(1.0, share))))


def shares_of(seconds: float) -> Iterator[float]:
    """The share of `seconds` of processor time that has passed, until it is all of it; at least one share."""
    begin, share = time.process_time(), 0.0
    while share < 1.0:
        yield share
        share = (time.process_time() - begin) / seconds


def train_for(
    model: nn.Module,
    loss_of_step: Callable[[int], Tensor],
    seconds: float,
    rate: float,
    on_share: Callable[[float, float], object] = lambda share, loss: None,
) -> Trained:
    """Trains what of `model` requires gradients, in place.

    Args:
        model: The network, or several in a `ModuleList`.
        loss_of_step: The loss of a step, a scalar with gradients.
        seconds: Processor seconds of this process.
        rate: Peak of the learning rate.
        on_share: Hears after every step of the share of the time that has passed, and of the loss.
    """
    optimizer = MasterOptimizer(model, WEIGHT_DECAY)
    model.train()
    begin, losses = time.process_time(), []
    for step, share in enumerate(shares_of(seconds)):
        loss = loss_of_step(step)
        loss.backward()
        optimizer.clip(CLIP_NORM)
        optimizer.step(rate * rate_at(share), min(AVERAGE_DECAY, (1 + step) / (10 + step)))
        losses.append(loss.item())
        on_share(share, losses[-1])
    model.eval()
    return Trained(optimizer.average, len(losses), time.process_time() - begin, float(np.mean(losses[-SMOOTHED:])))


def generator_of(*numbers: int) -> tuple[np.random.Generator, torch.Generator]:
    """Random numbers of numpy and of torch for a step, the same for the same numbers."""
    rng = np.random.default_rng(numbers)
    return rng, torch.Generator().manual_seed(int(rng.integers(2**62)))
