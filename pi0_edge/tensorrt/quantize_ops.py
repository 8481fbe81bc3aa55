"""Quantize and dequantize as two operators that survive every compiler: what TensorRT calls explicit Q/DQ.

They mean what `QuantizeLinear` and `DequantizeLinear` of ONNX mean, with a zero point of 0. Written in plain torch, a
dequantized weight is a constant, and torch-tensorrt folds it to float32 without a word: the plan is four times as large
and nothing runs in INT8. Its folding leaves alone what is tagged as depending on a seed, so both operators are.
"""

from __future__ import annotations

import torch
from torch import Tensor

E4M3_MAX = 448.0

_KEEP = (torch.Tag.nondeterministic_seeded, torch.Tag.pt2_compliant_tag)

torch.library.define("pi0::quantize_linear", "(Tensor x, Tensor scale, ScalarType dtype) -> Tensor", tags=_KEEP)
torch.library.define("pi0::dequantize_linear", "(Tensor values, Tensor scale) -> Tensor", tags=_KEEP)


def quantize_linear(x: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
    """X / scale, rounded to nearest even and saturated: int8 to [-128, 127], float8_e4m3fn to ±448.

    Args:
        x: float32, any shape.
        scale: float32 [].
        dtype: int8 or float8_e4m3fn.
    """
    return torch.ops.pi0.quantize_linear(x, scale, dtype)


def dequantize_linear(values: Tensor, scale: Tensor) -> Tensor:
    """Values · scale, float32.

    Args:
        values: int8 or float8_e4m3fn, any shape.
        scale: float32 [], or [rows] for a scale per row of `values`.
    """
    return torch.ops.pi0.dequantize_linear(values, scale)


@torch.library.impl("pi0::quantize_linear", "CompositeExplicitAutograd")
def _quantize(x: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
    scaled = x / scale
    if dtype == torch.int8:
        return scaled.round().clamp(-128, 127).to(dtype)
    return scaled.clamp(-E4M3_MAX, E4M3_MAX).to(dtype)


@torch.library.impl("pi0::dequantize_linear", "CompositeExplicitAutograd")
def _dequantize(values: Tensor, scale: Tensor) -> Tensor:
    return values.float() * (scale[:, None] if scale.ndim else scale)
