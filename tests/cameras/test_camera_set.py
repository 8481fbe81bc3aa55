"""Several cameras at once, from real sources that a test breaks and repairs."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable

import numpy as np
import pytest
from picture_sources import PictureFolder, noise

from pi0_edge.cameras import CameraSet, skew_s
from pi0_edge.errors import CameraError, ConfigError
from pi0_edge.robots import CameraSettings

pytestmark = [pytest.mark.real_time, pytest.mark.system]

NOTICED_S = 1.0
"""Within which every fault must be noticed."""


def generated(size: str = "64x48", rate: int = 30, **settings) -> CameraSettings:
    """A moving picture with the noise of a sensor."""
    return CameraSettings(f"lavfi:testsrc2=size={size}:rate={rate},noise=alls=20:allf=t", **settings)


def wait_until(condition: Callable[[], object], timeout_s: float = 5.0) -> float:
    begun = time.monotonic()
    while not condition():
        assert time.monotonic() - begun < timeout_s, "it did not happen"
        time.sleep(0.01)
    return time.monotonic() - begun


@pytest.fixture
def folder(tmp_path) -> PictureFolder:
    return PictureFolder(tmp_path / "pictures")


@pytest.fixture
def watched(folder):
    """A set of a good camera and one that the test breaks."""
    front = CameraSettings(f"folder:{folder.path}", 64, 48, fps=30)
    with CameraSet({"front": front, "wrist": generated()}) as cameras:
        yield cameras


def test_the_newest_image_of_each_with_its_time():
    with CameraSet({"front": generated(width=64, height=48), "wrist": generated("32x24", 15)}) as cameras:
        assert cameras.names == ("front", "wrist")
        before = cameras.newest()
        time.sleep(0.3)
        images = cameras.newest()
        now_ns = time.monotonic_ns()
    assert images["front"].pixels.shape == (48, 64, 3)
    assert images["wrist"].pixels.shape == (24, 32, 3)
    assert images["front"].pixels.dtype == np.uint8
    for name, image in images.items():
        assert image.sequence > before[name].sequence
        assert before[name].taken_ns < image.taken_ns < now_ns
        assert now_ns - image.taken_ns < 0.2e9


def test_health_says_what_was_measured():
    with CameraSet({"front": generated(), "wrist": generated(rate=10)}) as cameras:
        time.sleep(1.5)
        health = cameras.health()
    assert health["front"].rate_hz == pytest.approx(30, rel=0.2)
    assert health["wrist"].rate_hz == pytest.approx(10, rel=0.2)
    assert (health["front"].width, health["front"].height, health["front"].format) == (64, 48, "yuv420p")
    assert health["front"].time_source == "arrival"
    assert (health["front"].openings, health["front"].dropped, health["front"].fault) == (1, 0, None)
    assert health["front"].age_s is not None
    assert health["front"].age_s < 0.2


def test_skew_is_measured_and_limited():
    with CameraSet({"front": generated(), "wrist": generated(rate=7)}) as cameras:
        assert cameras.max_skew_s == pytest.approx(2 / 7)  # two periods of the slower
        found = skew_s(cameras.newest())
        assert 0 < found < 1 / 7 + 0.1
    with CameraSet({"front": generated(), "wrist": generated(rate=7)}, max_skew_s=0.05) as cameras:

        def refusal() -> str:
            try:
                cameras.newest()
            except CameraError as error:
                return str(error)
            return ""

        message = r"camera wrist was taken \d+ ms before camera front, expected at most 50 ms"
        wait_until(lambda: re.match(message, refusal()))


def test_an_image_that_is_too_old_is_refused(watched):
    with pytest.raises(CameraError, match=r"camera wrist: its newest image is 0\.0\d+ s old, expected at most 1e-06 s"):
        watched.newest(max_age_s=1e-6)
    assert watched.newest().keys() == {"front", "wrist"}


@pytest.mark.parametrize(
    ("kind", "broken", "message"),
    [
        ("frozen", [noise(1)], "its images repeat, pixel for pixel"),
        ("black", [np.full((48, 64, 3), level, np.uint8) for level in (3, 4)], "its images are black"),
        ("covered", [np.full((48, 64, 3), (90, 30, 20 + k), np.uint8) for k in (0, 1)], "almost of one colour"),
        ("size", [noise(k, 48, 64) for k in range(4)], "its images are 48x64, expected 64x48"),
    ],
)
def test_a_fault_is_noticed_by_name_within_a_second_and_ends_by_itself(folder, watched, kind, broken, message):
    folder.show(broken)
    assert wait_until(lambda: "front" in watched.faults()) < NOTICED_S
    fault = watched.faults()["front"]
    assert fault.kind == kind
    assert message in fault.message
    assert time.monotonic_ns() - fault.since_ns < 2e9
    with pytest.raises(CameraError, match=rf"camera front is not usable since \d+\.\d s \({kind}\): .*{message}"):
        watched.newest()
    folder.show_noise()
    wait_until(lambda: not watched.faults())
    assert watched.newest().keys() == {"front", "wrist"}
    assert watched.health()["front"].openings == 1


def test_a_single_image_of_another_size_is_never_given_out(folder):
    folder.show([noise(k) for k in range(6)] + [noise(9, 32, 24)])
    with CameraSet({"front": CameraSettings(f"folder:{folder.path}", fps=60)}) as cameras:
        for _ in range(400):
            assert cameras.newest()["front"].pixels.shape == (48, 64, 3)
            time.sleep(0.002)
        assert cameras.faults() == {}


def test_another_format_is_noticed(folder, watched):
    folder.show([noise(k) for k in range(8)], suffix=".jpg")
    assert wait_until(lambda: "front" in watched.faults()) < NOTICED_S
    assert watched.faults()["front"].message == "its images came as JPEG RGB, expected PNG RGB as before"


def test_images_that_cannot_be_decoded_are_noticed_and_counted(folder, watched):
    whole = (folder.path / "000.png").read_bytes()
    folder.write(whole[: len(whole) // 2])
    assert wait_until(lambda: "front" in watched.faults()) < NOTICED_S
    assert watched.faults()["front"].kind == "damaged"
    assert watched.health()["front"].dropped >= 3


def test_an_unplugged_camera_is_noticed_and_opened_again_when_it_is_back(folder, watched):
    folder.take_away()
    assert wait_until(lambda: "front" in watched.faults()) < NOTICED_S
    fault = watched.faults()["front"]
    assert fault.kind == "unplugged"
    assert "holds no image any more" in fault.message
    time.sleep(1.0)
    assert watched.faults()["front"].since_ns == fault.since_ns  # attempts to open it do not begin a new fault
    folder.bring_back()
    wait_until(lambda: not watched.faults())
    assert watched.health()["front"].openings == 2
    assert watched.newest()["front"].pixels.shape == (48, 64, 3)


def test_a_still_scene_is_no_fault_where_images_may_repeat(folder):
    folder.show([noise(1)])
    with CameraSet({"front": CameraSettings(f"folder:{folder.path}", fps=30, may_repeat=True)}) as cameras:
        time.sleep(0.5)
        assert cameras.faults() == {}


def test_the_first_images_are_dropped_where_that_is_asked_for():
    with CameraSet({"front": generated(discard_first=20)}) as cameras:
        health = cameras.health()["front"]
        assert health.opened_ns is not None
        assert cameras.newest()["front"].taken_ns - health.opened_ns > 19 / 30 * 1e9 * 0.9


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("file:/nowhere.mp4", r"camera wrist: there is no video file /nowhere.mp4"),
        ("folder:/nowhere", r"camera wrist: /nowhere holds no image, expected a folder with .png"),
        ("lavfi:nosuchfilter", r"camera wrist: lavfi:nosuchfilter cannot be opened"),
        ("lavfi:color=black:size=64x48:rate=30", r"camera wrist: no image that can be used in time: .* are black"),
        ("lavfi:testsrc=size=65x48:rate=30", r"camera wrist: no image that can be used .* 65x48, expected 64x48"),
        ("v4l2:/dev/v4l/by-path/none-video-index0", r"camera wrist: there is no camera /dev/v4l/by-path/none"),
    ],
)
def test_a_camera_that_cannot_be_opened_is_named_and_nothing_stays_open(source, message):
    with pytest.raises(CameraError, match=message):
        CameraSet({"front": generated(), "wrist": CameraSettings(source, 64, 48)}, open_timeout_s=1).__enter__()
    assert not [thread.name for thread in threading.enumerate() if thread.name.startswith("camera ")]


def test_every_camera_that_cannot_be_opened_is_named():
    absent = {name: CameraSettings(f"file:/{name}.mp4") for name in ("front", "wrist")}
    with pytest.raises(CameraError, match=r"camera front: .*\ncamera wrist: "):
        CameraSet(absent).__enter__()


def test_without_any_camera_or_before_it_is_entered():
    with pytest.raises(ConfigError, match="no camera has a source"):
        CameraSet({})
    with pytest.raises(CameraError, match="the cameras are not open"):
        CameraSet({"front": generated()}).newest()
