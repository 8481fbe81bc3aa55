"""Real-time chunking: a new chunk that continues the one which is executed while the new one is made.

Flow matching draws one of many good chunks. Two draws for two observations need not agree, and an arm that changes from
one to the other jerks. So the second draw is given what the arm does meanwhile: row k of `previous` is the action that
the old chunk plans for the tick of action k of the new one. Two ways of telling, both inside the Euler loop:

* `Guidance` steers the velocity of any network towards `previous`, strongly where the arm will have executed it before
  the new chunk can enter, and fading after that. Black, Galliker, Levine: Real-Time Execution of Action Chunking Flow
  Policies (arXiv 2506.07339), in the form of LeRobot: the Jacobian of the network is taken as the identity, so that no
  backward pass is needed.
* `FrozenPrefix` gives the rows that will be executed anyway as they are, at time 0 (no noise), and lets the others
  follow from them. The network must have been trained so. Black, Ren, Equi, Levine: Training-Time Action Conditioning
  for Efficient Real-Time Chunking (arXiv 2512.05964).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


class Continuation(Protocol):
    """How the Euler loop continues another chunk.

    Each gives the number of leading actions that enter the network at time 0 (`frozen`), the start of the chunk, and
    its direction.
    """

    @property
    def frozen(self) -> int:
        """Leading actions that enter the network at time 0."""
        ...

    def start(self, noise: Tensor) -> Tensor:
        """The chunk at t = 1, [batch, horizon, action_dim], from noise of that shape."""
        ...

    def steer(self, velocity: Tensor, x: Tensor, time: Tensor) -> Tensor:
        """The velocity to step with, from the network's at `x` and `time` (scalar)."""
        ...


@dataclass(frozen=True)
class Guidance:
    """Steers towards `previous`: v ← v − g·w·(previous − x̂), where x̂ = x − t·v is the chunk that v leads to.

    Attributes:
        previous: float32 [batch or 1, horizon, action_dim], normalized.
        weights: float32 [horizon, action_dim] from 0 (free) to 1; 0 wherever `previous` says nothing.
        max_weight: Limit of g.
    """

    previous: Tensor
    weights: Tensor
    max_weight: float

    frozen = 0

    def start(self, noise: Tensor) -> Tensor:
        """The noise itself."""
        return noise

    def steer(self, velocity: Tensor, x: Tensor, time: Tensor) -> Tensor:
        """The guided velocity."""
        reached = x - time * velocity
        return velocity - guidance_weight(time, self.max_weight) * self.weights * (self.previous - reached)


@dataclass(frozen=True)
class FrozenPrefix:
    """Keeps the first `frozen` actions of `previous` as they are.

    Attributes:
        previous: float32 [batch or 1, horizon, action_dim], normalized.
        frozen: How many actions, at most what the network was trained with.
    """

    previous: Tensor
    frozen: int

    def start(self, noise: Tensor) -> Tensor:
        """The prefix followed by noise."""
        kept = self.previous[:, : self.frozen].expand(len(noise), -1, -1)
        return torch.cat((kept, noise[:, self.frozen :]), dim=1)

    def steer(self, velocity: Tensor, x: Tensor, time: Tensor) -> Tensor:
        """The velocity with the prefix at rest."""
        return torch.cat((torch.zeros_like(velocity[:, : self.frozen]), velocity[:, self.frozen :]), dim=1)


@dataclass(frozen=True)
class EachRow:
    """A batch whose chunks continue different ones, or none.

    Attributes:
        rows: For each chunk of the batch what it continues; None where it is free.
        frozen: Leading actions that enter the network at time 0, the same in every row.
    """

    rows: Sequence[Continuation | None]
    frozen: int

    def start(self, noise: Tensor) -> Tensor:
        """Each row's own start."""
        return self._each(noise, lambda row, part: part.start(noise[row]))

    def steer(self, velocity: Tensor, x: Tensor, time: Tensor) -> Tensor:
        """Each row's own direction."""
        return self._each(velocity, lambda row, part: part.steer(velocity[row], x[row], time))

    def _each(self, free: Tensor, own: Callable[[slice, Continuation], Tensor]) -> Tensor:
        rows = [slice(row, row + 1) for row in range(len(self.rows))]
        return torch.cat(
            [free[row] if part is None else own(row, part) for row, part in zip(rows, self.rows, strict=True)]
        )


def join_continuations(rows: Sequence[Continuation | None]) -> Continuation | None:
    """What a batch continues, from what each of its rows does; None where all are free.

    Raises:
        ValueError: If they freeze different numbers of actions: one pass has one time for each action.
    """
    frozen = {0 if row is None else row.frozen for row in rows}
    if len(frozen) > 1:
        raise ValueError(f"chunks with {sorted(frozen)} frozen actions make no batch")
    if all(row is None for row in rows):
        return None
    return rows[0] if len(rows) == 1 else EachRow(rows, frozen.pop())


def guidance_weight(time: Tensor, max_weight: float) -> Tensor:
    """The g of arXiv 2506.07339 in our direction of time: min(max_weight, t/(1 − t) · ((1 − t)² + t²)/t²).

    At t = 1 the first factor is infinite and the limit holds.
    """
    weight = time / (1 - time) * ((1 - time).square() + time.square()) / time.square()
    return weight.clamp(max=max_weight)


def frozen_actions(frozen: Tensor, horizon: int) -> Tensor:
    """Which actions of each row are frozen: bool [rows, horizon] from counts int64 [rows]."""
    return torch.arange(horizon, device=frozen.device) < frozen[:, None]
