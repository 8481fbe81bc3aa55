"""The reference engine: the model as it is written, in fp32. Every other engine is measured against it."""

from __future__ import annotations

import torch
from torch import Tensor

from pi0_edge.engine.freed_memory import keep_freed_memory
from pi0_edge.model import Continuation, ModelInputs, Pi0
from pi0_edge.model.flow import EULER_STEPS, euler_times
from pi0_edge.quant.schemes import FP32, Scheme


class ReferenceEngine:
    """Plain torch, on the device of the model's parameters."""

    name = "reference"
    default_scheme = FP32
    takes_frames = False
    prefix_age_s = 0.0

    def __init__(self, model: Pi0, scheme: Scheme = FP32) -> None:
        """Takes a complete model.

        The process keeps the memory that it frees from then on (see `freed_memory`).

        Args:
            model: In fp32.
            scheme: FP32; `pi0_edge.engine.registry` lets no other one through.
        """
        self.model = model.eval()
        self.config = model.config
        self.scheme = scheme.name
        self.times = euler_times(EULER_STEPS)
        keep_freed_memory()

    @torch.inference_mode()
    def infer(self, inputs: ModelInputs, noise: Tensor, continuation: Continuation | None = None) -> Tensor:
        """Normalized actions, float32 [batch, horizon, action_dim], from noise of the same shape."""
        return self.model.sample_actions(inputs, noise, self.times, continuation)
