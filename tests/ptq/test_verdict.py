"""The verdict: every threshold is checked, every reason names what was found, and nothing worse ever passes."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pi0_edge.ptq.verdict import Thresholds, judge
from pi0_edge.quant import QuantizationError

LOOSE = Thresholds(chunks=1)
cosines = st.lists(st.floats(0.99, 1.0), min_size=1, max_size=30)


def test_a_good_candidate_passes_without_a_reason():
    verdict = judge([0.9999] * 20, [0.99999] * 20, Thresholds())
    assert verdict.passed
    assert verdict.reasons == ()
    assert [finding.passed for finding in verdict.findings] == [True] * 5


@pytest.mark.parametrize(
    ("whole", "executed", "message"),
    [
        ([1.0] * 19, [1.0] * 19, "number of chunks 19 is below 20"),
        ([0.9985] * 20, [1.0] * 20, "mean cosine of the whole chunk 0.9985 is below 0.999"),
        ([1.0] * 20, [0.9985] * 20, "mean cosine of the executed part 0.9985 is below 0.999"),
        ([1.0] * 19 + [0.99], [1.0] * 20, "worst cosine of the whole chunk 0.99 (chunk 19) is below 0.995"),
        ([1.0] * 20, [0.99] + [1.0] * 19, "worst cosine of the executed part 0.99 (chunk 0) is below 0.995"),
    ],
)
def test_each_threshold_fails_alone_and_says_what_and_where(whole, executed, message):
    verdict = judge(whole, executed, Thresholds())
    assert not verdict.passed
    assert verdict.reasons == (message,)


def test_a_loss_of_success_fails_and_an_unmeasured_one_does_not():
    good = [0.9999] * 20
    assert judge(good, good, Thresholds(), success_difference=(-0.09, 0.02)).passed
    verdict = judge(good, good, Thresholds(), success_difference=(-0.14, 0.02))
    assert verdict.reasons == ("lower end of the difference in success -0.14 (95 % interval) is below -0.1",)


def test_a_chunk_that_was_not_given_fails_with_its_reason():
    verdict = judge(
        [1.0, math.nan], [1.0, math.nan], LOOSE, ["frame 3", "frame 9"], refusals={1: "activations are NaN"}
    )
    assert not verdict.passed
    assert verdict.reasons[0] == "no chunk for frame 9: activations are NaN"
    assert any("worst cosine of the whole chunk nan (frame 9) is below" in reason for reason in verdict.reasons)


@given(cosines, st.integers(0, 29), st.floats(0, 0.5))
def test_making_a_chunk_worse_never_turns_a_failure_into_a_pass(values: list[float], place: int, loss: float):
    worse = list(values)
    worse[place % len(values)] -= loss
    if judge(worse, worse, LOOSE).passed:
        assert judge(values, values, LOOSE).passed


@given(cosines, cosines)
def test_a_verdict_is_exactly_its_thresholds(whole: list[float], executed: list[float]):
    count = min(len(whole), len(executed))
    whole, executed = whole[:count], executed[:count]
    expected = all(np.mean(c) >= LOOSE.cosine_mean and min(c) >= LOOSE.cosine_worst for c in (whole, executed))
    verdict = judge(whole, executed, LOOSE)
    assert verdict.passed == expected
    assert verdict.passed == (not verdict.reasons)


@given(st.lists(st.sampled_from([1.0, math.nan]), min_size=1, max_size=5))
def test_nan_never_passes(values: list[float]):
    assert judge(values, values, LOOSE).passed == (not any(map(math.isnan, values)))


def test_a_verdict_is_plain_data():
    plain = judge([0.9], [0.9], Thresholds()).to_dict()
    assert plain["passed"] is False
    assert len(plain["reasons"]) == 5
    assert plain["thresholds"]["executed"] == 25
    assert [finding["passed"] for finding in plain["findings"]] == [False] * 5


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"cosine_mean": 1.1}, "cosine_mean is 1.1, expected -1 to 1"),
        ({"cosine_worst": math.nan}, "cosine_worst is nan"),
        ({"success_loss": -0.1}, "success_loss is -0.1"),
        ({"executed": 0}, "executed is 0, expected at least 1"),
        ({"chunks": 0}, "chunks is 0"),
    ],
)
def test_impossible_thresholds_are_refused(fields, message):
    with pytest.raises(QuantizationError, match=message):
        Thresholds(**fields)


@pytest.mark.parametrize(("whole", "executed", "places"), [([], [], ()), ([1.0], [1.0, 1.0], ()), ([1.0], [1.0], "ab")])
def test_cosines_and_names_of_different_lengths_are_refused(whole, executed, places):
    with pytest.raises(QuantizationError, match="cannot judge"):
        judge(whole, executed, Thresholds(), places)
