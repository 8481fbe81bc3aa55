"""Matrices for property tests of quantization."""

import torch
from hypothesis import strategies as st
from torch import Tensor


@st.composite
def matrices(draw: st.DrawFn, columns: int, most: int = 70) -> Tensor:
    """Rows of very different sizes, planted outliers and rows of zeros."""
    count = draw(st.integers(1, most))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    magnitude = 10.0 ** draw(st.integers(-12, 12))
    x = torch.randn(count, columns, generator=generator) * magnitude
    for _ in range(draw(st.integers(0, 3))):
        x[draw(st.integers(0, count - 1)), draw(st.integers(0, columns - 1))] *= draw(st.sampled_from([1e2, -1e4]))
    x[draw(st.integers(0, count - 1))] *= draw(st.sampled_from([0.0, 1.0, 1e-6]))
    return x * draw(st.sampled_from([0.0, 1.0, 1.0, 1.0]))
