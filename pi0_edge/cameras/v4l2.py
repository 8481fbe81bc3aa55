"""A USB or other V4L2 camera, read from the driver's own buffers with the driver's own times.

Four buffers are queued and always emptied; where several are full, all but the newest go back unread. The driver says
of each image when it was taken, on which clock, its number, whether it is complete, and how many bytes it has.
"""

from __future__ import annotations

import ctypes
import difflib
import errno
import mmap
import os
import select
import time
from contextlib import ExitStack, suppress

from pi0_edge.cameras import v4l2_interface as v4l2
from pi0_edge.cameras.source import (
    READ_TIMEOUT_S,
    DamagedImageError,
    LostCameraError,
    Picture,
    Source,
    TimeSource,
)
from pi0_edge.cameras.v4l2_device import PICTURES, capability, controls, offered_formats, open_device, stable_names
from pi0_edge.cameras.v4l2_pixels import FORMATS, PixelReader
from pi0_edge.errors import CameraError
from pi0_edge.robots import CameraSettings

BUFFERS = 4
SETTLING = 15
"""Images dropped after opening: auto-exposure needs 10 to 30."""

RATE_TOLERANCE = 0.05


class V4l2Source(Source):
    """One V4L2 camera, streaming."""

    discard_first = SETTLING

    def __init__(self, settings: CameraSettings) -> None:
        """Opens it, sets format, rate and controls, reads back what it took, and starts it.

        Raises:
            CameraError: If it is not there, is in use, or does not take what the settings ask for.
        """
        self._path = settings.address
        _check_name(self._path)
        self._open = ExitStack()
        try:
            self._file = self._open.enter_context(open_device(self._path))
            if not capability(self._file).device_caps & v4l2.CAP_VIDEO_CAPTURE:
                raise CameraError(f"{self._path} carries no pictures; take the camera's name that ends in {PICTURES}")
            layout = self._set_format(settings)
            self.fps = self._set_rate(settings.fps)
            self._set_controls(settings.controls)
            self._reader = PixelReader(layout)
            self._buffers = self._map_buffers()
            self._start()
        except BaseException:
            self._open.close()
            raise

    def read(self) -> Picture | None:
        """The newest image of the driver."""
        readable, _, _ = select.select([self._file], [], [], READ_TIMEOUT_S)
        if not readable:
            return None
        newest: v4l2.Buffer | None = None
        while (buffer := self._take()) is not None:
            if newest is not None:
                self._give_back(newest)
            newest = buffer
        if newest is None:
            return None
        arrived_ns = time.monotonic_ns()
        content = self._buffers[newest.index][: newest.bytesused]
        number, is_damaged = newest.sequence, bool(newest.flags & v4l2.BUF_FLAG_ERROR)
        self.time_source, stamp_ns = time_of(newest)
        self._give_back(newest)  # which overwrites it
        if is_damaged:
            raise DamagedImageError(f"{self._path}: the driver calls image {number} damaged")
        return Picture(self._reader.read(content), arrived_ns, stamp_ns, number, self._reader.format)

    def close(self) -> None:
        """Stops it and gives its buffers back."""
        with suppress(OSError):  # it may be unplugged
            v4l2.ioctl(self._file, v4l2.STREAMOFF, ctypes.c_int32(v4l2.BUF_TYPE_VIDEO_CAPTURE))
        self._open.close()

    def _set_format(self, settings: CameraSettings) -> v4l2.PixelFormat:
        offered = list(offered_formats(self._file))
        theirs = list(dict.fromkeys(entry.format for entry in offered))
        wanted = settings.format or next((code for code in FORMATS if code in theirs), None)
        if wanted not in FORMATS or wanted not in theirs:
            raise CameraError(
                f"{self._path} offers the formats {', '.join(theirs) or 'none'}, expected "
                f"{settings.format or 'one'} of those that can be read: {', '.join(FORMATS)}"
            )
        asked = v4l2.Format(type=v4l2.BUF_TYPE_VIDEO_CAPTURE)
        asked.as_.pixels.width, asked.as_.pixels.height = settings.width, settings.height
        asked.as_.pixels.pixelformat = v4l2.code_of(wanted)
        self._ask(v4l2.S_FMT, asked, "its format cannot be set")
        given = asked.as_.pixels
        found = v4l2.fourcc(given.pixelformat), given.width, given.height
        if found != (wanted, settings.width, settings.height):
            sizes = ", ".join(f"{entry.width}x{entry.height}" for entry in offered if entry.format == wanted)
            raise CameraError(
                f"{self._path} gives {found[0]} {found[1]}x{found[2]}, expected {wanted} "
                f"{settings.width}x{settings.height}; it offers {wanted} in {sizes or 'no size'}"
            )
        return given

    def _set_rate(self, fps: float | None) -> float | None:
        parameters = v4l2.StreamParameters(type=v4l2.BUF_TYPE_VIDEO_CAPTURE)
        try:
            v4l2.ioctl(self._file, v4l2.G_PARM, parameters)
            if fps is not None:
                parameters.numerator, parameters.denominator = 1000, round(fps * 1000)
                v4l2.ioctl(self._file, v4l2.S_PARM, parameters)
        except OSError:
            return fps  # some drivers have no rate to set
        found = parameters.denominator / parameters.numerator if parameters.numerator else None
        if fps is not None and found is not None and abs(found - fps) > RATE_TOLERANCE * fps:
            raise CameraError(
                f"{self._path} gives {found:g} images a second, expected {fps:g}; `pi0-edge cameras` shows which rates "
                "it offers in which size and format"
            )
        return found

    def _set_controls(self, wanted: dict[str, int]) -> None:
        known = controls(self._file) if wanted else {}
        for name, value in wanted.items():
            described = known.get(name)
            if described is None:
                near = difflib.get_close_matches(name, known, n=1)
                advice = f"did you mean {near[0]}?" if near else f"it has {', '.join(sorted(known)) or 'none'}"
                raise CameraError(f"{self._path} has no control {name!r}; {advice}")
            control = v4l2.Control(id=described.id, value=value)
            limits = f"expected {described.minimum} to {described.maximum} in steps of {described.step}"
            self._ask(
                v4l2.S_CTRL, control, f"{name} cannot be set to {value}; {limits}, and its automatic switched off"
            )
            self._ask(v4l2.G_CTRL, control, f"{name} cannot be read back")
            if control.value != value:
                raise CameraError(f"{self._path} took {control.value} for {name}, expected {value}; {limits}")

    def _map_buffers(self) -> list[mmap.mmap]:
        request = v4l2.RequestBuffers(count=BUFFERS, type=v4l2.BUF_TYPE_VIDEO_CAPTURE, memory=v4l2.MEMORY_MMAP)
        self._ask(v4l2.REQBUFS, request, "it gives no buffers")
        mapped = []
        for index in range(request.count):
            buffer = v4l2.Buffer(index=index, type=v4l2.BUF_TYPE_VIDEO_CAPTURE, memory=v4l2.MEMORY_MMAP)
            self._ask(v4l2.QUERYBUF, buffer, "its buffers cannot be asked for")
            mapped.append(mmap.mmap(self._file, buffer.length, prot=mmap.PROT_READ, offset=buffer.offset))
            self._open.callback(mapped[-1].close)
            self._ask(v4l2.QBUF, buffer, "its buffers cannot be queued")
        return mapped

    def _start(self) -> None:
        try:
            v4l2.ioctl(self._file, v4l2.STREAMON, ctypes.c_int32(v4l2.BUF_TYPE_VIDEO_CAPTURE))
        except OSError as error:
            if error.errno == errno.ENOSPC:
                raise CameraError(
                    f"{self._path} cannot start: its USB bus has no bandwidth left for it; put cameras on USB "
                    "controllers of their own (`lsusb -t` shows them), or use MJPG, a smaller size or rate"
                ) from error
            raise CameraError(f"{self._path} cannot start: {os.strerror(error.errno or 0)}") from error

    def _take(self) -> v4l2.Buffer | None:
        buffer = v4l2.Buffer(type=v4l2.BUF_TYPE_VIDEO_CAPTURE, memory=v4l2.MEMORY_MMAP)
        try:
            v4l2.ioctl(self._file, v4l2.DQBUF, buffer)
        except OSError as error:
            if error.errno == errno.EAGAIN:
                return None
            raise LostCameraError(f"{self._path} is gone ({os.strerror(error.errno or 0)})") from error
        return buffer

    def _give_back(self, buffer: v4l2.Buffer) -> None:
        try:
            v4l2.ioctl(self._file, v4l2.QBUF, buffer)
        except OSError as error:
            raise LostCameraError(f"{self._path} is gone ({os.strerror(error.errno or 0)})") from error

    def _ask(self, request: int, argument: ctypes.Structure, refusal: str) -> None:
        try:
            v4l2.ioctl(self._file, request, argument)
        except OSError as error:
            why = "another program uses it" if error.errno == errno.EBUSY else os.strerror(error.errno or 0)
            raise CameraError(f"{self._path}: {refusal} ({why})") from error


def time_of(buffer: v4l2.Buffer) -> tuple[TimeSource, int | None]:
    """What the driver says about when an image was taken: kind, and nanoseconds on the monotonic clock or None."""
    if buffer.flags & v4l2.BUF_FLAG_TIMESTAMP_MASK != v4l2.BUF_FLAG_TIMESTAMP_MONOTONIC:
        return "arrival", None
    stamp_ns = buffer.seconds * 1_000_000_000 + buffer.microseconds * 1000
    start = buffer.flags & v4l2.BUF_FLAG_TSTAMP_SRC_MASK == v4l2.BUF_FLAG_TSTAMP_SRC_SOE
    return ("exposure start" if start else "frame end"), stamp_ns


def _check_name(path: str) -> None:
    """Refuses a number where the device has names that stay."""
    stable = stable_names(path)
    if stable and path not in stable:
        raise CameraError(f"{path} may be another camera after a restart; take one of {', '.join(stable)}")
