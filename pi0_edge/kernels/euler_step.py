"""The two ends of an Euler step: noisy actions to action tokens, and the expert's output to the next noisy actions.

The first two linears of π0's front have nothing between them, and one of their two inputs is a function of time alone:
they fold into one small matrix and one bias vector per step (`fold_front`), exactly.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from pi0_edge.kernels.library import KernelLibrary, kernel_library
from pi0_edge.kernels.norm import normalized
from pi0_edge.kernels.rows import NORM_EPSILON, select_rows

PIECE_COLUMNS = 32
"""The kernel multiplies so many columns of the actions at a time: the folded weight is padded to a multiple of it."""
MOST_WIDTH = 2048
"""Of action tokens: what both kernels can hold in shared memory."""


def fold_front(
    action_in_weight: Tensor, action_in_bias: Tensor, mlp_in_weight: Tensor, time_bias: Tensor
) -> tuple[Tensor, Tensor]:
    """mlp_in · [action_in · x + action_in_bias ; time] + bias = weight · x + biases[step], computed in float64.

    Args:
        action_in_weight: Of action_in_proj, [width, action_dim].
        action_in_bias: [width].
        mlp_in_weight: Of action_time_mlp_in, [width, 2 * width]: action half, time half.
        time_bias: [steps, width], the time half of action_time_mlp_in with its bias, for every step.

    Returns:
        weight float32 [width, action_dim] and biases float32 [steps, width]; `pad_front` gives the weight the columns
        that the kernel reads.
    """
    action_half = mlp_in_weight[:, : len(action_in_weight)].double()
    weight = action_half @ action_in_weight.double()
    biases = time_bias.double() + action_half @ action_in_bias.double()
    return weight.float().contiguous(), biases.float()


def pad_front(weight: Tensor) -> Tensor:
    """The folded weight [width, action_dim] with columns of zeros up to a multiple of `PIECE_COLUMNS`."""
    return F.pad(weight, (0, -weight.shape[1] % PIECE_COLUMNS)).contiguous()


def embed_actions_into(
    library: KernelLibrary,
    out: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    frozen: Tensor | None,
    out_weight: Tensor | None,
    out_bias: Tensor | None,
) -> None:
    """Enqueues the front: one launch.

    Args:
        library: Where the kernel is.
        out: Action tokens, float32 or the dtype of `out_weight` [tokens, width], overwritten; width a multiple of 8, at
            most `MOST_WIDTH` with an `out_weight`.
        x: float32 [tokens, action_dim].
        weight: float32 [width, action_dim padded to a multiple of 32], from `pad_front`.
        bias: float32 [width], of this step.
        frozen: int32 [1] or None; with it, the bias is [2, width]: see `frozen_rows`.
        out_weight: bfloat16 or float16 [width, width], of action_time_mlp_out; None in π0.5, where the tokens are
            x · weightᵀ + bias.
        out_bias: float32 [width]; None without `out_weight`.

    Raises:
        KernelError: If a size or type is not possible, or there is no GPU.
        ValueError: If the weight has other columns than `pad_front` gives it.
    """
    _check_front(x, weight)
    dtype = out_weight.dtype if out_weight is not None else torch.bfloat16 if out.dtype == torch.float32 else out.dtype
    library.call(
        "embed_actions", x, weight, bias, frozen, out_weight, out_bias, out, *out.shape, x.shape[1], dtype, out.dtype
    )


@torch.library.custom_op("pi0::embed_actions", mutates_args=(), device_types="cuda")
def embed_actions(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    frozen: Tensor | None,
    out_weight: Tensor | None,
    out_bias: Tensor | None,
    out_dtype: torch.dtype,
) -> Tensor:
    """Action tokens [tokens, width] of noisy actions x [tokens, action_dim]; arguments as in `embed_actions_into`."""
    out = x.new_empty(len(x), len(weight), dtype=out_dtype)
    embed_actions_into(kernel_library(), out, x, weight, bias, frozen, out_weight, out_bias)
    return out


@embed_actions.register_kernel("cpu")
def _(x, weight, bias, frozen, out_weight, out_bias, out_dtype):  # noqa: ANN001, ANN202
    _check_front(x, weight)
    hidden = F.linear(x, weight[:, : x.shape[1]]) + select_rows(bias, frozen, len(x))
    if out_weight is None:
        return hidden.to(out_dtype)
    hidden = F.silu(hidden).to(out_weight.dtype)
    return F.linear(hidden.float(), out_weight.float(), out_bias).to(out_dtype)


@embed_actions.register_fake
def _(x, weight, bias, frozen, out_weight, out_bias, out_dtype):  # noqa: ANN001, ANN202
    return x.new_empty(x.shape[0], weight.shape[0], dtype=out_dtype)


def _check_front(x: Tensor, weight: Tensor) -> None:
    expected = x.shape[1] + -x.shape[1] % PIECE_COLUMNS
    if weight.shape[1] != expected:
        raise ValueError(
            f"actions of {x.shape[1]} columns need a weight of {expected}, found {weight.shape[1]}; use pad_front"
        )


def euler_update_into(
    library: KernelLibrary,
    x: Tensor,
    hidden: Tensor,
    frozen: Tensor | None,
    scale: Tensor | None,
    shift: Tensor | None,
    weight: Tensor,
    bias: Tensor,
    dt: float,
) -> None:
    """Enqueues the back, x ← x + dt · (norm(hidden) · weightᵀ + bias): one launch.

    Args:
        library: Where the kernel is.
        x: float32 [tokens, action_dim], changed in place.
        hidden: The expert's output before its final norm, bfloat16, float16 or float32 [tokens, width]; width a
            multiple of 4, at most 2048.
        frozen: int32 [1], so many tokens at the beginning stay as they are; or None.
        scale: Of the final norm, float32 [width] or None; 1 + weight, or 1 + the scale of this step (π0.5).
        shift: float32 [width] or None.
        weight: Of action_out_proj, float32 [action_dim, width].
        bias: float32 [action_dim].
        dt: −1 / steps.

    Raises:
        KernelError: If a size or type is not possible, or there is no GPU.
    """
    tensors = (hidden, frozen, scale, shift, weight, bias, x)
    library.call("euler_update", *tensors, *hidden.shape, x.shape[1], dt, NORM_EPSILON, hidden.dtype)


@torch.library.custom_op("pi0::euler_update", mutates_args=("x",), device_types="cuda")
def euler_update(
    x: Tensor,
    hidden: Tensor,
    frozen: Tensor | None,
    scale: Tensor | None,
    shift: Tensor | None,
    weight: Tensor,
    bias: Tensor,
    dt: float,
) -> None:
    """Advances x [tokens, action_dim] by one Euler step, in place; arguments as in `euler_update_into`."""
    euler_update_into(kernel_library(), x, hidden, frozen, scale, shift, weight, bias, dt)


@euler_update.register_kernel("cpu")
def _(x, hidden, frozen, scale, shift, weight, bias, dt):  # noqa: ANN001, ANN202
    step = dt * F.linear(normalized(hidden, scale, shift), weight, bias)
    x += step if frozen is None else step.where(torch.arange(len(x), device=x.device)[:, None] >= frozen, 0)


@euler_update.register_fake
def _(x, hidden, frozen, scale, shift, weight, bias, dt):  # noqa: ANN001, ANN202
    return None
