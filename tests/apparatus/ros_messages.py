"""Messages of ROS 2 by their fields, where there is no ROS, and what makes them."""

from __future__ import annotations

import array
import io
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow

NANOSECONDS = 1_000_000_000


@dataclass
class Time:
    """`builtin_interfaces/Time` and `Duration`."""

    sec: int = 0
    nanosec: int = 0


@dataclass
class Header:
    stamp: Time = field(default_factory=Time)


@dataclass
class Image:
    height: int
    width: int
    encoding: str
    step: int
    data: array.array[int] | bytes
    is_bigendian: int = 0
    header: Header = field(default_factory=Header)


@dataclass
class CompressedImage:
    format: str
    data: array.array[int] | bytes
    header: Header = field(default_factory=Header)


@dataclass
class JointState:
    name: list[str]
    position: list[float]
    header: Header = field(default_factory=Header)


@dataclass
class JointTrajectoryPoint:
    positions: list[float] = field(default_factory=list)
    time_from_start: Time = field(default_factory=Time)


@dataclass
class JointTrajectory:
    header: Header = field(default_factory=Header)
    joint_names: list[str] = field(default_factory=list)
    points: list[JointTrajectoryPoint] = field(default_factory=list)


def header(time_ns: int) -> Header:
    return Header(Time(*divmod(time_ns, NANOSECONDS)))


def raw_image(pixels: NDArray[np.uint8], time_ns: int = 1, encoding: str = "rgb8", padding: int = 0) -> Image:
    """An image as a driver sends it; a fourth channel is 7, and padding is 9."""
    stored = pixels if encoding.startswith("rgb") else pixels[:, :, ::-1]
    height, width = pixels.shape[:2]
    if encoding.endswith("a8"):
        stored = np.concatenate([stored, np.full((height, width, 1), 7, np.uint8)], axis=2)
    rows = stored.reshape(height, -1)
    rows = np.concatenate([rows, np.full((height, padding), 9, np.uint8)], axis=1)
    return Image(height, width, encoding, rows.shape[1], array.array("B", rows.tobytes()), 0, header(time_ns))


def compressed(pixels: NDArray[np.uint8], kind: str, mode: str = "RGB", **options: object) -> bytes:
    content = io.BytesIO()
    Pillow.fromarray(pixels).convert(mode).save(content, format=kind, **options)
    return content.getvalue()
