"""Loss and action error on demonstrations that the network does not learn from."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from pi0_edge.model import Pi0
from pi0_edge.model.flow import sample_training_times
from pi0_edge.training.sources import Batch

DRAWS = 4
"""Noise times per observation: the loss depends more on them than on the network."""
SEED = 20_260_101


@torch.no_grad()
def validation_of(model: Pi0, batches: Sequence[Batch], euler_times: torch.Tensor) -> tuple[float, float]:
    """Means over the batches, with the same noise and times each time.

    Args:
        model: The network.
        batches: Held-out observations, of any robots.
        euler_times: Of the chunks that are generated.

    Returns:
        The flow-matching loss, with times as π0 draws them; and the mean absolute difference of generated and
        demonstrated actions in normalized units. Both over the real dimensions.
    """
    generator = torch.Generator().manual_seed(SEED)
    losses, errors = [], []
    for batch in batches:
        shape, real = batch.chunks.shape, batch.real_dims
        noise = torch.randn(DRAWS * shape[0], *shape[1:], generator=generator)
        times = sample_training_times(len(noise), generator)
        prefix = model.attend_prefix(batch.inputs)
        loss = model.loss(batch.inputs, batch.chunks, noise, times, None, prefix)
        losses.append(float(loss[..., :real].mean()))
        made = model.sample_actions(batch.inputs, noise[::DRAWS], euler_times)
        errors.append(float((made - batch.chunks)[..., :real].abs().mean()))
    return sum(losses) / len(losses), sum(errors) / len(errors)
