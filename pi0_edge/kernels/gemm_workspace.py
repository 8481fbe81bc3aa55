"""Memory in which the blocks of a product add up shared tiles: one per plan and stream, made once and kept.

A product leaves its tickets zero for the next one of the same plan, so nothing is filled before a launch, and a graph
that was captured with a workspace finds it where it was. Graphs of one stream share it, which is why they must not run
at the same time.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pi0_edge.errors import KernelError
from pi0_edge.kernels.gemm_plan import Plan

_KEPT: dict[tuple[torch.device, int, Plan], Tensor] = {}


def workspace(device: torch.device, plan: Plan) -> Tensor:
    """uint8 [plan.workspace_bytes] for the current stream of a CUDA device.

    Raises:
        KernelError: If it would have to be made while a graph is being captured.
    """
    key = (device, torch.cuda.current_stream(device).cuda_stream, plan)
    if key not in _KEPT:
        if plan.workspace_bytes and torch.cuda.is_current_stream_capturing():
            raise KernelError("a product was captured before it ran once on this stream; run the sequence first")
        _KEPT[key] = torch.zeros(plan.workspace_bytes, dtype=torch.uint8, device=device)
    return _KEPT[key]
