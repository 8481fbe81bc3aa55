"""Rows in 8 bits: Hadamard transform and INT8 with one scale per row, or E4M3 by a scale that is given.

The second pass behind a product with GeGLU in its epilogue, and behind attention.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pi0_edge.kernels.library import KernelLibrary, kernel_library
from pi0_edge.kernels.rows import divide_rows, empty_quantized, hadamard, quantize_rows


def quantize_into(library: KernelLibrary, out: Tensor, out_scale: Tensor, x: Tensor, hadamard_block: int = 1) -> None:
    """Enqueues the kernel: one launch.

    Args:
        library: Where the kernel is.
        out: int8 or float8_e4m3fn [rows, width], overwritten; width a multiple of 16, at most 16384.
        out_scale: Of an int8 output float32 [rows, 1], overwritten; of an E4M3 output float32 [1].
        x: bfloat16, float16 or float32 [rows, width].
        hadamard_block: A power of two that divides the width; 1 for no transform.

    Raises:
        KernelError: If a size is not possible, or there is no GPU.
    """
    rows, width = x.shape
    library.call("quantize", x, out, out_scale, rows, width, hadamard_block, x.dtype, out.dtype)


@torch.library.custom_op("pi0::quantize", mutates_args=(), device_types="cuda")
def quantize(x: Tensor, hadamard_block: int) -> tuple[Tensor, Tensor]:
    """Rows in INT8: x [rows, width] -> int8 [rows, width], float32 scales [rows, 1]."""
    out, out_scale = empty_quantized(x, x.shape[1])
    quantize_into(kernel_library(), out, out_scale, x, hadamard_block)
    return out, out_scale


@torch.library.custom_op("pi0::quantize_e4m3", mutates_args=(), device_types="cuda")
def quantize_e4m3(x: Tensor, out_scale: Tensor) -> Tensor:
    """Rows in E4M3 by one scale: x [rows, width], float32 [1] -> float8_e4m3fn [rows, width]."""
    out = torch.empty_like(x, dtype=torch.float8_e4m3fn)
    quantize_into(kernel_library(), out, out_scale, x)
    return out


@quantize.register_kernel("cpu")
def _(x, hadamard_block):  # noqa: ANN001, ANN202
    return quantize_rows(hadamard(x.float(), hadamard_block))


@quantize_e4m3.register_kernel("cpu")
def _(x, out_scale):  # noqa: ANN001, ANN202
    return divide_rows(x.float(), out_scale)


@quantize.register_fake
def _(x, hadamard_block):  # noqa: ANN001, ANN202
    return empty_quantized(x, x.shape[1])


@quantize_e4m3.register_fake
def _(x, out_scale):  # noqa: ANN001, ANN202
    return torch.empty_like(x, dtype=torch.float8_e4m3fn)
