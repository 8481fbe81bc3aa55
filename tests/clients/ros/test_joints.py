"""Joint states by name."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pi0_edge_ros.joints import names_any, read_joints
from ros_messages import JointState

from pi0_edge.errors import ObservationError

NAMES = ["waist", "elbow", "gripper"]


@given(st.permutations([*NAMES, "wheel_left", "wheel_right"]), st.integers(0, 99))
def test_the_order_of_the_message_means_nothing_and_more_joints_do_no_harm(order, seed):
    values = dict(zip(order, np.random.default_rng(seed).normal(size=len(order)), strict=True))
    read = read_joints(JointState(list(order), [values[name] for name in order]), NAMES)
    np.testing.assert_array_equal(read, [values[name] for name in NAMES])


@pytest.mark.parametrize(
    ("names", "positions", "said"),
    [
        (["waist", "elbow"], [1.0, 2.0], "without gripper; it has waist, elbow"),
        ([], [], "without waist, elbow, gripper; it has no joints"),
        (NAMES, [1.0, 2.0], "3 names and 2 positions"),
        (NAMES, [], "3 names and 0 positions"),
        (NAMES, [1.0, math.nan, 2.0], "elbow at nan"),
        (NAMES, [1.0, 2.0, math.inf], "gripper at inf"),
        ([*NAMES, "elbow"], [1.0, 2.0, 3.0, 4.0], "elbow more than once"),
    ],
)
def test_a_joint_state_that_cannot_be_used_is_refused_in_words(names, positions, said):
    with pytest.raises(ObservationError, match=said):
        read_joints(JointState(names, positions), NAMES)


def test_a_joint_that_nobody_asked_for_may_be_anything():
    assert read_joints(JointState([*NAMES, "lid"], [1.0, 2.0, 3.0, math.nan]), NAMES).tolist() == [1.0, 2.0, 3.0]


def test_messages_about_other_joints_are_told_apart():
    assert names_any(JointState(["lid", "elbow"], [0, 0]), NAMES)
    assert not names_any(JointState(["lid"], [0]), NAMES)
    assert not names_any(JointState([], []), NAMES)
