"""Comparison of actions: known figures on small arrays."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pi0_edge.quant import QuantizationError, compare_actions


def test_known_figures():
    result = compare_actions([[3.0, 0.0], [0.0, 4.0]], [[3.0, 0.0], [0.0, 3.5]])
    assert result.max_abs_error == 0.5
    assert result.worst == (1, 1)
    assert result.rms_error == 0.25
    assert result.relative_error == pytest.approx(0.1)
    assert result.cosine == pytest.approx((9 + 14) / (5 * np.hypot(3, 3.5)))


@given(st.integers(0, 2**31), st.floats(0.01, 100))
def test_scaling_changes_the_error_and_not_the_cosine(seed: int, factor: float):
    actions = np.random.default_rng(seed).standard_normal((2, 5, 3))
    result = compare_actions(actions, factor * actions)
    assert result.cosine == pytest.approx(1)
    assert result.relative_error == pytest.approx(abs(factor - 1), abs=1e-12)


def test_tensors_are_taken_too():
    actions = torch.randn(2, 5, 3)
    assert compare_actions(actions, actions).max_abs_error == 0
    assert compare_actions(actions, -actions).cosine == pytest.approx(-1)


def test_actions_that_stand_still():
    zeros = np.zeros((5, 3))
    assert (compare_actions(zeros, zeros).cosine, compare_actions(zeros, zeros).relative_error) == (1, 0)
    assert (compare_actions(zeros, zeros + 1).cosine, compare_actions(zeros, zeros + 1).relative_error) == (0, 1)


@pytest.mark.parametrize(
    ("reference", "candidate", "message"),
    [
        (np.zeros((5, 3)), np.zeros((5, 4)), r"\(5, 3\) with actions of shape \(5, 4\)"),
        (np.zeros((5, 3)), np.full((5, 3), np.nan), "candidate actions .* NaN"),
        (np.full((5, 3), np.inf), np.zeros((5, 3)), "reference actions .* NaN"),
        (np.zeros((0, 3)), np.zeros((0, 3)), "empty"),
    ],
)
def test_what_cannot_be_compared_is_refused(reference, candidate, message: str):
    with pytest.raises(QuantizationError, match=message):
        compare_actions(reference, candidate)
