"""What stands between two INT8 linears, in one pass: token scale and bias, GELU or GeGLU, quantization per token.

`fused_activation.c` does it row by row in the cache, where torch needs ten passes over the hidden values. It is
compiled when the package is installed; where it is not there, such as without a C compiler, torch computes the same.
"""

from __future__ import annotations

import ctypes
import functools
import logging
from pathlib import Path

import torch
from torch import Tensor

from pi0_edge.errors import QuantizationError
from pi0_edge.quant.formats import INT8_TOKEN, NOT_FINITE, quantize

log = logging.getLogger(__name__)


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


def is_compiled() -> bool:
    """Whether the compiled form is in use."""
    return _library() is not None


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


def _pointer(tensor: Tensor | None) -> ctypes.c_void_p:
    return ctypes.c_void_p(None if tensor is None else tensor.data_ptr())


@functools.cache
def _library() -> ctypes.CDLL | None:
    """The compiled form, on the threads that torch's OpenMP has started: a second pool would fight the first.

    It is not linked to an OpenMP library. It takes the one that torch brings, or else the system's, which is what a
    torch without one of its own has loaded, such as JetPack's.
    """
    built = next(iter(sorted(Path(__file__).parent.glob("_fused_activation*.so"))), None)
    if built is None:
        log.info("the fused activations are not compiled; torch computes them: reinstall with a C compiler")
        return None
    try:
        for openmp in list((Path(torch.__file__).parent / "lib").glob("libgomp*")) or ["libgomp.so.1"]:
            ctypes.CDLL(str(openmp), mode=ctypes.RTLD_GLOBAL)
        library = ctypes.CDLL(str(built))
    except OSError as reason:
        log.info("the fused activations cannot be loaded; torch computes them: %s", reason)
        return None
    pointer, size = ctypes.c_void_p, ctypes.c_int64
    library.pi0_quantize_rows.argtypes = [pointer, size, size, pointer, pointer]
    library.pi0_gelu_rows.argtypes = [pointer, pointer, pointer, pointer, size, size, pointer, pointer]
    return library
