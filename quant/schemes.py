"""Quantization schemes as data: a scheme is one row of the table below."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal

from quant.errors import QuantizationError

Granularity = Literal["output channel", "token"]


@dataclass(frozen=True)
class IntegerFormat:
    """Symmetric integers with one scale per group of values.

    Attributes:
        bits: Of one value.
        granularity: Which values share a scale: all weights of an output channel, or all activations of a token.
    """

    bits: int
    granularity: Granularity


@dataclass(frozen=True)
class Scheme:
    """How which layers are quantized.

    Attributes:
        name: As it appears on the command line and in reports.
        weights: Format of the weights; None leaves them as they are.
        activations: Format of the activations that enter a layer; None leaves them as they are.
        layers: Patterns of module paths (`*` matches anything, dots included); only linears are looked at.
    """

    name: str
    weights: IntegerFormat | None
    activations: IntegerFormat | None
    layers: tuple[str, ...]

    def covers(self, path: str) -> bool:
        """Whether the linear at `path` is quantized under this scheme."""
        return any(fnmatchcase(path, pattern) for pattern in self.layers)


# Attention and MLP of the vision tower, the prefix and the action expert. What is left out is small or delicate:
# embeddings, norms with their modulations, the projector, and the projections of state, action and time.
_TRANSFORMER_LINEARS = ("*.layers.*.attention.*", "*.layers.*.mlp.*")

INT8_PER_CHANNEL = IntegerFormat(8, "output channel")
INT8_PER_TOKEN = IntegerFormat(8, "token")

FP32 = Scheme("fp32", None, None, ())
INT8_W8A8 = Scheme("int8-w8a8", INT8_PER_CHANNEL, INT8_PER_TOKEN, _TRANSFORMER_LINEARS)

SCHEMES: dict[str, Scheme] = {scheme.name: scheme for scheme in (FP32, INT8_W8A8)}


def find_scheme(name: str) -> Scheme:
    """The scheme called `name`.

    Raises:
        QuantizationError: If there is none.
    """
    if name not in SCHEMES:
        raise QuantizationError(f"unknown quantization scheme {name!r}; there are {', '.join(SCHEMES)}")
    return SCHEMES[name]
