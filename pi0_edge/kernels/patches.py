"""Camera frames to rows of the patch embedding, on the device: resize with padding, [-1, 1], patches.

Bit for bit what `pi0_edge.processing.images` does with Pillow: an antialiased bilinear filter on 8-bit values with
weights of 22 bits, first along rows, then along columns. Upright images may differ by one level of 255: recent Pillow
takes some of them the other way round. The filter of a frame size is a small table (`resize_plan`), made once.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from pi0_edge.kernels.library import KernelLibrary, kernel_library

WEIGHT_BITS = 22
"""Of Pillow's filter weights for 8-bit images (`PRECISION_BITS`)."""


@dataclass(frozen=True)
class ResizePlan:
    """How frames of one size are scaled to fit a square.

    Attributes:
        row_first: int32 [rows], the first input row of every output row.
        row_weights: int32 [rows, taps], the weights of the input rows from there on, zero past the last.
        column_first: int32 [columns].
        column_weights: int32 [columns, taps].
        side: Of the square, in pixels; what the scaled frame leaves free is black.
    """

    row_first: Tensor
    row_weights: Tensor
    column_first: Tensor
    column_weights: Tensor
    side: int


def resize_plan(height: int, width: int, side: int, device: torch.device | str = "cpu") -> ResizePlan:
    """The plan for frames of `height` x `width` pixels.

    Raises:
        ValueError: If the frame is so narrow that less than a pixel of it would remain.
    """
    ratio = max(width / side, height / side)
    rows, columns = int(height / ratio), int(width / ratio)
    if rows == 0 or columns == 0:
        raise ValueError(f"a frame of {height}x{width} pixels has no pixel left when scaled to fit {side}x{side}")
    tables = (*_taps(height, rows), *_taps(width, columns))
    return ResizePlan(*(table.to(device) for table in tables), side=side)


def patches_into(library: KernelLibrary, out: Tensor, frames: Tensor, plan: ResizePlan, patch: int) -> None:
    """Enqueues the kernel: one launch.

    Args:
        library: Where the kernel is.
        out: float32 [count, (side / patch)², 3 · patch²], overwritten: each row one patch as [channel, row, column].
        frames: uint8 [count, height, width, 3], RGB, of the plan's size.
        plan: On the device of the frames.
        patch: Side of a patch in pixels; divides the plan's side.

    Raises:
        KernelError: If a size is not possible, or there is no GPU.
    """
    count, height, width, _ = frames.shape
    tables = (plan.row_first, plan.row_weights, plan.column_first, plan.column_weights)
    taps = (plan.row_weights.shape[1], plan.column_weights.shape[1], len(plan.row_first), len(plan.column_first))
    library.call("patches", frames, *tables, out, count, height, width, *taps, plan.side, patch)


@torch.library.custom_op("pi0::patches", mutates_args=(), device_types="cuda")
def patches(
    frames: Tensor,
    row_first: Tensor,
    row_weights: Tensor,
    column_first: Tensor,
    column_weights: Tensor,
    side: int,
    patch: int,
) -> Tensor:
    """Frames uint8 [count, height, width, 3] and the fields of a `ResizePlan`; the result as in `patches_into`."""
    out = _empty(frames, side, patch)
    plan = ResizePlan(row_first, row_weights, column_first, column_weights, side)
    patches_into(kernel_library(), out, frames, plan, patch)
    return out


@patches.register_kernel("cpu")
def _(frames, row_first, row_weights, column_first, column_weights, side, patch):  # noqa: ANN001, ANN202
    resized = _filter(_filter(frames, column_first, column_weights, 2), row_first, row_weights, 1)
    rows, columns = resized.shape[1:3]
    top, left = (side - rows) // 2, (side - columns) // 2
    square = resized.new_zeros(len(frames), side, side, 3)
    square[:, top : top + rows, left : left + columns] = resized
    cut = square.unflatten(2, (-1, patch)).unflatten(1, (-1, patch)).permute(0, 1, 3, 5, 2, 4)
    return cut.flatten(3).flatten(1, 2).float() / 255 * 2 - 1


@patches.register_fake
def _(frames, row_first, row_weights, column_first, column_weights, side, patch):  # noqa: ANN001, ANN202
    return _empty(frames, side, patch)


def _empty(frames: Tensor, side: int, patch: int) -> Tensor:
    return frames.new_empty(frames.shape[0], (side // patch) ** 2, 3 * patch * patch, dtype=torch.float32)


def _filter(x: Tensor, first: Tensor, weights: Tensor, dim: int) -> Tensor:
    """One direction of the resize, rounded to 8 bits: integer arithmetic, as the kernel's."""
    positions = (first[:, None] + torch.arange(weights.shape[1], device=x.device)).clamp_max(x.shape[dim] - 1)
    taken = x.long().index_select(dim, positions.flatten()).unflatten(dim, positions.shape)
    shape = [1] * taken.ndim
    shape[dim : dim + 2] = weights.shape
    total = (taken * weights.view(shape)).sum(dim + 1) + (1 << (WEIGHT_BITS - 1))
    return (total >> WEIGHT_BITS).clamp(0, 255)


def _taps(old: int, new: int) -> tuple[Tensor, Tensor]:
    """Pillow's filter from `old` to `new` positions: a triangle as wide as the scale, at least two pixels."""
    scale = old / new
    support = max(scale, 1.0)
    first, rows = [], []
    for position in range(new):
        centre = (position + 0.5) * scale
        start, end = max(0, int(centre - support + 0.5)), min(old, int(centre + support + 0.5))
        weights = [max(0.0, 1.0 - abs((i - centre + 0.5) / support)) for i in range(start, end)]
        first.append(start)
        rows.append([int(0.5 + weight / sum(weights) * (1 << WEIGHT_BITS)) for weight in weights])
    taps = max(map(len, rows))
    padded = [row + [0] * (taps - len(row)) for row in rows]
    return torch.tensor(first, dtype=torch.int32), torch.tensor(padded, dtype=torch.int32)
