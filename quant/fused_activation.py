"""What stands between two INT8 linears, in one pass: token scale and bias, GELU or GeGLU, quantization per token.

`native/rows.c` does it row by row in the cache, where torch needs ten passes over the hidden values. Where the C
library is not there, torch computes the same.
"""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from pi0_edge.errors import QuantizationError
from pi0_edge.quant.formats import INT8_TOKEN, NOT_FINITE, quantize
from pi0_edge.quant.native import library as _library
from pi0_edge.quant.native import pointer as _pointer


def quantize_tokens(tokens: Tensor) -> tuple[Tensor, Tensor]:
    """`pi0_edge.quant.formats.quantize` to INT8 per token: values int8 [M, K] and scale float32 [M, 1].

    Raises:
        QuantizationError: If tokens contain NaN or infinity.
    """
    library = _library()
    if library is None or tokens.dtype != torch.float32:
        values, scale = quantize(tokens, INT8_TOKEN)
        return values, scale if scale is not None else tokens.new_empty(0)
    tokens = tokens.contiguous()
    values, scale = torch.empty(tokens.shape, dtype=torch.int8), torch.empty(len(tokens), 1)
    rows, columns = tokens.shape
    if not library.pi0_quantize_rows(_pointer(tokens), rows, columns, _pointer(values), _pointer(scale)):
        raise QuantizationError(NOT_FINITE)
    return values, scale


def gelu_tokens(x: Tensor, scale: Tensor, bias: Tensor | None, up: Tensor | None = None) -> Tensor:
    """gelu(x · scale + bias), times up · scale where there is an `up`: the hidden values, in the memory of x.

    Args:
        x: float32 [M, K], what a product gave before its token scale.
        scale: float32 [M, 1], the token scale.
        bias: float32 [K], or None.
        up: float32 [M, K] before its token scale, of a GeGLU.
    """
    library = _library()
    if library is None:
        x.mul_(scale)
        hidden = torch.ops.aten.gelu_(x if bias is None else x.add_(bias), approximate="tanh")
        return hidden if up is None else hidden.mul_(up.mul_(scale))
    _fused(library, x, scale, bias, up, None, None)
    return x


def gelu_and_quantize_tokens(
    x: Tensor, scale: Tensor, bias: Tensor | None, up: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """`gelu_tokens`, then `quantize_tokens`, in one pass.

    Raises:
        QuantizationError: If a hidden value is NaN or infinite.
    """
    library = _library()
    if library is None:
        return quantize_tokens(gelu_tokens(x, scale, bias, up))
    values, own = torch.empty(x.shape, dtype=torch.int8), torch.empty(len(x), 1)
    if not _fused(library, x, scale, bias, up, values, own):
        raise QuantizationError(NOT_FINITE)
    return values, own


def _fused(
    library: ctypes.CDLL,
    x: Tensor,
    scale: Tensor,
    bias: Tensor | None,
    up: Tensor | None,
    values: Tensor | None,
    own: Tensor | None,
) -> int:
    rows, columns = x.shape
    return library.pi0_gelu_rows(
        _pointer(x), _pointer(up), _pointer(scale), _pointer(bias), rows, columns, _pointer(values), _pointer(own)
    )
