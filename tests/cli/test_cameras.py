"""`pi0-edge cameras` with cameras that need no hardware."""

from __future__ import annotations

import numpy as np
import pytest
import yaml
from cli_runner import run
from PIL import Image

from pi0_edge.cameras.v4l2_device import list_v4l2_cameras

pytestmark = [pytest.mark.real_time, pytest.mark.system]

GOOD = {"source": "lavfi:testsrc=size=64x48:rate=30,noise=alls=20:allf=t", "width": 64, "height": 48}
GREY = {"source": "lavfi:color=gray:size=32x24:rate=30"}
ROBOT = {"name": "arm", "control_hz": 20, "state_dim": 2, "action_dim": 2, "cameras": {"front": "base_0_rgb"}}


def write(path, content):
    path.write_text(yaml.safe_dump(content))
    return path


def test_the_cameras_of_a_robot_are_measured_and_pictured(tmp_path):
    robot = write(tmp_path / "arm.yaml", {**ROBOT, "camera_sources": {"front": GOOD}})
    ran = run("cameras", "--robot", robot, "--stills", tmp_path / "stills", "--json")
    assert ran.code == 0
    front = ran.result["cameras"]["front"]
    assert (front["width"], front["height"], front["time_source"], front["fault"]) == (64, 48, "arrival", None)
    assert front["rate_hz"] == pytest.approx(30, rel=0.3)
    assert ran.result["stills"] == {"front": str(tmp_path / "stills" / "front.png")}
    with Image.open(tmp_path / "stills" / "front.png") as still:
        assert np.asarray(still).shape == (48, 64, 3)


def test_one_that_cannot_be_used_is_named_and_pictured_too(tmp_path):
    absent = {"source": "file:/nowhere.mp4"}
    cameras = write(tmp_path / "cameras.yaml", {"front": GOOD, "wrist": GREY, "top": absent})
    ran = run("cameras", "--cameras", cameras, "--stills", tmp_path, "--wait", "1", "--json")
    assert ran.code == 1
    assert ran.result["problems"].keys() == {"wrist", "top"}
    assert "camera wrist: no image that can be used in time: its images are almost of one" in ran.err
    assert "camera top: there is no video file /nowhere.mp4" in ran.err
    assert ran.result["stills"].keys() == {"front", "wrist"}


def test_what_is_plugged_in_is_listed():
    ran = run("cameras", "--json")
    assert ran.code == 0
    assert [tuple(camera["names"]) for camera in ran.result["v4l2"]] == [c.names for c in list_v4l2_cameras()]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--robot", "so101"], "robot so101 does not say where the images of front, wrist come from"),
        (["--robot", "so101", "--cameras", "a.yaml"], "--robot and --cameras both say which cameras to open"),
        (["--cameras", "absent.yaml"], "the camera file absent.yaml cannot be read"),
    ],
)
def test_bad_options_are_explained(options, message):
    ran = run("cameras", *options)
    assert ran.code == 2
    assert message in ran.err
