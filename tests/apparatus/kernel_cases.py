"""What the tests of all kernels share: where a kernel runs, poisoned outputs, and how far from float64 it may be."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from emulated_kernels import emulated_library
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from ptx_kernels import ptx_library
from torch import Tensor

from pi0_edge.kernels.library import KernelLibrary, kernel_library
from pi0_edge.quant.formats import E4M3_MAX, INT8_TOKEN, quantize

EACH_RUNNER = settings(
    max_examples=20, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
"""For `given` together with the fixture `runner`, which stays the same for all examples."""
MARGIN = 64
"""Elements of guard before and after a poisoned tensor."""
PATTERN = 0x5A


class Runner:
    """A place where kernels run: the emulated GPU, or a real one.

    Attributes:
        library: The kernels there.
        device: Where their tensors are.
    """

    def __init__(self, library: KernelLibrary, device: str) -> None:
        self.library, self.device = library, device
        self._guarded: list[Tensor] = []

    def __call__(self, *tensors: Tensor | None) -> list[Any]:
        """The tensors, there."""
        return [None if tensor is None else tensor.to(self.device) for tensor in tensors]

    def poisoned(self, *shape: int, dtype: torch.dtype) -> Tensor:
        """An output full of NaN (0x5A for integers) between two guards that `check_guards` looks at."""
        count = torch.Size(shape).numel()
        memory = torch.empty(count + 2 * MARGIN, dtype=dtype, device=self.device)
        memory.view(torch.uint8).fill_(PATTERN)
        inner = memory[MARGIN : MARGIN + count]
        if dtype.is_floating_point:
            inner.fill_(float("nan"))
        self._guarded.append(memory)
        return inner.view(shape)

    def check_guards(self) -> None:
        """Nothing was written outside the poisoned tensors."""
        for memory in self._guarded:
            for guard in (memory[:MARGIN], memory[-MARGIN:]):
                assert (guard.view(torch.uint8) == PATTERN).all(), "written outside the output"


@pytest.fixture(
    params=[
        "emulated",
        "emulated-shuffled",
        pytest.param("ptx", marks=pytest.mark.ptx),
        pytest.param("ptx-shuffled", marks=pytest.mark.ptx),
        pytest.param("gpu", marks=pytest.mark.gpu),
    ]
)
def runner(request: pytest.FixtureRequest):
    """Every place in turn; the shuffled ones run blocks, and what is inside a block, in random order."""
    if request.param == "gpu":
        yield (found := Runner(kernel_library(), "cuda"))
    else:
        library = ptx_library() if request.param.startswith("ptx") else emulated_library()
        library.order(1 if request.param.endswith("-shuffled") else 0)
        yield (found := Runner(library, "cpu"))
        library.order(0)
    found.check_guards()


def values(*shape: int, seed: int, dtype: torch.dtype = torch.float32, size: float = 1.0) -> Tensor:
    """Normal values with a few large ones, as activations have them."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(*shape, generator=generator) * size
    x[..., :: 97 if shape[-1] > 97 else 5] *= 6
    return x.to(dtype)


def by_time(draw: st.DrawFn, width: int, rows: int, seed: int) -> tuple[Tensor, Tensor | None]:
    """A vector and None, or a vector per time and how many of `rows` are frozen: none, some, all, or even more."""
    frozen = draw(st.sampled_from([None, 0, 1, rows // 2, rows, rows + 3]))
    if frozen is None:
        return values(width, seed=seed), None
    return values(2, width, seed=seed), torch.tensor([frozen], dtype=torch.int32)


def int8_rows(x: Tensor) -> tuple[Tensor, Tensor]:
    """Values and scales that `quant` gives rows of activations."""
    quantized, scale = quantize(x, INT8_TOKEN)
    assert scale is not None
    return quantized, scale


def assert_e4m3_but_for_ties(found: Tensor, exact: Tensor, scale: Tensor) -> None:
    """Every value is `exact` / scale in E4M3, or, within a float32 rounding of a tie, its neighbour."""
    expected = (exact.float() / scale).clamp(-E4M3_MAX, E4M3_MAX).to(torch.float8_e4m3fn)
    places = [e4m3_place(values.cpu()) for values in (found, expected)]
    off = (places[0] - places[1]).abs()
    assert off.max() <= 1
    assert off.float().mean() < 0.002


def e4m3_place(values: Tensor) -> Tensor:
    """Which number of E4M3 a value is, in their order: int32, 0 for both zeros."""
    bits = values.view(torch.uint8).int()
    return torch.where(bits < 128, bits, 128 - bits)


def unit_roundoff(dtype: torch.dtype) -> float:
    """Half the distance from 1 to the next number."""
    return torch.finfo(dtype).eps / 2


def assert_near(found: Tensor, expected: Tensor, roundings: float) -> None:
    """Every element within `roundings` of its own type's unit roundoff, relative to the largest of its row."""
    assert torch.isfinite(found).all(), "an element was never written or is not finite"
    size = expected.abs().amax(-1, keepdim=True) + 1e-30
    error = ((found.cpu().double() - expected.double()).abs() / size).max().item()
    assert error <= roundings * unit_roundoff(found.dtype), f"{error:.3g}"


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> str:
    """Where an operator runs."""
    return request.param


def check_operator(operator: Any, arguments: tuple[Any, ...], device: str) -> None:
    """Schema, fake implementation and dispatch of an operator, by torch's own checks, and both devices agree."""
    there = tuple(argument.to(device) if isinstance(argument, Tensor) else argument for argument in arguments)
    torch.library.opcheck(operator, there)
    if device != "cpu":
        for found, expected in zip(results(operator, there), results(operator, arguments), strict=True):
            assert found.shape == expected.shape and found.dtype == expected.dtype
            assert torch.allclose(found.cpu().float(), expected.float(), rtol=0.02, atol=0.02)


def results(operator: Any, arguments: Any) -> list[Tensor]:
    """What an operator returns and leaves in its tensors."""
    returned = operator(*arguments)
    listed = list(returned) if isinstance(returned, tuple) else [] if returned is None else [returned]
    return [*listed, *(argument for argument in arguments if isinstance(argument, Tensor))]
