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

from dataclasses import dataclass
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

BYTES_AHEAD = 320 << 10
"""Of the weights of the next product, for which a product that waits for memory asks at its end: what memory of an AGX
Orin delivers between two kernels, 1.8 µs at 173 GB/s."""

_WORKSPACES: dict[tuple[torch.device, int, Plan], Tensor] = {}


@dataclass(frozen=True)
class ForNorm:
    """What a product leaves for an RMSNorm that reads its output [m, n], beside the output.

    Attributes:
        scale: float32 [n], of the norm: 1 + its weight.
        scaled: output · scale in the type of the activations [m, n], overwritten.
        squares: float32 [m, n / 32], sums of squares of the output, overwritten.
    """

    scale: Tensor
    scaled: Tensor
    squares: Tensor


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
    ahead: Tensor | None = None,
    for_norm: ForNorm | None = None,
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
        ahead: What the next kernel reads: the L2 cache is asked for it when this one has asked for all of its own; with
            16-bit activations only.
        for_norm: What else is left for a norm that reads the output, which is float32; the same.

    Raises:
        KernelError: If a size is not possible, the workspace too small, there is no GPU, or its code has no FP8 product
            (Orin and every other Ampere) and the format is `fp8`.
    """
    name = FORMATS[format]
    tensors = {
        "a": a, "weight": weight, "a_scale": a_scale, "column_scale": column_scale, "bias": epilogue.bias,
        "gate": epilogue.gate, "frozen": epilogue.frozen, "residual": epilogue.residual,
        "out_scale": epilogue.out_scale, "squares": epilogue.squares, "next": ahead, "out": out, "workspace": workspace,
    }  # fmt: skip
    if for_norm is not None:
        tensors |= {"norm_scale": for_norm.scale, "scaled": for_norm.scaled, "out_squares": for_norm.squares}
    arguments = GemmArguments(
        **{field: address(name, tensor) for field, tensor in tensors.items()},
        workspace_bytes=workspace.numel(),
        next_bytes=0 if ahead is None else ahead.nbytes,
        m=len(a),
        n=len(column_scale),
        k=a.shape[1],
        a_type=type_code(name, a.dtype) if is_weight_only(format) else 0,
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
    ahead: Tensor | None,
    dtype: torch.dtype,
    activation: str = "linear",
    bias: Tensor | None = None,
    gate: Tensor | None = None,
    frozen: Tensor | None = None,
    residual: Tensor | None = None,
    out_scale: Tensor | None = None,
    squares: Tensor | None = None,
) -> Tensor:
    """[m, n or n / 2] of `dtype`; arguments as in `gemm_into`, then the fields of `Epilogue` in their order."""
    epilogue = Epilogue(dtype, activation, bias, gate, frozen, residual, out_scale, squares)
    plan = choose_plan(format, a, column_scale)
    out, memory = a.new_empty(len(a), epilogue.columns(len(column_scale)), dtype=dtype), workspace(a.device, plan)
    gemm_into(format, kernel_library(), out, memory, a, weight, a_scale, column_scale, epilogue, plan, ahead)
    return out


def choose_plan(format: str, a: Tensor, column_scale: Tensor) -> Plan:
    """How the GPU that holds `a` cuts a product into tiles and blocks."""
    (m, k), n, gpu = a.shape, len(column_scale), _gpu(a)
    if is_weight_only(format):
        return plan_weight_only(m, n, k, gpu.multi_processor_count)
    tuned = tuned_plans((gpu.major, gpu.minor), gpu.multi_processor_count)
    return plan_bytes(m, n, k, gpu.multi_processor_count, format == "fp8", tuned)


@gemm.register_kernel("cpu")
def _(format, a, weight, a_scale, column_scale, ahead, *epilogue):  # noqa: ANN001, ANN002, ANN202
    return Epilogue(*epilogue).apply(sums(format, a, weight, len(column_scale)), a_scale, column_scale)


@gemm.register_fake
def _(format, a, weight, a_scale, column_scale, ahead, *epilogue):  # noqa: ANN001, ANN002, ANN202
    made = Epilogue(*epilogue)
    return a.new_empty(len(a), made.columns(len(column_scale)), dtype=made.dtype)


def sums(format: str, a: Tensor, weight: Tensor, n: int) -> Tensor:
    """What a product gives its epilogue, in torch: int32 [m, n], exact, for `int8`, else float32."""
    if format == "int8":
        return int8_sums(a, weight)
    if is_weight_only(format):
        dtype = torch.float8_e4m3fn if format == "fp8-weights" else torch.int8
        weight = unpack_weights(weight, n, a.shape[1], dtype)
    return a.float() @ weight.float().t()


def int8_sums(a: Tensor, weight: Tensor) -> Tensor:
    """The exact sums of the format `int8`: int32 [m, n]."""
    return (a.double() @ weight.double().t()).to(torch.int32)  # float64 is exact up to 2^53


def is_weight_only(format: str) -> bool:
    """Whether activations have 16 bits."""
    return FORMATS[format] == "gemm_weight_only"


def _gpu(a: Tensor) -> Any:
    return torch.cuda.get_device_properties(a.device)
