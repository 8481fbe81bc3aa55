"""What a linear of the CUDA engine is: tokens in the form that its product reads, and a norm before it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from pi0_edge.kernels.gemm_epilogue import Epilogue
from pi0_edge.kernels.norm import norm


@dataclass(frozen=True)
class Rows:
    """Tokens in the form that a product reads.

    Attributes:
        values: [tokens, width].
        scale: float32 [tokens, 1], where each has its own.
        squares: float32 [tokens, width / 32], where the product is to divide the tokens by their root mean square
            (`kernels.gemm_norm`).
    """

    values: Tensor
    scale: Tensor | None = None
    squares: Tensor | None = None


@dataclass(frozen=True)
class Norm:
    """A norm at one Euler step, or at any time where it is not adaptive.

    Attributes:
        scale: float32 [width]; [2, width] of this step and of time 0 where it is adaptive, see `kernels.frozen_rows`.
        shift: As scale, or None.
        gate: As scale, of the residual after it, or None.
        centred: A LayerNorm.
        offset: float32 [width], what the stream before it lacks (`defer_bias`), or None.
    """

    scale: Tensor
    shift: Tensor | None = None
    gate: Tensor | None = None
    centred: bool = False
    offset: Tensor | None = None


class Linear(Protocol):
    """out = after(rows · weightᵀ + bias), see `linears`."""

    @property
    def weights(self) -> Tensor:
        """All that the product reads of them from memory, in any shape: what may be asked for ahead of it."""
        ...

    def norm_and_quantize(self, x: Tensor, before: Norm, frozen: Tensor | None = None) -> Rows:
        """Normalized tokens in the form that this product reads; x is [tokens, width], `frozen` as in `norm_into`."""
        ...

    def quantize_input(self, x: Tensor) -> Rows:
        """16-bit tokens [tokens, width] in the form that this product reads."""
        ...

    def __call__(self, rows: Rows, epilogue: Epilogue, ahead: Tensor | None = None) -> Tensor:
        """[tokens, columns of the epilogue]; it comes without a bias, for which the product has its own.

        The result may take the place of the residual, which nobody reads afterwards. `ahead` is what the next product
        reads, and the L2 cache may be asked for.
        """
        ...


def norm_rows(x: Tensor, before: Norm, frozen: Tensor | None, dtype: torch.dtype) -> Tensor:
    """Normalized tokens [tokens, width] of a 16-bit type, by the kernel; arguments as in `Linear.norm_and_quantize`."""
    return norm(x, before.scale, before.shift, frozen, before.centred, 1, dtype, before.offset)


def last_arguments(epilogue: Epilogue, bias: Tensor | None) -> tuple[Any, ...]:
    """An epilogue with a bias, as the last arguments of `gemm`."""
    return tuple(vars(replace(epilogue, bias=bias)).values())
