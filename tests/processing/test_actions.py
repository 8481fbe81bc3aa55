"""Relative actions, ALOHA's joint convention, and the robot layouts."""

from __future__ import annotations

import math

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from pi0_edge.errors import ConfigError
from pi0_edge.processing import Robot, load_robot, robot_names
from pi0_edge.processing.actions import delta_mask, to_absolute, to_delta
from pi0_edge.processing.joint_conventions import CONVENTIONS

ALOHA = CONVENTIONS["aloha_to_pi"]
values = st.floats(-3, 3)


def test_delta_mask_notation_of_openpi():
    assert delta_mask((2, -1, 1)).tolist() == [True, True, False, True]
    assert delta_mask(()).tolist() == []


@given(
    actions=arrays(np.float64, (4, 8), elements=values),
    state=arrays(np.float64, 8, elements=values),
    runs=st.lists(st.sampled_from([-2, -1, 1, 2]), max_size=4),
)
def test_delta_actions_and_back(actions, state, runs):
    mask = delta_mask(runs)
    delta = to_delta(actions, state, mask)
    np.testing.assert_allclose(to_absolute(delta, state, mask), actions, atol=1e-12)
    relative = np.pad(mask, (0, 8 - len(mask)))
    np.testing.assert_array_equal(delta[:, ~relative], actions[:, ~relative])
    np.testing.assert_array_equal(delta[:, relative], (actions - state)[:, relative])  # every row by the same state


def test_aloha_joint_signs():
    state = np.arange(1.0, 15.0)
    joints = [0, 1, 2, 3, 4, 5, 7, 8, 9, 10, 11, 12]
    assert ALOHA.state_to_pi(state)[joints].tolist() == [1, -2, -3, 4, 5, 6, 8, -9, -10, 11, 12, 13]
    assert state[1] == 2.0, "the caller's array is not changed"


def test_aloha_gripper_by_its_geometry():
    """Angle of the horn by the law of cosines from the opening in metres, then π0's encoder scale."""
    for opening in (0.0, 0.3, 1.0):
        metres = 0.01844 + opening * (0.05800 - 0.01844)
        angle = math.asin((0.022**2 + metres**2 - 0.036**2) / (2 * 0.022 * metres))
        state = ALOHA.state_to_pi(np.full(14, opening))
        assert state[6] == state[13] == pytest.approx((angle - 0.5476) / (1.6296 - 0.5476), abs=1e-12)


def test_aloha_gripper_commands():
    actions = np.zeros((2, 14))
    actions[0, 6], actions[1, 13] = 1.4910 - 0.5476, -0.6213 - 0.5476
    commands = ALOHA.actions_to_robot(actions)
    assert commands[0, 6] == pytest.approx(1.0) and commands[1, 13] == pytest.approx(0.0, abs=1e-12)


@given(arrays(np.float64, (3, 16), elements=values))
def test_aloha_commands_and_back(actions):
    np.testing.assert_allclose(ALOHA.actions_to_robot(ALOHA.actions_to_pi(actions)), actions, atol=1e-12)
    np.testing.assert_array_equal(ALOHA.actions_to_robot(actions)[:, 14:], actions[:, 14:])  # a mobile base


@pytest.mark.parametrize(
    ("name", "state_dim", "action_dim", "delta", "hz"),
    [
        ("aloha", 14, 14, "1111110" * 2, 50),
        ("aloha_sim", 14, 14, "", 50),
        ("droid", 8, 8, "", 15),
        ("droid_joint_position", 8, 8, "11111110", 15),
        ("libero", 8, 7, "", 20),
        ("ur5e", 7, 7, "1111110", 20),
        ("mobile", 16, 16, "1111110" * 2 + "00", 50),
        ("g1", 26, 26, "", 30),
    ],
)
def test_our_robots(name, state_dim, action_dim, delta, hz):
    robot = load_robot(name)
    assert (robot.state_dim, robot.action_dim, robot.control_hz) == (state_dim, action_dim, hz)
    assert "".join(str(int(bit)) for bit in delta_mask(robot.delta_actions)) == delta
    assert "base_0_rgb" in robot.cameras.values()


def test_every_layout_loads_under_its_own_name():
    assert [load_robot(name).name for name in robot_names()] == robot_names()


def test_a_robot_of_ones_own(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(
        "name: mine\nstate_dim: 32\naction_dim: 1\ncameras: {front: left_wrist_0_rgb}\ncontrol_hz: 12.5\n"
        "delta_actions: [1]\naction_names: [belt]\n"
    )
    expected = Robot("mine", 32, 1, {"front": "left_wrist_0_rgb"}, 12.5, delta_actions=(1,), action_names=("belt",))
    assert load_robot(path) == expected


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"state_dim": -1}, r"state_dim is -1, expected a whole number from 1 on"),
        ({"action_dim": 0}, r"action_dim is 0"),
        ({"action_dim": "7"}, r"action_dim is '7'"),
        ({"control_hz": -1}, r"control_hz is -1, expected actions per second"),
        ({"cameras": {}}, r"cameras is \{\}, expected names mapped"),
        ({"cameras": {"front": "front"}}, r"expected names mapped to slots of base_0_rgb"),
        ({"cameras": {"a": "base_0_rgb", "b": "base_0_rgb"}}, r"a slot of its own for each camera"),
        ({"cameras": ["front"]}, r"cameras is \['front'\], expected a mapping"),
        ({"delta_actions": [6, -2]}, r"delta_actions is \(6, -2\), expected no more dims"),
        ({"delta_actions": [0]}, r"whole numbers other than 0"),
        ({"delta_actions": 6}, r"delta_actions is 6, expected a list"),
        ({"joint_convention": "aloha_to_pi"}, r"joint_convention is 'aloha_to_pi', expected 14 dimensions or more"),
        ({"joint_convention": "radians"}, r"expected one of none, aloha_to_pi"),
        ({"action_names": ["a"]}, r"expected 7 names"),
        ({"kamera": 1}, r"'kamera' is not a field of a robot; did you mean cameras"),
    ],
)
def test_mistakes_in_a_layout_are_named(tmp_path, change, message):
    good = {"name": "mine", "state_dim": 7, "action_dim": 7, "cameras": {"front": "base_0_rgb"}, "control_hz": 20}
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump({**good, **change}))
    with pytest.raises(ConfigError, match=message):
        load_robot(path)


def test_layouts_that_are_none(tmp_path):
    with pytest.raises(ConfigError, match=r"robot 'alhoa' is not known; did you mean aloha\?"):
        load_robot("alhoa")
    with pytest.raises(ConfigError, match=r"nowhere.yaml cannot be read"):
        load_robot(tmp_path / "nowhere.yaml")
    (tmp_path / "bad.yaml").write_text("- 1")
    with pytest.raises(ConfigError, match=r"holds a list, expected a mapping with name, control_hz"):
        load_robot(tmp_path / "bad.yaml")
    (tmp_path / "bad.yaml").write_text("name: x\n")
    with pytest.raises(ConfigError, match=r"lacks control_hz, state_dim, action_dim; expected all of name"):
        load_robot(tmp_path / "bad.yaml")
