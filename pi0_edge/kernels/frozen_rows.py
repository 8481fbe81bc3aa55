"""Chunks that continue another one: their first actions are given, and the network sees those at time 0.

A vector that depends on time is then two, [2, width]: of this step, and of time 0. How many rows are frozen is an int32
[1] on the device, because a graph that was captured once serves every count.
"""

from __future__ import annotations

import torch
from torch import Tensor


def of_rows(vectors: Tensor, frozen: Tensor | None, rows: int) -> Tensor:
    """What each row takes: [rows, width] of vectors [2, width], or, where nothing is frozen, the one vector [width]."""
    if frozen is None:
        return vectors
    return vectors[(torch.arange(rows, device=vectors.device) < frozen).long()]
