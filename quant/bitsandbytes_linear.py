"""bitsandbytes behind the same interface: a peer to compare with, and a quick look without calibration.

Its LLM.int8 (Dettmers et al., arXiv 2208.07339) keeps the columns of outliers apart in 16 bits; NF4 (Dettmers et al.,
arXiv 2305.14314) stores weights in 4 bits. Both bring their own storage, so a bundle cannot hold them.
"""

from __future__ import annotations

import importlib
import logging

import torch
from torch import Tensor, nn

from pi0_edge.errors import MissingDependencyError, QuantizationError
from pi0_edge.quant.formats import NOT_FINITE
from pi0_edge.quant.schemes import Rule

OUTLIER_THRESHOLD = 6.0
"""Activations above this stay 16-bit in LLM.int8, as its authors recommend."""
PACKED_BLOCK = 128
"""Sizes that its packed CPU kernel takes are multiples of this."""
NF4_BLOCK = 64
"""Weights of NF4 that share a float32 scale."""


class BitsAndBytesLinear(nn.Module):
    """A linear of bitsandbytes at inference; refuses what is not finite, as our own layers do."""

    def __init__(self, linear: nn.Linear, rule: Rule) -> None:
        """Converts `linear`.

        Raises:
            MissingDependencyError: If bitsandbytes is not installed.
            QuantizationError: If a weight is NaN or infinite, or bitsandbytes has no kernel for the sizes.
        """
        super().__init__()
        if not bool(torch.isfinite(linear.weight).all()):
            raise QuantizationError(NOT_FINITE)
        self.rule, self.in_features, self.out_features = rule, linear.in_features, linear.out_features
        self.inner = _converted(linear, rule)
        try:
            self.inner(torch.zeros(2, self.in_features))
        except (AssertionError, RuntimeError, ValueError) as reason:
            raise QuantizationError(
                f"bitsandbytes cannot run a linear of {self.in_features} by {self.out_features} here ({reason}); "
                "leave this layer out of the scheme"
            ) from reason

    def forward(self, x: Tensor) -> Tensor:
        """[..., K] -> [..., N] in the dtype of x.

        Raises:
            QuantizationError: If x contains NaN or infinity.
        """
        if not x.numel():
            return x.new_empty(*x.shape[:-1], self.out_features)
        if not bool(torch.isfinite(x).all()):
            raise QuantizationError(NOT_FINITE)
        return self.inner(x.detach()).to(x.dtype)

    @property
    def bytes(self) -> int:
        """Weights and bias as bitsandbytes holds them, and its scales."""
        held = sum(parameter.nbytes for parameter in self.inner.parameters())
        return held + (
            4 * self.out_features if self.rule.library == "bnb-int8" else self.in_features * self.out_features // 16
        )

    @property
    def arithmetic(self) -> str:
        """Whose product is in use."""
        return f"bitsandbytes {self.rule.library}"


def _converted(linear: nn.Linear, rule: Rule) -> nn.Module:
    try:
        logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
        bitsandbytes = importlib.import_module("bitsandbytes")  # takes seconds, and only these schemes need it
    except ImportError as error:
        raise MissingDependencyError(
            f"the scheme {rule.library} needs bitsandbytes: pip install 'pi0-edge[jetson]'"
        ) from error
    sizes = (linear.in_features, linear.out_features, linear.bias is not None)
    if rule.library == "bnb-int8":
        made = bitsandbytes.nn.Linear8bitLt(*sizes, has_fp16_weights=False, threshold=OUTLIER_THRESHOLD)
    else:
        made = bitsandbytes.nn.Linear4bit(*sizes, compute_dtype=torch.float32, quant_type="nf4")
        packable = linear.in_features % PACKED_BLOCK == 0 and linear.out_features % PACKED_BLOCK == 0
        made.support_avx512bf16_for_cpu &= packable  # else its plain kernel, which takes any size
    made.load_state_dict({name: value.detach().float() for name, value in linear.state_dict().items()})
    return made.to("cpu").eval().requires_grad_(False)
