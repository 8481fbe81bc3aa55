"""E4M3 weights per channel and E4M3 activations with one calibrated scale, by one of two products.

| product                     | of tokens                | gate and up | epilogue                                      |
|-----------------------------|--------------------------|-------------|-----------------------------------------------|
| ours (`Fp8Linear`)          | few: those of the expert | alternate   | fused                                         |
| torch's (`ScaledFp8Linear`) | many: vision, prefix     | stacked     | scales and bias; the rest are launches behind |

Few tokens wait for weights, which both read once, and ours needs no launch behind it. Many tokens wait for the tensor
cores: `mma.sync`, which ours uses, is taken apart into FP16 products on Hopper and Thor, and torch's is not. Both take
tokens that a norm, a GeGLU or a pass of its own leaves in E4M3, in one launch (`kernels.rows.divide_rows`).
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor
from torch.nn import functional as F

from pi0_edge.engine.cuda.linear_interface import Norm, Rows, last_arguments
from pi0_edge.kernels.geglu import geglu
from pi0_edge.kernels.gemm import gemm
from pi0_edge.kernels.gemm_epilogue import Epilogue
from pi0_edge.kernels.norm import norm_e4m3
from pi0_edge.kernels.quantize import quantize_e4m3

logger = logging.getLogger(__name__)

MOST_ROWS = 4096
"""Tokens that may enter torch's product: as many as the prefix may have, and more than any robot has cameras for."""
_PROBE = 272
"""Rows, columns and depth of the product that is tried: whole tiles of no kernel, and a multiple of 16 as all sizes."""


@dataclass(frozen=True)
class _E4m3Linear:
    """What both have, and how tokens become what they read.

    Attributes:
        weight: float8_e4m3fn [columns, width].
        input_scale: float32 [1], of the tokens.
    """

    weight: Tensor
    input_scale: Tensor

    @property
    def weights(self) -> Tensor:
        """As `Linear`."""
        return self.weight

    def norm_and_quantize(self, x: Tensor, before: Norm, frozen: Tensor | None = None) -> Rows:
        """As `Linear`."""
        given = (before.scale, before.shift, frozen, before.centred, self.input_scale, before.offset)
        return Rows(norm_e4m3(x, *given))

    def quantize_input(self, x: Tensor) -> Rows:
        """As `Linear`: one more launch."""
        return Rows(quantize_e4m3(x, self.input_scale))


@dataclass(frozen=True)
class Fp8Linear(_E4m3Linear):
    """By our product.

    Attributes:
        scale: float32 [columns].
        bias: float32 [columns], or None.
    """

    scale: Tensor
    bias: Tensor | None

    def __call__(self, rows: Rows, epilogue: Epilogue, ahead: Tensor | None = None) -> Tensor:
        """As `Linear`."""
        given = last_arguments(epilogue, self.bias)
        return gemm("fp8", rows.values, self.weight, self.input_scale, self.scale, None, *given)


@dataclass(frozen=True)
class ScaledFp8Linear(_E4m3Linear):
    """By torch's product, which adds in float32 and rounds once: cuBLAS from CUDA 12.9 on Hopper, else CUTLASS.

    Gate stands above up.

    Attributes:
        scale: float32 [1, columns], of the channels times `input_scale`.
        bias: [columns] in the type of the output, or None.
        ones: float32 [MOST_ROWS, 1], the scales of the tokens: torch wants one in memory for each.
        dtype: Of the output.
    """

    scale: Tensor
    bias: Tensor | None
    ones: Tensor
    dtype: torch.dtype

    def multiply(self, rows: Rows) -> Tensor:
        """The product with its bias [tokens, columns]: one launch; at most `MOST_ROWS` tokens."""
        ones = self.ones[: len(rows.values)]
        return scaled_product(rows.values, self.weight, ones, self.scale, self.bias, self.dtype)

    def __call__(self, rows: Rows, epilogue: Epilogue, ahead: Tensor | None = None) -> Tensor:
        """As `Linear`: a launch more with an activation or a residual."""
        if epilogue.gate is not None:
            raise ValueError("an adaptive norm gates the tokens of the expert only, which take our product")
        out = self.multiply(rows)
        if epilogue.activation == "geglu":
            return geglu(out, 1, epilogue.dtype)
        if epilogue.activation == "gelu":
            return F.gelu(out, approximate="tanh")
        return out if epilogue.residual is None else epilogue.residual.add_(out)


def fp8_linear(
    weight: Tensor, scale: Tensor, bias: Tensor | None, input_scale: Tensor, dtype: torch.dtype, by_torch: bool
) -> Fp8Linear | ScaledFp8Linear:
    """One of the two, from tensors on its device: weight, scale, bias and input scale as `Fp8Linear` has them."""
    if not by_torch:
        return Fp8Linear(weight, input_scale, scale, bias)
    bias = None if bias is None else bias.to(dtype)
    return ScaledFp8Linear(weight, input_scale, (scale * input_scale)[None], bias, _ones(weight.device), dtype)


def scaled_product(
    a: Tensor, weight: Tensor, row_scale: Tensor, column_scale: Tensor, bias: Tensor | None, dtype: torch.dtype
) -> Tensor:
    """The product of torch: E4M3 a [m, k] · weight [n, k]ᵀ, by scales float32 [m, 1] and [1, n]: `dtype` [m, n]."""
    return torch.ops.aten._scaled_mm(a, weight.t(), row_scale, column_scale, bias=bias, out_dtype=dtype)


@cache
def torch_multiplies_e4m3(device: torch.device) -> bool:
    """Whether torch has this product for a device, found by one small product; where it has none, a warning says so.

    A torch for CUDA has it for sm_89, sm_90 and sm_100, one of after October 2025 for Thor (sm_110) as well
    (pytorch/pytorch#164836).
    """
    one = torch.ones(_PROBE, _PROBE, device=device).to(torch.float8_e4m3fn)
    scales = torch.full((_PROBE, 1), 0.5, device=device), torch.full((1, _PROBE), 2.0, device=device)
    try:
        found = scaled_product(one, one, *scales, None, torch.bfloat16)
        if bool((found == _PROBE).all()):
            return True
        problem = "its results are wrong"
    except (RuntimeError, ValueError) as error:
        problem = str(error).partition("\n")[0]
    logger.warning(
        "torch %s has no FP8 product with a scale per channel for this GPU (%s): vision and prefix take our own, which "
        "is slower than bf16; use orin or bf16, or a newer torch",
        torch.__version__,
        problem,
    )
    return False


@cache
def _ones(device: torch.device) -> Tensor:
    return torch.ones(MOST_ROWS, 1, device=device)
