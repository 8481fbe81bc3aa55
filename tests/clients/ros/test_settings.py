"""Parameters of the node: read, checked, and the same in the file that is shipped and in the documentation."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from pi0_edge_ros.settings import CAMERA_PARAMETERS, PARAMETERS, Camera
from ros_parameters import settings as read
from ros_system import PACKAGE
from source_tree import ROOT

from pi0_edge.errors import ConfigError


def test_defaults_and_empty_texts():
    settings = read()
    assert settings.joints == ("a", "b") and settings.joint_map == {}
    assert settings.cameras == (Camera("top", "top/image_raw", False),)
    assert settings.jpeg_quality is None and settings.server_tls is None and settings.bridge_tls is None
    assert read(camera__top__compressed=True).cameras[0].topic == "top/image_raw/compressed"
    assert read(camera__top__topic="/eye", camera__top__compressed=True).cameras == (Camera("top", "/eye", True),)
    assert read(server_tls="folder").server_tls == Path("folder")
    assert read(joint_map=["waist=left/waist", ""]).joint_map == {"waist": "left/waist"}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"joints": [""]}, "parameter joints is empty"),
        ({"joints": ["a", "a"]}, "a list with a more than once"),
        ({"cameras": [""]}, "parameter cameras is empty"),
        ({"cameras": ["top", "top"]}, "a list with top more than once"),
        ({"joint_map": ["waist"]}, "joint_map is waist, expected entries POLICY_NAME=ROS_NAME"),
        ({"joint_map": ["=x"]}, "joint_map is =x"),
        ({"joint_map": ["a=x", "a=y"]}, "a list with a more than once"),
        ({"jpeg_quality": 101}, "jpeg_quality is 101"),
        ({"splice": "glue"}, "splice is glue, expected one of auto"),
        ({"max_age_s": 0.0}, "max_age_s is 0.0, expected a time above 0 s"),
        ({"replan_s": float("nan")}, "replan_s is nan"),
        ({"infer_timeout_s": float("inf")}, "infer_timeout_s is inf"),
        ({"lead_s": -0.1}, "lead_s is -0.1"),
        ({"control_hz": -1.0}, "control_hz is -1.0"),
        ({"max_errors": 0}, "max_errors is 0"),
        ({"server": ""}, "server is "),
        ({"trajectory_topic": ""}, "trajectory_topic is "),
    ],
)
def test_what_is_not_possible_is_refused_by_its_name(changes, said):
    with pytest.raises(ConfigError, match=re.escape(said)):
        read(**changes)


def test_the_file_that_is_shipped_has_parameters_that_there_are():
    node = yaml.safe_load((PACKAGE / "config" / "policy.yaml").read_text())["pi0_edge_policy"]["ros__parameters"]
    camera = node.pop("camera")
    assert node.keys() <= {parameter.name for parameter in PARAMETERS}
    assert camera["top"].keys() == {parameter.name for parameter in CAMERA_PARAMETERS}
    flat = {f"camera__top__{name}": value for name, value in camera["top"].items()}
    assert len(read(**node, **flat).joints) == 14


def test_the_documentation_has_every_parameter_with_its_default():
    text = (ROOT / "docs" / "ros2.md").read_text()
    rows = {row[0]: row[1] for row in re.findall(r"^\| `([\w.]+)` \| `?([^|`]*)`? \|", text, re.MULTILINE)}
    listed = {parameter.name: parameter.default for parameter in PARAMETERS}
    listed |= {f"camera.NAME.{parameter.name}": parameter.default for parameter in CAMERA_PARAMETERS}
    shown = {name: shown_as(value) for name, value in listed.items()}
    assert {name: rows.get(name, "missing").strip() for name in shown} == shown


def shown_as(value: Any) -> str:
    if value in ("", [""]):
        return ""
    return str(value).lower() if isinstance(value, bool) else str(value)
