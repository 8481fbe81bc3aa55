"""Camera images in 8 x 8 cells: what makes two of them alike, and what a changed camera would do to them.

An image is kept as a thumbnail of 32 x 32 pixels. Compared are, over 8 x 8 cells of it:

* the luminance, less its mean and divided by its standard deviation: it finds flips, turns and other cameras, and does
  not change with exposure and contrast;
* the chromaticity, how far the shares of red and blue in the sum of all three colours are from a third, less its mean:
  it finds exchanged colours, and does not change with the white balance.

A difference of `LUMINANCE_SCALE` in the one counts as much as `CHROMATICITY_SCALE` in the other, both root mean square.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image

SIDE = 32
CELLS = 8
LUMINANCE_SCALE = 0.25
CHROMATICITY_SCALE = 0.015

_LUMINANCE = np.array([0.299, 0.587, 0.114], np.float32)
"""Weights of ITU-R BT.601."""
_LEAST_CONTRAST = 4.0
"""Levels of 255: an image with less contrast is empty, and its noise is not amplified."""
_DARK = 24.0
"""Added to the sum of the colours, levels: the colour of a dark cell is noise, and counts as grey."""
_SAMPLES = 4 * SIDE
"""Pixels along the shorter side of an image that a thumbnail is made from."""

Thumbnails = NDArray[np.uint8]
"""uint8 [n, 32, 32, 3], RGB."""

Features = NDArray[np.float32]
"""float32 [n, 192]: luminance and chromaticity of all cells; distances are Euclidean."""


def thumbnail(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """An image, uint8 [height, width, 3], in 32 x 32 pixels whatever its shape is."""
    step = max(1, min(pixels.shape[:2]) // _SAMPLES)
    few = np.ascontiguousarray(pixels[step // 2 :: step, step // 2 :: step])
    return np.asarray(Image.fromarray(few).resize((SIDE, SIDE), Image.Resampling.BOX))


def features(thumbnails: Thumbnails, zoom: float = 1.0) -> Features:
    """What is compared of thumbnails, of which only the middle 1/`zoom` is taken."""
    weights = _cells(zoom)
    rows = weights @ thumbnails.astype(np.float32).reshape(-1, SIDE, SIDE * 3)
    cells = weights @ rows.reshape(-1, CELLS, SIDE, 3)
    luminance = cells @ _LUMINANCE
    spread = luminance.std(axis=(1, 2), keepdims=True)
    standardised = (luminance - luminance.mean(axis=(1, 2), keepdims=True)) / np.maximum(spread, _LEAST_CONTRAST)
    total = cells.sum(axis=-1, keepdims=True)
    chromaticity = (cells[..., ::2] - total / 3) / (total + _DARK)
    chromaticity -= chromaticity.mean(axis=(1, 2), keepdims=True)
    parts = (
        standardised.reshape(len(cells), -1) / (LUMINANCE_SCALE * CELLS),
        chromaticity.reshape(len(cells), -1) / (CHROMATICITY_SCALE * CELLS * 2**0.5),
    )
    return np.concatenate(parts, axis=1).astype(np.float32)


def distances(found: Features, examples: Features) -> NDArray[np.float64]:
    """From each of `found` to the nearest of the examples, float64 [n]."""
    squared = (found**2).sum(1)[:, None] + (examples**2).sum(1)[None] - 2 * found @ examples.T
    return np.sqrt(np.maximum(squared, 0.0).min(axis=1).astype(np.float64))


@dataclass(frozen=True)
class CameraChange:
    """What may have happened to a camera.

    Attributes:
        rule: Of the mismatch guard that it breaks.
        words: What a person would say of the image.
        undo: Gives thumbnails as they were before.
        live_zoom: How much of the live image to cut off, where it shows more than in training.
        trained_zoom: How much of the examples to cut off, where it shows less.
    """

    rule: str
    words: str
    undo: Callable[[Thumbnails], Thumbnails] = lambda images: images
    live_zoom: float = 1.0
    trained_zoom: float = 1.0


ZOOMS = (1.25, 1.5, 2.0)

CAMERA_CHANGES: dict[str, CameraChange] = {
    "mirrored": CameraChange("camera-mirrored", "it is mirrored left to right", lambda x: x[:, :, ::-1]),
    "flipped": CameraChange("camera-turned", "it is flipped top to bottom", lambda x: x[:, ::-1]),
    "upside down": CameraChange("camera-turned", "it is upside down", lambda x: x[:, ::-1, ::-1]),
    "turned left": CameraChange("camera-turned", "it is turned to the left", lambda x: np.rot90(x, -1, (1, 2))),
    "turned right": CameraChange("camera-turned", "it is turned to the right", lambda x: np.rot90(x, 1, (1, 2))),
    "bgr": CameraChange("camera-colours", "red and blue are exchanged (BGR for RGB)", lambda x: x[..., ::-1]),
    **{
        f"narrower {zoom:g}": CameraChange("camera-zoom", f"it shows 1/{zoom:g} of the width", trained_zoom=zoom)
        for zoom in ZOOMS
    },
    **{
        f"wider {zoom:g}": CameraChange("camera-zoom", f"it shows {zoom:g} times the width", live_zoom=zoom)
        for zoom in ZOOMS
    },
}

OTHER_CAMERA = "camera "
"""Begins the name of the alternative that an image is another camera's, before the name of that camera."""


class ExamplesOfCamera:
    """Examples of one camera, ready to be compared with live images."""

    def __init__(self, thumbnails: Thumbnails) -> None:
        self._features = {zoom: features(thumbnails, zoom) for zoom in (1.0, *ZOOMS)}

    def distances(self, found: Thumbnails, change: CameraChange | None = None) -> NDArray[np.float64]:
        """From each image to the nearest example, as they are or with a change undone; float64 [n]."""
        if change is None:
            return distances(features(found), self._features[1.0])
        return distances(features(change.undo(found), change.live_zoom), self._features[change.trained_zoom])


def alternatives(
    camera: str, found: Thumbnails, examples: Mapping[str, ExamplesOfCamera]
) -> dict[str, NDArray[np.float64]]:
    """Distances of a camera's images from the nearest example by alternative, each float64 [n].

    Args:
        camera: Whose images they are.
        found: The images.
        examples: Of every camera.
    """
    of_changes = {name: examples[camera].distances(found, change) for name, change in CAMERA_CHANGES.items()}
    others = {f"{OTHER_CAMERA}{other}": found_in for other, found_in in examples.items() if other != camera}
    return of_changes | {name: found_in.distances(found) for name, found_in in others.items()}


@cache
def _cells(zoom: float) -> NDArray[np.float32]:
    """Weights [8, 32] that average the middle 1/`zoom` of 32 pixels over 8 cells."""
    first, width = SIDE / 2 * (1 - 1 / zoom), SIDE / zoom / CELLS
    edges = first + width * np.arange(CELLS + 1)
    pixels = np.arange(SIDE)
    covered = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
    return (np.maximum(covered, 0.0) / width).astype(np.float32)
