"""Pixels from ROS images: every encoding, padded rows, JPEG and PNG, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pi0_edge_ros.images import read_compressed_image, read_image
from ros_messages import CompressedImage, Image, compressed, raw_image

from pi0_edge.errors import ObservationError

ENCODINGS = ("rgb8", "bgr8", "rgba8", "bgra8")


def picture(height: int = 24, width: int = 32, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def smooth() -> np.ndarray:
    rows, columns = np.mgrid[0:48, 0:64]
    return np.stack([rows * 5, columns * 3, (rows + columns) * 2], axis=2).astype(np.uint8)


@given(st.integers(1, 9), st.integers(1, 9), st.sampled_from(ENCODINGS), st.integers(0, 5), st.integers(0, 99))
def test_every_encoding_and_every_step_gives_the_same_pixels(height, width, encoding, padding, seed):
    pixels = picture(height, width, seed)
    read = read_image(raw_image(pixels, encoding=encoding, padding=padding))
    np.testing.assert_array_equal(read, pixels)
    assert read.flags.c_contiguous


def test_a_copy_is_made_so_that_a_reused_buffer_does_no_harm():
    message = raw_image(picture())
    read = read_image(message)
    kept = read.copy()
    message.data[0] ^= 255  # pyright: ignore[reportIndexIssue]
    np.testing.assert_array_equal(read, kept)


@pytest.mark.parametrize(
    ("message", "said"),
    [
        (Image(2, 2, "mono8", 2, bytes(4)), "encoding 'mono8'"),
        (Image(2, 2, "16UC1", 4, bytes(8)), "encoding '16UC1'"),
        (Image(2, 2, "yuv422", 4, bytes(8)), "let the driver or image_proc convert it"),
        (Image(2, 2, "rgb8", 5, bytes(10)), "expected a step of at least 6"),
        (Image(2, 2, "rgb8", 6, bytes(11)), "11 bytes, expected 12"),
        (Image(2, 2, "rgb8", 6, bytes(13)), "13 bytes, expected 12"),
        (Image(0, 2, "rgb8", 6, b""), "height 0"),
        (Image(2, 0, "rgb8", 6, bytes(12)), "width 0"),
        (Image(2**31, 2**31, "rgb8", 3 * 2**31, b""), "scale it down"),
    ],
)
def test_an_image_that_is_not_as_it_says_is_refused_in_words(message, said):
    with pytest.raises(ObservationError, match=said):
        read_image(message)


@pytest.mark.parametrize("format_", ["png", "rgb8; png compressed bgr8", "bgr8; png compressed bgr8", ""])
@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_a_png_gives_its_own_colours_whatever_the_format_says(format_, mode):
    pixels = picture()
    np.testing.assert_array_equal(
        read_compressed_image(CompressedImage(format_, compressed(pixels, "PNG", mode))), pixels
    )


@pytest.mark.parametrize("format_", ["jpeg", "rgb8; jpeg compressed bgr8", "bgr8; jpeg compressed bgr8"])
def test_a_jpeg_is_red_where_the_camera_saw_red(format_):
    pixels = smooth()
    read = read_compressed_image(CompressedImage(format_, compressed(pixels, "JPEG", quality=95)))
    assert np.abs(read.astype(int) - pixels).mean() < 5


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "neither JPEG nor PNG"),
        (b"GIF89a" + bytes(50), "neither JPEG nor PNG"),
        (compressed(picture(), "PNG")[:40], "PNG that cannot be decoded"),
        (compressed(picture(), "JPEG")[:300], "JPEG"),
        (b"\xff\xd8" + bytes(50), "no JPEG"),
        (compressed(picture(), "PNG", "L"), "mode L"),
        (compressed(picture(), "PNG", "P"), "mode P"),
        (compressed(picture(), "JPEG", "L"), "1 components"),
        (compressed(picture(), "JPEG", progressive=True), "progressive"),
    ],
)
def test_a_compressed_image_that_cannot_be_used_is_refused_in_words(content, said):
    with pytest.raises(ObservationError, match=said):
        read_compressed_image(CompressedImage("jpeg", content))


def test_a_small_file_that_unfolds_to_gigabytes_is_refused_before_it_is_unfolded():
    content = bytearray(compressed(np.zeros((8, 8, 3), np.uint8), "PNG"))
    content[16:24] = (60000).to_bytes(4, "big") * 2
    with pytest.raises(ObservationError):
        read_compressed_image(CompressedImage("png", bytes(content)))


def test_depth_is_no_picture():
    with pytest.raises(ObservationError, match="no depth"):
        read_compressed_image(CompressedImage("16UC1; compressedDepth png", compressed(picture(), "PNG")))


@given(st.binary(max_size=200), st.sampled_from([b"", b"\xff\xd8", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xc0"]))
def test_no_bytes_do_more_than_be_refused(content, begin):
    with pytest.raises(ObservationError):
        read_compressed_image(CompressedImage("jpeg", begin + content))
