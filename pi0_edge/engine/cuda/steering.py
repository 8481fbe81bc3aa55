"""Guidance (real-time chunking) as the captured loop reads it: values only, so that one graph serves every chunk.

A free chunk is one whose weights are zero: the correction then adds zeros, which leave every bit as it is. The limit
of the guidance and the times of the steps are in the weights.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from pi0_edge.model.rtc import Guidance, guidance_weight


@dataclass(frozen=True)
class Steering:
    """What a loop is steered towards, and how strongly.

    Attributes:
        previous: float32 [horizon, action_dim], see `Guidance`.
        weights: float32 [steps, horizon, action_dim]: how much of the way to `previous` a step adds. Zeros leave every
            bit of a chunk as it is.
    """

    previous: Tensor
    weights: Tensor

    def load(self, guidance: Guidance | None, times: tuple[float, ...]) -> None:
        """Takes a guidance, or none.

        Args:
            guidance: `previous` of a single chunk.
            times: Of the steps.
        """
        if guidance is None:
            self.previous.zero_()  # 0 times a NaN of an earlier plan would be NaN
            self.weights.zero_()
            return
        strength = guidance_weight(torch.tensor(times)[:, None, None], guidance.max_weight) / len(times)
        self.previous.copy_(guidance.previous.reshape(self.previous.shape), non_blocking=True)
        self.weights.copy_(strength * guidance.weights.cpu(), non_blocking=True)

    def correct(self, before: Tensor, after: Tensor, step: int, times: tuple[float, ...]) -> None:
        """Corrects an Euler step that was taken without guidance, in place on `after`: `Guidance.steer` as an addition.

        The velocity was (before − after) · steps, and the chunk that it leads to lies on the line through both.

        Args:
            before: Actions before the step, float32 [horizon, action_dim].
            after: Behind it.
            step: Its number.
            times: Of all steps.
        """
        reached = torch.lerp(before, after, times[step] * len(times))
        after.addcmul_(self.weights[step], self.previous - reached)
