"""How numbers are stored: as data, and the conversion to and from it.

| kind | values              | scale            | used for                                              |
|------|---------------------|------------------|-------------------------------------------------------|
| int8 | -127..127           | largest → 127    | weights per output channel, activations per token     |
| int4 | -7..7               | largest → 7      | only to show what the gate refuses                    |
| e4m3 | float8, up to ±448  | largest → 448    | weights per output channel, activations per tensor    |
| bf16 | bfloat16            | none             | activations that stay 16-bit                          |

All formats are symmetric. A static scale was fixed by calibration, and larger values saturate; a dynamic one is taken
from the values themselves.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from pi0_edge.errors import QuantizationError

Kind = Literal["int8", "int4", "e4m3", "bf16"]
Granularity = Literal["channel", "token", "tensor"]

SMALLEST_SCALE = 1e-30
"""Zeros get this scale instead of 0; it is far below anything that matters and far above underflow."""
BLOCK = 2**18
"""Elements rounded at once: temporaries of this size stay in the cache, larger ones cost more than the rounding."""

NOT_FINITE = (
    "values to be quantized contain NaN or infinity; expected finite values: "
    "check the inputs of the network, then its weights"
)

INT8_MAX, E4M3_MAX = 127.0, 448.0
_LARGEST = {"int8": INT8_MAX, "int4": 7.0, "e4m3": E4M3_MAX}
_DTYPES = {"int8": torch.int8, "int4": torch.int8, "e4m3": torch.float8_e4m3fn, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class Format:
    """How the numbers of one operand are stored.

    Attributes:
        kind: See the table above.
        granularity: Which values share a scale: an output channel of the weights, a token of the activations, or all
            of them. `bf16` has no scale and takes "tensor".
        static: Whether the scale of activations is fixed by calibration.
    """

    kind: Kind
    granularity: Granularity = "tensor"
    static: bool = False

    @property
    def largest(self) -> float:
        """The largest magnitude before the scale."""
        return _LARGEST[self.kind]

    @property
    def dtype(self) -> torch.dtype:
        """In which the values are held; int4 is held in int8."""
        return _DTYPES[self.kind]

    @property
    def bytes_per_value(self) -> int:
        """Of memory, as the values are held."""
        return self.dtype.itemsize

    @property
    def is_integer(self) -> bool:
        """Whether products of two such operands are exact integers."""
        return self.kind in ("int8", "int4")

    @property
    def scaled(self) -> bool:
        """Whether there is a scale."""
        return self.kind != "bf16"

    def __str__(self) -> str:
        if not self.scaled:
            return self.kind
        return f"{self.kind} per {self.granularity}" + (", static" if self.static else "")


INT8_CHANNEL = Format("int8", "channel")
INT8_TOKEN = Format("int8", "token")
INT8_STATIC = Format("int8", "tensor", static=True)
INT4_TENSOR = Format("int4", "tensor")
E4M3_CHANNEL = Format("e4m3", "channel")
E4M3_STATIC = Format("e4m3", "tensor", static=True)
BF16 = Format("bf16")


def quantize(x: Tensor, format: Format, scale: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
    """Values in `format`, and the scale that brings them back: values * scale ≈ x.

    Args:
        x: Any floating-point dtype, [rows, columns], both at least 1. A row is an output channel or a token.
        format: Of the result.
        scale: float32 [] where the format is static; larger values saturate.

    Returns:
        values [rows, columns] in `format.dtype`; scale float32 [rows, 1], or [] for one scale, or None without any.

    Raises:
        QuantizationError: If x contains NaN or infinity.
    """
    largest = _finite_amax(x)
    if not format.scaled:
        return x.to(format.dtype), None
    if scale is None:
        largest = largest if format.granularity != "tensor" else largest.amax()
        scale = (largest * (1 / format.largest)).clamp_min_(SMALLEST_SCALE)
    rows = max(1, BLOCK // x.shape[1])
    values = torch.empty(x.shape, dtype=format.dtype, device=x.device)
    scales = scale.expand(len(x), 1)
    for source, own, target in zip(x.split(rows), scales.split(rows), values.split(rows), strict=True):
        scaled = source / own
        if format.is_integer:
            scaled.round_()
        if format.static or not format.is_integer:  # a dynamic scale brings the largest value to the largest integer
            scaled.clamp_(-format.largest, format.largest)
        target.copy_(scaled)
    return values, scale


def quantize_weight(weight: Tensor, format: Format) -> tuple[Tensor, Tensor]:
    """Values [N, K] in `format`, and one scale per output channel, float32 [N].

    Raises:
        QuantizationError: If the weight contains NaN or infinity, or the format has no scale.
    """
    values, scale = quantize(weight, format)
    if scale is None:
        raise QuantizationError(f"weights cannot be {format}; expected a format with a scale")
    return values, scale.flatten().expand(len(weight)).contiguous()


def static_scale(amax: float, format: Format) -> Tensor:
    """The scale, float32 [], that brings `amax` to the largest value of `format`.

    Raises:
        QuantizationError: If amax is not a finite number.
    """
    if not math.isfinite(amax):
        raise QuantizationError(f"a calibrated range of {amax} cannot be a scale; calibrate again")
    return torch.tensor(max(amax / format.largest, SMALLEST_SCALE), dtype=torch.float32)


def _finite_amax(x: Tensor) -> Tensor:
    """The largest magnitude of every row, float32 [rows, 1]."""
    amax = torch.maximum(x.amax(-1, keepdim=True), -x.amin(-1, keepdim=True)).float()
    if not math.isfinite(amax.amax().item()):
        raise QuantizationError(NOT_FINITE)
    return amax
