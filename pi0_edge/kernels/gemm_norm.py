"""An RMSNorm between two products that takes no launch: y = x / sqrt(mean(x²) + ε) · (1 + w).

    product that makes x    -> x in float32, x · (1 + w) in 16 bits, sums of squares of 32 columns each
    product that reads y    <- x · (1 + w); its rows are multiplied by 1 / sqrt(Σ squares / width + ε) at the end

Dividing a row before a product or after it is the same but for rounding. It needs no shift, and a scale that does not
depend on the row: the plain norm of π0, not the adaptive one of π0.5. The second product takes the sums as
`Epilogue.squares`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pi0_edge.kernels.gemm import ForNorm, choose_plan, gemm_into, sums, workspace
from pi0_edge.kernels.gemm_epilogue import Epilogue
from pi0_edge.kernels.library import kernel_library
from pi0_edge.kernels.rows import NORM_PIECE


def whole_pieces(columns: int) -> bool:
    """Whether a row of so many columns can be left for a norm."""
    return columns % NORM_PIECE == 0


@torch.library.custom_op("pi0::gemm_norm", mutates_args=(), device_types="cuda")
def gemm_norm(
    format: str,
    a: Tensor,
    weight: Tensor,
    column_scale: Tensor,
    bias: Tensor | None,
    residual: Tensor,
    norm_scale: Tensor,
    ahead: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """The residual plus a · weightᵀ, and what a norm behind it needs.

    Args:
        format: `int8-weights` or `fp8-weights`.
        a: bfloat16 or float16 [m, k].
        weight: uint8, from `pack_weights`.
        column_scale: float32 [n].
        bias: float32 [n], or None.
        residual: float32 [m, n]; n a multiple of 32.
        norm_scale: float32 [n], 1 + w.
        ahead: As in `gemm_into`.

    Returns:
        float32 [m, n]; the same times `norm_scale` in the type of a; float32 [m, n / 32], sums of squares.
    """
    plan = choose_plan(format, a, column_scale)
    out, scaled, squares = _empty(a, len(column_scale))
    epilogue, left = Epilogue(torch.float32, bias=bias, residual=residual), ForNorm(norm_scale, scaled, squares)
    memory = workspace(a.device, plan)
    gemm_into(format, kernel_library(), out, memory, a, weight, None, column_scale, epilogue, plan, ahead, left)
    return out, scaled, squares


@gemm_norm.register_kernel("cpu")
def _(format, a, weight, column_scale, bias, residual, norm_scale, ahead=None):  # noqa: ANN001, ANN202
    epilogue = Epilogue(torch.float32, bias=bias, residual=residual)
    out = epilogue.apply(sums(format, a, weight, len(column_scale)), None, column_scale)
    return out, (out * norm_scale).to(a.dtype), out.square().unflatten(-1, (-1, NORM_PIECE)).sum(-1)


@gemm_norm.register_fake
def _(format, a, weight, column_scale, bias, residual, norm_scale, ahead=None):  # noqa: ANN001, ANN202
    return _empty(a, len(column_scale))


def _empty(a: Tensor, n: int) -> tuple[Tensor, Tensor, Tensor]:
    out, scaled = (a.new_empty(len(a), n, dtype=dtype) for dtype in (torch.float32, a.dtype))
    return out, scaled, a.new_empty(len(a), n // NORM_PIECE, dtype=torch.float32)
