"""Resize with padding and scaling, against openpi's own output."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from processing_builders import DATA

from pi0_edge.errors import ObservationError
from pi0_edge.processing.images import frames_of_one_size, resize_with_pad, to_unit_range


def random_image(height, width):
    """Never black, so that padding differs from the image."""
    rows, columns = np.mgrid[0:height, 0:width]
    return np.stack((50 + rows % 200, 50 + columns % 200, np.full_like(rows, 99)), axis=-1).astype(np.uint8)


def test_golden_resize_bit_for_bit():
    image = np.asarray(Image.open(DATA / "preproc" / "in_480x640.png").convert("RGB"))
    expected = np.load(DATA / "preproc" / "pil_224.npy")
    assert image.shape == (480, 640, 3)
    np.testing.assert_array_equal(resize_with_pad(image, 224), expected)


def test_an_image_of_the_right_size_is_unchanged():
    image = random_image(224, 224)
    np.testing.assert_array_equal(resize_with_pad(image, 224), image)


@settings(max_examples=40, deadline=None)
@given(height=st.integers(8, 400), width=st.integers(8, 400), size=st.sampled_from([56, 112, 224]))
def test_aspect_is_kept_and_the_rest_is_black(height, width, size):
    resized = resize_with_pad(random_image(height, width), size)
    assert resized.shape == (size, size, 3) and resized.dtype == np.uint8
    if (height, width) == (size, size):
        return
    ratio = max(width / size, height / size)
    rows, columns = resized.max(axis=(1, 2)) > 0, resized.max(axis=(0, 2)) > 0
    assert (rows.sum(), columns.sum()) == (int(height / ratio), int(width / ratio))
    for filled in (rows, columns):
        before, after = np.argmax(filled), np.argmax(np.flip(filled))
        assert after - before in (0, 1), "the odd pixel of padding is at the bottom or right"


def test_an_image_too_narrow_to_resize_is_refused():
    with pytest.raises(ObservationError, match=r"3x2000 pixels has no pixel left .* 224x224"):
        resize_with_pad(np.zeros((3, 2000, 3), np.uint8), 224)


def test_frames_of_one_size_stay_as_they_are_and_others_are_fitted():
    small, large, upright = random_image(48, 64), random_image(96, 128), random_image(64, 48)
    np.testing.assert_array_equal(frames_of_one_size([small, small], 56), np.stack([small, small]))
    fitted = frames_of_one_size([small, large, upright], 56)
    np.testing.assert_array_equal(fitted, np.stack([resize_with_pad(frame, 56) for frame in (small, large, upright)]))


@pytest.mark.parametrize(
    "frames", [[np.zeros((3, 2000, 3), np.uint8)], [np.zeros((3, 2000, 3), np.uint8), random_image(9, 9)]]
)
def test_an_image_too_narrow_to_resize_is_refused_as_a_frame_too(frames):
    with pytest.raises(ObservationError, match=r"3x2000 pixels has no pixel left .* 224x224"):
        frames_of_one_size(frames, 224)


def test_unit_range_is_openpis_arithmetic():
    every_value = np.arange(256, dtype=np.uint8).repeat(3).reshape(16, 16, 3)
    scaled = to_unit_range(every_value)
    expected = every_value.astype(np.float32) / 255.0 * 2.0 - 1.0
    assert scaled.shape == (3, 16, 16) and scaled.dtype == np.float32
    np.testing.assert_array_equal(scaled, expected.transpose(2, 0, 1))
    assert scaled.min() == -1.0 and scaled.max() == 1.0
