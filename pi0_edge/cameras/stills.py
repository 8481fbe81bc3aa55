"""A picture of each camera for people, and what to open where nobody has said it yet."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pi0_edge.cameras.v4l2_device import V4l2Camera
from pi0_edge.cameras.v4l2_pixels import FORMATS
from pi0_edge.errors import MissingDependencyError
from pi0_edge.robots import CameraSettings
from pi0_edge.synced_files import save_synced

USUAL_PIXELS = 640 * 480
"""The size that most datasets were recorded in."""


def usual_settings(camera: V4l2Camera) -> CameraSettings | None:
    """How to open a camera that no file describes: near 640x480 in the first format that can be read; None for none."""
    for code in FORMATS:
        sizes = [(offered.width, offered.height) for offered in camera.formats if offered.format == code]
        if sizes:
            width, height = min(sizes, key=lambda size: abs(size[0] * size[1] - USUAL_PIXELS))
            return CameraSettings(f"v4l2:{camera.names[0]}", width, height, format=code)
    return None


def write_still(pixels: NDArray[np.uint8], path: Path) -> None:
    """Writes a PNG, whole or not at all.

    Args:
        pixels: uint8 [height, width, 3], RGB.
        path: Where.

    Raises:
        MissingDependencyError: If Pillow is not installed.
    """
    try:
        from PIL import Image
    except ImportError as error:
        raise MissingDependencyError(f"stills need Pillow ({error}): pip install 'pi0-edge[cameras]'") from error
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, format="PNG")
    save_synced(path, content.getvalue())
