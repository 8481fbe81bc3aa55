"""Exact products of int8 matrices on the CPU, four ways, and which one a layer uses on this machine.

| class             | runs on                    | fastest for                                             |
|-------------------|----------------------------|---------------------------------------------------------|
| `NativeMatmul`    | our C library              | all linears, with layers in one call around them        |
| `OneDnnMatmul`    | oneDNN, prepacked weights  | processors with AMX; else where our library is missing  |
| `TorchIntMatmul`  | `torch._int_mm`            | beside oneDNN: small weights, where the call costs most |
| `FloatMatmul`     | fp32 matmul, exact blocks  | where none of these is exact; as fast as fp32           |

`benchmarks/scheme_linears.py` measures the linears of full size. On x86 without VNNI, oneDNN and `torch._int_mm` add
two int8 products in 16 bits and saturate without a word. So no list of CPU features is trusted: each way is tried once
per process on the most extreme matrices there are, and used only if the result is exact.

What this does not do: scales of activations, biases, other devices than the CPU.
"""

from __future__ import annotations

import functools
import logging
from typing import Protocol

import torch
from torch import Tensor

from pi0_edge.quant import native

log = logging.getLogger(__name__)

SMALL_WEIGHT = 2**18
"""Elements of a weight up to which `torch._int_mm` is faster than oneDNN."""

EXACT_DEPTH = 1040
"""Most products of int8 values (at most 127 · 127 each) whose sum is below 2**24."""


class IntegerMatmul(Protocol):
    """tokens [M, K] int8 -> (tokens @ weight.T) * scale as float32 [M, N]; the sums before the scale are exact."""

    def __init__(self, weight: Tensor, scale: Tensor) -> None:
        """Takes weight int8 [N, K], contiguous, and scale float32 [N]; keeps one copy of the weight."""
        ...

    def __call__(self, tokens: Tensor) -> Tensor:
        """The scaled product."""
        ...


class NativeMatmul:
    """The product of `quant/native/product.c`; its packed weights are what `pi0_edge.engine.cpu` runs layers from.

    Attributes:
        packed: The weights.
    """

    def __init__(self, weight: Tensor, scale: Tensor) -> None:
        self.packed = native.PackedLinear(weight, scale)
        self._ones = torch.ones(1)

    def __call__(self, tokens: Tensor) -> Tensor:
        """The scaled product."""
        rows, depth = tokens.shape
        shifted = tokens.view(torch.uint8) ^ native.BYTE_SHIFT  # flipping the top bit adds 128
        if depth % 4:
            shifted = torch.nn.functional.pad(shifted, (0, -depth % 4))
        if len(self._ones) < rows:
            self._ones = torch.ones(rows)
        out = torch.empty(rows, self.packed.struct.width)
        shifted = shifted.contiguous()
        shifted_at, ones_at, out_at = map(native.pointer, (shifted, self._ones, out))
        native.loaded_library().pi0_linear_rows(self.packed.struct, shifted_at, ones_at, rows, out_at)
        return out


class OneDnnMatmul:
    """oneDNN's quantized linear on prepacked weights.

    oneDNN is fast with unsigned activations only (signed ones fall to its reference code, thousands of times slower),
    so the tokens are shifted by a zero point of 128, which oneDNN subtracts again exactly.
    """

    ZERO_POINT = 128

    def __init__(self, weight: Tensor, scale: Tensor) -> None:
        self._packed = torch.ops.onednn.qlinear_prepack(weight, None)
        self._scale = scale
        self._weight_zero_points = torch.zeros(len(scale), dtype=torch.int64)

    def __call__(self, tokens: Tensor) -> Tensor:
        """The scaled product."""
        shifted = tokens.view(torch.uint8) ^ self.ZERO_POINT  # two's complement: flipping the top bit adds 128
        return torch.ops.onednn.qlinear_pointwise(
            shifted,
            1.0,  # scale of the activations: each token has its own, applied by the caller
            self.ZERO_POINT,
            self._packed,
            self._scale,
            self._weight_zero_points,
            None,  # bias
            1.0,  # scale of the output
            0,  # zero point of the output
            torch.float32,
            "none",  # nothing fused behind it
            [],
            "",
        )


class TorchIntMatmul:
    """`torch._int_mm`, with the weight stored [N, K] and passed transposed."""

    def __init__(self, weight: Tensor, scale: Tensor) -> None:
        self._transposed = weight.t()
        self._scale = scale

    def __call__(self, tokens: Tensor) -> Tensor:
        """The scaled product."""
        return torch.ops.aten._int_mm(tokens, self._transposed) * self._scale


class FloatMatmul:
    """fp32 products of the integers, which are exact on every machine.

    A sum of `EXACT_DEPTH` products of int8 values is below 2**24, so that float32 holds it and every partial sum
    exactly, in whatever order they are added. Deeper products are added over such blocks as int32.
    """

    def __init__(self, weight: Tensor, scale: Tensor) -> None:
        self._transposed = weight.t()
        self._scale = scale

    def __call__(self, tokens: Tensor) -> Tensor:
        """The scaled product."""
        blocks = zip(tokens.split(EXACT_DEPTH, dim=1), self._transposed.split(EXACT_DEPTH), strict=True)
        sums = [left.float() @ right.float() for left, right in blocks]
        if len(sums) == 1:
            return sums[0] * self._scale
        return torch.stack([part.int() for part in sums]).sum(0, dtype=torch.int32) * self._scale


def choose_matmul(weight: Tensor) -> type[IntegerMatmul]:
    """The fastest way to multiply by `weight` that is exact on this machine."""
    if native.level() > native.Level.PORTABLE and not _has_amx() and is_exact(NativeMatmul):
        return NativeMatmul
    if not is_exact(OneDnnMatmul):  # torch's own product has no fast instructions either then
        _log_slow()
        return FloatMatmul
    small = weight.numel() <= SMALL_WEIGHT
    return TorchIntMatmul if small and is_exact(TorchIntMatmul) else OneDnnMatmul


@functools.cache
def is_exact(matmul: type[IntegerMatmul]) -> bool:
    """Whether products of extreme matrices come out exactly on this machine."""
    weight, tokens = _extremes(48, seed=0), _extremes(18, seed=1)
    expected = tokens.double() @ weight.double().t()
    try:
        multiply = matmul(weight, torch.ones(len(weight)))
        many, single = multiply(tokens), multiply(tokens[:1])
    except (RuntimeError, AttributeError) as reason:  # this build of torch lacks the operator
        log.info("%s is not available here: %s", matmul.__name__, reason)
        return False
    return torch.equal(many.double(), expected) and torch.equal(single.double(), expected[:1])


def _extremes(rows: int, seed: int) -> Tensor:
    """One third rows of 127, one third rows of -127, one third random; the sums fit float32 exactly."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.randint(-127, 128, (rows, 256), generator=generator, dtype=torch.int8)
    values[: rows // 3], values[rows // 3 : 2 * rows // 3] = 127, -127
    return values


@functools.cache
def _has_amx() -> bool:
    """Whether oneDNN multiplies with tiles, which nothing else does: twice to eight times as fast as vectors."""
    supported = getattr(torch.cpu, "_is_amx_tile_supported", None)
    return bool(supported is not None and supported()) and is_exact(OneDnnMatmul)


@functools.cache
def _log_slow() -> None:
    reason = "this processor has no fast instructions for it" if native.is_compiled() else "reinstall with a C compiler"
    log.info("no fast int8 product is exact here, so INT8 layers will not be faster than fp32: %s", reason)
