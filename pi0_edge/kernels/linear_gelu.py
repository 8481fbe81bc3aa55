"""A linear in 16 bits with GELU behind it, in one launch: gelu_tanh(x · weightᵀ + bias).

The product is cuBLASLt's, with its epilogue of bias and GELU. torch has it as `_addmm_activation`, whose GELU is the
tanh approximation on a GPU and the exact one on a CPU: hence the form of our own there.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


@torch.library.custom_op("pi0::linear_gelu", mutates_args=(), device_types="cuda")
def linear_gelu(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """GELU of a linear: x [rows, k] -> [rows, columns], rounded once.

    torch takes the epilogue (`isInputCompliesAddmmCudaLt` in its cuda/Blas.cpp) where the bias has one dimension and is
    contiguous, and no operand has a side of 1; all that reach this are float16 or bfloat16, contiguous, and aligned as
    torch allocates. It launches a product and a GELU of the same values with fewer rows, where the environment has
    DISABLE_ADDMM_CUDA_LT, and where cuBLASLt finds no algorithm.

    Args:
        x: A 16-bit float [rows, k].
        weight: As x, [columns, k].
        bias: As x, [columns].
    """
    return torch.ops.aten._addmm_activation(bias, x, weight.t(), use_gelu=True)


@linear_gelu.register_kernel("cpu")
def _(x, weight, bias):  # noqa: ANN001, ANN202
    return F.gelu(F.linear(x.float(), weight.float(), bias.float()), approximate="tanh").to(x.dtype)


@linear_gelu.register_fake
def _(x, weight, bias):  # noqa: ANN001, ANN202
    return x.new_empty(x.shape[0], weight.shape[0])
