"""Statistics of activations: streaming changes nothing, order changes nothing, and the percentile keeps its bound."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from pi0_edge.quant.activation_statistics import BINS, ActivationStatistics


@st.composite
def activations(draw: st.DrawFn) -> Tensor:
    """[tokens, channels] of any magnitude that float32 has, with outliers, zeros and subnormals."""
    tokens, channels = draw(st.integers(1, 40)), draw(st.integers(1, 30))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    x = torch.randn(tokens, channels, generator=generator) * 10.0 ** draw(st.integers(-30, 30))
    for factor in draw(st.lists(st.sampled_from([0.0, 1e-9, 1e-3, 1e3, 1e6]), max_size=4)):
        x[draw(st.integers(0, tokens - 1)), draw(st.integers(0, channels - 1)) :] *= factor
        x.clamp_(-3e38, 3e38)  # zero times what has become infinite would be NaN
    if draw(st.booleans()):
        x[0] = 1e-40
    return x


def assert_same(one: ActivationStatistics, other: ActivationStatistics) -> None:
    assert (one.tokens, one.octave) == (other.tokens, other.octave)
    assert torch.equal(one.channel_amax, other.channel_amax)
    assert torch.equal(one.counts, other.counts)


@settings(max_examples=200, deadline=None)
@given(activations(), st.data())
def test_merged_parts_equal_the_whole_in_any_order(x: Tensor, data: st.DataObject):
    whole = ActivationStatistics.of(x)
    order = data.draw(st.permutations(range(len(x))))
    borders = sorted(data.draw(st.lists(st.integers(0, len(x)), max_size=5)))
    parts = [ActivationStatistics.of(part) for part in torch.tensor_split(x[list(order)], borders)]
    merged = parts[0]
    for part in parts[1:]:
        merged = merged.merged(part) if data.draw(st.booleans()) else part.merged(merged)
    assert_same(merged, whole)
    assert whole.counts.sum() == x.numel()
    assert torch.equal(whole.channel_amax, x.abs().amax(0))


@settings(max_examples=200, deadline=None)
@given(activations(), st.sampled_from([0.1, 1.0, 50.0, 99.0, 99.9, 100.0]))
def test_percentile_is_numpys_rounded_up_within_its_bound(x: Tensor, percent: float):
    found = ActivationStatistics.of(x).percentile(percent)
    magnitudes = x.abs().double().numpy()
    low, high = (float(np.percentile(magnitudes, percent, method=method)) for method in ("lower", "higher"))
    assert low <= found <= max(high * (1 + 1 / 128), magnitudes.max() * 2**-18, high + 1e-38)
    assert found <= x.abs().max()


def test_percentile_of_many_gaussian_values():
    x = torch.randn(200_000, 8, generator=torch.Generator().manual_seed(0))
    x[0, 0] = 5000.0  # an outlier must not cost resolution
    found = ActivationStatistics.of(x).percentile(99.9)
    exact = float(np.percentile(x.abs().numpy(), 99.9))
    assert exact <= found <= exact * (1 + 1 / 128)


def test_low_precision_activations_count_as_their_values():
    x = torch.randn(50, 16, generator=torch.Generator().manual_seed(0)).bfloat16()
    assert_same(ActivationStatistics.of(x), ActivationStatistics.of(x.float()))


def test_leading_axes_are_tokens_and_none_is_nothing():
    x = torch.randn(2, 3, 5)
    assert ActivationStatistics.of(x).tokens == 6
    nothing = ActivationStatistics.of(x[:0])
    assert (nothing.tokens, nothing.amax, nothing.percentile(99.9)) == (0, 0.0, 0.0)
    assert_same(nothing.merged(ActivationStatistics.of(x)), ActivationStatistics.of(x))


def test_memory_does_not_grow_with_the_range():
    tiny, huge = (ActivationStatistics.of(torch.full((1, 4), value)) for value in (1e-38, 3e38))
    merged = tiny.merged(huge)
    assert len(merged.counts) == BINS
    assert merged.counts[0] == 4


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_values_that_are_not_finite_are_refused(bad):
    x = torch.zeros(3, 4)
    x[1, 2] = bad
    with pytest.raises(ValueError, match="1 of 12 values are NaN or infinite"):
        ActivationStatistics.of(x)
