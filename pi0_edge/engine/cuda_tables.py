"""Everything in the Euler loop that depends on time alone, as tables with a row per step.

Frozen actions are at time 0 in every step: what they take stands beside what the others take (`kernels.frozen_rows`).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from pi0_edge.engine.cuda_products import Norm
from pi0_edge.kernels.euler_step import fold_front
from pi0_edge.model import Pi0
from pi0_edge.model.gemma import RMSNorm


@dataclass(frozen=True, eq=False)
class StepTables:
    """What the Euler loop reads besides weights of the expert; equal only to itself.

    Attributes:
        times: float32 [steps].
        front: float32 [width, action_dim], folded.
        biases: float32 [steps, 2, width].
        norms: Per step, the norms of the layers in the order of `ActionExpert.norms`.
        final_norms: Per step, the one behind the layers; of this step alone, as frozen actions do not move.
    """

    times: Tensor
    front: Tensor
    biases: Tensor
    norms: list[list[Norm]]
    final_norms: list[Norm]

    @property
    def steps(self) -> int:
        """Of the loop."""
        return len(self.biases)


@torch.inference_mode()
def step_tables(model: Pi0, times: Tensor, device: torch.device) -> StepTables:
    """The tables of a network for `times` [steps]; computed on the CPU in float32 and float64."""
    conditioning, steps = model.condition(F.pad(times.cpu(), (0, 1))), range(len(times))  # time 0 comes last
    project = model.action_in_proj
    if conditioning.time_bias is not None:
        mlp_in = model.action_time_mlp_in.weight.float()
        front, biases = fold_front(
            project.weight.float(), project.bias.float(), mlp_in, conditioning.time_bias[:, 0].float()
        )
    else:
        front, biases = project.weight.float(), project.bias.float().expand(len(times) + 1, -1)
    biases = torch.stack([biases[[step, -1]] for step in steps])
    if conditioning.modulations is None:
        *norms, final = [plain_norm(norm, device) for norm in model.expert.norms()]
        per_step, final_norms = [norms for _ in steps], [final for _ in steps]
    else:
        *tables, last = [table[:, 0] for table in conditioning.modulations]
        per_step = [[_adaptive_norm(table[[step, -1]], device) for table in tables] for step in steps]
        final_norms = [_adaptive_norm(last[step], device) for step in steps]
    return StepTables(times.to(device), front.to(device).contiguous(), biases.to(device), per_step, final_norms)


def plain_norm(norm: torch.nn.Module, device: torch.device) -> Norm:
    """An RMSNorm or a LayerNorm."""
    if isinstance(norm, RMSNorm):
        return Norm((1 + norm.weight.detach().float()).to(device))
    weight, bias = (norm.get_parameter(name).detach().float().to(device) for name in ("weight", "bias"))
    return Norm(weight, bias, centred=True)


def _adaptive_norm(modulation: Tensor, device: torch.device) -> Norm:
    scale, shift, gate = (part.float().to(device).contiguous() for part in modulation.chunk(3, dim=-1))
    return Norm(1 + scale, shift, gate)
