"""What a robot file or a file of its own says about where images come from."""

from __future__ import annotations

import dataclasses
import json

import pytest
import yaml

from pi0_edge.errors import ConfigError
from pi0_edge.robots import CameraSettings, load_camera_file, load_robot, parse_robot

FRONT = {"source": "v4l2:/dev/v4l/by-path/usb-0:1-video-index0", "width": 640, "height": 480, "fps": 30}
ROBOT = {
    "name": "arm",
    "control_hz": 20,
    "state_dim": 2,
    "action_dim": 2,
    "cameras": {"front": "base_0_rgb", "wrist": "left_wrist_0_rgb"},
    "camera_aliases": {"top": "front"},
}


def robot(**sources):
    return parse_robot({**ROBOT, "camera_sources": sources}, "arm.yaml")


def test_a_robot_file_says_where_images_come_from(tmp_path):
    path = tmp_path / "arm.yaml"
    wrist = {"source": "rtsp://10.0.0.7:8554/wrist", "max_age_s": 0.5, "options": {"rtsp_transport": "udp"}}
    path.write_text(yaml.safe_dump({**ROBOT, "camera_sources": {"front": FRONT, "wrist": wrist}}))
    sources = load_robot(path).camera_sources
    assert sources["front"] == CameraSettings("v4l2:/dev/v4l/by-path/usb-0:1-video-index0", 640, 480, 30)
    assert sources["wrist"].max_age_s == 0.5
    assert sources["wrist"].address == "rtsp://10.0.0.7:8554/wrist"


def test_they_survive_being_written_into_a_bundle():
    found = robot(front={**FRONT, "controls": {"auto_exposure": 1}})
    assert parse_robot(json.loads(json.dumps(dataclasses.asdict(found))), "the recorded robot") == found


@pytest.mark.parametrize(
    ("sources", "message"),
    [
        ({"fromt": FRONT}, r"the robot has no camera 'fromt'; did you mean front\?"),
        ({"top": FRONT}, r"'top' is another name of the camera front; use that"),
        ({"front": "v4l2:/dev/video0"}, r"camera_sources.front is 'v4l2:/dev/video0', expected a mapping such as"),
        ({"front": {"width": 640}}, r"camera_sources.front lacks source"),
        ({"front": {**FRONT, "wdth": 1}}, r"camera_sources.front: 'wdth' is not a setting; did you mean width"),
        ({"front": {**FRONT, "source": "usb:0"}}, r"source is 'usb:0', expected one of v4l2:…, gstreamer:…"),
        ({"front": {**FRONT, "source": "v4l2:"}}, r"source is 'v4l2:'"),
        ({"front": {**FRONT, "source": 3}}, r"source is 3, expected"),
        ({"front": {**FRONT, "source": "v4l2:0"}}, r"source is v4l2:0, expected a path under /dev"),
        ({"front": {**FRONT, "source": "v4l2:/dev/v4l/by-id/x-video-index1"}}, r"carries no pictures; .*-video-index0"),
        ({"front": {"source": FRONT["source"]}}, r"lacks width and height, which a V4L2 camera is set to"),
        ({"front": {**FRONT, "width": 0}}, r"width is 0, expected pixels from 1 to 8192"),
        ({"front": {**FRONT, "height": 480.5}}, r"height is 480.5"),
        ({"front": {"source": "file:a.mp4", "width": 3}}, r"gives one of width and height"),
        ({"front": {**FRONT, "fps": 0}}, r"fps is 0, expected images per second"),
        ({"front": {**FRONT, "max_age_s": -1}}, r"max_age_s is -1, expected seconds above 0"),
        ({"front": {**FRONT, "discard_first": True}}, r"discard_first is True"),
        ({"front": {**FRONT, "may_repeat": "no"}}, r"may_repeat is 'no', expected true or false"),
        ({"front": {**FRONT, "format": "jpeg2000"}}, r"format is 'jpeg2000', expected four characters"),
        ({"front": {**FRONT, "controls": {"gain": "high"}}}, r"controls is .* expected names with whole numbers"),
        ({"front": {"source": "file:a.mp4", "controls": {"gain": 1}}}, r"controls is for v4l2 alone, not for file"),
        ({"front": {"source": "file:a.mp4", "options": {"a": "b"}}}, r"options is for rtsp alone, not for file"),
        ({"front": {"source": "rtsp://a", "options": {"a": 1}}}, r"options is .* put numbers into quotes"),
        ([FRONT], r"camera_sources is \[.*expected cameras mapped to their settings"),
    ],
)
def test_each_mistake_is_explained(sources, message):
    with pytest.raises(ConfigError, match=rf"arm\.yaml: .*{message}"):
        parse_robot({**ROBOT, "camera_sources": sources}, "arm.yaml")


def test_all_mistakes_are_listed_at_once():
    with pytest.raises(ConfigError) as refused:
        robot(front={**FRONT, "fsp": 3}, wrist={"source": "rtsp://a", "width": -1, "height": 2})
    assert "2 mistakes" in str(refused.value)
    assert "did you mean fps" in str(refused.value)
    assert "width is -1" in str(refused.value)


def test_two_cameras_on_one_device_are_refused_also_through_links(tmp_path):
    (tmp_path / "video0").touch()
    for link in ("by-id", "by-path"):
        (tmp_path / link).symlink_to("video0")
    settings = [CameraSettings("rtsp://a"), CameraSettings("rtsp://a", fps=3)]
    with pytest.raises(ConfigError, match=r"front and wrist are the same device, rtsp://a"):
        robot(**{name: dataclasses.asdict(entry) for name, entry in zip(("front", "wrist"), settings, strict=True)})
    through_links = [{**FRONT, "source": f"v4l2:/dev/..{tmp_path / link}"} for link in ("by-id", "by-path")]
    with pytest.raises(ConfigError, match=rf"front and wrist are the same device, {tmp_path / 'video0'}"):
        robot(front=through_links[0], wrist=through_links[1])


def test_two_cameras_may_play_one_file():
    assert len(robot(front={"source": "file:a.mp4"}, wrist={"source": "file:a.mp4"}).camera_sources) == 2


def test_cameras_have_a_file_of_their_own(tmp_path):
    path = tmp_path / "cameras.yaml"
    for content in ({"front": FRONT}, {"camera_sources": {"front": FRONT}}):
        path.write_text(yaml.safe_dump(content))
        assert load_camera_file(path) == {"front": CameraSettings(**FRONT)}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("front: [", "is not valid YAML"),
        ("- 1", "camera_sources is .*expected cameras mapped to their settings"),
        ("name: arm\ncamera_sources: {}", "has name beside camera_sources, expected cameras alone"),
        ("a: {source: 'rtsp://a'}\nb: {source: 'rtsp://a'}", "a and b are the same device"),
    ],
)
def test_a_camera_file_that_is_wrong(tmp_path, content, message):
    path = tmp_path / "cameras.yaml"
    path.write_text(content)
    with pytest.raises(ConfigError, match=message):
        load_camera_file(path)
    with pytest.raises(ConfigError, match="cannot be read"):
        load_camera_file(tmp_path / "absent.yaml")


def test_a_password_is_not_shown():
    settings = CameraSettings("rtsp://admin:secret@10.0.0.7/live")
    assert settings.shown == "rtsp://admin:***@10.0.0.7/live"
    assert settings.address == "rtsp://admin:secret@10.0.0.7/live"
