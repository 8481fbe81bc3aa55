"""The CPU engine: the model with quantized layers, integer arithmetic where the scheme has it."""

from __future__ import annotations

import torch
from torch import Tensor

from pi0_edge.engine.cpu_layers import use_cpu_layers
from pi0_edge.engine.freed_memory import keep_freed_memory
from pi0_edge.model import Continuation, ModelInputs, Pi0
from pi0_edge.model.flow import EULER_STEPS, euler_times
from quant.quantized_linear import QuantizedLinear
from quant.schemes import INT8_W8A8, Scheme


class CpuEngine:
    """Plain torch around quantized layers; everything the scheme leaves alone stays as the model has it."""

    name = "cpu"
    default_scheme = INT8_W8A8
    takes_frames = False
    prefix_age_s = 0.0

    def __init__(self, model: Pi0, scheme: Scheme = INT8_W8A8) -> None:
        """Packs the weights of `model` for this machine, in place: it cannot be saved afterwards.

        The process keeps the memory that it frees from then on (see `freed_memory`).

        Args:
            model: Quantized under `scheme`.
            scheme: How.
        """
        self.model = model.eval()
        self.config = model.config
        self.scheme = scheme.name
        self.times = euler_times(EULER_STEPS)
        for module in model.modules():
            if isinstance(module, QuantizedLinear):
                module.pack()
        use_cpu_layers(model)
        keep_freed_memory()

    @torch.inference_mode()
    def infer(self, inputs: ModelInputs, noise: Tensor, continuation: Continuation | None = None) -> Tensor:
        """Normalized actions, float32 [batch, horizon, action_dim], from noise of the same shape.

        Raises:
            QuantizationError: If an activation becomes NaN or infinite.
        """
        return self.model.sample_actions(inputs, noise, self.times, continuation)
