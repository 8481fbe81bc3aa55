"""Every mistake in the file of a workspace is found at the start, and explained."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from workspace_builders import PLANAR, PLANAR_FILE, aloha_content, changed, planar_content, written

from firmware_bridge.bridge.workspace.settings import load_settings
from firmware_bridge.bridge.workspace.workspace import Workspace
from firmware_bridge.robot import load_joints
from pi0_edge.errors import ConfigError

pytest.importorskip("mujoco", reason="mujoco is not installed")


def test_the_files_of_the_tests_and_of_the_documentation_are_right(tmp_path: Path) -> None:
    Workspace(PLANAR_FILE, PLANAR)
    Workspace(written(tmp_path, aloha_content()), load_joints("aloha"))
    page = (Path(__file__).parents[2] / "docs" / "workspace.md").read_text()
    documented = yaml.safe_load(page.split("```yaml\n")[1].split("```")[0])
    Workspace(written(tmp_path, documented | {"model": aloha_content()["model"]}), load_joints("aloha"))


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("robot", "aloha", "robot is 'aloha', but the bridge drives 'planar_arm'"),
        ("model", None, "lacks model"),
        ("model", "absent.urdf", r"absent\.urdf cannot be read"),
        ("margn", 0.01, "'margn' is not a field of a workspace; did you mean margin"),
        ("margin", -1, "margin is -1, expected metres, 0 or more"),
        ("joints", [], r"joints is \[\], expected a mapping"),
        ("joints/sholder", {"joint": "x"}, "'sholder' is not a joint of the robot; did you mean shoulder"),
        ("joints/shoulder/joint", "sholder", "the model has no joint 'sholder'; did you mean shoulder"),
        ("joints/shoulder/joint", "elbow", "elbow is moved by elbow already"),
        ("joints/shoulder/scale", 0, "scale is 0"),
        ("joints/shoulder/scale", "1", "scale is '1', expected a number"),
        ("joints/shoulder/offset", 0.3, r"from -1.2 to 1.8, but the model's joint goes from -1.6 to 1.6; check scale"),
        ("joints/reach/scale", -0.1, r"from -0.1 to 0, but the model's joint goes from 0 to 0.1"),
        ("joints/reach", None, "tip is moved by the model's joint 'extension'; say under joints"),
        ("held", {"elbw": 0.0}, "held: the model has no joint 'elbw'; did you mean elbow"),
        ("held", {"elbow": 0.0}, "held: elbow is moved by elbow; take it out of held or of joints"),
        ("frames/tip/body", "tipp", "the model has no body 'tipp'; did you mean tip"),
        ("frames/tip/body", "base", "no joint under joints moves body 'base'"),
        ("frames/tip/site", "tip", "give either body or site"),
        ("frames/tip/offset", [0, 1], r"offset is \[0, 1\], expected \[x, y, z\]"),
        ("frames/spare", {"body": "tip"}, "no box names spare"),
        ("allowed/bench/min", [0.9, -0.1, 0.0], "x goes from 0.9 to 0.7, expected min below max"),
        ("allowed/bench/max", [0.9, -0.1, float("nan")], "max is .*nan.*, expected"),
        ("allowed/bench/frames", ["tp"], "'tp' is not a frame; did you mean tip"),
        ("forbidden/laptop/frames", [], r"frames is \[\], expected a list"),
        ("forbidden/laptop/size", 1, "'size' is not a field"),
    ],
)
def test_a_mistake_is_named(tmp_path: Path, path: str, value: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Workspace(written(tmp_path, changed(planar_content(), path, value)), PLANAR)


def test_all_mistakes_are_listed(tmp_path: Path) -> None:
    content = changed(changed(planar_content(), "margin", "wide"), "frames/tip/radius", -1)
    with pytest.raises(ConfigError, match=r"(?s)2 mistakes:.*margin is 'wide'.*radius is -1"):
        load_settings(written(tmp_path, content), "planar_arm", PLANAR.names)
    content = changed(changed(planar_content(), "frames/tip/body", "tipp"), "joints/shoulder/joint", "shoulde")
    with pytest.raises(ConfigError, match=r"(?s)mistakes:.*'shoulde'; did you mean shoulder.*'tipp'"):
        Workspace(written(tmp_path, content), PLANAR)


@pytest.mark.parametrize("text", ["[", "- a list", "\tx"])
def test_a_file_that_is_no_mapping_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "workspace.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"not valid YAML|holds a list"):
        load_settings(path, "planar_arm", PLANAR.names)
    with pytest.raises(ConfigError, match="cannot be read"):
        load_settings(tmp_path / "absent.yaml", "planar_arm", PLANAR.names)


def test_a_held_joint_stays_where_the_file_says(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    content = changed(changed(planar_content(), "joints/reach", None), "held", {"extension": 0.1})
    content = changed(content, "allowed/bench/max", [0.64, 0.1, 0.5])  # stretched out the tip is at 0.65
    Workspace(written(tmp_path, content), PLANAR)
    assert "tip leaves the allowed box bench above its max x by 15 mm" in caplog.text


def test_a_joint_that_neither_turns_nor_slides_is_refused(tmp_path: Path) -> None:
    content = aloha_content() | {"held": {"red_box_joint": 0.0}}
    with pytest.raises(ConfigError, match="'red_box_joint' is neither a hinge nor a slide"):
        Workspace(written(tmp_path, content), load_joints("aloha"))


def test_the_bridge_says_that_its_workspace_is_wrong_before_it_opens_the_port(tmp_path: Path) -> None:
    path = written(tmp_path, changed(planar_content(), "robot", "planar"))
    argv = [sys.executable, "-m", "firmware_bridge", "--port", "/dev/ttyNONE", "--workspace", str(path)]
    ran = subprocess.run(argv, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2])
    assert ran.returncode == 1
    assert "robot is 'planar', but the bridge drives 'aloha'" in ran.stderr
