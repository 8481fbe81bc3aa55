"""What every kind of camera offers to the thread that reads it.

A source is opened by its constructor, read by one thread, and closed. `read` waits at most `READ_TIMEOUT_S` where the
library below allows it, so that the thread can end. Three things can happen besides a picture:

| what                      | `read`                        | then                                    |
|---------------------------|-------------------------------|-----------------------------------------|
| no image came in time     | returns None                  | it is asked again                       |
| an image came damaged     | raises `DamagedImageError`    | the image is dropped, it is asked again |
| the camera is gone        | raises `LostCameraError`      | it is closed, and opened anew           |
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from pi0_edge.errors import CameraError

READ_TIMEOUT_S = 0.2
"""Longest wait of one `read` for an image."""

TimeSource = Literal["exposure start", "frame end", "pipeline", "device", "arrival"]
"""What `CameraImage.taken_ns` is.

| value            | is                                                                                         |
|------------------|--------------------------------------------------------------------------------------------|
| `exposure start` | when the driver says that exposure began, on the monotonic clock                           |
| `frame end`      | when the driver says that the last line had come, on the monotonic clock                   |
| `pipeline`       | the time that the capturing GStreamer element gave the image, on the monotonic clock       |
| `device`         | the device's own clock, translated to this machine's by its library                        |
| `arrival`        | when the image came here, before it was decoded; exposure and transport lie before it      |
"""


class DamagedImageError(CameraError):
    """An image came incomplete, or could not be decoded."""


class LostCameraError(CameraError):
    """The camera is no longer there, or its stream has ended."""


@dataclass(frozen=True)
class Picture:
    """One image as its source delivers it.

    Attributes:
        pixels: uint8 [height, width, 3], RGB.
        arrived_ns: When it came here, on the clock of `time.monotonic_ns`.
        stamp_ns: What the camera itself says about when it was taken, on the same clock; None where it says nothing.
        number: The camera's own count of its images; None where it does not count.
        format: What it was before it became RGB, such as MJPG or yuv420p.
    """

    pixels: NDArray[np.uint8]
    arrived_ns: int
    stamp_ns: int | None
    number: int | None
    format: str


class Source(ABC):
    """An open camera.

    Attributes:
        time_source: What the time of its images is.
        fps: Images per second that it said it would give; None where it says nothing.
        may_repeat: Whether a still scene can give equal images in a row, as strong compression and rendering do.
        discard_first: Images to drop after opening, while exposure and white balance settle.
    """

    time_source: TimeSource = "arrival"
    fps: float | None = None
    may_repeat: bool = False
    discard_first: int = 0

    @abstractmethod
    def read(self) -> Picture | None:
        """The next image, or None where none came in time.

        Raises:
            DamagedImageError: If this image cannot be used; the next may be.
            LostCameraError: If there will be no more.
        """

    @abstractmethod
    def close(self) -> None:
        """Lets go of the device."""
