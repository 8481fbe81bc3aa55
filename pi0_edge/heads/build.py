"""The table of heads: which network each is, and the chunk and steps that it was published with."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from pi0_edge.errors import EngineError
from pi0_edge.heads.mse import MseNetwork
from pi0_edge.heads.network import HeadNetwork
from pi0_edge.heads.octo import STEPS, OctoNetwork
from pi0_edge.heads.rt2 import Rt2Network
from pi0_edge.heads.tinyvla import TinyVlaNetwork
from pi0_edge.model import Head, Pi0, Pi0Config, PolicyNetwork
from pi0_edge.model.flow import EULER_STEPS, TimeDistribution, sample_training_times


@dataclass(frozen=True)
class Published:
    """A head and its published settings.

    Attributes:
        network: Its class.
        horizon: Actions of a chunk.
        steps: Of the loop from noise to actions: Euler, DDPM or DDIM; 1 where there is none.
        uses_noise: Whether training draws noise, so that several draws per observation make sense.
    """

    network: type[PolicyNetwork]
    horizon: int
    steps: int
    uses_noise: bool


HEADS: dict[Head, Published] = {
    "flow": Published(Pi0, horizon=50, steps=EULER_STEPS, uses_noise=True),
    "rt2": Published(Rt2Network, horizon=1, steps=1, uses_noise=False),
    "octo": Published(OctoNetwork, horizon=4, steps=STEPS, uses_noise=True),
    "tinyvla": Published(TinyVlaNetwork, horizon=16, steps=10, uses_noise=True),
    "mse": Published(MseNetwork, horizon=50, steps=1, uses_noise=False),
}


def build_network(config: Pi0Config) -> PolicyNetwork:
    """The network of `config.head`, with random weights."""
    return HEADS[config.head].network(config)


def fit_actions(model: PolicyNetwork, actions: Tensor) -> None:
    """Lets a head take from the data what it fixes before training, see `HeadNetwork.fit_actions`; flow takes nothing.

    Args:
        model: Not yet trained.
        actions: Normalized actions of all demonstrations, float32 [actions, dims].
    """
    if isinstance(model, HeadNetwork):
        model.fit_actions(actions)


def training_times(
    model: PolicyNetwork,
    rows: int,
    generator: torch.Generator | None = None,
    distribution: TimeDistribution = "beta",
) -> Tensor:
    """The times that `loss` is asked for, float32 [rows]: for flow of `distribution`, else uniform in [0, 1)."""
    if isinstance(model, Pi0):
        return sample_training_times(rows, generator, distribution)
    return torch.rand(rows, generator=generator)


def require_flow(config: Pi0Config, what: str) -> None:
    """Returns where the head is flow matching.

    Args:
        config: Of the network.
        what: What cannot do with another head, the subject of a sentence.

    Raises:
        EngineError: Otherwise.
    """
    if config.head != "flow":
        raise EngineError(
            f'{what} has only π0\'s flow matching, and this network has the head {config.head}; use engine="cpu" or '
            'engine="reference"'
        )
