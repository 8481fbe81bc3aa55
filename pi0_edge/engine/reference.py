"""The reference engine: the model as it is written, in fp32 (the truth) or under openpi's bf16 policy."""

from __future__ import annotations

import torch
from torch import Tensor

from pi0_edge.model import ModelInputs, Pi0
from pi0_edge.model.flow import euler_times

EULER_STEPS = 10


class ReferenceEngine:
    """Plain torch, on the device and in the dtypes of the model's parameters."""

    name = "reference"

    def __init__(self, model: Pi0) -> None:
        self.model = model.eval()
        self.config = model.config
        self.scheme = "bf16" if model.residual_dtype == torch.bfloat16 else "fp32"
        self.times = euler_times(EULER_STEPS)

    @torch.inference_mode()
    def infer(self, inputs: ModelInputs, noise: Tensor) -> Tensor:
        """Normalized actions, float32 [batch, horizon, action_dim], from noise of the same shape."""
        return self.model.sample_actions(inputs, noise, self.times)
