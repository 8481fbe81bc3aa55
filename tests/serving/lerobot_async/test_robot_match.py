"""Which robots of LeRobot are served, and what becomes of their values."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from pi0_edge.errors import ConfigError, ObservationError
from pi0_edge.robots import Robot, load_robot
from pi0_edge.serving.lerobot_async.messages import RemotePolicyConfig
from pi0_edge.serving.lerobot_async.robot_match import RobotMatch
from pi0_edge.serving.lerobot_joints import check_units

ALOHA = load_robot("aloha_sim")
SO101 = load_robot("so101")
TRAINED_THERE = Robot("lerobot:mine", 2, 2, cameras={"front": "base_0_rgb"}, control_hz=None)
PIXELS = np.zeros((4, 4, 3), np.uint8)


def config(names: list[str], cameras: tuple[str, ...], renamed: dict[str, str] | None = None) -> RemotePolicyConfig:
    features: dict[str, dict[str, Any]] = {
        f"observation.images.{name}": {"dtype": "image", "shape": (4, 4, 3)} for name in cameras
    }
    features["observation.state"] = {"dtype": "float32", "shape": (len(names),), "names": names}
    return RemotePolicyConfig("lerobot.async_inference.helpers", "pi0", "x", features, 50, renamed or {})


def names_of(robot: Robot) -> list[str]:
    return [f"{joint.name}.pos" for joint in robot.joints]


def test_joints_are_mapped_by_name_there_and_back():
    shuffled = list(np.random.default_rng(0).permutation(names_of(ALOHA)))
    match = RobotMatch(ALOHA, config(shuffled, ("top",)))
    values: dict[str, Any] = {name: float(place) for place, name in enumerate(names_of(ALOHA))}
    observation = match.observation({**values, "top": PIXELS, "task": "Transfer cube", "other": 1})
    np.testing.assert_array_equal(observation.state, np.arange(14))
    assert (list(observation.images), observation.prompt) == (["top"], "Transfer cube")
    actions = match.to_client(np.arange(28.0).reshape(2, 14))
    for row, base in zip(actions, (0, 14), strict=True):
        assert dict(zip(shuffled, row, strict=True)) == {name: base + values[name] for name in shuffled}


def test_degrees_become_the_units_of_the_robot_there_and_back():
    match = RobotMatch(SO101, config(names_of(SO101), ("front", "wrist")), "degrees")
    client = [90.0, -45.0, 10.0, 0.0, 180.0, 50.0]
    values = dict(zip(names_of(SO101), client, strict=True))
    observation = match.observation({**values, "front": PIXELS, "wrist": PIXELS, "task": ""})
    expected = [math.pi / 2, -math.pi / 4, math.pi / 18, 0, math.pi, 0.5]
    np.testing.assert_allclose(np.asarray(observation.state), expected)
    assert observation.prompt is None
    np.testing.assert_allclose(match.to_client(np.array([expected])), [client])


def test_an_arm_of_lerobot_is_refused_until_its_units_are_known():
    asked = config(names_of(SO101), ("front",))
    with pytest.raises(ConfigError, match="--lerobot-units"):
        RobotMatch(SO101, asked)
    match = RobotMatch(SO101, asked, "robot")
    values = dict.fromkeys(names_of(SO101), 0.25)
    np.testing.assert_array_equal(match.observation({**values, "front": PIXELS}).state, np.full(6, 0.25))


def test_a_policy_that_was_trained_by_lerobot_takes_values_unchanged():
    match = RobotMatch(TRAINED_THERE, config(["b.pos", "a.pos"], ("front",)))
    observation = match.observation({"a.pos": 30.0, "b.pos": -99.0, "front": PIXELS})
    np.testing.assert_array_equal(observation.state, [-99.0, 30.0])
    np.testing.assert_array_equal(match.to_client(np.array([[1.0, 2.0]])), [[1.0, 2.0]])


def test_cameras_are_found_by_name_alias_slot_and_renaming():
    robot = replace(ALOHA, camera_aliases={"overhead": "top"})
    renamed = {"observation.images.usb": "observation.images.left_wrist"}
    match = RobotMatch(robot, config(names_of(ALOHA), ("overhead", "usb", "right_wrist_0_rgb"), renamed))
    assert match.cameras == {"overhead": "top", "usb": "left_wrist", "right_wrist_0_rgb": "right_wrist"}


@pytest.mark.parametrize(
    ("robot", "names", "cameras", "units", "message"),
    [
        (ALOHA, ["shoulder_pan.pos"], ("top",), None, "left_waist"),
        (ALOHA, [*names_of(ALOHA)[:-1], "x.pos"], ("top",), None, "x.pos"),
        (ALOHA, [*names_of(ALOHA), "x.vel"], ("top",), None, "x.vel"),
        (ALOHA, names_of(ALOHA) + names_of(ALOHA)[:1], ("top",), None, "twice"),
        (ALOHA, ["left_waist", *names_of(ALOHA)], ("top",), None, "twice"),
        (ALOHA, [], ("top",), None, "no names"),
        (ALOHA, names_of(ALOHA), (), None, "no camera"),
        (ALOHA, names_of(ALOHA), ("top", "elsewhere"), None, "elsewhere"),
        (ALOHA, names_of(ALOHA), ("top", "base_0_rgb"), None, "two cameras"),
        (TRAINED_THERE, ["a.pos"], ("front",), None, "1 joints"),
        (TRAINED_THERE, ["a.pos", "b.pos"], ("front",), "degrees", "leave degrees out"),
        (load_robot("libero"), ["a.pos"], ("image",), None, "image|joints"),
        (load_robot("droid"), ["a.pos"], ("exterior_image_1_left",), None, "cannot be served|joints|camera"),
    ],
)
def test_what_is_not_known_is_refused_by_name(robot, names, cameras, units, message):
    with pytest.raises(ConfigError, match=message):
        RobotMatch(robot, config(names, cameras), units)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"left_waist.pos": None}, "left_waist"),
        ({"left_waist.pos": math.nan}, "left_waist"),
        ({"left_waist.pos": True}, "left_waist"),
        ({"left_waist.pos": np.zeros(2)}, "left_waist"),
        ({"task": 7}, "task"),
        ({"task": "a" * 5000}, "task"),
    ],
)
def test_values_that_are_none_are_refused_by_name(change, message):
    match = RobotMatch(ALOHA, config(names_of(ALOHA), ("top",)))
    values = {**dict.fromkeys(names_of(ALOHA), 0.0), "top": PIXELS, "task": "x"}
    match.observation(values)
    with pytest.raises(ObservationError, match=message):
        match.observation({**values, **change})
    with pytest.raises(ObservationError, match="top"):
        match.observation({name: value for name, value in values.items() if name != "top"})


def test_units_that_nobody_knows_are_refused():
    assert (check_units(None), check_units("degrees")) == (None, "degrees")
    with pytest.raises(ConfigError, match="robot, degrees"):
        check_units("counts")
