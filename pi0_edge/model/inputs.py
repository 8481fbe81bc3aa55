"""What the network is given: one batch of images, prompts and states, already in model units."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


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
