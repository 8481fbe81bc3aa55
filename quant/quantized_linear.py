"""A linear layer with quantized weights, and an embedding with quantized rows.

    x [M, K] ─► rotate ─► activations' format ─┐
                                               ├─► product · channel scale · token scale (+ bias) ─► [M, N]
    values [N, K] in the weights' format ──────┘

Two integer operands are multiplied in exact integer arithmetic (`pi0_edge.quant.integer_matmul`). Everything else is
converted to float32 block by block, which is exact for every format, and summed there: that is what a GPU does that
converts in its registers. The buffers of these modules are what a bundle stores.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pi0_edge.errors import QuantizationError
from pi0_edge.quant.formats import INT8_TOKEN, quantize, quantize_weight, static_scale
from pi0_edge.quant.fused_activation import quantize_tokens
from pi0_edge.quant.hadamard import block_size, rotate
from pi0_edge.quant.integer_matmul import IntegerMatmul, NativeMatmul, choose_matmul
from pi0_edge.quant.native import PackedLinear
from pi0_edge.quant.schemes import Rule

SMALLEST_INPUT, LARGEST_INPUT = 2, 2**16
"""In-features that integer arithmetic takes. With one, `torch._int_mm` (2.13) mistakes the strides of its transposed
argument and returns memory it never wrote; beyond 2^31 / (255 · 127) = 66311, 32-bit sums of oneDNN could overflow."""
DEQUANTIZED = 2**21
"""Weights brought to float32 at once: 8 MB stay near the cache, and the call overhead is not felt."""
RUN = 96
"""Products summed in one float32 before it is added to the others. One sum over all of K loses every term that is less
than half a unit in the last place of an outlier that came before it: up to 1e-8 of the sum each, whatever its sign."""


class QuantizedLinear(nn.Module):
    """A drop-in for `nn.Linear` at inference, without gradient.

    Buffers:
        values: [N, K] in the weights' format.
        scale: float32 [N], one per output channel.
        bias: float32 [N], or None.
        input_scale: float32 [], of static activations, or None.
    """

    values: Tensor | None
    scale: Tensor
    bias: Tensor | None
    input_scale: Tensor | None

    def __init__(self, rule: Rule, in_features: int, out_features: int, bias: bool) -> None:
        """Empty buffers on the current default device.

        Raises:
            QuantizationError: If K is outside the range that integer arithmetic can take.
        """
        super().__init__()
        self.rule, self.in_features, self.out_features = rule, in_features, out_features
        self.rotation = block_size(in_features, rule.hadamard) if rule.hadamard else 0
        if self.integer and not SMALLEST_INPUT <= in_features <= LARGEST_INPUT:
            raise QuantizationError(
                f"a linear with {in_features} in-features cannot use integer arithmetic; "
                f"expected {SMALLEST_INPUT} to {LARGEST_INPUT}: leave this layer out of the scheme"
            )
        self.register_buffer("values", torch.empty(out_features, in_features, dtype=rule.weights.dtype))
        self.register_buffer("scale", torch.empty(out_features))
        self.register_buffer("bias", torch.empty(out_features) if bias else None)
        self.register_buffer("input_scale", torch.empty(()) if rule.static else None)
        self._product: IntegerMatmul | None = None

    @classmethod
    def of(cls, linear: nn.Linear, rule: Rule, input_amax: float | None = None) -> QuantizedLinear:
        """Quantizes a linear.

        Args:
            linear: With finite weights.
            rule: How.
            input_amax: The largest magnitude that enters the layer, where its scale is static.

        Raises:
            QuantizationError: If a weight is NaN or infinite, or a static scale was not calibrated.
        """
        with torch.device("meta"):
            made = cls(rule, linear.in_features, linear.out_features, linear.bias is not None)
        weight = linear.weight.detach()
        made.values, made.scale = quantize_weight(
            rotate(weight, made.rotation) if made.rotation else weight, rule.weights
        )
        made.bias = None if linear.bias is None else linear.bias.detach().float().clone()
        if rule.activations is not None and rule.activations.static:
            if input_amax is None:
                raise QuantizationError("a static scale needs calibration; calibrate first, or choose another scheme")
            made.input_scale = static_scale(input_amax, rule.activations)
        return made

    @property
    def integer(self) -> bool:
        """Whether both operands are integers."""
        return self.rule.weights.is_integer and self.rule.activations is not None and self.rule.activations.is_integer

    def pack(self) -> None:
        """Hands the weights to the fastest product of this machine and frees `values`: nothing can be saved then."""
        if self.integer:
            self._product = self._product or self._integer_product()
            self.values = None

    def forward(self, x: Tensor) -> Tensor:
        """[..., K] -> [..., N] in the dtype of x.

        Raises:
            QuantizationError: If x contains NaN or infinity.
        """
        tokens = x.detach().reshape(-1, self.in_features)
        if not len(tokens):
            return x.new_empty(*x.shape[:-1], self.out_features)
        out = self.multiply(*self.quantize_input(tokens))
        return out.view(*x.shape[:-1], self.out_features).to(x.dtype)

    def quantize_input(self, tokens: Tensor) -> tuple[Tensor, Tensor | None]:
        """Tokens [M, K] rotated and in the activations' format, and their scale.

        Layers that read the same tokens under the same rule may share the result.

        Raises:
            QuantizationError: If a token contains NaN or infinity.
        """
        if self.rotation:
            tokens = rotate(tokens, self.rotation)
        if self.rule.activations is None:
            return tokens, None
        if self.rule.activations == INT8_TOKEN:
            return quantize_tokens(tokens)
        return quantize(tokens, self.rule.activations, self.input_scale)

    def multiply(self, tokens: Tensor, scale: Tensor | None) -> Tensor:
        """The output of the layer, float32 [M, N], for what `quantize_input` gave."""
        out = self.product(tokens)
        if scale is not None:
            return out.mul_(scale) if self.bias is None else torch.addcmul(self.bias, out, scale)
        return out if self.bias is None else out.add_(self.bias)

    @property
    def packed(self) -> PackedLinear | None:
        """The weights as the C library reads them, once `pack` has handed them to it."""
        return self._product.packed if isinstance(self._product, NativeMatmul) else None

    @property
    def bytes(self) -> int:
        """Weights, scales and bias."""
        values = self.out_features * self.in_features
        return values + sum(buffer.nbytes for buffer in (self.scale, self.bias, self.input_scale) if buffer is not None)

    @property
    def arithmetic(self) -> str:
        """What multiplies: the integer product in use, or float32."""
        if not self.integer:
            return "float32"
        product = self._product
        return choose_matmul(self._stored()).__name__ if product is None else type(product).__name__

    def extra_repr(self) -> str:
        """Sizes and formats."""
        return f"{self.in_features}, {self.out_features}, {self.rule.weights} × {self.rule.activations}"

    def product(self, tokens: Tensor) -> Tensor:
        """Tokens [M, K] times the weights and their scales, float32 [M, N]."""
        if self.integer:
            if self._product is None:
                self._product = self._integer_product()
            return self._product(tokens)
        out, inputs = tokens.new_zeros(len(tokens), self.out_features, dtype=torch.float32), tokens.float()
        rows = max(1, DEQUANTIZED // self.in_features)
        for columns, block in zip(out.split(rows, dim=1), self._stored().split(rows), strict=True):
            for run, weights in zip(inputs.split(RUN, dim=1), block.float().split(RUN, dim=1), strict=True):
                columns.addmm_(run, weights.t())
        return out.mul_(self.scale)

    def _integer_product(self) -> IntegerMatmul:
        values = self._stored()
        return choose_matmul(values)(values, self.scale)

    def _stored(self) -> Tensor:
        if self.values is None:
            raise QuantizationError("the weights were packed for this machine and cannot be read back")
        return self.values


class QuantizedEmbedding(nn.Module):
    """A drop-in for `nn.Embedding` at inference: one scale per row.

    Buffers:
        values: [rows, width] in the weights' format.
        scale: float32 [rows].
    """

    values: Tensor
    scale: Tensor

    def __init__(self, rule: Rule, rows: int, width: int) -> None:
        """Empty buffers on the current default device."""
        super().__init__()
        self.rule = rule
        self.register_buffer("values", torch.empty(rows, width, dtype=rule.weights.dtype))
        self.register_buffer("scale", torch.empty(rows))

    @classmethod
    def of(cls, embedding: nn.Embedding, rule: Rule) -> QuantizedEmbedding:
        """Quantizes an embedding.

        Raises:
            QuantizationError: If a weight is NaN or infinite.
        """
        with torch.device("meta"):
            made = cls(rule, embedding.num_embeddings, embedding.embedding_dim)
        made.values, made.scale = quantize_weight(embedding.weight.detach(), rule.weights)
        return made

    def forward(self, tokens: Tensor) -> Tensor:
        """int64 [...] -> float32 [..., width]."""
        return self.values[tokens].float() * self.scale[tokens][..., None]

    @property
    def bytes(self) -> int:
        """Values and scales."""
        return self.values.nbytes + self.scale.nbytes

    def extra_repr(self) -> str:
        """Sizes and format."""
        return f"{self.values.shape[0]}, {self.values.shape[1]}, {self.rule.weights}"


def reference_linear(layer: QuantizedLinear, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """What `layer` computes for the weight it was made of: quantize, dequantize and multiply, in float64.

    Args:
        layer: A layer made of `weight` and `bias`.
        x: [..., K].
        weight: [N, K].
        bias: [N].

    Returns:
        float64 [..., N].

    Raises:
        QuantizationError: If x or weight contains NaN or infinity.
    """
    rule, tokens = layer.rule, x.flatten(0, -2)
    if layer.rotation:
        tokens, weight = rotate(tokens, layer.rotation), rotate(weight, layer.rotation)
    channels, scale = quantize_weight(weight, rule.weights)
    weights = channels.double() * scale[:, None]
    if rule.activations is not None:
        values, token_scale = quantize(tokens, rule.activations, layer.input_scale)
        tokens = values.double() if token_scale is None else values.double() * token_scale
    out = tokens.double() @ weights.t()
    return (out if bias is None else out + bias.double()).view(*x.shape[:-1], -1)
