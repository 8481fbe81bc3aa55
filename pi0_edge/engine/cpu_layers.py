"""Layers of the model as the CPU engine runs them: the same function, fewer passes over memory.

Measured on the MLP of the full-size prefix (816 tokens, 16384 hidden): every new tensor of 53 MB costs more in page
faults than the arithmetic in it, and gate and up quantize the same tokens. So the tokens go through in blocks whose
hidden values the allocator hands out again and again, in place, and the quantized tokens are shared.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pi0_edge.model.gemma import MLP
from pi0_edge.model.siglip import VisionMLP
from quant.quantized_linear import QuantizedLinear

TOKENS = 272
"""Tokens of one block: three blocks for three cameras and a prompt of 48."""


class BlockedGeGLU(nn.Module):
    """`model.gemma.MLP` with quantized linears: down(gelu(gate(x)) * up(x))."""

    def __init__(self, gate: QuantizedLinear, up: QuantizedLinear, down: QuantizedLinear) -> None:
        super().__init__()
        self.gate, self.up, self.down = gate, up, down

    def forward(self, x: Tensor) -> Tensor:
        """[..., width] -> the same shape and dtype."""
        out = torch.cat([self._block(tokens) for tokens in x.reshape(-1, x.shape[-1]).split(TOKENS)])
        return out.view(x.shape).to(x.dtype)

    def _block(self, tokens: Tensor) -> Tensor:
        values, scale = self.gate.quantize_input(tokens)
        hidden = gelu_(self.gate.multiply(values, scale)).mul_(self.up.multiply(values, scale))
        return self.down.multiply(*self.down.quantize_input(hidden))


class InPlaceMLP(nn.Module):
    """`model.siglip.VisionMLP` with quantized linears: fc2(gelu(fc1(x)))."""

    def __init__(self, fc1: QuantizedLinear, fc2: QuantizedLinear) -> None:
        super().__init__()
        self.fc1, self.fc2 = fc1, fc2

    def forward(self, x: Tensor) -> Tensor:
        """[..., width] -> the same shape and dtype."""
        tokens = x.reshape(-1, x.shape[-1])
        hidden = gelu_(self.fc1.multiply(*self.fc1.quantize_input(tokens)))
        return self.fc2.multiply(*self.fc2.quantize_input(hidden)).view(x.shape).to(x.dtype)


def gelu_(x: Tensor) -> Tensor:
    """The tanh-GELU in place."""
    return torch.ops.aten.gelu_(x, approximate="tanh")


def use_cpu_layers(model: nn.Module) -> None:
    """Replaces the layers that there is a faster form of, in place."""
    for path, module in list(model.named_modules()):
        faster = _faster(module)
        if faster is not None:
            parent, _, name = path.rpartition(".")
            setattr(model.get_submodule(parent), name, faster)


def _faster(module: nn.Module) -> nn.Module | None:
    linears = list(module.children())
    if not linears or not all(isinstance(linear, QuantizedLinear) for linear in linears):
        return None
    if isinstance(module, MLP) and module.gate.rule == module.up.rule:
        return BlockedGeGLU(module.gate, module.up, module.down)
    return InPlaceMLP(module.fc1, module.fc2) if isinstance(module, VisionMLP) else None
