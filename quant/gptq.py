"""GPTQ: rounds weights so that the output of a layer changes little, instead of every weight by itself.

    error of a row = (w - q) · P · (w - q)ᵀ,   P = XᵀX over the tokens X [tokens, K] that entered the layer

Columns are rounded from the first to the last, and what rounding a column does to the output is taken back by the
columns that are not yet rounded, as far as the tokens allow. Source: Frantar et al., GPTQ (arXiv 2210.17323): blocks of
columns, the Cholesky factor of the inverse of P, and 1 % of its mean diagonal added to it. Here in addition:

* The scale of a group or channel is searched below the one that covers its largest value: 4 bits gain by clipping.
* Each row is also rounded to nearest, and keeps that where its error is no larger: GPTQ never loses to it on P.

The same inputs give the same bytes. Memory beside the weight is three matrices like P.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pi0_edge.errors import QuantizationError
from pi0_edge.quant.formats import SMALLEST_SCALE, Format, dequantize_weight, quantize_weight

DAMPING = 0.01
"""Of the mean of the diagonal, added to it."""
BLOCK = 128
"""Columns whose errors are carried on together: a multiple of every group."""
SHRINKS = tuple(1 - 0.05 * step for step in range(9))
"""Scales that are tried, as parts of the one that covers the largest value."""


@torch.no_grad()
def round_by_gptq(weight: Tensor, product: Tensor, format: Format) -> tuple[Tensor, Tensor]:
    """Values and scales of a weight, in the form of `quantize_weight`.

    Args:
        weight: [N, K], any floating-point dtype.
        product: XᵀX of the tokens that enter the layer, float32 [K, K]; of any length, and not changed.
        format: Integers, with a scale per channel or group.

    Raises:
        QuantizationError: If the weight or the product contains NaN or infinity, or the product has another size.
    """
    columns = weight.shape[1]
    if product.shape != (columns, columns):
        raise QuantizationError(
            f"the product of the tokens is {list(product.shape)} for a weight with {columns} columns; calibrate again"
        )
    if not bool(product.isfinite().all()):
        raise QuantizationError("the product of the tokens contains NaN or infinity; check the calibration frames")
    nearest_values, nearest_scale = quantize_weight(weight, format)
    if not bool(product.any()):
        return nearest_values, nearest_scale  # nothing ever entered: nothing can be gained
    product = product / product.diagonal().mean()
    factor = _inverse_factor(product)
    if factor is None:
        return nearest_values, nearest_scale
    exact = weight.float()
    values, scale = _round_columns(exact.clone(), product, factor, format)
    found = row_errors(exact - dequantize_weight(values, scale, format), product)
    nearest = row_errors(exact - dequantize_weight(nearest_values, nearest_scale, format), product)
    better = found < nearest
    values = torch.where(better[:, None], values, nearest_values)
    return values, torch.where(better[:, None] if scale.ndim == 2 else better, scale, nearest_scale)


def row_errors(difference: Tensor, product: Tensor) -> Tensor:
    """Squared error of every output over all tokens, float32 [N], from the difference of the weights [N, K]."""
    return ((difference @ product) * difference).sum(1)


def _round_columns(weight: Tensor, product: Tensor, factor: Tensor, format: Format) -> tuple[Tensor, Tensor]:
    """Rounds the columns of `weight`, which is used up, one after the other."""
    rows, columns = weight.shape
    importance = product.diagonal()
    shape, dtype = format.scale_form(rows, columns)
    scales = torch.empty(shape, dtype=dtype)
    values = torch.empty(rows, columns, dtype=format.dtype)
    group = format.group or columns
    own = torch.empty(rows)
    for start in range(0, columns, BLOCK):
        end = min(start + BLOCK, columns)
        block, inside = weight[:, start:end], factor[start:end, start:end]
        errors = torch.empty(rows, end - start)
        for i in range(end - start):
            column = start + i
            if column % group == 0:
                members = slice(column, min(column + group, columns))
                own = _searched_scale(weight[:, members], importance[members], format, dtype)
                if scales.ndim == 2:
                    scales[:, column // group] = own
                else:
                    scales.copy_(own)
            own32 = own.float()
            rounded = (block[:, i] / own32).round_().clamp_(-format.largest, format.largest)
            values[:, column] = rounded.to(format.dtype)
            errors[:, i] = (block[:, i] - rounded * own32) / inside[i, i]
            block[:, i:] -= errors[:, i, None] * inside[i, i:]
        weight[:, end:] -= errors @ factor[start:end, end:]
    return values, scales


def _inverse_factor(product: Tensor) -> Tensor | None:
    """The upper Cholesky factor of the inverse of the damped product; None where there is none.

    An XᵀX that was summed with large rounding errors can have negative eigenvalues beyond the damping.
    """
    damped = product.clone()
    damped.diagonal().add_(DAMPING)  # the mean of the diagonal is 1
    lower, failed = torch.linalg.cholesky_ex(damped)
    if failed.item():
        return None
    factor, failed = torch.linalg.cholesky_ex(torch.cholesky_inverse(lower), upper=True)
    return None if failed.item() else factor


def _searched_scale(weights: Tensor, importance: Tensor, format: Format, dtype: torch.dtype) -> Tensor:
    """The scale [N] with the least squared error of these columns, each weighed by its tokens."""
    covering = (weights.abs().amax(1) / format.largest).clamp_min(SMALLEST_SCALE)
    best, least = covering.to(dtype), torch.full((len(weights),), float("inf"))
    for shrink in SHRINKS:
        scale = (covering * shrink).to(dtype)
        spread = scale.float()[:, None]
        rounded = (weights / spread).round_().clamp_(-format.largest, format.largest) * spread
        error = ((weights - rounded).square_() * importance).sum(1)
        better = error < least
        best, least = torch.where(better, scale, best), torch.where(better, error, least)
    return best
