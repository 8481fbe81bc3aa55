"""LeRobot's left-over rows as the continuation of a request."""

# pyright: reportMissingImports=false
from __future__ import annotations

from enum import Enum
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from lerobot_policy_pi0_edge.continuation import Continuation, make_continuation, without_padding

from pi0_edge.processing import Method
from pi0_edge.protos import policy_pb2
from pi0_edge.serving.messages import read_plan


class LerobotsSchedule(Enum):
    LINEAR = "LINEAR"
    EXP = "EXP"
    ONES = "ONES"
    ZEROS = "ZEROS"


def rtc(schedule: str = "EXP", horizon: int = 10, weight: float = 5.0) -> Any:
    return SimpleNamespace(
        prefix_attention_schedule=LerobotsSchedule[schedule], execution_horizon=horizon, max_guidance_weight=weight
    )


def metadata(trained_delay: int = 0) -> policy_pb2.PolicyMetadata:
    return policy_pb2.PolicyMetadata(horizon=50, action_dim=2, trained_delay=trained_delay)


@given(rows=st.integers(0, 12), padding=st.integers(0, 12), seed=st.integers(0, 99))
def test_padding_is_dropped_and_nothing_else(rows, padding, seed):
    plan = np.random.default_rng(seed).uniform(0.1, 1, (rows, 3))
    padded = np.concatenate([plan, np.zeros((padding, 3))])
    np.testing.assert_array_equal(without_padding(padded), plan)


def test_rows_of_zeros_within_a_plan_stay():
    plan = np.array([[1.0, 0], [0, 0], [0, 2.0], [0, 0]])
    np.testing.assert_array_equal(without_padding(plan), plan[:3])


def test_no_plan_is_no_continuation():
    assert make_continuation(np.empty((0, 2)), 3, metadata(), rtc()) is None


@pytest.mark.parametrize("schedule", [schedule.name for schedule in LerobotsSchedule])
def test_guidance_has_lerobots_settings(schedule):
    rows = np.arange(1.0, 25.0).reshape(12, 2)
    message = make_continuation(rows, 4, metadata(), rtc(schedule))
    assert message is not None
    plan = read_plan(message, 2)
    np.testing.assert_array_equal(plan.actions, rows)
    assert (plan.delay, plan.method, plan.schedule.name) == (4, Method.GUIDED, schedule)
    assert (plan.overlap, plan.max_weight) == (10, 5.0)


@given(rows=st.integers(1, 80), delay=st.integers(-3, 200), trained=st.integers(0, 20))
def test_the_delay_is_one_that_the_server_takes(rows, delay, trained):
    message = make_continuation(np.ones((rows, 2)), delay, metadata(trained), rtc())
    assert message is not None
    assert 0 <= message.delay <= min(rows, 49)
    assert message.delay == min(max(delay, 0), rows, 49)
    frozen = message.method == Continuation.FROZEN_PREFIX
    assert frozen == (0 < message.delay <= trained)
    assert frozen or 1 <= message.overlap <= min(rows, 10)


def test_lerobot_without_settings_has_its_defaults():
    message = make_continuation(np.ones((20, 2)), 1, metadata(), None)
    assert message is not None
    assert (message.overlap, message.max_weight, message.schedule) == (10, 10.0, Continuation.LINEAR)
