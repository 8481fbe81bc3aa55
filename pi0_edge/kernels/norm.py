"""RMSNorm, adaptive RMSNorm and LayerNorm with what follows them: Hadamard transform and quantization, in one pass.

    z = x + offset
    y = (z − mean) / sqrt(mean((z − mean)²) + ε) · scale + shift        with mean = 0 unless `centred`

An RMSNorm passes 1 + weight as scale, or nothing if the next linear has absorbed it; an adaptive one passes 1 + its
scale and its shift of this Euler step; a LayerNorm is `centred` and passes weight and bias. An offset is what every row
lacks that the norm should see.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pi0_edge.kernels.library import KernelLibrary, kernel_library
from pi0_edge.kernels.rows import NORM_EPSILON, divide_rows, empty_quantized, hadamard, quantize_rows, select_rows


def norm_into(
    library: KernelLibrary,
    out: Tensor,
    out_scale: Tensor | None,
    x: Tensor,
    scale: Tensor | None,
    shift: Tensor | None,
    frozen: Tensor | None = None,
    centred: bool = False,
    hadamard_block: int = 1,
    offset: Tensor | None = None,
) -> None:
    """Enqueues the kernel: one launch.

    Args:
        library: Where the kernel is.
        out: int8, float8_e4m3fn or a 16-bit float [rows, width], overwritten.
        out_scale: Of an int8 output float32 [rows, 1], overwritten; of an E4M3 output float32 [1]; else None.
        x: bfloat16, float16 or float32 [rows, width]; width a multiple of 8, at most 8192.
        scale: float32 [width] or None.
        shift: float32 [width] or None.
        frozen: int32 [1] or None; with it, scale and shift are [2, width]: see `frozen_rows`.
        centred: Subtract the mean first.
        hadamard_block: A power of two that divides the width; 1 for no transform.
        offset: float32 [width] or None, added to every row first.

    Raises:
        KernelError: If a size or a pair of types is not possible, or there is no GPU.
    """
    rows, width = x.shape
    library.call(
        "norm",
        x,
        offset,
        scale,
        shift,
        frozen,
        out,
        out_scale,
        rows,
        width,
        centred,
        hadamard_block,
        NORM_EPSILON,
        x.dtype,
        out.dtype,
    )


@torch.library.custom_op("pi0::norm", mutates_args=(), device_types="cuda")
def norm(
    x: Tensor,
    scale: Tensor | None,
    shift: Tensor | None,
    frozen: Tensor | None,
    centred: bool,
    hadamard_block: int,
    out_dtype: torch.dtype,
    offset: Tensor | None = None,
) -> Tensor:
    """Normalized rows in a 16-bit type: x [rows, width] -> [rows, width]; arguments as in `norm_into`."""
    out = torch.empty_like(x, dtype=out_dtype)
    norm_into(kernel_library(), out, None, x, scale, shift, frozen, centred, hadamard_block, offset)
    return out


@torch.library.custom_op("pi0::norm_quant", mutates_args=(), device_types="cuda")
def norm_quant(
    x: Tensor,
    scale: Tensor | None,
    shift: Tensor | None,
    frozen: Tensor | None,
    centred: bool,
    hadamard_block: int,
    offset: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Normalized rows in INT8: x [rows, width] -> int8 [rows, width], float32 scales [rows, 1]."""
    out, out_scale = empty_quantized(x, x.shape[1])
    norm_into(kernel_library(), out, out_scale, x, scale, shift, frozen, centred, hadamard_block, offset)
    return out, out_scale


@torch.library.custom_op("pi0::norm_e4m3", mutates_args=(), device_types="cuda")
def norm_e4m3(
    x: Tensor,
    scale: Tensor | None,
    shift: Tensor | None,
    frozen: Tensor | None,
    centred: bool,
    out_scale: Tensor,
    offset: Tensor | None = None,
) -> Tensor:
    """Normalized rows in E4M3 by one scale: x [rows, width] -> float8_e4m3fn [rows, width]."""
    out = torch.empty_like(x, dtype=torch.float8_e4m3fn)
    norm_into(kernel_library(), out, out_scale, x, scale, shift, frozen, centred, offset=offset)
    return out


def normalized(
    x: Tensor,
    scale: Tensor | None,
    shift: Tensor | None,
    frozen: Tensor | None = None,
    centred: bool = False,
    hadamard_block: int = 1,
    offset: Tensor | None = None,
) -> Tensor:
    """What the kernel holds before its last rounding: float32 (float64 for x in float64) [rows, width]."""
    y = x if x.dtype == torch.float64 else x.float()
    y = y if offset is None else y + offset
    if centred:
        y = y - y.mean(-1, keepdim=True)
    y = y * torch.rsqrt(y.square().mean(-1, keepdim=True) + NORM_EPSILON)
    y = y if scale is None else y * select_rows(scale, frozen, len(y))
    y = y if shift is None else y + select_rows(shift, frozen, len(y))
    return hadamard(y, hadamard_block)


@norm.register_kernel("cpu")
def _(x, scale, shift, frozen, centred, hadamard_block, out_dtype, offset=None):  # noqa: ANN001, ANN202
    return normalized(x, scale, shift, frozen, centred, hadamard_block, offset).to(out_dtype)


@norm_quant.register_kernel("cpu")
def _(x, scale, shift, frozen, centred, hadamard_block, offset=None):  # noqa: ANN001, ANN202
    return quantize_rows(normalized(x, scale, shift, frozen, centred, hadamard_block, offset))


@norm_e4m3.register_kernel("cpu")
def _(x, scale, shift, frozen, centred, out_scale, offset=None):  # noqa: ANN001, ANN202
    return divide_rows(normalized(x, scale, shift, frozen, centred, offset=offset), out_scale)


@norm.register_fake
def _(x, scale, shift, frozen, centred, hadamard_block, out_dtype, offset=None):  # noqa: ANN001, ANN202
    return torch.empty_like(x, dtype=out_dtype)


@norm_quant.register_fake
def _(x, scale, shift, frozen, centred, hadamard_block, offset=None):  # noqa: ANN001, ANN202
    return empty_quantized(x, x.shape[1])


@norm_e4m3.register_fake
def _(x, scale, shift, frozen, centred, out_scale, offset=None):  # noqa: ANN001, ANN202
    return torch.empty_like(x, dtype=torch.float8_e4m3fn)
