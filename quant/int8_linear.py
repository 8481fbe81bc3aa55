"""A linear layer in real integer arithmetic: INT8 weights, INT8 activations, exact sums, and its fp32 reference.

    x [M, K] ──► one scale per token ──► int8 ┐
    w [N, K] ──► one scale per channel ► int8 ┴─► exact integer product ──► · channel scale · token scale (+ bias)

Scales are symmetric: the largest magnitude of a row becomes ±127. Weights are quantized once, activations at every call
("dynamic"), so nothing has to be calibrated.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from quant.errors import QuantizationError
from quant.integer_matmul import choose_matmul

INT8_MAX = 127
SMALLEST_SCALE = 1e-30
"""Rows of zeros get this scale instead of 0; it is far below anything that matters and far above underflow."""
SMALLEST_INPUT, LARGEST_INPUT = 2, 2**16
"""In-features that are possible. With one, `torch._int_mm` (2.13) mistakes the strides of its transposed argument and
returns memory it never wrote; beyond 2^31 / (255 · 127) = 66311, the 32-bit sums of oneDNN could overflow."""
BLOCK = 2**19
"""Elements rounded at once: temporaries of this size stay in the cache, larger ones cost more than the rounding."""


def quantize_rows(x: Tensor) -> tuple[Tensor, Tensor]:
    """Symmetric INT8 with one scale per row.

    Args:
        x: Any floating-point dtype, [rows, columns], both at least 1.

    Returns:
        Values int8 [rows, columns] in -127..127 and scales float32 [rows, 1]; values * scales is within half a scale
        of x.

    Raises:
        QuantizationError: If x contains NaN or infinity.
    """
    blocks = [_quantize_block(block) for block in x.split(max(1, BLOCK // x.shape[1]))]
    if len(blocks) == 1:
        return blocks[0]
    return torch.cat([values for values, _ in blocks]), torch.cat([scale for _, scale in blocks])


def reference_int8_linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """What `Int8Linear` computes, by quantizing, dequantizing and multiplying in float64.

    Args:
        x: [..., K].
        weight: [N, K].
        bias: [N].

    Returns:
        float64 [..., N].

    Raises:
        QuantizationError: If x or weight contains NaN or infinity.
    """
    tokens, channels = (values.double() * scale for values, scale in map(quantize_rows, (x.flatten(0, -2), weight)))
    out = tokens @ channels.t()
    return (out if bias is None else out + bias.double()).view(*x.shape[:-1], -1)


class Int8Linear(nn.Module):
    """A drop-in for `nn.Linear` at inference on the CPU: W8A8, per-channel weights, per-token activations.

    Holds one packed copy of the weights and no parameters: it cannot be trained, moved or saved.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        """Quantizes weight [N, K] and keeps bias [N] in float32.

        Raises:
            QuantizationError: If a weight is NaN or infinite, or K is outside the possible range.
        """
        super().__init__()
        self.out_features, self.in_features = weight.shape
        if not SMALLEST_INPUT <= self.in_features <= LARGEST_INPUT:
            raise QuantizationError(
                f"a linear with {self.in_features} in-features cannot be INT8; "
                f"expected {SMALLEST_INPUT} to {LARGEST_INPUT}: leave this layer out of the scheme"
            )
        values, scale = quantize_rows(weight.detach())
        self.bias = None if bias is None else bias.detach().float().clone()
        self.matmul = choose_matmul(values)(values, scale.flatten())

    def forward(self, x: Tensor) -> Tensor:
        """[..., K] -> [..., N] in the dtype of x, without gradient.

        Raises:
            QuantizationError: If x contains NaN or infinity.
        """
        tokens = x.detach().reshape(-1, self.in_features)
        if not len(tokens):
            return x.new_empty(*x.shape[:-1], self.out_features)
        values, scale = quantize_rows(tokens)
        product = self.matmul(values)
        out = product.mul_(scale) if self.bias is None else torch.addcmul(self.bias, product, scale)
        return out.view(*x.shape[:-1], self.out_features).to(x.dtype)

    @property
    def bytes(self) -> int:
        """Weights, channel scales and bias."""
        return self.out_features * (self.in_features + 4 + (0 if self.bias is None else 4))

    def extra_repr(self) -> str:
        """Sizes and the integer product in use."""
        return f"{self.in_features}, {self.out_features}, bias={self.bias is not None}, {type(self.matmul).__name__}"


def _quantize_block(x: Tensor) -> tuple[Tensor, Tensor]:
    scale = (x.abs().amax(-1, keepdim=True).float() * (1 / INT8_MAX)).clamp_min_(SMALLEST_SCALE)
    if not math.isfinite(scale.amax().item()):
        raise QuantizationError(
            "values to be quantized contain NaN or infinity; expected finite values: "
            "check the inputs of the network, then its weights"
        )
    return (x / scale).round_().to(torch.int8), scale
