"""Random operands of the gemm kernels."""

import torch
from torch import Tensor


def scales(*shape: int, seed: int, size: float) -> Tensor:
    return (0.5 + torch.rand(*shape, generator=torch.Generator().manual_seed(seed))) * size
