"""Matrix products out = epilogue(a · weightᵀ): into a given output, as the operator `pi0::gemm`, and in torch.

| format         | a              | weight           | sums         | runs on           | C function         |
|----------------|----------------|------------------|--------------|-------------------|--------------------|
| `int8`         | int8 per token | int8 per channel | int32, exact | Ampere and later  | `gemm_int8`        |
| `fp8`          | E4M3           | E4M3             | float32      | Hopper, Thor      | `gemm_fp8`         |
| `int8-weights` | bf16 or fp16   | int8, packed     | float32      | Ampere and later  | `gemm_weight_only` |
| `fp8-weights`  | bf16 or fp16   | E4M3, packed     | float32      | Ampere and later  | `gemm_weight_only` |

The operator chooses a plan at every call and keeps the workspace, in which the blocks of a product add up shared tiles:
one per plan and stream. A product leaves its tickets zero for the next one of the same plan, so nothing is filled
before a launch, and a graph that was captured with a workspace finds it where it was. Graphs of one stream share it, so
they must not run at the same time.

n and k are multiples of 16. Of the sizes of π0 all are, except the patches of SigLIP (k = 588): they are float32 and
multiplied by torch.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pi0_edge.errors import KernelError
from pi0_edge.kernels.gemm_epilogue import Epilogue
from pi0_edge.kernels.gemm_packing import unpack_weights
from pi0_edge.kernels.gemm_plan import Plan, plan_bytes, plan_weight_only, tuned_plans
from pi0_edge.kernels.library import GemmArguments, KernelLibrary, address, kernel_library, type_code

FORMATS = {
    "int8": "gemm_int8",
    "fp8": "gemm_fp8",
    "int8-weights": "gemm_weight_only",
    "fp8-weights": "gemm_weight_only",
}
"""The C function of each format."""

_WORKSPACES: dict[tuple[torch.device, int, Plan], Tensor] = {}


def workspace(device: torch.device, plan: Plan) -> Tensor:
    """uint8 [plan.workspace_bytes] for the current stream of a CUDA device.

    Raises:
        KernelError: If it would have to be made while a graph is being captured.
    """
    key = (device, torch.cuda.current_stream(device).cuda_stream, plan)
    if key not in _WORKSPACES:
        if plan.workspace_bytes and torch.cuda.is_current_stream_capturing():
            raise KernelError("a product was captured before it ran once on this stream; run the sequence first")
        _WORKSPACES[key] = torch.zeros(plan.workspace_bytes, dtype=torch.uint8, device=device)
    return _WORKSPACES[key]


def gemm_into(
    format: str,
    library: KernelLibrary,
    out: Tensor,
    workspace: Tensor,
    a: Tensor,
    weight: Tensor,
    a_scale: Tensor | None,
    column_scale: Tensor,
    epilogue: Epilogue,
    plan: Plan,
) -> None:
    """Enqueues the kernel: one launch.

    Args:
        format: One of `FORMATS`.
        library: Where the kernel is.
        out: [m, columns of the epilogue], overwritten.
        workspace: uint8, at least `plan.workspace_bytes`; zero-filled before its first use, and then left to the
            kernels of one stream.
        a: [m, k], in the type of the format.
        weight: [n, k], or uint8 from `pack_weights` for `int8-weights` and `fp8-weights`.
        a_scale: float32 [m, 1] for `int8`, [1] for `fp8`, None for 16-bit activations.
        column_scale: float32 [n].
        epilogue: What happens to the sums.
        plan: From `plan_bytes`, or `plan_weight_only` for 16-bit activations.

    Raises:
        KernelError: If a size is not possible, the workspace too small, there is no GPU, or its code has no FP8 product
            (Orin and every other Ampere) and the format is `fp8`.
    """
    name = FORMATS[format]
    tensors = {
        "a": a, "weight": weight, "a_scale": a_scale, "column_scale": column_scale, "bias": epilogue.bias,
        "gate": epilogue.gate, "frozen": epilogue.frozen, "residual": epilogue.residual,
        "out_scale": epilogue.out_scale, "out": out, "workspace": workspace,
    }  # fmt: skip
    arguments = GemmArguments(
        **{field: address(name, tensor) for field, tensor in tensors.items()},
        workspace_bytes=workspace.numel(),
        m=len(a),
        n=len(column_scale),
        k=a.shape[1],
        a_type=type_code(name, a.dtype) if _weight_only(format) else 0,
        type=type_code(name, epilogue.dtype),
        fp8_weights=format == "fp8-weights",
        activation=epilogue.activation_code,
        tile=plan.tile,
        blocks=plan.blocks,
    )
    library.call(name, arguments, device=a.device)


@torch.library.custom_op("pi0::gemm", mutates_args=(), device_types="cuda")
def gemm(
    format: str,
    a: Tensor,
    weight: Tensor,
    a_scale: Tensor | None,
    column_scale: Tensor,
    dtype: torch.dtype,
    activation: str = "linear",
    bias: Tensor | None = None,
    gate: Tensor | None = None,
    frozen: Tensor | None = None,
    residual: Tensor | None = None,
    out_scale: Tensor | None = None,
) -> Tensor:
    """[m, n or n / 2] of `dtype`; arguments as in `gemm_into`, then the fields of `Epilogue` in their order."""
    epilogue = Epilogue(dtype, activation, bias, gate, frozen, residual, out_scale)
    (m, k), n, gpu = a.shape, len(column_scale), _gpu(a)
    if _weight_only(format):
        plan = plan_weight_only(m, n, k, gpu.multi_processor_count)
    else:
        tuned = tuned_plans((gpu.major, gpu.minor), gpu.multi_processor_count)
        plan = plan_bytes(m, n, k, gpu.multi_processor_count, format == "fp8", tuned)
    out, memory = a.new_empty(m, epilogue.columns(n), dtype=dtype), workspace(a.device, plan)
    gemm_into(format, kernel_library(), out, memory, a, weight, a_scale, column_scale, epilogue, plan)
    return out


@gemm.register_kernel("cpu")
def _(format, a, weight, a_scale, column_scale, *epilogue):  # noqa: ANN001, ANN002, ANN202
    if format == "int8":
        return Epilogue(*epilogue).apply(int8_sums(a, weight), a_scale, column_scale)
    if _weight_only(format):
        dtype = torch.float8_e4m3fn if format == "fp8-weights" else torch.int8
        weight = unpack_weights(weight, len(column_scale), a.shape[1], dtype)
    return Epilogue(*epilogue).apply(a.float() @ weight.float().t(), a_scale, column_scale)


@gemm.register_fake
def _(format, a, weight, a_scale, column_scale, *epilogue):  # noqa: ANN001, ANN002, ANN202
    made = Epilogue(*epilogue)
    return a.new_empty(len(a), made.columns(len(column_scale)), dtype=made.dtype)


def int8_sums(a: Tensor, weight: Tensor) -> Tensor:
    """The exact sums of the format `int8`: int32 [m, n]."""
    return (a.double() @ weight.double().t()).to(torch.int32)  # float64 is exact up to 2^53


def _weight_only(format: str) -> bool:
    return FORMATS[format] == "gemm_weight_only"


def _gpu(a: Tensor) -> Any:
    return torch.cuda.get_device_properties(a.device)
