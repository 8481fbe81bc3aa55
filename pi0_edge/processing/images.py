"""Images to network input: resize with padding on uint8, then [-1, 1].

By default bit for bit what openpi's policy path does: Pillow's antialiased bilinear filter on 8-bit values, then black
beside the image. LeRobot scales floats with torch's bilinear filter, not antialiased, which differs by up to 0.35 in
[-1, 1] on a 640x480 image, and its 0.4 put -3 beside it: `network_image` does either, as the policy was trained.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from pi0_edge.errors import ObservationError
from pi0_edge.processing.settings import ProcessingSettings, ResizeFilter


def resize_with_pad(image: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """Scales an image to fit a square, keeping its aspect ratio, and centres it on black.

    Sides are truncated to whole pixels; an odd pixel of padding goes to the bottom or right.

    Args:
        image: uint8 [height, width, 3], RGB.
        size: Side of the square in pixels.

    Returns:
        uint8 [size, size, 3]; the image itself where it already has that size.

    Raises:
        ObservationError: If the image is so narrow that less than a pixel of it would remain.
    """
    height, width = image.shape[:2]
    if (height, width) == (size, size):
        return image
    new_height, new_width = _fitted(height, width, size)
    resized = Image.fromarray(image).resize((new_width, new_height), resample=Image.Resampling.BILINEAR)
    padded = np.zeros((size, size, 3), np.uint8)
    top, left = (size - new_height) // 2, (size - new_width) // 2
    padded[top : top + new_height, left : left + new_width] = np.asarray(resized)
    return padded


def frames_of_one_size(frames: Sequence[NDArray[np.uint8]], size: int) -> NDArray[np.uint8]:
    """Frames for an engine that scales them itself: as they are where they have one size, else as `resize_with_pad`.

    Args:
        frames: uint8 [height, width, 3] each, at least one.
        size: Side of the square that they will be scaled to.

    Returns:
        uint8 [frames, height, width, 3].

    Raises:
        ObservationError: As `resize_with_pad`.
    """
    height, width = frames[0].shape[:2]
    if any(frame.shape != frames[0].shape for frame in frames):
        return np.stack([resize_with_pad(frame, size) for frame in frames])
    _fitted(height, width, size)
    return np.stack(frames)


def to_unit_range(image: NDArray[np.uint8]) -> NDArray[np.float32]:
    """uint8 [height, width, 3] -> float32 [3, height, width] in [-1, 1]: x / 255 * 2 - 1, rounded as openpi does."""
    scaled = image.astype(np.float32) / np.float32(255) * np.float32(2) - np.float32(1)
    return np.ascontiguousarray(scaled.transpose(2, 0, 1))


def network_image(image: NDArray[np.uint8], size: int, settings: ProcessingSettings) -> NDArray[np.float32]:
    """An image as the network is given it.

    Args:
        image: uint8 [height, width, 3], RGB.
        size: Side of the network's images in pixels.
        settings: Which filter scales it, and what is beside it.

    Returns:
        float32 [3, size, size], the image itself in [-1, 1].

    Raises:
        ObservationError: As `resize_with_pad`.
    """
    height, width = image.shape[:2]
    if settings.an_engine_may_scale or (height, width) == (size, size):
        return to_unit_range(resize_with_pad(image, size))
    fitted = _fitted(height, width, size)
    if settings.resize_filter is ResizeFilter.TORCH:
        scaled = _scaled_by_torch(image, *fitted)
    else:
        scaled = to_unit_range(resize_with_pad(image, size))[_inside(*fitted, size)]
    padded = np.full((3, size, size), settings.padding_value, np.float32)
    padded[_inside(*fitted, size)] = scaled
    return padded


def _scaled_by_torch(image: NDArray[np.uint8], height: int, width: int) -> NDArray[np.float32]:
    """LeRobot's: a float image in [0, 1], bilinear, corners not aligned, not antialiased; then to [-1, 1]."""
    unit = torch.from_numpy(image.transpose(2, 0, 1)[None].astype(np.float32) / np.float32(255))
    scaled = torch.nn.functional.interpolate(unit, size=(height, width), mode="bilinear", align_corners=False)
    return (scaled.clamp(-1.0, 1.0) * 2.0 - 1.0)[0].numpy()


def _inside(height: int, width: int, size: int) -> tuple[slice, slice, slice]:
    """Where an image that was scaled to height and width is in its square of [3, size, size]."""
    top, left = (size - height) // 2, (size - width) // 2
    return slice(None), slice(top, top + height), slice(left, left + width)


def _fitted(height: int, width: int, size: int) -> tuple[int, int]:
    """Height and width of an image that is scaled to fit a square."""
    ratio = max(width / size, height / size)
    new_height, new_width = int(height / ratio), int(width / ratio)
    if new_height == 0 or new_width == 0:
        raise ObservationError(
            f"an image of {height}x{width} pixels has no pixel left when scaled to fit {size}x{size}; "
            "expected an aspect ratio that a camera has"
        )
    return new_height, new_width
