"""Quantized linears with their quantization written out, so that a compiler sees it.

    x ─► quantize ─► dequantize ─┐
                                 ├─► product in float32 (+ bias)     TensorRT fuses all of it into one INT8 product
    values [N, K] ─► dequantize ─┘

Values and scales are those of `pi0_edge.quant.quantized_linear`, byte by byte: nothing is quantized anew.

Quantize and dequantize are operators of their own, which TensorRT calls explicit Q/DQ. They mean what `QuantizeLinear`
and `DequantizeLinear` of ONNX mean, with a zero point of 0. Written in plain torch, a dequantized weight is a constant,
and torch-tensorrt folds it to float32 silently: the plan is four times as large and nothing runs in INT8. Its folding
leaves alone what is tagged as depending on a seed, so both operators have that tag.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pi0_edge.errors import EngineError
from pi0_edge.model import Pi0
from pi0_edge.quant.formats import E4M3_MAX
from pi0_edge.quant.hadamard import rotate
from pi0_edge.quant.quantized_linear import QuantizedLinear
from pi0_edge.quant.schemes import Rule, Scheme

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


TENSORRT_FP8_CAPABILITY = (8, 9)
"""The first compute capability with FP8 tensor cores: Ada, then Hopper and Thor. TensorRT refuses FP8 anywhere else."""


class ExplicitLinear(nn.Module):
    """`QuantizedLinear` as quantize, dequantize and a product in float."""

    values: Tensor
    scale: Tensor
    bias: Tensor | None
    input_scale: Tensor | None

    def __init__(self, layer: QuantizedLinear, wide: bool = False) -> None:
        """Takes the buffers of `layer`, which must not be packed.

        Args:
            layer: To write out.
            wide: Whether 16-bit activations are multiplied in float32, with weights that are not rounded to 16 bits.
        """
        super().__init__()
        self.wide = wide
        if layer.values is None:
            raise EngineError("the weights were packed for the CPU; a program needs them as the bundle holds them")
        self.activations, self.rotation = layer.rule.activations, layer.rotation
        self.register_buffer("values", layer.values)
        self.register_buffer("scale", layer.scale)
        self.register_buffer("bias", layer.bias)
        self.register_buffer("input_scale", layer.input_scale)

    def forward(self, x: Tensor) -> Tensor:
        """[..., K] -> [..., N] in the dtype of x."""
        tokens = rotate(x, self.rotation) if self.rotation else x
        weight, bias = dequantize_linear(self.values, self.scale), self.bias
        if self.input_scale is not None and self.activations is not None:
            integers = quantize_linear(tokens.float(), self.input_scale, self.activations.dtype)
            tokens = dequantize_linear(integers, self.input_scale)
        elif self.activations is not None and self.wide:
            tokens = tokens.to(self.activations.dtype)
        elif self.activations is not None:
            dtype = self.activations.dtype
            tokens, weight, bias = tokens.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype)
        return F.linear(tokens.to(weight.dtype), weight, bias).to(x.dtype)


def write_out_quantization(model: Pi0, wide: bool = False) -> Pi0:
    """Replaces every quantized linear of `model`, in place, and returns it.

    Args:
        model: Whose layers were not packed.
        wide: See `ExplicitLinear`.

    Raises:
        EngineError: If a layer was packed for the CPU.
    """
    for path, layer in list(model.named_modules()):
        if isinstance(layer, QuantizedLinear):
            parent, _, name = path.rpartition(".")
            setattr(model.get_submodule(parent), name, ExplicitLinear(layer, wide))
    return model


def check_tensorrt_scheme(scheme: Scheme, capability: tuple[int, int]) -> None:
    """Raises `EngineError` where TensorRT cannot run the scheme on a GPU of this compute capability, and names another.

    Args:
        scheme: How the network is quantized.
        capability: Major and minor, such as (8, 7) for Orin.
    """
    for rule in scheme.rules:
        _check_tensorrt_rule(scheme.name, rule)
        eight_bit = [rule.weights.kind] + ([] if rule.activations is None else [rule.activations.kind])
        if "e4m3" in eight_bit and capability < TENSORRT_FP8_CAPABILITY:
            raise EngineError(
                f"{scheme.name} holds FP8 values, which TensorRT takes from compute capability 8.9 on (Ada, Hopper, "
                f"Thor), and this is for {capability[0]}.{capability[1]}; use int8-w8a8-static"
            )


def _check_tensorrt_rule(scheme: str, rule: Rule) -> None:
    if rule.library is not None:
        raise EngineError(f"{scheme} leaves layers to {rule.library}, unknown to TensorRT; use int8-w8a8-static")
    if rule.activations is not None and rule.activations.scaled and not rule.activations.static:
        raise EngineError(
            f"{scheme} takes scales of activations from the tokens themselves ({rule.activations}), which TensorRT has "
            "no operator for; use int8-w8a8-static, whose scales are calibrated"
        )
    if rule.weights.half_bytes:
        raise EngineError(
            f"{scheme} holds 4-bit weights, two in a byte, which no program of ours reads; use int8-w8a8-static"
        )
