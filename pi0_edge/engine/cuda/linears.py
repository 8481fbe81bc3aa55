"""The linears of the network as the CUDA engine multiplies them: one class per kind of operands and product.

Each normalizes tokens and leaves them in the form that its product reads (`norm_and_quantize`, one launch), converts
tokens that come from no norm (`quantize_input`), and multiplies with the epilogue fused into the product. Linears that
read the same tokens are one product: their weights stand below each other, or alternate where a GeGLU follows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pi0_edge.engine.cuda.fp8_linears import ScaledFp8Linear, fp8_linear, torch_multiplies_e4m3
from pi0_edge.engine.cuda.linear_interface import Linear, Norm, Rows, last_arguments, norm_rows
from pi0_edge.errors import EngineError
from pi0_edge.kernels.geglu import geglu, geglu_e4m3
from pi0_edge.kernels.gemm import gemm
from pi0_edge.kernels.gemm_epilogue import Epilogue
from pi0_edge.kernels.gemm_norm import gemm_norm, whole_pieces
from pi0_edge.kernels.gemm_packing import interleave_gate_up, pack_weights
from pi0_edge.kernels.linear_gelu import linear_gelu
from pi0_edge.kernels.norm import norm_quant
from pi0_edge.kernels.quantize import quantize
from pi0_edge.kernels.rows import select_rows
from pi0_edge.quant.formats import BF16, E4M3_STATIC, INT8_TOKEN
from pi0_edge.quant.quantized_linear import QuantizedLinear
from pi0_edge.quant.schemes import Rule


@dataclass(frozen=True)
class Bf16Linear:
    """Weights in 16 bits, by the product of torch (cuBLAS); gate stands above up.

    Attributes:
        weight: [columns, width].
        bias: [columns], or None.
    """

    weight: Tensor
    bias: Tensor | None

    @property
    def weights(self) -> Tensor:
        """As `Linear`."""
        return self.weight

    def norm_and_quantize(self, x: Tensor, before: Norm, frozen: Tensor | None = None) -> Rows:
        """As `Linear`."""
        return Rows(norm_rows(x, before, frozen, self.weight.dtype))

    def quantize_input(self, x: Tensor) -> Rows:
        """As `Linear`."""
        return Rows(x)

    def __call__(self, rows: Rows, epilogue: Epilogue, ahead: Tensor | None = None) -> Tensor:
        """As `Linear`."""
        residual = epilogue.residual
        if residual is not None and epilogue.gate is None and self.bias is None and residual.dtype == self.weight.dtype:
            return residual.addmm_(rows.values, self.weight.t())  # a new result would begin as a copy of the residual
        if epilogue.activation == "gelu":
            if self.bias is None:
                raise ValueError("a product in 16 bits ends in a GELU only where it has a bias")
            return linear_gelu(rows.values, self.weight, self.bias)
        out = F.linear(rows.values, self.weight, self.bias)
        if epilogue.activation == "geglu":
            return geglu(out, 1, epilogue.dtype)
        out = out if epilogue.gate is None else out * select_rows(epilogue.gate, epilogue.frozen, len(out))
        return (out if residual is None else residual + out).to(epilogue.dtype)


@dataclass(frozen=True)
class Int8Linear:
    """INT8 weights per channel and INT8 activations per token, exact in int32.

    Attributes:
        weight: int8 [columns, width].
        scale: float32 [columns].
        bias: float32 [columns], or None.
        hadamard_block: Of the rotation before quantization; 1 for none.
    """

    weight: Tensor
    scale: Tensor
    bias: Tensor | None
    hadamard_block: int

    @property
    def weights(self) -> Tensor:
        """As `Linear`."""
        return self.weight

    def norm_and_quantize(self, x: Tensor, before: Norm, frozen: Tensor | None = None) -> Rows:
        """As `Linear`."""
        given = (before.scale, before.shift, frozen, before.centred, self.hadamard_block, before.offset)
        return Rows(*norm_quant(x, *given))

    def quantize_input(self, x: Tensor) -> Rows:
        """As `Linear`: one more launch."""
        return Rows(*quantize(x, self.hadamard_block))

    def __call__(self, rows: Rows, epilogue: Epilogue, ahead: Tensor | None = None) -> Tensor:
        """As `Linear`."""
        if rows.scale is None:
            raise ValueError("an INT8 product reads tokens with a scale each")
        return gemm(
            "int8", rows.values, self.weight, rows.scale, self.scale, None, *last_arguments(epilogue, self.bias)
        )


@dataclass(frozen=True)
class WeightOnlyLinear:
    """INT8 or E4M3 weights per channel, 16-bit activations.

    Attributes:
        packed: From `pack_weights`.
        fp8: The weights are E4M3.
        scale: float32 [columns].
        bias: float32 [columns], or None.
        dtype: Of the activations.
    """

    packed: Tensor
    fp8: bool
    scale: Tensor
    bias: Tensor | None
    dtype: torch.dtype

    @property
    def weights(self) -> Tensor:
        """As `Linear`."""
        return self.packed

    def norm_and_quantize(self, x: Tensor, before: Norm, frozen: Tensor | None = None) -> Rows:
        """As `Linear`."""
        return Rows(norm_rows(x, before, frozen, self.dtype))

    def quantize_input(self, x: Tensor) -> Rows:
        """As `Linear`."""
        return Rows(x)

    def __call__(self, rows: Rows, epilogue: Epilogue, ahead: Tensor | None = None) -> Tensor:
        """As `Linear`."""
        given = last_arguments(replace(epilogue, squares=rows.squares), self.bias)
        return gemm(self._format, rows.values, self.packed, None, self.scale, ahead, *given)

    def add_for_norm(self, rows: Rows, x: Tensor, before: Norm, ahead: Tensor | None) -> tuple[Tensor, Rows]:
        """The stream x with the product added, and the same as a norm leaves it for another of these: one launch.

        Args:
            rows: Tokens.
            x: float32 [tokens, columns].
            before: A norm that `can_leave_for`.
            ahead: As `Linear`.
        """
        given = (rows.values, self.packed, self.scale, self.bias, x, before.scale)
        out, scaled, squares = gemm_norm(self._format, *given, ahead=ahead)
        return out, Rows(scaled, squares=squares)

    def can_leave_for(self, before: Norm) -> bool:
        """Whether a norm behind it needs no launch; float16 could not hold a row before it is divided."""
        plain = before.shift is None and before.gate is None and before.offset is None and not before.centred
        return plain and self.dtype != torch.float16 and whole_pieces(len(before.scale))

    @property
    def _format(self) -> str:
        return "fp8-weights" if self.fp8 else "int8-weights"


def add_and_norm(
    product: Linear,
    rows: Rows,
    epilogue: Epilogue,
    before: Norm,
    reader: Linear,
    ahead: Tensor | None = None,
) -> tuple[Tensor, Rows]:
    """What a product adds to the stream, and the stream normalized for the product that reads it next.

    One launch where both products can do the norm's parts, else two or more.

    Args:
        product: Adds to the stream.
        rows: Tokens that it reads.
        epilogue: Of the product; the stream is its residual. Where it has frozen rows, the norm has them too.
        before: The norm.
        reader: Reads what the norm leaves.
        ahead: As `Linear`.
    """
    x = epilogue.residual
    if (
        x is not None
        and isinstance(product, WeightOnlyLinear)
        and isinstance(reader, WeightOnlyLinear)
        and product.can_leave_for(before)
    ):
        return product.add_for_norm(rows, x, before, ahead)
    x = product(rows, epilogue, ahead)
    return x, reader.norm_and_quantize(x, before, epilogue.frozen)


def multiply_and_quantize(product: Linear, rows: Rows, epilogue: Epilogue, reader: Linear) -> Rows:
    """What a product leaves, in the form that the product that alone reads it takes.

    The GeGLU behind a product of torch leaves E4M3 itself; else converting is a launch of its own, if there is one.

    Args:
        product: The first.
        rows: Tokens that it reads.
        epilogue: Of the first.
        reader: The second.
    """
    if isinstance(product, ScaledFp8Linear) and isinstance(reader, ScaledFp8Linear) and epilogue.activation == "geglu":
        return Rows(geglu_e4m3(product.multiply(rows), reader.input_scale))
    return reader.quantize_input(product(rows, epilogue))


def defer_bias(linear: Linear, offset: Tensor | None) -> tuple[Linear, Tensor | None]:
    """Lets the norms behind a linear add its bias, where its product cannot.

    cuBLAS adds a bias or a residual, not both. The sum with the residual is then rounded once, without the bias.
    Products of ours add both, and keep their bias.

    Args:
        linear: Adds to a stream that norms alone read.
        offset: float32 [width], what norms in front of it add, or None.

    Returns:
        The linear, and what norms behind it add: float32 [width], or None.
    """
    if not isinstance(linear, Bf16Linear) or linear.bias is None:
        return linear, offset
    bias = linear.bias.float()
    return replace(linear, bias=None), bias if offset is None else offset + bias


def check_cuda_rule(rule: Rule) -> None:
    """Raises `EngineError` where no kernel multiplies as the rule says."""
    formats = (rule.weights.kind, rule.activations)
    known = (("int8", INT8_TOKEN), ("int8", BF16), ("e4m3", BF16), ("e4m3", E4M3_STATIC))
    plain_embedding = rule.activations is None and rule.layers == ("token_embedding",)
    if rule.library is not None or (formats not in known and not plain_embedding):
        what = rule.library or f"{rule.weights} × {rule.activations}"
        raise EngineError(f"the CUDA engine has no kernels for {what}; use orin, int8-w8a8, int8-w8a16 or fp8-w8a16")
    if rule.hadamard and rule.activations != INT8_TOKEN:
        raise EngineError("the CUDA engine rotates INT8 activations only; leave hadamard out of the other rules")


def join_linears(
    linears: Sequence[nn.Module],
    device: torch.device,
    dtype: torch.dtype,
    gate_and_up: bool = False,
    many_rows: bool = False,
) -> Linear:
    """One product of linears that read the same tokens.

    Args:
        linears: All `nn.Linear`, or all `QuantizedLinear` under the same rule and not packed.
        device: Where it will run.
        dtype: Of 16-bit values; float32 only on a CPU, for tests.
        gate_and_up: They are the two halves of a GeGLU.
        many_rows: All tokens of images or prompt enter, not those of the actions.

    Raises:
        EngineError: If there is no kernel for them, or they differ in their rules.
    """
    quantized = [layer for layer in linears if isinstance(layer, QuantizedLinear)]
    if not quantized:
        plain = [layer for layer in linears if isinstance(layer, nn.Linear)]
        weight, bias = _stacked([layer.weight for layer in plain]), _stacked([layer.bias for layer in plain])
        if weight is None:
            raise EngineError(f"the CUDA engine has no kernels for {type(linears[0]).__name__}")
        return Bf16Linear(weight.to(device, dtype), None if bias is None else bias.to(device, dtype))
    rule = quantized[0].rule
    forms = {(layer.rule.weights, layer.rule.activations, layer.rotation) for layer in quantized}
    if len(quantized) != len(linears) or len(forms) > 1:
        raise EngineError("linears that read the same tokens must have the same rule in the CUDA engine")
    check_cuda_rule(rule)
    by_torch = rule.activations == E4M3_STATIC and many_rows and torch_multiplies_e4m3(device)
    join = _alternating if gate_and_up and not by_torch else _stacked
    # Bytes are moved as int8: torch does not index every type of 8 bits.
    values = join([None if layer.values is None else layer.values.view(torch.int8) for layer in quantized])
    scale, bias = join([layer.scale for layer in quantized]), join([layer.bias for layer in quantized])
    if values is None or scale is None:
        raise EngineError("the weights were packed for the CPU; the CUDA engine needs them as the bundle holds them")
    weight, scale = values.contiguous().view(rule.weights.dtype), scale.float().to(device)
    bias = None if bias is None else bias.float().to(device)
    if rule.activations == INT8_TOKEN:
        return Int8Linear(weight.to(device), scale, bias, quantized[0].rotation or 1)
    fp8 = rule.weights.kind == "e4m3"
    if rule.activations == BF16:
        return WeightOnlyLinear(pack_weights(weight).to(device), fp8, scale, bias, dtype)
    return fp8_linear(weight.to(device), scale, bias, _shared_scale(quantized).to(device), dtype, by_torch)


def _shared_scale(linears: Sequence[QuantizedLinear]) -> Tensor:
    """One scale for what they all read, float32 [1]: the largest, as q alone never sees the last state token."""
    return torch.stack([layer.input_scale for layer in linears if layer.input_scale is not None]).amax(0, keepdim=True)


def _stacked(parts: Sequence[Tensor | None]) -> Tensor | None:
    there = [part.detach() for part in parts if part is not None]
    return torch.cat(there) if there and len(there) == len(parts) else None


def _alternating(parts: Sequence[Tensor | None]) -> Tensor | None:
    gate, up = parts
    return None if gate is None or up is None else interleave_gate_up(gate.detach(), up.detach())
