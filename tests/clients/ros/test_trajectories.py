"""Chunks as trajectories: due times, late chunks, refusals."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pi0_edge_ros.trajectories import MessageClasses, due_positions, write_trajectory
from ros_messages import NANOSECONDS, JointTrajectory, JointTrajectoryPoint

from pi0_edge.errors import ServingError
from pi0_edge.protos.policy_pb2 import Chunk

CLASSES = MessageClasses(JointTrajectory, JointTrajectoryPoint)
NOW = 1_700_000_000 * NANOSECONDS + 999_999_999
"""A time whose nanoseconds carry into the next second."""


def chunk(horizon: int = 10, joints: int = 2) -> Chunk:
    actions = np.arange(horizon * joints, dtype=np.float32)
    return Chunk(horizon=horizon, action_dim=joints, actions=actions.tolist())


def test_action_k_is_due_k_plus_one_periods_after_the_observation():
    due = due_positions(chunk(), 2, NOW, 50.0)
    assert (due.due_ns - NOW).tolist() == [20_000_000 * (k + 1) for k in range(10)]
    assert due.positions.tolist() == np.arange(20.0).reshape(10, 2).tolist()


@given(st.integers(1, 60), st.floats(0.5, 1000), st.integers(1, 2**62), st.floats(0, 1.2))
def test_what_is_sent_is_due_later_in_order_and_at_its_own_time(horizon, hz, observed_ns, share):
    whole = due_positions(chunk(horizon), 2, observed_ns, hz)
    now_ns = observed_ns + round(share * horizon * NANOSECONDS / hz)
    due = whole.since(now_ns)
    assert set(due.due_ns.tolist()) == {time for time in whole.due_ns.tolist() if time >= now_ns}
    message = write_trajectory(CLASSES, ["a", "b"], due)
    assert message.joint_names == ["a", "b"]
    stamp = message.header.stamp
    assert stamp.sec * NANOSECONDS + stamp.nanosec == observed_ns and 0 <= stamp.nanosec < NANOSECONDS
    after = [point.time_from_start.sec * NANOSECONDS + point.time_from_start.nanosec for point in message.points]
    assert all(0 <= point.time_from_start.nanosec < NANOSECONDS for point in message.points)
    assert all(earlier < later for earlier, later in pairwise(after))
    last = [2 * horizon - 2.0, 2 * horizon - 1.0]
    assert not message.points or (message.points[-1].positions == last and after[-1] == whole.due_ns[-1] - observed_ns)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (Chunk(), "expected actions of 2 joints"),
        (chunk(joints=3), "10 actions of 3, expected actions of 2 joints"),
        (Chunk(horizon=2, action_dim=2, actions=[1, 2, 3]), "3 values"),
        (Chunk(horizon=1, action_dim=2, actions=[1, math.nan]), "not a finite number"),
        (Chunk(horizon=1, action_dim=2, actions=[1, math.inf]), "not a finite number"),
    ],
)
def test_an_answer_that_is_no_chunk_of_this_robot_moves_nothing(answer, said):
    with pytest.raises(ServingError, match=said):
        due_positions(answer, 2, NOW, 50.0)
