"""A linear layer with quantized weights, and an embedding with quantized rows.

    x [M, K] ─► rotate ─► activations' format ─┐
                                               ├─► product · channel scale · token scale (+ bias) ─► [M, N]
    values [N, K] in the weights' format ──────┘

Two integer operands are multiplied in exact integer arithmetic (`pi0_edge.quant.integer_matmul`), unless the weights
have a scale per group. Everything else is converted to float32 block by block, which is exact for every format, and
summed there: that is what a GPU does that converts in its registers. The buffers of these modules are what a bundle
stores.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pi0_edge.errors import QuantizationError
from pi0_edge.quant.formats import (
    INT8_TOKEN,
    Format,
    column_scales,
    dequantize_weight,
    quantize,
    quantize_weight,
    static_scale,
)
from pi0_edge.quant.fused_activation import quantize_tokens
from pi0_edge.quant.gptq import round_by_gptq
from pi0_edge.quant.hadamard import block_size, rotate
from pi0_edge.quant.integer_matmul import IntegerMatmul, NativeMatmul, choose_matmul
from pi0_edge.quant.native import PackedLinear
from pi0_edge.quant.packed_int4 import pack_int4, packed_columns, unpack_int4
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
        values: [N, K] in the weights' format; of 4 bits two in a byte, uint8 [N, (K + 1) // 2].
        scale: float32 [N], one per output channel, or bfloat16 [N, groups].
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
        self.register_buffer("values", _blank_values(rule.weights, out_features, in_features))
        self.register_buffer("scale", _blank_scale(rule.weights, out_features, in_features))
        self.register_buffer("bias", torch.empty(out_features) if bias else None)
        self.register_buffer("input_scale", torch.empty(()) if rule.static else None)
        self._product: IntegerMatmul | None = None

    @classmethod
    def of(
        cls, linear: nn.Linear, rule: Rule, input_amax: float | None = None, input_product: Tensor | None = None
    ) -> QuantizedLinear:
        """Quantizes a linear.

        Args:
            linear: With finite weights.
            rule: How.
            input_amax: The largest magnitude that enters the layer, where its scale is static.
            input_product: XᵀX of the tokens that enter the layer, float32 [K, K], where it is rounded by GPTQ.

        Raises:
            QuantizationError: If a weight is NaN or infinite, or a static scale or GPTQ lacks its calibration.
        """
        with torch.device("meta"):
            made = cls(rule, linear.in_features, linear.out_features, linear.bias is not None)
        weight = linear.weight.detach()
        if made.rotation:
            weight = rotate(weight, made.rotation)
        if rule.rounding == "gptq":
            if input_product is None:
                raise QuantizationError(
                    "GPTQ rounds by what enters the layer; make a bundle by `pi0-edge quantize`, which collects that"
                )
            values, made.scale = round_by_gptq(weight, made.rotated_product(input_product), rule.weights)
        else:
            values, made.scale = quantize_weight(weight, rule.weights)
        made.values = pack_int4(values) if rule.weights.half_bytes else values
        made.bias = None if linear.bias is None else linear.bias.detach().float().clone()
        if rule.activations is not None and rule.activations.static:
            if input_amax is None:
                raise QuantizationError("a static scale needs calibration; calibrate first, or choose another scheme")
            made.input_scale = static_scale(input_amax, rule.activations)
        return made

    @property
    def integer(self) -> bool:
        """Whether the sums are exact integers: both operands are, and a whole row of weights has one scale."""
        weights, activations = self.rule.weights, self.rule.activations
        return weights.is_integer and not weights.group and activations is not None and activations.is_integer

    def rotated_product(self, product: Tensor) -> Tensor:
        """XᵀX of the tokens as they are multiplied, from that of the tokens as they enter; both [K, K]."""
        return rotate(rotate(product, self.rotation).t(), self.rotation) if self.rotation else product

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
        values = self.out_features * -(-self.in_features * self.rule.weights.bits // 8)
        return values + sum(buffer.nbytes for buffer in (self.scale, self.bias, self.input_scale) if buffer is not None)

    @property
    def arithmetic(self) -> str:
        """What multiplies: the integer product in use, or float32."""
        if not self.integer:
            return "float32"
        product = self._product
        return choose_matmul(self._unpacked()).__name__ if product is None else type(product).__name__

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
        rows, format = max(1, DEQUANTIZED // self.in_features), self.rule.weights
        blocks = zip(out.split(rows, dim=1), self._stored().split(rows), self.scale.split(rows), strict=True)
        for columns, stored, scale in blocks:
            values = unpack_int4(stored, self.in_features) if format.half_bytes else stored
            block = dequantize_weight(values, scale, format) if format.group else values.float()
            for run, weights in zip(inputs.split(RUN, dim=1), block.split(RUN, dim=1), strict=True):
                columns.addmm_(run, weights.t())
        return out if format.group else out.mul_(self.scale)

    def _integer_product(self) -> IntegerMatmul:
        values = self._unpacked().contiguous()
        return choose_matmul(values)(values, self.scale)

    def _unpacked(self) -> Tensor:
        """The values, [N, K]."""
        return unpack_int4(self._stored(), self.in_features) if self.rule.weights.half_bytes else self._stored()

    def _stored(self) -> Tensor:
        if self.values is None:
            raise QuantizationError("the weights were packed for this machine and cannot be read back")
        return self.values


class QuantizedEmbedding(nn.Module):
    """A drop-in for `nn.Embedding` at inference: one scale per row.

    Buffers:
        values: [rows, width] in the weights' format, as in `QuantizedLinear`.
        scale: float32 [rows], or bfloat16 [rows, groups].
    """

    values: Tensor
    scale: Tensor

    def __init__(self, rule: Rule, rows: int, width: int) -> None:
        """Empty buffers on the current default device.

        Raises:
            QuantizationError: If the rule rounds by GPTQ.
        """
        super().__init__()
        if rule.by_gptq:
            raise QuantizationError("an embedding multiplies nothing that GPTQ could go by; round it to nearest")
        self.rule, self.width = rule, width
        self.register_buffer("values", _blank_values(rule.weights, rows, width))
        self.register_buffer("scale", _blank_scale(rule.weights, rows, width))

    @classmethod
    def of(cls, embedding: nn.Embedding, rule: Rule) -> QuantizedEmbedding:
        """Quantizes an embedding.

        Raises:
            QuantizationError: If a weight is NaN or infinite.
        """
        with torch.device("meta"):
            made = cls(rule, embedding.num_embeddings, embedding.embedding_dim)
        values, made.scale = quantize_weight(embedding.weight.detach(), rule.weights)
        made.values = pack_int4(values) if rule.weights.half_bytes else values
        return made

    def forward(self, tokens: Tensor) -> Tensor:
        """int64 [...] -> float32 [..., width]."""
        flat, format = tokens.flatten(), self.rule.weights
        values = unpack_int4(self.values[flat], self.width) if format.half_bytes else self.values[flat]
        return dequantize_weight(values, self.scale[flat], format).view(*tokens.shape, self.width)

    @property
    def bytes(self) -> int:
        """Values and scales."""
        return self.values.nbytes + self.scale.nbytes

    def extra_repr(self) -> str:
        """Sizes and format."""
        return f"{self.values.shape[0]}, {self.width}, {self.rule.weights}"


def _blank_values(format: Format, rows: int, columns: int) -> Tensor:
    if format.half_bytes:
        return torch.empty(rows, packed_columns(columns), dtype=torch.uint8)
    return torch.empty(rows, columns, dtype=format.dtype)


def _blank_scale(format: Format, rows: int, columns: int) -> Tensor:
    shape, dtype = format.scale_form(rows, columns)
    return torch.empty(shape, dtype=dtype)


def reference_linear(layer: QuantizedLinear, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """What `layer` computes for the weight it was made of: quantize, dequantize and multiply, in float64.

    The weight is rounded to nearest, as is that of a layer without GPTQ.

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
    values, scale = quantize_weight(weight, rule.weights)
    weights = values.double() * column_scales(scale, rule.weights, weight.shape[1])
    if rule.activations is not None:
        values, token_scale = quantize(tokens, rule.activations, layer.input_scale)
        tokens = values.double() if token_scale is None else values.double() * token_scale
    out = tokens.double() @ weights.t()
    return (out if bias is None else out + bias.double()).view(*x.shape[:-1], -1)
