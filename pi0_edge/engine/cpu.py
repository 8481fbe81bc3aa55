"""The CPU engine: the model with quantized layers, in integer arithmetic where the scheme has it.

An MLP whose linears quantize their activations to INT8 per token is replaced by one that computes the same function in
fewer passes over memory. Gate and up share the tokens that they quantize, and everything between two products is one
pass (`pi0_edge.quant.fused_activation`), where torch needs ten over hidden values of 53 MB.
"""

from __future__ import annotations

from torch import Tensor, nn

from pi0_edge.engine.reference import ReferenceEngine
from pi0_edge.model import PolicyNetwork
from pi0_edge.model.gemma import MLP
from pi0_edge.model.siglip import VisionMLP
from pi0_edge.quant.formats import INT8_TOKEN
from pi0_edge.quant.fused_activation import gelu_and_quantize_tokens, gelu_tokens
from pi0_edge.quant.quantized_linear import QuantizedLinear
from pi0_edge.quant.schemes import INT8_W8A8, Scheme


class CpuEngine(ReferenceEngine):
    """Plain torch around quantized layers; everything the scheme leaves alone stays as the model has it."""

    name = "cpu"
    default_scheme = INT8_W8A8
    packs_weights = True

    def __init__(self, model: PolicyNetwork, scheme: Scheme = INT8_W8A8) -> None:
        """Packs the weights of `model` for this machine, in place.

        Args:
            model: Quantized under `scheme`.
            scheme: The scheme of its layers.
        """
        super().__init__(model, scheme)
        for module in model.modules():
            if isinstance(module, QuantizedLinear):
                module.pack()
        use_fused_layers(model)

    @classmethod
    def check(cls, scheme: Scheme) -> None:
        """As `Engine`; the CPU runs every scheme."""


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
    if not linears or not all(_quantizes_tokens(linear) for linear in linears):
        return None
    if isinstance(module, MLP) and module.gate.rule == module.up.rule:
        return FusedGeGLU(module.gate, module.up, module.down)  # pyright: ignore[reportArgumentType]
    return FusedMLP(module.fc1, module.fc2) if isinstance(module, VisionMLP) else None  # pyright: ignore[reportArgumentType]


def _quantizes_tokens(linear: nn.Module) -> bool:
    return isinstance(linear, QuantizedLinear) and linear.integer and linear.rule.activations == INT8_TOKEN
