"""Video files, GStreamer pipelines and RTSP streams as cameras."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import time
from collections.abc import Callable

import numpy as np
import pytest
from picture_sources import noise, write_video
from PIL import Image
from rtsp_server import SYSTEM_PYTHON, RtspCamera, jpeg_pipeline, require_rtsp_server

from pi0_edge.cameras import CameraSet
from pi0_edge.cameras.image_folder import ImageFolder
from pi0_edge.cameras.played_video import PlayedVideo
from pi0_edge.errors import CameraError, MissingDependencyError
from pi0_edge.robots import CameraSettings

pytestmark = pytest.mark.real_time

LIVE = "videotestsrc is-live=true pattern=snow ! video/x-raw,format=I420,width=66,height=48,framerate=30/1"


def wait_until(condition: Callable[[], object], timeout_s: float = 8.0) -> float:
    begun = time.monotonic()
    while not condition():
        assert time.monotonic() - begun < timeout_s, "it did not happen"
        time.sleep(0.01)
    return time.monotonic() - begun


def next_picture(source):
    while (picture := source.read()) is None:
        pass
    return picture


def test_a_video_file_plays_at_its_rate_and_begins_again(tmp_path):
    pictures = [np.full((48, 64, 3), 30 * k, np.uint8) for k in range(8)]
    path = write_video(tmp_path / "video.mp4", pictures, fps=40)
    source = PlayedVideo(CameraSettings(f"file:{path}"))
    begun = time.monotonic()
    shown = [next_picture(source) for _ in range(20)]
    elapsed = time.monotonic() - begun
    source.close()
    levels = [round(float(picture.pixels.mean()) / 30) for picture in shown]
    assert levels == [k % 8 for k in range(20)]
    assert elapsed == pytest.approx(19 / 40, abs=0.15)
    assert source.fps == 40
    assert source.may_repeat, "H.264 may give a still scene twice"


def test_a_still_video_is_no_frozen_camera(tmp_path):
    path = write_video(tmp_path / "still.mp4", [noise(1)] * 10)
    with CameraSet({"front": CameraSettings(f"file:{path}")}) as cameras:
        time.sleep(0.5)
        assert cameras.faults() == {}
        assert cameras.newest()["front"].pixels.shape == (48, 64, 3)


def test_a_file_that_is_no_video(tmp_path):
    path = tmp_path / "no.mp4"
    path.write_text("not a video")
    with pytest.raises(CameraError, match=r"no\.mp4 cannot be opened"):
        PlayedVideo(CameraSettings(f"file:{path}"))


def test_a_folder_gives_its_images_in_the_order_of_their_names(tmp_path):
    for name, level in (("b.png", 100), ("a.png", 50), ("c.jpg", 150), ("notes.txt", 0)):
        if name == "notes.txt":
            (tmp_path / name).write_text("no image")
        else:
            Image.new("L", (64, 48), level).save(tmp_path / name)
    source = ImageFolder(CameraSettings(f"folder:{tmp_path}", fps=100))
    shown = [next_picture(source) for _ in range(6)]
    assert [round(float(picture.pixels.mean())) for picture in shown] == [50, 100, 150] * 2
    assert shown[0].pixels.shape == (48, 64, 3)


@pytest.fixture
def gstreamer():
    script = 'import gi; gi.require_version("Gst", "1.0"); from gi.repository import Gst; Gst.init(None); '
    script += 'assert Gst.ElementFactory.find("videotestsrc")'
    try:
        tried = subprocess.run([SYSTEM_PYTHON, "-c", script], capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        pytest.skip(f"no GStreamer here ({error})")
    if tried.returncode:
        pytest.skip(f"no GStreamer here ({tried.stderr.strip().splitlines()[-1]})")


def test_a_pipeline_gives_images_with_the_time_of_capture(gstreamer):
    with CameraSet({"front": CameraSettings(f"gstreamer:{LIVE}", 66, 48, fps=30)}) as cameras:
        before_ns = time.monotonic_ns()
        time.sleep(0.4)
        image, health = cameras.newest()["front"], cameras.health()["front"]
    assert image.pixels.shape == (48, 66, 3)  # its lines are padded to 200 bytes in the pipeline
    assert before_ns < image.taken_ns < time.monotonic_ns()
    assert (health.time_source, health.format) == ("pipeline", "I420")
    assert health.rate_hz == pytest.approx(30, rel=0.3)


def test_a_pipeline_whose_process_dies_is_started_again(gstreamer):
    with CameraSet({"front": CameraSettings(f"gstreamer:{LIVE}")}) as cameras:
        child = int(subprocess.check_output(["pgrep", "-P", str(os.getpid()), "-f", "pattern=snow"]).split()[0])
        os.kill(child, signal.SIGKILL)
        assert wait_until(cameras.faults) < 1.0
        assert cameras.faults()["front"].kind == "unplugged"
        wait_until(lambda: not cameras.faults())
        assert cameras.health()["front"].openings == 2


@pytest.mark.parametrize(
    ("pipeline", "message"),
    [
        ("nosuchelement ! identity", r'cannot be built: no element "nosuchelement"'),
        ("videotestsrc", r"it is not live, so its images have no time; for a file use file:PATH"),
        ("filesrc location=/nowhere ! decodebin", r"Could not open|No such file|Resource not found"),
        ("videotestsrc is-live=true num-buffers=0", r"the pipeline has ended|gave no image"),
    ],
)
def test_a_pipeline_that_cannot_run_says_why(gstreamer, pipeline, message):
    with pytest.raises(CameraError, match=rf"camera front: .*({message})"):
        CameraSet({"front": CameraSettings(f"gstreamer:{pipeline}")}).__enter__()


@pytest.fixture
def rtsp():
    with RtspCamera(jpeg_pipeline("snow")) as camera:
        yield camera


def test_a_network_camera_is_read_lost_and_found_again(rtsp):
    settings = CameraSettings(rtsp.url, 320, 240, max_age_s=0.5)
    with CameraSet({"front": settings}) as cameras:
        time.sleep(1.0)
        health = cameras.health()["front"]
        assert cameras.newest()["front"].pixels.shape == (240, 320, 3)
        assert health.time_source == "arrival"
        assert health.rate_hz == pytest.approx(30, rel=0.3)
        rtsp.stop()
        assert wait_until(cameras.faults) < 1.0
        fault = cameras.faults()["front"]
        assert (fault.kind, fault.message) == ("unplugged", f"{rtsp.url} has ended its stream")
        rtsp.start()
        wait_until(lambda: not cameras.faults())
        assert cameras.health()["front"].openings == 2
        rtsp.stop()
        rtsp.pipeline = jpeg_pipeline("snow", width=160, height=120)
        rtsp.start()
        wait_until(lambda: cameras.faults() and cameras.faults()["front"].kind == "size")
        assert "160x120, expected 320x240" in cameras.faults()["front"].message


def test_a_network_camera_that_falls_silent_is_noticed_within_a_second(rtsp):
    with CameraSet({"front": CameraSettings(rtsp.url)}) as cameras:
        os.kill(rtsp.process_id, signal.SIGSTOP)
        try:
            assert wait_until(cameras.faults) < 1.0
            fault = cameras.faults()["front"]
            assert fault.kind == "frozen"
            assert "it has given no image for 0.3" in fault.message
            wait_until(lambda: cameras.faults()["front"].kind == "unplugged", 4.0)
        finally:
            os.kill(rtsp.process_id, signal.SIGCONT)
        wait_until(lambda: not cameras.faults())


def test_a_frozen_network_camera_is_noticed(rtsp):
    rtsp.stop()
    rtsp.pipeline = jpeg_pipeline("smpte75")
    rtsp.start()
    with pytest.raises(CameraError, match="its images repeat, pixel for pixel"):
        CameraSet({"front": CameraSettings(rtsp.url)}, open_timeout_s=2).__enter__()


def test_a_realsense_that_is_not_there_or_lacks_its_library():
    installed = importlib.util.find_spec("pyrealsense2") is not None
    kind = CameraError if installed else MissingDependencyError
    message = "there is no RealSense 123" if installed else r"need pyrealsense2 .*pip install 'pi0-edge\[realsense\]'"
    with pytest.raises(kind, match=f"camera front: .*{message}"):
        CameraSet({"front": CameraSettings("realsense:123")}).__enter__()


def test_a_network_camera_that_is_not_there_is_said_without_its_password():
    require_rtsp_server()
    with pytest.raises(CameraError) as refused:
        CameraSet({"front": CameraSettings("rtsp://admin:secret@127.0.0.1:9/live")}).__enter__()
    assert "camera front: rtsp://admin:***@127.0.0.1:9/live cannot be opened (Connection refused)" in str(refused.value)
    assert "secret" not in str(refused.value)
