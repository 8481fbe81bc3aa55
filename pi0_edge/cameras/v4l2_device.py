"""V4L2 devices: which cameras are there, by which stable names, and what each offers.

A number such as /dev/video2 depends on the order in which cameras were found. udev gives two names that do not:

| folder             | a name is made of           | it stays when               | but                                |
|--------------------|-----------------------------|-----------------------------|------------------------------------|
| `/dev/v4l/by-path` | the port                    | another camera is put there | changes with the port              |
| `/dev/v4l/by-id`   | maker, model, serial number | the camera goes elsewhere   | equal for cameras without a serial |

One camera has several devices; pictures come from the one whose names end in `-video-index0`.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from pi0_edge.cameras import v4l2_interface as v4l2
from pi0_edge.errors import CameraError

STABLE_FOLDERS = (Path("/dev/v4l/by-path"), Path("/dev/v4l/by-id"))
PICTURES = "-video-index0"

_MOST_ENTRIES = 256
T = TypeVar("T", v4l2.FormatDescription, v4l2.FrameSize, v4l2.FrameInterval)


@dataclass(frozen=True)
class OfferedFormat:
    """A pixel format in one size.

    Attributes:
        format: Four characters, such as MJPG.
        width: Pixels.
        height: Pixels.
        rates: Images per second, the fastest first; empty where the driver names none.
    """

    format: str
    width: int
    height: int
    rates: tuple[float, ...]


@dataclass(frozen=True)
class V4l2Camera:
    """A camera that is there.

    Attributes:
        names: Its stable names, the one of its port first; its number where udev gives none.
        card: What it calls itself.
        bus: Where it is connected.
        formats: What it offers.
        refusal: Why it cannot be asked, or None.
    """

    names: tuple[str, ...]
    card: str
    bus: str
    formats: tuple[OfferedFormat, ...]
    refusal: str | None = None


def list_v4l2_cameras() -> list[V4l2Camera]:
    """The cameras of this machine, in the order of their names; empty where there are none."""
    found = []
    for number, names in _names_by_number().items():
        if names and not any(name.endswith(PICTURES) for name in names):
            continue
        shown = tuple(names) or (number,)
        try:
            with open_device(number) as file:
                described = capability(file)
                if described.device_caps & v4l2.CAP_VIDEO_CAPTURE:
                    card, bus = (bytes(text).decode(errors="replace") for text in (described.card, described.bus_info))
                    found.append(V4l2Camera(shown, card, bus, tuple(offered_formats(file))))
        except CameraError as error:
            found.append(V4l2Camera(shown, "", "", (), str(error)))
    return sorted(found, key=lambda camera: camera.names)


def stable_names(path: str) -> list[str]:
    """The stable names of the device that `path` means; its port first."""
    return _names_by_number().get(os.path.realpath(path), [])


@contextmanager
def open_device(path: str) -> Iterator[int]:
    """The file of a device, closed at the end.

    Raises:
        CameraError: If it cannot be opened.
    """
    try:
        file = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise CameraError(_why_not_open(path, error)) from error
    try:
        yield file
    finally:
        os.close(file)


def capability(file: int) -> v4l2.Capability:
    """What a device is; `device_caps` is of this device, not of all of the same camera.

    Raises:
        CameraError: If it is no V4L2 device.
    """
    found = v4l2.Capability()
    try:
        v4l2.ioctl(file, v4l2.QUERYCAP, found)
    except OSError as error:
        raise CameraError(f"it is no V4L2 device ({os.strerror(error.errno or 0)})") from error
    if not found.capabilities & v4l2.CAP_DEVICE_CAPS:
        found.device_caps = found.capabilities
    return found


def offered_formats(file: int) -> Iterator[OfferedFormat]:
    """What a device offers, in its own order; of a range of sizes the smallest and the largest."""
    for entry in _enumerate(file, v4l2.ENUM_FMT, lambda: v4l2.FormatDescription(type=v4l2.BUF_TYPE_VIDEO_CAPTURE)):
        for width, height in _sizes(file, entry.pixelformat):
            rates = tuple(_rates(file, entry.pixelformat, width, height))
            yield OfferedFormat(v4l2.fourcc(entry.pixelformat), width, height, rates)


def controls(file: int) -> dict[str, v4l2.ControlDescription]:
    """The controls of a device by the names that `v4l2-ctl -l` shows."""
    found = {}
    described = v4l2.ControlDescription(id=v4l2.CTRL_FLAG_NEXT_CTRL)
    while True:
        try:
            v4l2.ioctl(file, v4l2.QUERYCTRL, described)
        except OSError:
            return found
        if not described.flags & v4l2.CTRL_FLAG_DISABLED and described.type != v4l2.CTRL_TYPE_CLASS:
            found[control_name(described.name.decode(errors="replace"))] = described
        described = v4l2.ControlDescription(id=described.id | v4l2.CTRL_FLAG_NEXT_CTRL)


def control_name(title: str) -> str:
    """The name that `v4l2-ctl` makes of a title: "White Balance, Automatic" is white_balance_automatic."""
    return re.sub(r"[^a-z0-9]+", "_", title.lower()).strip("_")


def _names_by_number() -> dict[str, list[str]]:
    """Stable names by /dev/videoN; N without a stable name is there with none."""
    found: dict[str, list[str]] = {str(path): [] for path in sorted(Path("/dev").glob("video[0-9]*"))}
    for folder in STABLE_FOLDERS:
        for link in sorted(folder.glob("*")) if folder.is_dir() else ():
            found.setdefault(os.path.realpath(link), []).append(str(link))
    return found


def _sizes(file: int, pixel_format: int) -> Iterator[tuple[int, int]]:
    for entry in _enumerate(file, v4l2.ENUM_FRAMESIZES, lambda: v4l2.FrameSize(pixel_format=pixel_format)):
        if entry.type == v4l2.FRMSIZE_DISCRETE:
            yield entry.values[0], entry.values[1]
        else:
            least_width, most_width, _, least_height, most_height, _ = entry.values
            yield from ((least_width, least_height), (most_width, most_height))
            return


def _rates(file: int, pixel_format: int, width: int, height: int) -> Iterator[float]:
    def asked() -> v4l2.FrameInterval:
        return v4l2.FrameInterval(pixel_format=pixel_format, width=width, height=height)

    for entry in _enumerate(file, v4l2.ENUM_FRAMEINTERVALS, asked):
        discrete = entry.type == v4l2.FRMIVAL_DISCRETE
        intervals = [entry.values[:2]] if discrete else [entry.values[:2], entry.values[2:4]]  # shortest, longest
        yield from (denominator / numerator for numerator, denominator in intervals if numerator)
        if not discrete:
            return


def _enumerate(file: int, request: int, make: Callable[[], T]) -> Iterator[T]:
    """Asks for entry 0, 1, 2 … until the driver has no more; some drivers never say so."""
    for index in range(_MOST_ENTRIES):
        entry = make()
        entry.index = index
        try:
            v4l2.ioctl(file, request, entry)
        except OSError:
            return
        yield entry


def _why_not_open(path: str, error: OSError) -> str:
    match error.errno:
        case errno.ENOENT | errno.ENODEV | errno.ENXIO:
            there = [camera for names in _names_by_number().values() for camera in names if camera.endswith(PICTURES)]
            return f"there is no camera {path}; is it plugged in? Cameras here: {', '.join(there) or 'none'}"
        case errno.EACCES | errno.EPERM:
            return f"no permission for {path}: sudo usermod -aG video $USER, then log out and in again"
        case errno.EBUSY:
            return f"{path} is in use by another program; `fuser -v {path}` shows which"
    return f"{path} cannot be opened: {os.strerror(error.errno or 0)}"
