"""Notices that the images of one camera cannot be used: repeated, black, covered, of another size, or none at all.

| kind        | when                                                                                              |
|-------------|---------------------------------------------------------------------------------------------------|
| `unplugged` | the device or stream is gone                                                                      |
| `frozen`    | equal pixels in `images_until_fault` images in a row, a time that does not advance, or no image   |
| `black`     | 99 of 100 pixels darker than `BLACK_LEVEL`                                                        |
| `covered`   | grey levels that vary less than `UNIFORM_SPREAD` over the whole image                             |
| `size`      | another width or height than was set, or than the camera had before                               |
| `format`    | another pixel format or codec than the camera had before                                          |
| `damaged`   | images that are incomplete or cannot be decoded                                                   |
| `clock`     | a time that lies more than `FUTURE_S` in the future                                               |

A fault begins with the third image in a row that shows it (sooner at low rates, so that it is noticed within a second)
and ends with as many good ones: a single flash or torn image does not stop a robot, and a loose plug does not start it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from pi0_edge.cameras.source import Picture

FaultKind = Literal["unplugged", "frozen", "black", "covered", "size", "format", "damaged", "clock"]

EVERY = 8
"""Rows and columns between the pixels whose grey levels are judged."""

BLACK_LEVEL = 16
"""Of 255; black of a video that keeps to the studio range."""

UNIFORM_SPREAD = 3.0
"""Standard deviation in levels of 255; a white wall in even light has more, by its corners and by noise."""

FUTURE_S = 0.2
"""Drivers date an image by up to 0.18 s ahead of its arrival (Linux's vivid); more is a clock that is not ours."""

_SILENCE_PERIODS = 3
_SHORTEST_SILENCE_S, _LONGEST_SILENCE_S = 0.3, 0.8


@dataclass(frozen=True)
class CameraFault:
    """Why the images of a camera cannot be used.

    Attributes:
        kind: See the table of this module.
        message: What was found and what was expected.
        since_ns: When it began, on the clock of `time.monotonic_ns`.
    """

    kind: FaultKind
    message: str
    since_ns: int


def images_until_fault(fps: float) -> int:
    """How many images in a row make a fault: 3, or as many as come in half a second."""
    return max(1, min(3, math.floor(fps / 2)))


def silence_s(fps: float) -> float:
    """How long no image may come: three periods, but no less than a busy machine may sleep."""
    return min(max(_SILENCE_PERIODS / fps, _SHORTEST_SILENCE_S), max(_LONGEST_SILENCE_S, 1.5 / fps))


class ImageWatch:
    """Judges each image of one camera after the ones before it; not thread-safe.

    Attributes:
        fault: The present fault, or None.
        format: Of the images so far; None before the first.
    """

    def __init__(self, size: tuple[int, int] | None) -> None:
        """Starts without any image.

        Args:
            size: Width and height that images must have; those of the first image where None.
        """
        self.fault: CameraFault | None = None
        self.format: str | None = None
        self._size = size
        self._bad, self._good = 0, 0  # in a row, up to the newest
        self._bad_since_ns = 0
        self._pixels: NDArray[np.uint8] | None = None
        self._stamp_ns: int | None = None

    def opened(self) -> None:
        """A new opening begins: neither pixels nor time continue the old ones; size and format must."""
        self._pixels = self._stamp_ns = None

    def lost(self, message: str, now_ns: int) -> None:
        """The device is gone."""
        if self.fault is None or self.fault.kind != "unplugged":
            self.fault = CameraFault("unplugged", message, now_ns)
        self._good = 0

    def has_proved_good(self, fps: float) -> bool:
        """Whether as many good images came in a row as it takes to end a fault."""
        return self._good >= images_until_fault(fps)

    def see(self, picture: Picture, fps: float, may_repeat: bool) -> bool:
        """Judges an image that came, and says whether it is good."""
        found = self._mistake(picture, may_repeat)
        self._count(found, picture.arrived_ns, fps)
        return found is None

    def damaged(self, message: str, now_ns: int, fps: float) -> None:
        """An image came that cannot be used."""
        self._count(("damaged", message), now_ns, fps)

    def _count(self, found: tuple[FaultKind, str] | None, now_ns: int, fps: float) -> None:
        if found is None:
            self._bad, self._good = 0, self._good + 1
            if self.has_proved_good(fps):
                self.fault = None
            return
        needed = images_until_fault(fps)
        kind, message = found
        self._bad_since_ns = self._bad_since_ns if self._bad else now_ns
        self._bad, self._good = self._bad + 1, 0
        if self._bad >= (max(1, needed - 1) if kind == "frozen" else needed):  # the second of two equal images is bad
            self.fault = CameraFault(kind, message, self._bad_since_ns)

    def _mistake(self, picture: Picture, may_repeat: bool) -> tuple[FaultKind, str] | None:
        height, width = picture.pixels.shape[:2]
        self._size = self._size or (width, height)
        self.format = self.format or picture.format
        if (width, height) != self._size:
            return "size", f"its images are {width}x{height}, expected {self._size[0]}x{self._size[1]}"
        if picture.format != self.format:
            return "format", f"its images came as {picture.format}, expected {self.format} as before"
        return self._mistake_in_time(picture) or self._mistake_in_content(picture.pixels, may_repeat)

    def _mistake_in_time(self, picture: Picture) -> tuple[FaultKind, str] | None:
        stamp_ns, before_ns = picture.stamp_ns, self._stamp_ns
        self._stamp_ns = stamp_ns
        if stamp_ns is None:
            return None
        ahead_s = (stamp_ns - picture.arrived_ns) / 1e9
        if ahead_s > FUTURE_S:
            return "clock", f"its images are dated {ahead_s:.2f} s after their arrival, expected at most {FUTURE_S} s"
        if before_ns is not None and stamp_ns <= before_ns:
            return "frozen", "the time of its images does not advance"
        return None

    def _mistake_in_content(self, pixels: NDArray[np.uint8], may_repeat: bool) -> tuple[FaultKind, str] | None:
        same = self._pixels is not None and np.array_equal(pixels, self._pixels)
        self._pixels = pixels
        grey = pixels[::EVERY, ::EVERY].astype(np.float32).mean(2)
        if np.percentile(grey, 99) < BLACK_LEVEL:
            return "black", f"its images are black: 99 of 100 pixels are below {BLACK_LEVEL} of 255"
        spread = float(grey.std())
        if spread < UNIFORM_SPREAD:
            return "covered", f"its images are almost of one colour (spread {spread:.1f} of 255); is it covered?"
        if same and not may_repeat:
            return "frozen", "its images repeat, pixel for pixel"
        return None
