"""V4L2 cameras for real: the driver vivid in a virtual machine (see `vivid_machine`)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import vivid_script
from vivid_machine import run_in_vivid_machine

pytestmark = [pytest.mark.slow, pytest.mark.real_time]


@pytest.fixture(scope="module")
def steps(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    script = Path(vivid_script.__file__).resolve()
    found = run_in_vivid_machine(script, tmp_path_factory.mktemp("vivid"))
    return {step.pop("step"): step for step in found}


def test_cameras_are_listed_by_stable_name_with_their_formats(steps):
    assert steps["listed"] == {"names": [[name] for name in vivid_script.NAMES], "cards": ["vivid", "vivid"]}
    first, second = steps["formats"]["first"]
    assert (first["format"], first["width"], first["height"], first["rates"][-1]) == ("YUYV", 320, 180, 60.0)
    assert (second["width"], second["height"]) == (640, 360)


@pytest.mark.parametrize(
    ("step", "message"),
    [
        ("number", "/dev/video0 may be another camera after a restart; take one of /dev/v4l/by-path/platform-vivid.0"),
        ("size", "gives YUYV 320x180, expected YUYV 333x181; it offers YUYV in 320x180, 640x360"),
        ("rate", "gives 10 images a second, expected 7"),
        ("format", "expected MJPG of those that can be read"),
        ("control", "has no control 'brightnes'; did you mean brightness?"),
        ("absent", "there is no camera /dev/v4l/by-path/platform-vivid.7-video-index0; is it plugged in?"),
    ],
)
def test_what_a_camera_cannot_do_is_said_by_name(steps, step, message):
    assert steps[step]["refusal"].startswith("camera front: ")
    assert message in steps[step]["refusal"]


def test_two_cameras_give_images_with_the_driver_s_times(steps):
    read = steps["read"]
    assert read["shapes"] == [[180, 320, 3]] * 2
    assert read["taken_after_start"] == [True, True]
    assert all(0 <= age < 1.0 for age in read["ages_s"])
    assert read["skew_s"] <= 0.4
    assert read["gain"] == 77
    assert "another program uses it" in read["in_use"]
    for health in read["health"].values():
        assert health["time_source"] == "frame end"
        assert health["rate_hz"] == pytest.approx(5, rel=0.3)
        assert health["fault"] is None


def test_dropped_and_damaged_images_are_counted(steps):
    assert steps["damaged"]["dropped"] >= steps["dropped"]["dropped"] + 3


def test_an_unplugged_camera_is_noticed_within_a_second_and_opened_again(steps):
    unplugged = steps["unplugged"]
    assert unplugged["kind"] == "unplugged"
    assert "platform-vivid.0-video-index0 is gone" in unplugged["message"]
    assert unplugged["noticed_s"] < 1.0
    assert unplugged["openings"] == 2
    assert unplugged["shape"] == [180, 320, 3]
