"""A linear in 16 bits with GELU, against float64."""

import pytest
import torch
from kernel_cases import assert_near, check_operator, device, values
from torch.nn import functional as F

from pi0_edge.kernels.linear_gelu import linear_gelu

assert device


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", [(5, 16, 8), (64, 152, 304)])
def test_the_result_is_float64_rounded_once(dtype: torch.dtype, shape: tuple[int, int, int]):
    """A second rounding, or the GELU that is no tanh, is beyond the bound."""
    rows, k, columns = shape
    x, weight = values(rows, k, seed=0, dtype=dtype), values(columns, k, seed=1, dtype=dtype, size=k**-0.5)
    bias = values(columns, seed=2, dtype=dtype)
    exact = F.gelu(F.linear(x.double(), weight.double(), bias.double()), approximate="tanh")
    found = linear_gelu(x, weight, bias)
    assert found.dtype == dtype
    assert_near(found, exact, 1.02)


def test_the_operator_passes_the_checks_of_torch(device: str):
    x, weight, bias = (values(*shape, seed=0, dtype=torch.bfloat16) for shape in ((4, 16), (8, 16), (8,)))
    check_operator(linear_gelu, (x, weight, bias), device)
