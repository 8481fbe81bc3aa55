"""An MLP of quantized linears in fewer passes over memory, for layers that are not run as a stack.

Gate and up share the tokens that they quantize, and everything between two products is one pass
(`pi0_edge.quant.fused_activation`), where torch needs ten over hidden values of 53 MB.
"""

from __future__ import annotations

from torch import Tensor, nn

from pi0_edge.model.gemma import MLP
from pi0_edge.model.siglip import VisionMLP
from pi0_edge.quant.formats import INT8_TOKEN
from pi0_edge.quant.fused_activation import gelu_and_quantize_tokens, gelu_tokens
from pi0_edge.quant.quantized_linear import QuantizedLinear


class FusedGeGLU(nn.Module):
    """`model.gemma.MLP` with INT8 linears: down(gelu(gate(x)) * up(x))."""

    def __init__(self, gate: QuantizedLinear, up: QuantizedLinear, down: QuantizedLinear) -> None:
        super().__init__()
        self.gate, self.up, self.down = gate, up, down

    def forward(self, x: Tensor) -> Tensor:
        """[..., width] -> the same shape and dtype."""
        values, scale = self.gate.quantize_input(x.reshape(-1, x.shape[-1]))
        hidden = _activate_and_multiply(self.down, self.gate.product(values), scale, None, self.up.product(values))
        return hidden.view(x.shape).to(x.dtype)


class FusedMLP(nn.Module):
    """`model.siglip.VisionMLP` with INT8 linears: fc2(gelu(fc1(x)))."""

    def __init__(self, fc1: QuantizedLinear, fc2: QuantizedLinear) -> None:
        super().__init__()
        self.fc1, self.fc2 = fc1, fc2

    def forward(self, x: Tensor) -> Tensor:
        """[..., width] -> the same shape and dtype."""
        values, scale = self.fc1.quantize_input(x.reshape(-1, x.shape[-1]))
        hidden = _activate_and_multiply(self.fc2, self.fc1.product(values), scale, self.fc1.bias)
        return hidden.view(x.shape).to(x.dtype)


def use_fused_layers(model: nn.Module) -> None:
    """Replaces every MLP that has a fused form, in place."""
    for path, module in list(model.named_modules()):
        fused = _fused(module)
        if fused is not None:
            parent, _, name = path.rpartition(".")
            setattr(model.get_submodule(parent), name, fused)


def _activate_and_multiply(
    layer: QuantizedLinear, product: Tensor, scale: Tensor | None, bias: Tensor | None, up: Tensor | None = None
) -> Tensor:
    """The second half of an MLP: `layer` of gelu(product · scale + bias) (· up · scale)."""
    if scale is None:
        raise ValueError("these layers are for activations with a scale per token")
    if layer.rotation:
        return layer.multiply(*layer.quantize_input(gelu_tokens(product, scale, bias, up)))
    return layer.multiply(*gelu_and_quantize_tokens(product, scale, bias, up))


def _fused(module: nn.Module) -> nn.Module | None:
    linears = list(module.children())
    if not linears or not all(quantizes_tokens(linear) for linear in linears):
        return None
    if isinstance(module, MLP) and module.gate.rule == module.up.rule:
        return FusedGeGLU(module.gate, module.up, module.down)  # pyright: ignore[reportArgumentType]
    return FusedMLP(module.fc1, module.fc2) if isinstance(module, VisionMLP) else None  # pyright: ignore[reportArgumentType]


def quantizes_tokens(linear: nn.Module) -> bool:
    """Whether a layer is a linear with INT8 weights and INT8 tokens, each with a scale of its own."""
    return isinstance(linear, QuantizedLinear) and linear.integer and linear.rule.activations == INT8_TOKEN
