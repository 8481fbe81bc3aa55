"""Layers of the model as the CPU engine runs them: the same function, fewer passes over memory.

Gate and up share the tokens that they quantize, and everything between two products of an MLP is one pass
(`pi0_edge.quant.fused_activation`), where torch needs ten over hidden values of 53 MB.

MERGED: The CPU engine: the model with quantized layers, integer arithmetic where the scheme has it.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pi0_edge.engine.freed_memory import keep_freed_memory
from pi0_edge.model import Continuation, ModelInputs, Pi0
from pi0_edge.model.flow import EULER_STEPS, euler_times
from pi0_edge.model.gemma import MLP
from pi0_edge.model.siglip import VisionMLP
from pi0_edge.quant.formats import INT8_TOKEN
from pi0_edge.quant.fused_activation import gelu_and_quantize_tokens, gelu_tokens
from pi0_edge.quant.quantized_linear import QuantizedLinear
from pi0_edge.quant.schemes import INT8_W8A8, Scheme


class FusedGeGLU(nn.Module):
    """`model.gemma.MLP` with INT8 linears: down(gelu(gate(x)) * up(x))."""

    def __init__(self, gate: QuantizedLinear, up: QuantizedLinear, down: QuantizedLinear) -> None:
        super().__init__()
        self.gate, self.up, self.down = gate, up, down

    def forward(self, x: Tensor) -> Tensor:
        """[..., width] -> the same shape and dtype."""
        values, scale = self.gate.quantize_input(x.reshape(-1, x.shape[-1]))
        hidden = down(self.down, self.gate.product(values), scale, None, self.up.product(values))
        return hidden.view(x.shape).to(x.dtype)


class FusedMLP(nn.Module):
    """`model.siglip.VisionMLP` with INT8 linears: fc2(gelu(fc1(x)))."""

    def __init__(self, fc1: QuantizedLinear, fc2: QuantizedLinear) -> None:
        super().__init__()
        self.fc1, self.fc2 = fc1, fc2

    def forward(self, x: Tensor) -> Tensor:
        """[..., width] -> the same shape and dtype."""
        values, scale = self.fc1.quantize_input(x.reshape(-1, x.shape[-1]))
        return down(self.fc2, self.fc1.product(values), scale, self.fc1.bias).view(x.shape).to(x.dtype)


def down(
    layer: QuantizedLinear, product: Tensor, scale: Tensor | None, bias: Tensor | None, up: Tensor | None = None
) -> Tensor:
    """The second half of an MLP: what `layer` makes of gelu(product · scale + bias) (· up · scale)."""
    if scale is None:
        raise ValueError("these layers are for activations with a scale per token")
    if layer.rotation:
        return layer.multiply(*layer.quantize_input(gelu_tokens(product, scale, bias, up)))
    return layer.multiply(*gelu_and_quantize_tokens(product, scale, bias, up))


def use_cpu_layers(model: nn.Module) -> None:
    """Replaces the layers that there is a faster form of, in place."""
    for path, module in list(model.named_modules()):
        faster = _faster(module)
        if faster is not None:
            parent, _, name = path.rpartition(".")
            setattr(model.get_submodule(parent), name, faster)


def _faster(module: nn.Module) -> nn.Module | None:
    linears = list(module.children())
    if not linears or not all(_per_token(linear) for linear in linears):
        return None
    if isinstance(module, MLP) and module.gate.rule == module.up.rule:
        return FusedGeGLU(module.gate, module.up, module.down)  # pyright: ignore[reportArgumentType]
    return FusedMLP(module.fc1, module.fc2) if isinstance(module, VisionMLP) else None  # pyright: ignore[reportArgumentType]


def _per_token(linear: nn.Module) -> bool:
    return isinstance(linear, QuantizedLinear) and linear.integer and linear.rule.activations == INT8_TOKEN


class CpuEngine:
    """Plain torch around quantized layers; everything the scheme leaves alone stays as the model has it."""

    name = "cpu"
    default_scheme = INT8_W8A8
    takes_frames = False
    prefix_age_s = 0.0

    def __init__(self, model: Pi0, scheme: Scheme = INT8_W8A8) -> None:
        """Packs the weights of `model` for this machine, in place: it cannot be saved afterwards.

        The process keeps the memory that it frees from then on (see `freed_memory`).

        Args:
            model: Quantized under `scheme`.
            scheme: How.
        """
        self.model = model.eval()
        self.config = model.config
        self.scheme = scheme.name
        self.times = euler_times(EULER_STEPS)
        for module in model.modules():
            if isinstance(module, QuantizedLinear):
                module.pack()
        use_cpu_layers(model)
        keep_freed_memory()

    @torch.inference_mode()
    def infer(self, inputs: ModelInputs, noise: Tensor, continuation: Continuation | None = None) -> Tensor:
        """Normalized actions, float32 [batch, horizon, action_dim], from noise of the same shape.

        Raises:
            QuantizationError: If an activation becomes NaN or infinite.
        """
        return self.model.sample_actions(inputs, noise, self.times, continuation)
