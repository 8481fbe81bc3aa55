"""Small networks with each action head, inputs for them, and a task with two equally good ways."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor

from pi0_edge.heads import HEADS, build_network, fit_actions, training_times
from pi0_edge.model import GemmaConfig, Head, ModelInputs, Pi0Config, PolicyNetwork, VisionConfig
from pi0_edge.model.flow import euler_times

DIMS = 2
PADDED = 3
HORIZON = 4
SMALL = Pi0Config(
    "pi0",
    VisionConfig(width=16, depth=1, mlp_dim=16, heads=2, patch_size=14, image_size=14),
    GemmaConfig(width=32, depth=2, mlp_dim=32, heads=2, kv_heads=1, head_dim=16),
    GemmaConfig(width=32, depth=2, mlp_dim=64, heads=2, kv_heads=1, head_dim=16),
    vocab_size=8,
    action_dim=PADDED,
    horizon=HORIZON,
)


def config_of(head: Head, **sizes: Any) -> Pi0Config:
    """The small network with this head, for a robot of two joints in a network of three dimensions."""
    return dataclasses.replace(SMALL, head=head, real_dims=DIMS, **sizes)


def network_of(head: Head, **sizes: Any) -> PolicyNetwork:
    """The same, with weights that are the same every time."""
    torch.manual_seed(0)
    return build_network(config_of(head, **sizes))


def inputs_of(batch: int, seed: int = 0, same: bool = False) -> ModelInputs:
    """Observations of one camera; all the same where `same`."""
    generator = torch.Generator().manual_seed(seed)
    rows = 1 if same else batch
    images = torch.rand(rows, 1, 3, 14, 14, generator=generator) * 2 - 1
    state = torch.randn(rows, PADDED, generator=generator)
    return ModelInputs(
        images=images.expand(batch, -1, -1, -1, -1).contiguous(),
        image_mask=torch.ones(batch, 1, dtype=torch.bool),
        tokens=torch.tensor([2, 5, 3]).expand(batch, -1),
        token_mask=torch.ones(batch, 3, dtype=torch.bool),
        state=state.expand(batch, -1).contiguous(),
    )


def noise_of(batch: int, config: Pi0Config, seed: int = 1) -> Tensor:
    """Standard normal noise for chunks."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, config.horizon, config.action_dim, generator=generator)


@torch.inference_mode()
def chunks_of(model: PolicyNetwork, inputs: ModelInputs, noise: Tensor, steps: int | None = None) -> Tensor:
    """Chunks in the published number of steps, or in another."""
    return model.eval().sample_actions(inputs, noise, euler_times(steps or HEADS[model.config.head].steps))


def two_ways(batch: int, generator: torch.Generator) -> Tensor:
    """Chunks past an obstacle at 0: the second joint goes over it or under it, half of them each."""
    side = torch.randint(2, (batch, 1), generator=generator) * 2.0 - 1
    away = torch.tensor([0.4, 1.0, 1.0, 0.4]) * side + 0.05 * torch.randn(batch, HORIZON, generator=generator)
    along = torch.linspace(-1, 1, HORIZON).expand(batch, -1)
    return torch.stack((along, away, torch.zeros_like(along)), dim=-1)


def share_above(chunks: Tensor) -> float:
    """Of the chunks that pass it, how many go over the obstacle."""
    middle = chunks[:, 1:3, 1].mean(1)
    passed = middle.abs() > 0.5
    return float((middle[passed] > 0).float().mean()) if passed.any() else float("nan")


def collisions(chunks: Tensor) -> float:
    """Share of the chunks that come within half of the way of the obstacle."""
    return float((chunks[:, 1:3, 1].abs().amin(1) < 0.5).float().mean())


def train_on_two_ways(model: PolicyNetwork, steps: int, rate: float = 3e-3) -> list[float]:
    """Trains on one observation that has two ways, and returns the losses."""
    generator = torch.Generator().manual_seed(0)
    fit_actions(model, two_ways(1000, generator).flatten(0, 1))
    learned = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(learned, lr=rate, weight_decay=0)
    inputs, losses = inputs_of(64, same=True), []
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = rate * min(1.0, (step + 1) / 20, 1.02 - step / steps)
        chunks = two_ways(64, generator)
        noise = torch.randn(chunks.shape, generator=generator)
        loss = model.loss(inputs, chunks, noise, training_times(model, 64, generator))[..., :DIMS].mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(learned, 1.0)
        optimizer.step()
        losses.append(loss.item())
    return losses
