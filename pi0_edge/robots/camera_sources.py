"""Where the images of a robot's cameras come from.

The field `camera_sources` of a robot file, or a file of its own with that content, names a source for each camera::

    camera_sources:
      front:
        source: v4l2:/dev/v4l/by-path/platform-3610000.usb-usb-0:2.1:1.0-video-index0
        width: 640                # checked in every image; optional but for v4l2, which is set to it
        height: 480
        fps: 30                   # optional: asked for where the source can choose
        format: MJPG              # optional, v4l2 alone: four characters, as `pi0-edge cameras` shows them
        controls: {auto_exposure: 1, exposure_time_absolute: 157}  # optional, v4l2 alone: set in this order
        max_age_s: 0.2            # optional: older images are refused
        discard_first: 15         # optional: images dropped after opening, while exposure settles
        may_repeat: false         # optional: true where a still scene gives the same bytes again and again
        options: {rtsp_transport: udp}  # optional, rtsp alone: options of FFmpeg
      wrist: {source: "rtsp://10.0.0.7:8554/wrist", width: 640, height: 480}

| source                | delivers                                                                      |
|-----------------------|-------------------------------------------------------------------------------|
| `v4l2:PATH`           | a USB or other V4L2 camera; PATH is a stable name under /dev/v4l               |
| `gstreamer:PIPELINE`  | a GStreamer pipeline up to raw video, such as that of a Jetson's CSI camera    |
| `rtsp://…`, `rtsps://…` | a network camera                                                            |
| `realsense:SERIAL`    | the colour images of a RealSense                                               |
| `file:PATH`           | a video file, at its rate, again from the start at its end                     |
| `folder:PATH`         | the images of a folder in the order of their names, at `fps`, again and again  |
| `lavfi:GRAPH`         | a source of FFmpeg's filters, such as `testsrc=size=640x480:rate=30`           |
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from pi0_edge.errors import ConfigError

SOURCE_KINDS = ("v4l2", "gstreamer", "rtsp", "rtsps", "realsense", "file", "folder", "lavfi")
DEVICE_KINDS = ("v4l2", "gstreamer", "rtsp", "rtsps", "realsense")
"""Sources that are one device: no two cameras can be the same one."""

LARGEST_SIDE = 8192
"""Pixels; more than any camera that a robot carries."""

_V4L2_ALONE = ("format", "controls")


@dataclass(frozen=True)
class CameraSettings:
    """What to open for one camera, and what its images must be; fields as in the YAML above.

    Attributes:
        source: Kind and address.
        width: Pixels; None where any width is taken.
        height: Pixels; None where any height is taken.
        fps: Images per second; None where the source decides.
        format: V4L2 pixel format, four characters; None where the fastest that fits is chosen.
        controls: V4L2 controls by name, set in this order after opening.
        max_age_s: An image that was taken longer ago is refused.
        discard_first: Images dropped after opening; None for the usual number of the kind of source.
        may_repeat: Whether equal images in a row are no fault; None where source and codec decide.
        options: Options of FFmpeg, for rtsp.
    """

    source: str
    width: int | None = None
    height: int | None = None
    fps: float | None = None
    format: str | None = None
    controls: dict[str, int] = field(default_factory=dict)
    max_age_s: float = 0.2
    discard_first: int | None = None
    may_repeat: bool | None = None
    options: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        found = list(self.mistakes())
        if found:
            raise ConfigError("; ".join(found))

    @property
    def kind(self) -> str:
        """One of `SOURCE_KINDS`."""
        return self.source.partition(":")[0]

    @property
    def address(self) -> str:
        """What follows the kind: a path, a pipeline, a serial number, a graph; for rtsp the whole URL."""
        return self.source if self.kind in ("rtsp", "rtsps") else self.source.partition(":")[2].strip()

    @property
    def shown(self) -> str:
        """The source for messages and logs: without the password of a URL."""
        return re.sub(r"(rtsps?://[^:/@]*):[^@/]*@", r"\1:***@", self.source)

    @property
    def device(self) -> str | None:
        """What no other camera can use at the same time, links resolved; None where several can."""
        if self.kind not in DEVICE_KINDS:
            return None
        return os.path.realpath(self.address) if self.kind == "v4l2" else " ".join(self.source.split())

    def mistakes(self) -> Iterator[str]:
        """What is wrong with it, each in words."""
        if not isinstance(self.source, str) or self.kind not in SOURCE_KINDS or not self.address:
            kinds = ", ".join(f"{kind}:…" for kind in SOURCE_KINDS)
            yield f"source is {self.source!r}, expected one of {kinds}"
            return
        if self.kind == "v4l2":
            yield from _mistakes_in_device(self.address)
        for name in ("width", "height"):
            value = getattr(self, name)
            if value is not None and not (type(value) is int and 1 <= value <= LARGEST_SIDE):
                yield f"{name} is {value!r}, expected pixels from 1 to {LARGEST_SIDE}"
        if (self.width is None) != (self.height is None):
            yield "gives one of width and height, expected both or neither"
        elif self.width is None and self.kind == "v4l2":
            yield "lacks width and height, which a V4L2 camera is set to; `pi0-edge cameras` shows what it offers"
        if self.fps is not None and not (_is_number(self.fps) and 0 < self.fps <= 1000):
            yield f"fps is {self.fps!r}, expected images per second, above 0 and at most 1000"
        if not (_is_number(self.max_age_s) and self.max_age_s > 0):
            yield f"max_age_s is {self.max_age_s!r}, expected seconds above 0"
        if self.discard_first is not None and not (type(self.discard_first) is int and self.discard_first >= 0):
            yield f"discard_first is {self.discard_first!r}, expected a number of images"
        if not isinstance(self.may_repeat, (bool, type(None))):
            yield f"may_repeat is {self.may_repeat!r}, expected true or false"
        yield from self._mistakes_in_what_one_kind_has()

    def _mistakes_in_what_one_kind_has(self) -> Iterator[str]:
        if self.format is not None and not (isinstance(self.format, str) and len(self.format) == 4):
            yield f"format is {self.format!r}, expected four characters such as MJPG or YUYV"
        if not (isinstance(self.controls, dict) and all(type(value) is int for value in self.controls.values())):
            yield f"controls is {self.controls!r}, expected names with whole numbers; `v4l2-ctl -l` shows them"
        if not (isinstance(self.options, dict) and all(isinstance(value, str) for value in self.options.values())):
            yield f"options is {self.options!r}, expected names with texts; put numbers into quotes"
        if self.kind != "v4l2":
            yield from (f"{name} is for v4l2 alone, not for {self.kind}" for name in _V4L2_ALONE if getattr(self, name))
        if self.options and self.kind not in ("rtsp", "rtsps"):
            yield f"options is for rtsp alone, not for {self.kind}"


def parse_camera_sources(content: object, origin: str) -> dict[str, CameraSettings]:
    """Settings by camera, from the field of a robot file or from `dataclasses.asdict`.

    Raises:
        ConfigError: If something is wrong; the message starts with `origin` and lists every mistake.
    """
    found = list(mistakes_in_camera_sources(content))
    if found:
        raise ConfigError(f"{origin}: {found[0]}" if len(found) == 1 else _listed(origin, found))
    assert isinstance(content, Mapping)  # noqa: S101 -- said by mistakes_in_camera_sources
    return {name: CameraSettings(**entry) for name, entry in content.items()}


def mistakes_in_camera_sources(content: object) -> Iterator[str]:
    """What is wrong with the sources that a file gives, each in words."""
    if not isinstance(content, Mapping):
        yield f"camera_sources is {content!r}, expected cameras mapped to their settings"
        return
    for camera, entry in content.items():
        where = f"camera_sources.{camera}"
        if not isinstance(entry, Mapping):
            yield f'{where} is {entry!r}, expected a mapping such as {{source: "v4l2:/dev/v4l/by-path/…", width: 640}}'
            continue
        unknown = list(_unknown(entry))
        yield from (f"{where}: {mistake}" for mistake in unknown)
        if "source" not in entry:
            yield f"{where} lacks source"
        elif not unknown:
            try:
                CameraSettings(**entry)
            except ConfigError as error:
                yield f"{where}: {error}"


def mistakes_among_cameras(
    sources: Mapping[str, CameraSettings], cameras: Mapping[str, str], aliases: Mapping[str, str]
) -> Iterator[str]:
    """Where sources do not fit the robot or each other.

    Args:
        sources: Settings by camera.
        cameras: Those of the robot, with their slots.
        aliases: Other name -> camera.
    """
    for name in sources:
        if name in aliases:
            yield f"camera_sources: {name!r} is another name of the camera {aliases[name]}; use that"
        elif name not in cameras:
            near = difflib.get_close_matches(name, list(cameras), n=1)
            meant = f"did you mean {near[0]}? " if near else ""
            yield f"camera_sources: the robot has no camera {name!r}; {meant}It has {', '.join(cameras) or 'none'}"
    yield from mistakes_in_devices(sources)


def mistakes_in_devices(sources: Mapping[str, CameraSettings]) -> Iterator[str]:
    """Cameras that share one device, also through different links to it."""
    owners: dict[str, str] = {}
    for name, settings in sources.items():
        device = settings.device
        if device is not None and device in owners:
            yield f"camera_sources: {owners[device]} and {name} are the same device, {device}; expected one each"
        elif device is not None:
            owners[device] = name


def load_camera_file(path: str | Path) -> dict[str, CameraSettings]:
    """Reads a YAML file that maps cameras to their settings, with or without `camera_sources:` around them.

    Raises:
        ConfigError: If it cannot be read or something in it is wrong; the message lists every mistake.
    """
    try:
        content = yaml.safe_load(Path(path).read_text())
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"the camera file {path} cannot be read ({error})") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not valid YAML: {error}") from error
    if isinstance(content, dict) and "camera_sources" in content:
        others = sorted(map(str, content.keys() - {"camera_sources"}))
        if others:
            raise ConfigError(
                f"{path} has {', '.join(others)} beside camera_sources, expected cameras alone; a robot file goes to "
                "the option of the robot"
            )
        content = content["camera_sources"]
    sources = parse_camera_sources(content, str(path))
    found = list(mistakes_in_devices(sources))
    if found:
        raise ConfigError(_listed(str(path), found) if len(found) > 1 else f"{path}: {found[0]}")
    return sources


def _mistakes_in_device(path: str) -> Iterator[str]:
    if not path.startswith("/dev/"):
        yield f"source is v4l2:{path}, expected a path under /dev; `pi0-edge cameras` lists the cameras that are there"
    elif "-video-index" in path and not path.endswith("-video-index0"):
        yield f"source is v4l2:{path}, which carries no pictures; expected the name that ends in -video-index0"


def _unknown(entry: Mapping[str, Any]) -> Iterator[str]:
    known = [field.name for field in dataclasses.fields(CameraSettings)]
    for key in entry:
        if key not in known:
            near = difflib.get_close_matches(str(key), known, n=1)
            yield f"{key!r} is not a setting; " + (
                f"did you mean {near[0]}?" if near else f"expected {', '.join(known)}"
            )


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _listed(origin: str, found: list[str]) -> str:
    return f"{origin}: {len(found)} mistakes:" + "".join(f"\n  {line}" for line in found)
