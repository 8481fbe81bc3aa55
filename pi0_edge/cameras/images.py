"""One image of one camera."""

from __future__ import annotations

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
