"""What a head costs before any clock runs: calls one after the other, and parameters."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from pi0_edge.model import Pi0Config, PolicyNetwork

BACKBONE = ("vision", "projector", "token_embedding", "prefix")


@dataclass(frozen=True)
class Calls:
    """How often a chunk waits for a network, behind the prefix.

    Attributes:
        transformer: Passes of the expert over action or readout tokens.
        denoiser: Passes of a network behind it: Octo's MLP, TinyVLA's U-Net.
    """

    transformer: int
    denoiser: int = 0

    @property
    def total(self) -> int:
        """Both."""
        return self.transformer + self.denoiser


def sequential_calls(config: Pi0Config, steps: int) -> Calls:
    """The calls of one chunk that cannot run at the same time.

    Args:
        config: Sizes and head.
        steps: Euler, DDPM or DDIM steps; `rt2` and `mse` have none.
    """
    if config.head == "flow":
        return Calls(steps)
    if config.head == "rt2":
        return Calls(config.horizon * config.head_dims)
    return Calls(1, 0 if config.head == "mse" else steps)


def parameter_counts(model: PolicyNetwork) -> dict[str, int]:
    """Learned parameters of `backbone` (images and prompt), `expert`, `head` (all the rest), and `total`."""
    counts = {"backbone": 0, "expert": 0, "head": 0}
    for name, part in model.named_children():
        counts["backbone" if name in BACKBONE else name if name == "expert" else "head"] += _learned(part)
    counts["head"] += sum(p.numel() for p in model.parameters(recurse=False) if p.requires_grad)
    return {**counts, "total": sum(counts.values())}


def _learned(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters() if p.requires_grad)
