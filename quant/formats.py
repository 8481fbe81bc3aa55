"""How numbers are stored: as data, and the conversion to and from it.

| kind | values              | scale            | used for                                              |
|------|---------------------|------------------|-------------------------------------------------------|
| int8 | -127..127           | largest → 127    | weights per output channel, activations per token     |
| int4 | -7..7               | largest → 7      | weights per output channel or group of columns,       |
|      |                     |                  | two to a byte; activations per token, in int8         |
| e4m3 | float8, up to ±448  | largest → 448    | weights per output channel, activations per tensor    |
| bf16 | bfloat16            | none             | activations that stay 16-bit                          |

All formats are symmetric. A static scale was fixed by calibration, and larger values saturate; a dynamic one is taken
from the values themselves. Scales are float32; those of groups, of which there are many, are bfloat16, whose products
with 4-bit integers float32 holds exactly.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from pi0_edge.errors import QuantizationError

Kind = Literal["int8", "int4", "e4m3", "bf16"]
Granularity = Literal["channel", "group", "token", "tensor"]
KINDS, GRANULARITIES = get_args(Kind), get_args(Granularity)

SMALLEST_SCALE = 1e-30
"""Zeros get this scale instead of 0; it is far below anything that matters and far above underflow."""
BLOCK = 2**18
"""Elements rounded at once: temporaries of this size stay in the cache, larger ones cost more than the rounding."""

GROUPS = (32, 64, 128)
"""Sizes of a group of columns: multiples of what a tensor core multiplies at once."""

NOT_FINITE = (
    "values to be quantized contain NaN or infinity; expected finite values: "
    "check the inputs of the network, then its weights"
)

INT8_MAX, E4M3_MAX = 127.0, 448.0
_LARGEST = {"int8": INT8_MAX, "int4": 7.0, "e4m3": E4M3_MAX}
_BITS = {"int8": 8, "int4": 4, "e4m3": 8, "bf16": 16}
_DTYPES = {"int8": torch.int8, "int4": torch.int8, "e4m3": torch.float8_e4m3fn, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class Format:
    """How the numbers of one operand are stored.

    Attributes:
        kind: See the table above.
        granularity: Which values share a scale: an output channel of the weights, a group of neighbouring columns of
            it, a token of the activations, or all of them. `bf16` has no scale and takes "tensor".
        static: Whether the scale of activations is fixed by calibration.
        group: How many columns share a scale; the last group of a row is smaller where they do not divide its width.
            0 where the granularity is another.
    """

    kind: Kind
    granularity: Granularity = "tensor"
    static: bool = False
    group: int = 0

    def __post_init__(self) -> None:
        allowed = GROUPS if self.granularity == "group" else (0,)
        if type(self.group) is not int or self.group not in allowed:
            expected = " or ".join(map(str, allowed))
            raise QuantizationError(
                f"{self.kind} per {self.granularity} has a group of {self.group!r} columns; expected {expected}"
            )

    @property
    def largest(self) -> float:
        """The largest magnitude before the scale."""
        return _LARGEST[self.kind]

    @property
    def dtype(self) -> torch.dtype:
        """In which the values are computed with; int4 in int8."""
        return _DTYPES[self.kind]

    @property
    def bits(self) -> int:
        """Of one stored value, without its share of a scale."""
        return _BITS[self.kind]

    @property
    def half_bytes(self) -> bool:
        """Whether stored weights hold two values in a byte, see `pi0_edge.quant.packed_int4`."""
        return self.bits == 4

    def scale_bytes(self, rows: int, columns: int) -> int:
        """Of all scales of a weight [rows, columns]."""
        if not self.scaled:
            return 0
        shape, dtype = self.scale_form(rows, columns)
        return math.prod(shape) * dtype.itemsize

    def scale_form(self, rows: int, columns: int) -> tuple[tuple[int, ...], torch.dtype]:
        """Shape and dtype of the scales of a stored weight [rows, columns]."""
        if self.granularity == "group":
            return (rows, -(-columns // self.group)), torch.bfloat16
        return (rows,), torch.float32

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
        which = f"group of {self.group}" if self.group else self.granularity
        return f"{self.kind} per {which}" + (", static" if self.static else "")


INT8_CHANNEL = Format("int8", "channel")
INT8_TOKEN = Format("int8", "token")
INT8_STATIC = Format("int8", "tensor", static=True)
INT4_TENSOR = Format("int4", "tensor")
INT4_CHANNEL = Format("int4", "channel")
INT4_TOKEN = Format("int4", "token")
INT4_GROUP_32, INT4_GROUP_64, INT4_GROUP_128 = (Format("int4", "group", group=size) for size in GROUPS)
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
    """Values [N, K] in `format.dtype`, and scales as `Format.scale_form` says: float32 [N] or bfloat16 [N, groups].

    Raises:
        QuantizationError: If the weight contains NaN or infinity, or the format has no scale.
    """
    if format.granularity == "group":
        scale = group_scales(weight, format)
        scaled = weight / column_scales(scale, format, weight.shape[1])
        return scaled.round_().clamp_(-format.largest, format.largest).to(format.dtype), scale
    values, scale = quantize(weight, format)
    if scale is None:
        raise QuantizationError(f"weights cannot be {format}; expected a format with a scale")
    return values, scale.flatten().expand(len(weight)).contiguous()


def group_scales(weight: Tensor, format: Format) -> Tensor:
    """The scale of every group of columns that brings its largest value to `format.largest`, bfloat16 [N, groups].

    Raises:
        QuantizationError: If the weight contains NaN or infinity.
    """
    missing = -weight.shape[1] % format.group
    groups = torch.nn.functional.pad(weight, (0, missing)).reshape(-1, format.group)
    scale = (_finite_amax(groups) / format.largest).clamp_min_(SMALLEST_SCALE)
    return scale.view(len(weight), -1).bfloat16()


def column_scales(scale: Tensor, format: Format, columns: int) -> Tensor:
    """Scales of a stored weight as factors of its values [N, columns]: float32 [N, 1], or [N, columns] from groups."""
    if format.granularity == "group":
        return scale.float().repeat_interleave(format.group, 1)[:, :columns]
    return scale[:, None]


def dequantize_weight(values: Tensor, scale: Tensor, format: Format) -> Tensor:
    """What stored weights stand for, float32 [N, K]: values [N, K] · scale, as `quantize_weight` gives them."""
    return values.float() * column_scales(scale, format, values.shape[1])


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
