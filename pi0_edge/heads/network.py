"""What the other heads share: the state token, the readout token, and actions of the robot alone.

A head gives the leading `Pi0Config.head_dims` dimensions of a chunk. The padding behind them is 0 and is neither
learned nor sampled: a token or a diffused number per padded dimension would only cost time.
"""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pi0_edge.errors import ConfigError
from pi0_edge.model import Continuation, ModelInputs, Pi0Config, PolicyNetwork
from pi0_edge.model.pi0 import Context, extend_mask

LEAST_HALF_RANGE = 0.5
"""Of a dimension, in standard deviations: one that stood still in training must not be divided by 0."""


class HeadNetwork(PolicyNetwork):
    """A network with another head than flow matching."""

    def __init__(self, config: Pi0Config) -> None:
        super().__init__(config)
        self.state_proj = nn.Linear(config.action_dim, config.expert.width)

    def fit_actions(self, actions: Tensor) -> None:
        """Takes from the training data what a head fixes before training, such as the range of its bins.

        Args:
            actions: Normalized actions of all demonstrations, float32 [actions, at least head_dims].
        """

    def attend(self, inputs: ModelInputs, prefix: Context | None = None) -> Context:
        """Keys and values of images, prompt and state; `prefix` is `attend_prefix` of these inputs, if it is known."""
        return self.attend_state(self.attend_prefix(inputs) if prefix is None else prefix, inputs.state)

    def given(self, actions: Tensor) -> Tensor:
        """The dimensions of a chunk that the head gives, [batch, horizon, head_dims]."""
        return actions[..., : self.config.head_dims]

    def padded(self, actions: Tensor) -> Tensor:
        """The inverse of `given`, with zeros."""
        return F.pad(actions, (0, self.config.action_dim - actions.shape[-1]))


class ReadoutNetwork(HeadNetwork):
    """A head that reads everything it knows of the observation from one token, as Octo does.

    The token attends to prefix and state through a transformer of the size of the flow expert, so that heads differ in
    what follows. Octo takes the mean over its readout tokens, of which it has one.
    """

    def __init__(self, config: Pi0Config) -> None:
        super().__init__(config)
        self.readout = nn.Parameter(torch.empty(config.expert.width).normal_(std=0.02))

    def read(self, context: Context) -> Tensor:
        """The output at the readout token, float32 [batch, expert width]."""
        tokens = self.readout.to(self.residual_dtype).expand(len(context.lengths), 1, -1)
        mask = extend_mask(context.key_mask, 1)
        return self.expert(tokens, context.lengths[:, None], context.layers, mask, None)[:, 0].float()


class ActionRange(nn.Module):
    """The range of each action dimension, mapped to [-1, 1]; a part of the checkpoint that is not learned."""

    def __init__(self, dims: int) -> None:
        super().__init__()
        self.middle = nn.Parameter(torch.zeros(dims), requires_grad=False)
        self.half_width = nn.Parameter(torch.full((dims,), 3.0), requires_grad=False)

    @torch.no_grad()
    def set(self, low: Tensor, high: Tensor) -> None:
        """Takes the limits [dims], in normalized units."""
        self.middle.copy_((low + high) / 2)
        self.half_width.copy_(((high - low) / 2).clamp(min=LEAST_HALF_RANGE))

    def shrink(self, actions: Tensor) -> Tensor:
        """Normalized actions [..., dims] -> [-1, 1] inside the range."""
        return (actions - self.middle) / self.half_width

    def expand(self, shrunk: Tensor) -> Tensor:
        """The inverse of `shrink`."""
        return shrunk * self.half_width + self.middle


def refuse_continuation(head: str, continuation: Continuation | None) -> None:
    """Returns where a chunk continues nothing.

    Raises:
        ConfigError: Otherwise: real-time chunking acts inside the Euler loop, which another head does not have.
    """
    if continuation is not None:
        raise ConfigError(
            f"real-time chunking steers Euler steps, and the head {head} has none; enter its chunks as they are "
            "(splice hold-swap)"
        )


def row_generators(noise: Tensor) -> list[torch.Generator]:
    """One generator per chunk, seeded by its noise [batch, horizon, action_dim].

    Heads that need more randomness than a chunk of noise draw it here, so that the same noise makes the same chunk, on
    every machine and in every batch.
    """
    digests = [hashlib.sha256(row.cpu().float().contiguous().numpy().tobytes()).digest() for row in noise]
    return [torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1) for digest in digests]


def draw_normal(generators: list[torch.Generator], like: Tensor) -> Tensor:
    """Standard normal numbers in the shape of `like` [batch, ...], each row from its own generator."""
    return torch.stack([torch.randn(like.shape[1:], generator=generator) for generator in generators]).to(like)
