"""What the plugin checks and maps before anything moves."""

# pyright: reportMissingImports=false
from __future__ import annotations

import math
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from lerobot_policy_pi0_edge.policy_robot import PolicyRobot

from pi0_edge.errors import ConfigError
from pi0_edge.protos import policy_pb2
from pi0_edge.robots import Robot, load_robot

ALOHA = load_robot("aloha_sim")
SO101 = load_robot("so101")


def described(robot: Robot) -> policy_pb2.PolicyMetadata:
    return policy_pb2.PolicyMetadata(
        horizon=50,
        action_dim=robot.action_dim,
        state_dim=robot.state_dim,
        cameras=list(robot.cameras),
        action_names=robot.action_names,
    )


def settings(**given_: Any) -> Any:
    defaults: dict[str, Any] = {"cameras": {}, "joints": [], "joint_units": None, "robot": None}
    return SimpleNamespace(server="robot:1", **{**defaults, **given_})


def matched(served: Robot, state: list[str] | None = None, action: list[str] | None = None, **given_: Any) -> Any:
    return PolicyRobot(settings(**given_), described(served), state, action)


@given(st.permutations(list(ALOHA.action_names)), st.permutations(list(ALOHA.action_names)))
def test_state_and_actions_are_mapped_by_name_each_in_its_own_order(state, action):
    robot = matched(ALOHA, [f"{name}.pos" for name in state], [f"{name}.pos" for name in action])
    value = {name: float(place) for place, name in enumerate(ALOHA.action_names)}
    np.testing.assert_array_equal(robot.state(np.array([value[name] for name in state])), np.arange(14))
    rows = np.stack([np.arange(14.0), np.arange(14.0) + 1])
    there = robot.actions(rows)
    assert dict(zip(action, there[0], strict=True)) == value
    np.testing.assert_array_equal(robot.plan(there), rows)


def test_the_users_order_of_joints_counts_where_lerobot_tells_none():
    order = list(reversed(ALOHA.action_names))
    robot = matched(ALOHA, joints=order)
    np.testing.assert_array_equal(robot.state(np.arange(14.0)), np.arange(14.0)[::-1])


def test_without_names_the_order_is_the_policys_and_that_is_said(caplog):
    robot = matched(ALOHA)
    np.testing.assert_array_equal(robot.actions(np.arange(14.0)[None]), np.arange(14.0)[None])
    assert "left_waist" in caplog.text


@pytest.mark.parametrize("names", [["elsewhere", *ALOHA.action_names[1:]], [*ALOHA.action_names[:13]]])
def test_another_robots_joints_are_refused(names):
    with pytest.raises(ConfigError, match=r"left_waist|13 values"):
        matched(ALOHA, names, list(ALOHA.action_names))


def test_another_number_of_joints_is_refused():
    robot = matched(ALOHA)
    robot.check_shapes((14,), (14,))
    with pytest.raises(ConfigError, match=r"action has the shape \[6\].*14 values"):
        robot.check_shapes(None, (6,))


def test_an_arm_of_lerobot_is_refused_until_its_units_are_known():
    with pytest.raises(ConfigError, match=r"--policy\.joint_units"):
        matched(SO101)
    with pytest.raises(ConfigError, match=r"needs --policy\.robot"):
        matched(SO101, joint_units="degrees")
    with pytest.raises(ConfigError, match="expected one of robot, degrees"):
        matched(SO101, joint_units="counts")
    assert matched(SO101, joint_units="robot").state(np.arange(6.0)).tolist() == list(range(6))


def test_degrees_become_the_policys_units_there_and_back():
    robot = matched(SO101, joint_units="degrees", robot="so101")
    client = np.array([[90.0, -45, 10, 0, 180, 50]])
    expected = [[math.pi / 2, -math.pi / 4, math.pi / 18, 0, math.pi, 0.5]]
    np.testing.assert_allclose(robot.plan(client), expected)
    np.testing.assert_allclose(robot.actions(np.array(expected)), client)


def test_another_robot_than_the_servers_is_refused(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text(
        yaml.safe_dump({"name": "mine", "control_hz": 50, "joints": "so101", "cameras": {"a": "base_0_rgb"}})
    )
    with pytest.raises(ConfigError, match="robot file that the policy is served with"):
        matched(SO101, joint_units="degrees", robot=str(file))


def test_cameras_are_found_by_name_and_by_the_users_map():
    robot = matched(SO101, joint_units="robot", cameras={"lens": "front", "depth": ""})
    keys = [f"observation.images.{name}" for name in ("lens", "depth", "wrist")]
    assert robot.cameras(keys) == {keys[0]: "front", keys[2]: "wrist"}


@pytest.mark.parametrize(
    ("cameras", "names", "words"),
    [
        ({}, ["lens"], r"--policy\.cameras='\{\"lens\": \"front\"\}'"),
        ({"lens": "front"}, ["lens", "front"], "two cameras that mean 'front'"),
        ({"lens": "front"}, ["wrist"], "names 'lens', and the robot has 'wrist'"),
        ({"lens": ""}, ["lens"], "has no camera"),
        ({}, [], "has no camera"),
    ],
)
def test_cameras_that_do_not_fit_are_refused_in_words(cameras, names, words):
    robot = matched(SO101, joint_units="robot", cameras=cameras)
    with pytest.raises(ConfigError, match=words):
        robot.cameras([f"observation.images.{name}" for name in names])


def test_an_environments_only_picture_is_the_policys_only_camera():
    robot = matched(replace(ALOHA, cameras={"top": "base_0_rgb"}))
    assert robot.cameras(["observation.image"]) == {"observation.image": "top"}
