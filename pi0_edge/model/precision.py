"""The bf16 policy of openpi: which parameters leave fp32 and which stay.

| stays fp32                                                     | becomes bf16                         |
|----------------------------------------------------------------|--------------------------------------|
| patch and position embedding                                   | the rest of the vision tower         |
| RMSNorm weights, adaRMS modulations                            | projector, token embedding           |
| state, action and time projections; x, t and the Euler steps   | all linears of prefix and expert     |
"""

from __future__ import annotations

from typing import TypeVar

import torch

from pi0_edge.model.gemma import AdaRMSNorm, RMSNorm
from pi0_edge.model.pi0 import PolicyNetwork

Network = TypeVar("Network", bound=PolicyNetwork)


def apply_bf16_policy(model: Network) -> Network:
    """Converts the parameters of `model` in place and returns it."""
    for part in (model.vision.layers, model.vision.final_norm, model.projector, model.token_embedding):
        part.to(torch.bfloat16)
    for expert in (model.prefix, model.expert):
        expert.to(torch.bfloat16)
        for module in expert.modules():
            if isinstance(module, RMSNorm | AdaRMSNorm):
                module.to(torch.float32)
    model.residual_dtype = torch.bfloat16
    return model
