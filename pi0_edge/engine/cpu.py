"""The CPU engine: the model as it is written, with its transformer linears in integer arithmetic."""

from __future__ import annotations

import torch
from torch import Tensor

from pi0_edge.engine.reference import EULER_STEPS
from pi0_edge.model import ModelInputs, Pi0
from pi0_edge.model.flow import euler_times
from quant.quantize import QuantizationReport, quantize_model
from quant.schemes import INT8_W8A8


class CpuEngine:
    """INT8 W8A8 in plain torch on the CPU; everything that is not a quantized linear stays as the model has it."""

    name = "cpu-int8"
    scheme = INT8_W8A8.name

    def __init__(self, model: Pi0) -> None:
        """Quantizes `model` in place; layers that are quantized already are kept.

        Raises:
            QuantizationError: If a weight is NaN or infinite.
        """
        self.model = model.eval()
        self.config = model.config
        self.quantization: QuantizationReport = quantize_model(model, INT8_W8A8)
        self.times = euler_times(EULER_STEPS)

    @torch.inference_mode()
    def infer(self, inputs: ModelInputs, noise: Tensor) -> Tensor:
        """Normalized actions, float32 [batch, horizon, action_dim], from noise of the same shape.

        Raises:
            QuantizationError: If an activation becomes NaN or infinite.
        """
        return self.model.sample_actions(inputs, noise, self.times)
