"""What the network is given: one batch of images, prompts and states, already in model units."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class ModelInputs:
    """A batch of observations.

    Attributes:
        images: float32 [batch, cameras, 3, size, size] in [-1, 1]; or, for an engine that takes frames, uint8
            [batch, cameras, height, width, 3] in RGB, which it scales, pads and normalizes itself.
        image_mask: bool [batch, cameras]; a camera that is False is never computed.
        tokens: int64 [batch, tokens], the tokenized prompt with BOS.
        token_mask: bool [batch, tokens]; padding is False and never computed.
        state: float32 [batch, action_dim], normalized and zero-padded. π0.5 reads the state from the prompt instead.
    """

    images: Tensor
    image_mask: Tensor
    tokens: Tensor
    token_mask: Tensor
    state: Tensor

    @property
    def batch(self) -> int:
        """Number of observations."""
        return self.tokens.shape[0]


def join(inputs: Sequence[ModelInputs]) -> ModelInputs:
    """One batch of several; shorter prompts are padded, and their padding is masked.

    Args:
        inputs: At least one. All have the same number of cameras, and images of one size and kind.

    Raises:
        ValueError: If there are none, or their images do not fit together.
    """
    if len({(each.images.shape[1:], each.images.dtype) for each in inputs}) != 1:
        shapes = [list(each.images.shape) for each in inputs]
        raise ValueError(f"images of {shapes} make no batch; expected one shape, and at least one batch")
    if len(inputs) == 1:
        return inputs[0]
    longest = max(each.tokens.shape[1] for each in inputs)

    def padded(rows: Tensor) -> Tensor:
        return F.pad(rows, (0, longest - rows.shape[1]))

    return ModelInputs(
        images=torch.cat([each.images for each in inputs]),
        image_mask=torch.cat([each.image_mask for each in inputs]),
        tokens=torch.cat([padded(each.tokens) for each in inputs]),
        token_mask=torch.cat([padded(each.token_mask) for each in inputs]),
        state=torch.cat([each.state for each in inputs]),
    )
