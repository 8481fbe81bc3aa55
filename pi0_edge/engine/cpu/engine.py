"""The CPU engine: the model with quantized layers, in integer arithmetic where the scheme has it.

Where every linear of a part (vision, prefix, expert) has INT8 weights and INT8 tokens, the C library runs the part as
one stack (`pi0_edge.engine.cpu.stacks`). Elsewhere an MLP of such linears is fused (`fused_mlp`), and everything the
scheme leaves alone stays as the model has it.
"""

from __future__ import annotations

from pi0_edge.engine.cpu.fused_mlp import use_fused_layers
from pi0_edge.engine.cpu.stacks import ExpertStack, PrefixStack, VisionStack, use_stacks
from pi0_edge.engine.reference import ReferenceEngine
from pi0_edge.model import PolicyNetwork
from pi0_edge.quant import native
from pi0_edge.quant.quantized_linear import QuantizedLinear
from pi0_edge.quant.schemes import INT8_W8A8, Rule, Scheme


class CpuEngine(ReferenceEngine):
    """Quantized layers, as stacks of the C library where a part of the network fits it; plain torch around them."""

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
        if any(_shares_a_scale(rule) for rule in scheme.rules):
            self.max_batch = 1
        for module in model.modules():
            if isinstance(module, QuantizedLinear):
                module.pack()
        use_stacks(model)
        use_fused_layers(model)

    @property
    def instructions(self) -> str:
        """Name of the `Level` whose instructions run stacks of this network; "none" where layers run one by one.

        Attention is in INT8 in stacks, and in float32 in layers that run one by one.
        """
        stacks = any(isinstance(module, VisionStack | PrefixStack | ExpertStack) for module in self.model.modules())
        return native.level().name if stacks else "none"

    @classmethod
    def check(cls, scheme: Scheme) -> None:
        """As `Engine`; the CPU runs every scheme."""


def _shares_a_scale(rule: Rule) -> bool:
    """Whether what one observation brings changes how another one of the same pass is rounded."""
    format = rule.activations
    return format is not None and format.granularity != "token" and not format.static and format.kind != "bf16"
