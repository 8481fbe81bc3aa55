"""One image of one camera, and how far apart those of several were taken."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class CameraImage:
    """What a camera saw.

    Attributes:
        pixels: uint8 [height, width, 3], RGB.
        taken_ns: When it was taken, on the clock of `time.monotonic_ns`.
        sequence: Number of the image since its camera was opened; a gap means that images were dropped.
    """

    pixels: NDArray[np.uint8]
    taken_ns: int
    sequence: int


def skew_s(images: Mapping[str, CameraImage]) -> float:
    """Seconds between the first and the last taken of several images; 0 for fewer than two."""
    times = [image.taken_ns for image in images.values()]
    return (max(times) - min(times)) / 1e9 if times else 0.0
