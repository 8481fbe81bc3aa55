"""GeGLU between two projections: gelu_tanh(gate) · up, then Hadamard transform and quantization, in one pass.

For a down projection whose gate and up were written out; where their GEMM does it in its epilogue, this is not needed.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from pi0_edge.kernels.library import KernelLibrary, kernel_library
from pi0_edge.kernels.rows import divide_rows, empty_quantized, hadamard, quantize_rows


def geglu_into(
    library: KernelLibrary, out: Tensor, out_scale: Tensor | None, gate_up: Tensor, hadamard_block: int = 1
) -> None:
    """Enqueues the kernel: one launch.

    Args:
        library: Where the kernel is.
        out: int8, float8_e4m3fn or a 16-bit float [rows, width], overwritten; width a multiple of 16, at most 16384.
        out_scale: Of an int8 output float32 [rows, 1], overwritten; of an E4M3 output float32 [1]; else None.
        gate_up: bfloat16, float16 or float32 [rows, 2 * width]: gate, then up.
        hadamard_block: A power of two that divides the width; 1 for no transform.

    Raises:
        KernelError: If a size or a pair of types is not possible, or there is no GPU.
    """
    rows, width = out.shape
    library.call("geglu", gate_up, out, out_scale, rows, width, hadamard_block, gate_up.dtype, out.dtype)


@torch.library.custom_op("pi0::geglu", mutates_args=(), device_types="cuda")
def geglu(gate_up: Tensor, hadamard_block: int, out_dtype: torch.dtype) -> Tensor:
    """GeGLU in a 16-bit type: [rows, 2 * width] -> [rows, width]."""
    out = gate_up.new_empty(len(gate_up), gate_up.shape[1] // 2, dtype=out_dtype)
    geglu_into(kernel_library(), out, None, gate_up, hadamard_block)
    return out


@torch.library.custom_op("pi0::geglu_quant", mutates_args=(), device_types="cuda")
def geglu_quant(gate_up: Tensor, hadamard_block: int) -> tuple[Tensor, Tensor]:
    """GeGLU in INT8: [rows, 2 * width] -> int8 [rows, width], float32 scales [rows, 1]."""
    out, out_scale = empty_quantized(gate_up, gate_up.shape[1] // 2)
    geglu_into(kernel_library(), out, out_scale, gate_up, hadamard_block)
    return out, out_scale


@torch.library.custom_op("pi0::geglu_e4m3", mutates_args=(), device_types="cuda")
def geglu_e4m3(gate_up: Tensor, out_scale: Tensor) -> Tensor:
    """GeGLU in E4M3 by one scale: [rows, 2 * width], float32 [1] -> float8_e4m3fn [rows, width]."""
    out = gate_up.new_empty(len(gate_up), gate_up.shape[1] // 2, dtype=torch.float8_e4m3fn)
    geglu_into(kernel_library(), out, out_scale, gate_up)
    return out


def activated(gate_up: Tensor, hadamard_block: int = 1) -> Tensor:
    """What the kernel holds before its last rounding: float32 (float64 for float64) [rows, width]."""
    gate, up = (gate_up if gate_up.dtype == torch.float64 else gate_up.float()).chunk(2, dim=-1)
    return hadamard(F.gelu(gate, approximate="tanh") * up, hadamard_block)


@geglu.register_kernel("cpu")
def _(gate_up, hadamard_block, out_dtype):  # noqa: ANN001, ANN202
    return activated(gate_up, hadamard_block).to(out_dtype)


@geglu_quant.register_kernel("cpu")
def _(gate_up, hadamard_block):  # noqa: ANN001, ANN202
    return quantize_rows(activated(gate_up, hadamard_block))


@geglu_e4m3.register_kernel("cpu")
def _(gate_up, out_scale):  # noqa: ANN001, ANN202
    return divide_rows(activated(gate_up), out_scale)


@geglu.register_fake
def _(gate_up, hadamard_block, out_dtype):  # noqa: ANN001, ANN202
    return gate_up.new_empty(gate_up.shape[0], gate_up.shape[1] // 2, dtype=out_dtype)


@geglu_quant.register_fake
def _(gate_up, hadamard_block):  # noqa: ANN001, ANN202
    return empty_quantized(gate_up, gate_up.shape[1] // 2)


@geglu_e4m3.register_fake
def _(gate_up, out_scale):  # noqa: ANN001, ANN202
    return gate_up.new_empty(gate_up.shape[0], gate_up.shape[1] // 2, dtype=torch.float8_e4m3fn)
