"""What a matrix product does with its sums before it stores them, written in torch with the roundings of the kernels.

value = sum · row scale · column scale + bias          behind a norm without a launch (`gemm_norm`): its row scale
value = gelu(value), or gelu(even columns) · odd columns
value = residual + gate · value
stored in `dtype`, or divided by `out_scale` and rounded to int8 in ±127; −128 where it is NaN or infinite
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import gelu

from pi0_edge.errors import KernelError
from pi0_edge.kernels.rows import INT8_MAX, select_rows, unit_rows

ACTIVATIONS = ("linear", "gelu", "geglu")
"""Their numbers in the C interface are their places here; GELU is the tanh approximation."""
NOT_FINITE = -128.0
"""In an int8 output: NaN and infinity, which no number becomes."""


@dataclass(frozen=True)
class Epilogue:
    """Everything beside the scales of the product itself.

    Attributes:
        dtype: Of the output: bfloat16, float16, float32 or int8.
        activation: One of `ACTIVATIONS`. "geglu" halves the columns: weights alternate gate, up, gate, up, ...
        bias: float32 [n].
        gate: float32 [columns of the output], the residual gate of an adaptive norm.
        frozen: int32 [1] or None; with it, the gate is [2, columns]: see `frozen_rows`.
        residual: The type and shape of the output; not with int8.
        out_scale: float32 [1], the step of an int8 output; None for every other.
        squares: float32 [m, k / 32], from `gemm_norm`: the rows of the product are divided by their root mean square.
    """

    dtype: torch.dtype
    activation: str = "linear"
    bias: Tensor | None = None
    gate: Tensor | None = None
    frozen: Tensor | None = None
    residual: Tensor | None = None
    out_scale: Tensor | None = None
    squares: Tensor | None = None

    def __post_init__(self) -> None:
        if self.activation not in ACTIVATIONS:
            raise KernelError(
                f"activation {self.activation!r} does not exist; expected one of {', '.join(ACTIVATIONS)}"
            )

    @property
    def activation_code(self) -> int:
        """In the C interface."""
        return ACTIVATIONS.index(self.activation)

    def columns(self, n: int) -> int:
        """Of the output of a product with n columns."""
        return n // 2 if self.activation == "geglu" else n

    def apply(self, sums: Tensor, row_scale: Tensor | None, column_scale: Tensor) -> Tensor:
        """Sums [m, n] -> output [m, columns(n)].

        Args:
            sums: int32, float32 or float64; all but float64 are continued in float32, as in the kernels.
            row_scale: float32 [m, 1] or [1], or None for 1.
            column_scale: float32 [n].
        """
        value = self.before_rounding(sums, row_scale, column_scale)
        if self.out_scale is None:
            return value.to(self.dtype)
        value = value / self.out_scale
        rounded = value.nan_to_num().clamp(-INT8_MAX, INT8_MAX).round()
        return rounded.where(value.isfinite(), NOT_FINITE).to(torch.int8)

    def before_rounding(self, sums: Tensor, row_scale: Tensor | None, column_scale: Tensor) -> Tensor:
        """What `apply` rounds: float32, or float64 for sums in float64."""
        value = sums if sums.dtype == torch.float64 else sums.float()
        row_scale = row_scale if self.squares is None else unit_rows(self.squares.to(value.dtype))
        value = (value if row_scale is None else value * row_scale) * column_scale
        value = value if self.bias is None else value + self.bias
        if self.activation == "gelu":
            value = gelu(value, approximate="tanh")
        elif self.activation == "geglu":
            value = gelu(value[:, ::2], approximate="tanh") * value[:, 1::2]
        value = value if self.gate is None else value * select_rows(self.gate, self.frozen, len(value))
        return value if self.residual is None else value + self.residual.to(value.dtype)
