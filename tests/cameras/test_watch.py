"""Which images of one camera cannot be used, judged one by one."""

from __future__ import annotations

import numpy as np
import pytest
from picture_sources import noise

from pi0_edge.cameras.source import Picture
from pi0_edge.cameras.watch import ImageWatch, images_until_fault, silence_s

MS = 1_000_000
FPS = 30.0


class Stream:
    """Images to one watch, 33 ms apart."""

    def __init__(self, size=None, fps=FPS, may_repeat=False):
        self.watch, self.fps, self.may_repeat, self.now = ImageWatch(size), fps, may_repeat, 10**9

    def show(self, pixels, stamp_ns=None, kind="MJPG"):
        self.now += int(1e9 / self.fps)
        self.watch.see(Picture(pixels, self.now, stamp_ns, None, kind), self.fps, self.may_repeat)
        return self.watch.fault and self.watch.fault.kind

    def good(self, count):
        return [self.show(noise(self.now + k)) for k in range(count)]


@pytest.mark.parametrize(("fps", "images"), [(60, 3), (30, 3), (6, 3), (5, 2), (4, 2), (2, 1), (1, 1)])
def test_a_fault_needs_as_many_images_as_come_in_half_a_second_at_most_three(fps, images):
    assert images_until_fault(fps) == images


@pytest.mark.parametrize(("fps", "seconds"), [(60, 0.3), (30, 0.3), (10, 0.3), (5, 0.6), (3, 0.8), (2, 0.8), (1, 1.5)])
def test_silence_is_three_periods_within_a_second_where_the_rate_allows_it(fps, seconds):
    assert silence_s(fps) == pytest.approx(seconds)


def test_good_images_have_no_fault():
    assert Stream((64, 48)).good(20) == [None] * 20


@pytest.mark.parametrize(
    ("kind", "pixels"),
    [
        ("black", np.full((48, 64, 3), 10, np.uint8)),
        ("covered", np.full((48, 64, 3), (90, 30, 20), np.uint8)),
        ("size", noise(1, 32, 48)),
    ],
)
def test_three_in_a_row_make_a_fault_and_three_good_ones_end_it(kind, pixels):
    stream = Stream((64, 48))
    stream.good(3)
    first = stream.now + int(1e9 / FPS)
    assert [stream.show(pixels) for _ in range(4)] == [None, None, kind, kind]
    assert stream.watch.fault is not None
    assert stream.watch.fault.since_ns == first
    assert stream.good(4) == [kind, kind, None, None]


def test_one_flash_is_no_fault():
    stream = Stream()
    white = np.full((48, 64, 3), 255, np.uint8)
    for _ in range(5):
        assert stream.good(2) == [None, None]
        assert stream.show(white) is None


def test_black_with_sensor_noise_is_black_and_a_dark_scene_is_not():
    grain = np.random.default_rng(0).normal(0, 3, (480, 640, 3))
    dark = np.clip(grain + 6, 0, 255)
    scene = np.clip(grain + 6, 0, 255)
    scene[200:260, 300:360] += 60  # a lit thing, 1.2 % of the picture
    stream = Stream()
    assert [stream.show((dark + 0.01 * k).astype(np.uint8)) for k in range(3)][-1] == "black"
    stream = Stream()
    assert {stream.show((scene + k % 2).astype(np.uint8)) for k in range(6)} == {None}


def test_equal_bytes_in_three_images_are_a_frozen_camera():
    stream = Stream()
    picture = noise(3)
    assert [stream.show(picture) for _ in range(3)] == [None, None, "frozen"]
    assert stream.good(3)[-1] is None


def test_a_source_whose_images_may_repeat_is_not_frozen():
    stream = Stream(may_repeat=True)
    picture = noise(3)
    assert {stream.show(picture) for _ in range(10)} == {None}


def test_a_time_that_does_not_advance_is_a_frozen_camera():
    stream = Stream()
    shown = [stream.show(noise(k), stamp_ns=5 * MS) for k in range(4)]
    assert shown == [None, None, "frozen", "frozen"]
    assert stream.watch.fault is not None
    assert "does not advance" in stream.watch.fault.message


def test_a_time_a_little_ahead_is_tolerated_and_a_foreign_clock_is_not():
    stream = Stream()
    assert {stream.show(noise(k), stamp_ns=stream.now + 200 * MS) for k in range(5)} == {None}
    assert [stream.show(noise(k), stamp_ns=stream.now + (900 + k) * MS) for k in range(3)][-1] == "clock"


def test_the_first_image_sets_what_nobody_set_and_a_new_opening_does_not():
    stream = Stream()
    stream.good(3)
    stream.watch.opened()
    assert [stream.show(noise(k, 32, 24)) for k in range(3)][-1] == "size"
    assert [stream.show(noise(k), kind="YUYV") for k in range(3)][-1] == "format"


def test_bad_images_of_different_kinds_in_a_row_are_a_fault_too():
    stream = Stream()
    stream.good(1)
    bad = [np.zeros((48, 64, 3), np.uint8), noise(1, 32, 24)] * 2
    assert [stream.show(pixels) for pixels in bad] == [None, None, "black", "size"]


def test_damaged_images_are_a_fault_and_a_lost_camera_is_one_at_once():
    stream = Stream()
    for _ in range(3):
        stream.watch.damaged("no whole JPEG", stream.now, FPS)
    assert stream.watch.fault is not None
    assert stream.watch.fault.kind == "damaged"
    stream.watch.lost("gone", 7)
    stream.watch.lost("still not there", 9)
    assert (stream.watch.fault.kind, stream.watch.fault.since_ns) == ("unplugged", 7)
