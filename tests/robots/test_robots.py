"""Robot files: what is read from them, and every mistake explained."""

from __future__ import annotations

import dataclasses
import json

import pytest
import yaml
from cli_runner import run
from hypothesis import given
from hypothesis import strategies as st

from firmware_bridge.firmware.joint_table import load_joint_table, why_not_in_firmware
from firmware_bridge.robot import check_joint_names, load_joints
from pi0_edge.errors import ConfigError
from pi0_edge.robots import Joint, load_robot, parse_robot, robot_names

ARM = {
    "name": "arm",
    "control_hz": 20,
    "servo_hz": 200,
    "joints": [
        {
            "name": "shoulder",
            "unit": "rad",
            "position": [-1.8, 1.8],
            "velocity": 2.0,
            "acceleration": 20.0,
            "home": 0.0,
            "resolution": 1e-4,
        },
        {
            "name": "gripper",
            "unit": "ratio",
            "position": [0, 1],
            "velocity": 5.0,
            "acceleration": 100.0,
            "home": 0.0,
            "resolution": 1e-4,
            "closed": 0,
            "open": 1,
        },
    ],
    "cameras": {"front": "base_0_rgb"},
}


def changed(joint: int | None = None, **fields: object) -> dict:
    """ARM with fields changed, of the robot or of one joint; None removes a field."""
    robot = json.loads(json.dumps(ARM))
    target = robot if joint is None else robot["joints"][joint]
    for name, value in fields.items():
        target[name] = value
        if value is None:
            del target[name]
    return robot


@pytest.mark.parametrize("name", robot_names())
def test_policy_and_bridge_read_the_same_robot(name: str):
    robot = load_robot(name)
    if why_not_in_firmware(robot) is None:
        joints, table = load_joints(name), load_joint_table(name)
        assert joints.names == robot.action_names == tuple(joint.name for joint in table.joints)
        assert table.control_hz == robot.control_hz
    assert len(robot.action_names) == robot.action_dim, "every action of a shipped robot has a name"


@pytest.mark.parametrize("name", robot_names())
def test_a_robot_survives_being_written_into_a_bundle(name: str):
    robot = load_robot(name)
    written = json.loads(json.dumps(dataclasses.asdict(robot)))
    assert parse_robot(written, "the recorded robot") == robot


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("droid", r"not the positions of its joints \(joint_1_velocity"),
        ("mobile", r"base_linear_velocity, base_angular_velocity"),
        ("libero", r"lists no joints"),
        ("g1", r"control_hz 30, expected whole microseconds"),
    ],
)
def test_the_bridge_says_why_it_cannot_drive_a_robot(name: str, reason: str):
    with pytest.raises(ConfigError, match=reason):
        load_joints(name)


def test_a_robot_by_path_serves_policy_and_bridge(tmp_path):
    path = tmp_path / "arm.yaml"
    path.write_text(yaml.safe_dump(ARM))
    robot, joints = load_robot(path), load_joints(path)
    assert (robot.state_dim, robot.action_dim) == (2, 2)
    assert robot.action_names == joints.names == ("shoulder", "gripper")
    assert robot.joints[1] == Joint("gripper", "ratio", (0, 1), 5.0, 100.0, 0.0, 1e-4, closed=0, open=1)
    assert joints.upper.tolist() == pytest.approx([1.8, 1.0])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            changed(joint=0, unit="degrees"),
            r"joints\[0\] \(shoulder\): unit is 'degrees', expected one of rad, m, ratio",
        ),
        (changed(joint=0, velocity="fast"), r"velocity is 'fast', expected a finite number"),
        (changed(joint=0, velocity=float("nan")), r"velocity is nan, expected a finite number"),
        (changed(joint=0, velocity=-1), r"velocity is -1, expected a number above zero"),
        (changed(joint=0, velocity=None), r"lacks velocity; give all of"),
        (changed(joint=0, position=[1.8, -1.8]), r"position is \(1.8, -1.8\), expected \[minimum, maximum\]"),
        (changed(joint=0, position=3), r"position is 3, expected \[minimum, maximum\]"),
        (changed(joint=0, home=9.0), r"home is 9, expected a position from -1.8 to 1.8"),
        (changed(joint=0, name="shoulder pan"), r"name is 'shoulder pan', expected letters"),
        (changed(joint=0, name="gripper"), r"'gripper' is the name of 2 joints"),
        (changed(joint=1, open=None), r"gives one of closed and open"),
        (changed(joint=1, open=0), r"closed and open are both 0"),
        (changed(joint=1, open=2), r"open is 2, expected a position from 0 to 1"),
        (changed(joint=1, speed=2), r"joints\[1\]: 'speed' is not a field of a joint"),
        (changed(joint=1, unit=None), r"joints\[1\] lacks unit"),
        (changed(joints=["shoulder"]), r"joints\[0\] is 'shoulder', expected a mapping"),
        (changed(joints=7), r"joints is 7, expected a list of joints"),
        (changed(joints="alhoa"), r"did you mean aloha"),
        (changed(joints="aloha_sim"), r"that robot lists none of its own"),
        (changed(action_names=["a"]), r"action_names is \('a',\), expected 2 names"),
        (changed(servo_hz="fast"), r"servo_hz is 'fast', expected a whole number"),
        (changed(control_hz=True), r"control_hz is True, expected actions per second"),
        (changed(cameras={"front": "middle"}), r"expected names mapped to slots"),
        (changed(name=None), r"lacks name"),
        (changed(name=3), r"name is 3, expected text"),
        (changed(action_names=[1, 2]), r"action_names is \(1, 2\), expected texts"),
        (changed(default_prompt=3.5), r"default_prompt is 3.5, expected text, or null"),
    ],
)
def test_a_mistake_in_a_robot_file_is_explained(content: dict, message: str):
    with pytest.raises(ConfigError, match=message):
        parse_robot(content, "arm.yaml")


def test_every_mistake_is_listed_at_once():
    wrong = changed(joint=0, velocity=-1, home=7)
    wrong["cameras"] = {"front": "middle"}
    with pytest.raises(ConfigError, match="3 mistakes") as caught:
        parse_robot(wrong, "arm.yaml")
    for part in ("velocity is -1", "home is 7", "cameras is"):
        assert part in str(caught.value)


@given(
    st.dictionaries(st.sampled_from([*ARM, "delta_actions", "action_dim", "x"]), st.none() | st.text() | st.floats())
)
def test_no_content_ends_in_anything_but_a_config_error(fields: dict):
    try:
        parse_robot({**ARM, **fields}, "arm.yaml")
    except ConfigError as error:
        assert str(error).startswith("arm.yaml")


def test_names_in_another_order_are_refused():
    aloha = load_joints("aloha")
    check_joint_names(aloha.names, aloha)
    for names, message in (
        (aloha.names[::-1], r"action 0 of your chunks commands right_gripper, but joint 0 of aloha is left_waist"),
        (aloha.names[:7], r"action 7 of your chunks commands nothing, but joint 7 of aloha is right_waist"),
        ([*aloha.names, "base"], r"action 14 of your chunks commands base, but joint 14 of aloha is nothing"),
        ((), r"joint_names is empty"),
    ):
        with pytest.raises(Exception, match=message):
            check_joint_names(names, aloha)


def test_robot_check_explains_a_file(tmp_path):
    path = tmp_path / "arm.yaml"
    path.write_text(yaml.safe_dump(changed(joint=1, open=None) | {"kontrol_hz": 3}))
    ran = run("robot", "check", str(path))
    assert ran.code == 2
    assert "did you mean control_hz" in ran.err
    path.write_text(yaml.safe_dump(ARM))
    ran = run("robot", "check", str(path))
    assert (ran.code, "firmware: can drive it" in ran.out) == (0, True)
    refused = run("robot", "check", "g1", "--json")
    assert refused.code == 1 and "whole microseconds" in refused.result["not_in_firmware"]


def test_robot_list_shows_every_robot():
    assert [robot["name"] for robot in run("robot", "list", "--json").result["robots"]] == robot_names()


def test_a_robot_too_wide_for_the_serial_link_is_one_for_a_policy_alone():
    joints = [{**ARM["joints"][0], "name": f"joint_{place}"} for place in range(33)]
    wide = parse_robot(changed(joints=joints), "wide")
    assert wide.why_not_playable == "it has 33 actions, and a setpoint on the serial link holds at most 32"
    assert "33 actions" in str(why_not_in_firmware(wide))
    assert parse_robot(changed(joints=joints[:32]), "fits").why_not_playable is None


def test_a_setting_of_the_policy_is_sent_to_where_it_belongs():
    with pytest.raises(ConfigError, match=r"'prompt_style' is not a field of a robot; .*prompt_style, go into a SIZES"):
        parse_robot(changed(prompt_style="text"), "arm")


def test_further_camera_slots():
    cameras = {"a": "base_0_rgb", "b": "camera_3", "c": "camera_12"}
    robot = parse_robot(changed(cameras=cameras, camera_aliases={"top": "a"}), "many")
    assert robot.cameras == cameras
    assert [robot.camera(name) for name in ("a", "top", "camera_3", "camera_4", "d")] == ["a", "a", "b", None, None]


@pytest.mark.parametrize("slot", ["camera_2", "camera_03", "camera_", "camera_-3", "camera_100", "base_1_rgb", 3])
def test_a_slot_that_is_none(slot):
    with pytest.raises(ConfigError, match=r"expected names mapped to slots of base_0_rgb, .*, camera_3, camera_4"):
        parse_robot(changed(cameras={"front": slot}), "arm")


@pytest.mark.parametrize(
    ("aliases", "message"),
    [
        ({"top": "nowhere"}, "other names mapped to cameras of the robot"),
        ({"front": "front"}, "names that no camera has"),
        (["front"], "expected a mapping"),
        ({"top": ["front"]}, "other names mapped to cameras of the robot"),
    ],
)
def test_wrong_camera_aliases(aliases, message):
    with pytest.raises(ConfigError, match=message):
        parse_robot(changed(camera_aliases=aliases), "arm")


def test_check_shows_servos_guards_and_how_busy_a_bus_is(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("COLUMNS", "160")
    said = run("robot", "check", "aloha").out
    assert all(word in said for word in ("XM540-W270", "shadow of 2", "following error"))
    assert "servo buses: 1000000 baud, positions 50 times a second, the arm runs at 10.5 to 14 V" in said
    assert "bus 1: goals and one reading take 2.71 of 4 ms" in said
    assert "warning: every zero is 2048" in said


def test_check_says_nothing_of_servos_where_there_are_none():
    ran = run("robot", "check", "ur5e", "--json")
    assert ran.code == 0 and "servo buses" not in ran.err
    assert ran.result["robot"]["servos"] == []
