"""Matrix products out = epilogue(a · weightᵀ), in three forms each: into given outputs, as operator, in torch.

| operator           | a              | weight                     | sums          | runs on               |
|--------------------|----------------|----------------------------|---------------|-----------------------|
| `gemm_int8`        | int8 per token | int8 per channel           | int32, exact  | Ampere and later      |
| `gemm_weight_only` | bf16 or fp16   | int8 or E4M3, packed       | float32       | Ampere and later      |
| `gemm_fp8`         | E4M3           | E4M3                       | float32       | Hopper, Thor          |

The operators plan at every call and keep their workspace: inside a CUDA graph, both have happened before the replay.
n and k are multiples of 16. Of the sizes of π0 all are, except the patches of SigLIP (k = 588): they are float32 and
multiplied by torch.

MERGED: Memory in which the blocks of a product add up shared tiles: one per plan and stream, made once and kept.

A product leaves its tickets zero for the next one of the same plan, so nothing is filled before a launch, and a graph
that was captured with a workspace finds it where it was. Graphs of one stream share it, which is why they must not run
at the same time.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from pi0_edge.errors import KernelError
from pi0_edge.kernels.gemm_epilogue import Epilogue
from pi0_edge.kernels.gemm_packing import unpack_weights
from pi0_edge.kernels.gemm_plan import Plan, plan_bytes, plan_weight_only, tuned_plans
from pi0_edge.kernels.library import KernelLibrary, kernel_library

_KEPT: dict[tuple[torch.device, int, Plan], Tensor] = {}


def workspace(device: torch.device, plan: Plan) -> Tensor:
    """uint8 [plan.workspace_bytes] for the current stream of a CUDA device.

    Raises:
        KernelError: If it would have to be made while a graph is being captured.
    """
    key = (device, torch.cuda.current_stream(device).cuda_stream, plan)
    if key not in _KEPT:
        if plan.workspace_bytes and torch.cuda.is_current_stream_capturing():
            raise KernelError("a product was captured before it ran once on this stream; run the sequence first")
        _KEPT[key] = torch.zeros(plan.workspace_bytes, dtype=torch.uint8, device=device)
    return _KEPT[key]


def gemm_int8_into(
    library: KernelLibrary,
    out: Tensor,
    workspace: Tensor,
    a: Tensor,
    weight: Tensor,
    row_scale: Tensor,
    column_scale: Tensor,
    epilogue: Epilogue,
    plan: Plan,
) -> None:
    """Enqueues the kernel: one launch.

    Args:
        library: Where the kernel is.
        out: [m, columns of the epilogue], overwritten.
        workspace: uint8, at least `plan.workspace_bytes`; zero-filled before its first use, and then left to the
            kernels of one stream.
        a: int8 [m, k].
        weight: int8 [n, k].
        row_scale: float32 [m, 1].
        column_scale: float32 [n].
        epilogue: What happens to the sums.
        plan: From `plan_bytes`.

    Raises:
        KernelError: If a size is not possible, the workspace too small, or there is no GPU.
    """
    _bytes_into("gemm_int8", library, out, workspace, a, weight, row_scale, column_scale, epilogue, plan)


def gemm_fp8_into(
    library: KernelLibrary,
    out: Tensor,
    workspace: Tensor,
    a: Tensor,
    weight: Tensor,
    a_scale: Tensor,
    column_scale: Tensor,
    epilogue: Epilogue,
    plan: Plan,
) -> None:
    """As `gemm_int8_into`, for float8_e4m3fn with one scale for all of a: `a_scale` float32 [1].

    Raises:
        KernelError: Also if the GPU's code has no FP8 product (Orin and every other Ampere).
    """
    _bytes_into("gemm_fp8", library, out, workspace, a, weight, a_scale, column_scale, epilogue, plan)


def gemm_weight_only_into(
    library: KernelLibrary,
    out: Tensor,
    workspace: Tensor,
    a: Tensor,
    packed: Tensor,
    fp8: bool,
    column_scale: Tensor,
    epilogue: Epilogue,
    plan: Plan,
) -> None:
    """As `gemm_int8_into`, for a in bfloat16 or float16 and weights of `pack_weights`, E4M3 or int8.

    Args:
        library: Where the kernel is.
        out: [m, columns of the epilogue], overwritten.
        workspace: As in `gemm_int8_into`.
        a: bfloat16 or float16 [m, k].
        packed: uint8, from `pack_weights`.
        fp8: The packed weights are E4M3.
        column_scale: float32 [n].
        epilogue: What happens to the sums.
        plan: From `plan_weight_only`.

    Raises:
        KernelError: If a size is not possible, the workspace too small, or there is no GPU.
    """
    (m, k), n = a.shape, len(column_scale)
    e = epilogue
    library.call(
        "gemm_weight_only", a, packed, column_scale, e.bias, e.gate, e.frozen, e.residual, e.out_scale, out, workspace,
        workspace.numel(), m, n, k, a.dtype, e.dtype, int(fp8), e.activation_code, plan.blocks,
    )  # fmt: skip


def _bytes_into(
    name: str,
    library: KernelLibrary,
    out: Tensor,
    workspace: Tensor,
    a: Tensor,
    weight: Tensor,
    a_scale: Tensor,
    column_scale: Tensor,
    epilogue: Epilogue,
    plan: Plan,
) -> None:
    (m, k), n = a.shape, len(weight)
    e = epilogue
    library.call(
        name, a, weight, a_scale, column_scale, e.bias, e.gate, e.frozen, e.residual, e.out_scale, out, workspace,
        workspace.numel(), m, n, k, e.dtype, e.activation_code, plan.tile, plan.blocks,
    )  # fmt: skip


@torch.library.custom_op("pi0::gemm_int8", mutates_args=(), device_types="cuda")
def gemm_int8(
    a: Tensor,
    weight: Tensor,
    row_scale: Tensor,
    column_scale: Tensor,
    bias: Tensor | None,
    gate: Tensor | None,
    frozen: Tensor | None,
    residual: Tensor | None,
    out_scale: Tensor | None,
    activation: str,
    dtype: torch.dtype,
) -> Tensor:
    """int8 [m, k] · int8 [n, k]ᵀ -> [m, n or n / 2] of `dtype`; arguments as in `gemm_int8_into` and `Epilogue`."""
    epilogue = Epilogue(dtype, activation, bias, gate, frozen, residual, out_scale)
    return _one_byte(gemm_int8_into, a, weight, row_scale, column_scale, epilogue)


@torch.library.custom_op("pi0::gemm_fp8", mutates_args=(), device_types="cuda")
def gemm_fp8(
    a: Tensor,
    weight: Tensor,
    a_scale: Tensor,
    column_scale: Tensor,
    bias: Tensor | None,
    gate: Tensor | None,
    frozen: Tensor | None,
    residual: Tensor | None,
    out_scale: Tensor | None,
    activation: str,
    dtype: torch.dtype,
) -> Tensor:
    """E4M3 [m, k] · E4M3 [n, k]ᵀ -> [m, n or n / 2] of `dtype`; arguments as in `gemm_fp8_into` and `Epilogue`."""
    epilogue = Epilogue(dtype, activation, bias, gate, frozen, residual, out_scale)
    return _one_byte(gemm_fp8_into, a, weight, a_scale, column_scale, epilogue)


@torch.library.custom_op("pi0::gemm_weight_only", mutates_args=(), device_types="cuda")
def gemm_weight_only(
    a: Tensor,
    packed: Tensor,
    fp8: bool,
    column_scale: Tensor,
    bias: Tensor | None,
    gate: Tensor | None,
    frozen: Tensor | None,
    residual: Tensor | None,
    out_scale: Tensor | None,
    activation: str,
    dtype: torch.dtype,
) -> Tensor:
    """16-bit [m, k] · packed [n, k]ᵀ -> [m, n or n / 2]; arguments as in `gemm_weight_only_into` and `Epilogue`."""
    epilogue = Epilogue(dtype, activation, bias, gate, frozen, residual, out_scale)
    (m, k), n = a.shape, len(column_scale)
    plan = plan_weight_only(m, n, k, _gpu(a).multi_processor_count)
    out, memory = _outputs(a, epilogue, n, plan)
    gemm_weight_only_into(kernel_library(), out, memory, a, packed, fp8, column_scale, epilogue, plan)
    return out


def _one_byte(
    into: Callable[..., None], a: Tensor, weight: Tensor, a_scale: Tensor, column_scale: Tensor, epilogue: Epilogue
) -> Tensor:
    gpu, fp8 = _gpu(a), into is gemm_fp8_into
    tuned = tuned_plans((gpu.major, gpu.minor), gpu.multi_processor_count)
    plan = plan_bytes(len(a), len(weight), a.shape[1], gpu.multi_processor_count, fp8, tuned)
    out, memory = _outputs(a, epilogue, len(weight), plan)
    into(kernel_library(), out, memory, a, weight, a_scale, column_scale, epilogue, plan)
    return out


def _gpu(a: Tensor) -> Any:
    return torch.cuda.get_device_properties(a.device)


def _outputs(a: Tensor, epilogue: Epilogue, n: int, plan: Plan) -> tuple[Tensor, Tensor]:
    out = a.new_empty(len(a), epilogue.columns(n), dtype=epilogue.dtype)
    return out, workspace(a.device, plan)


def int8_sums(a: Tensor, weight: Tensor) -> Tensor:
    """The exact sums of `gemm_int8`: int32 [m, n]."""
    return (a.double() @ weight.double().t()).to(torch.int32)  # float64 is exact up to 2^53


@gemm_int8.register_kernel("cpu")
def _(a, weight, row_scale, column_scale, bias, gate, frozen, residual, out_scale, activation, dtype):  # noqa: ANN001, ANN202
    epilogue = Epilogue(dtype, activation, bias, gate, frozen, residual, out_scale)
    return epilogue.apply(int8_sums(a, weight), row_scale, column_scale)


@gemm_fp8.register_kernel("cpu")
def _(a, weight, a_scale, column_scale, bias, gate, frozen, residual, out_scale, activation, dtype):  # noqa: ANN001, ANN202
    epilogue = Epilogue(dtype, activation, bias, gate, frozen, residual, out_scale)
    return epilogue.apply(a.float() @ weight.float().t(), a_scale, column_scale)


@gemm_weight_only.register_kernel("cpu")
def _(a, packed, fp8, column_scale, bias, gate, frozen, residual, out_scale, activation, dtype):  # noqa: ANN001, ANN202
    epilogue = Epilogue(dtype, activation, bias, gate, frozen, residual, out_scale)
    weight = unpack_weights(packed, len(column_scale), a.shape[1], torch.float8_e4m3fn if fp8 else torch.int8)
    return epilogue.apply(a.float() @ weight.float().t(), None, column_scale)


@gemm_int8.register_fake
@gemm_fp8.register_fake
def _(a, weight, a_scale, column_scale, bias, gate, frozen, residual, out_scale, activation, dtype):  # noqa: ANN001, ANN202
    return a.new_empty(len(a), Epilogue(dtype, activation).columns(len(weight)), dtype=dtype)


@gemm_weight_only.register_fake
def _(a, packed, fp8, column_scale, bias, gate, frozen, residual, out_scale, activation, dtype):  # noqa: ANN001, ANN202
    return a.new_empty(len(a), Epilogue(dtype, activation).columns(len(column_scale)), dtype=dtype)
