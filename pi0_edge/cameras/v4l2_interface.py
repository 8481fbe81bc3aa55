"""The part of Linux's V4L2 interface that a camera needs: structs, requests and flags of <linux/videodev2.h>.

Written here instead of taken from a library: OpenCV hides flags, sequence numbers and the size of a buffer, FFmpeg
hides flags and queues 256 buffers, and linuxpy is under the GPL. The interface itself has been stable since 2002.
Layouts are those of 64-bit machines; `tests/cameras/test_v4l2_interface.py` compares them with the header.
"""

from __future__ import annotations

import ctypes
import fcntl
from ctypes import c_char, c_int32, c_long, c_uint8, c_uint32, c_ulong

BUF_TYPE_VIDEO_CAPTURE = 1
MEMORY_MMAP = 1
CAP_VIDEO_CAPTURE, CAP_DEVICE_CAPS = 0x1, 0x8000_0000

FRMSIZE_DISCRETE = FRMIVAL_DISCRETE = 1

CTRL_FLAG_DISABLED, CTRL_FLAG_NEXT_CTRL = 0x1, 0x8000_0000
CTRL_TYPE_CLASS = 6

BUF_FLAG_ERROR = 0x40
BUF_FLAG_TIMESTAMP_MASK, BUF_FLAG_TIMESTAMP_MONOTONIC = 0xE000, 0x2000
BUF_FLAG_TSTAMP_SRC_MASK, BUF_FLAG_TSTAMP_SRC_SOE = 0x7_0000, 0x1_0000


class Capability(ctypes.Structure):
    """What a device is."""

    _fields_ = (
        ("driver", c_char * 16),
        ("card", c_char * 32),
        ("bus_info", c_char * 32),
        ("version", c_uint32),
        ("capabilities", c_uint32),
        ("device_caps", c_uint32),
        ("reserved", c_uint32 * 3),
    )


class FormatDescription(ctypes.Structure):
    """One pixel format that a device offers."""

    _fields_ = (
        ("index", c_uint32),
        ("type", c_uint32),
        ("flags", c_uint32),
        ("description", c_char * 32),
        ("pixelformat", c_uint32),
        ("mbus_code", c_uint32),
        ("reserved", c_uint32 * 3),
    )


class PixelFormat(ctypes.Structure):
    """Size and layout of the images."""

    _fields_ = (
        ("width", c_uint32),
        ("height", c_uint32),
        ("pixelformat", c_uint32),
        ("field", c_uint32),
        ("bytesperline", c_uint32),
        ("sizeimage", c_uint32),
        ("colorspace", c_uint32),
        ("priv", c_uint32),
        ("flags", c_uint32),
        ("encoding", c_uint32),
        ("quantization", c_uint32),
        ("transfer", c_uint32),
    )


class _FormatUnion(ctypes.Union):
    _fields_ = (("pixels", PixelFormat), ("raw", c_uint8 * 200), ("aligned", c_ulong))


class Format(ctypes.Structure):
    """The format that a device has or is asked for."""

    _fields_ = (("type", c_uint32), ("as_", _FormatUnion))


class FrameSize(ctypes.Structure):
    """One size, or a range of sizes, of a pixel format; `values` are width and height, or minimum, maximum and step."""

    _fields_ = (
        ("index", c_uint32),
        ("pixel_format", c_uint32),
        ("type", c_uint32),
        ("values", c_uint32 * 6),
        ("reserved", c_uint32 * 2),
    )


class FrameInterval(ctypes.Structure):
    """One interval between images of a size; `values` are numerator and denominator of one, or of a range's three."""

    _fields_ = (
        ("index", c_uint32),
        ("pixel_format", c_uint32),
        ("width", c_uint32),
        ("height", c_uint32),
        ("type", c_uint32),
        ("values", c_uint32 * 6),
        ("reserved", c_uint32 * 2),
    )


class StreamParameters(ctypes.Structure):
    """The interval between images, numerator / denominator seconds."""

    _fields_ = (
        ("type", c_uint32),
        ("capability", c_uint32),
        ("mode", c_uint32),
        ("numerator", c_uint32),
        ("denominator", c_uint32),
        ("rest", c_uint8 * 184),
    )


class RequestBuffers(ctypes.Structure):
    """How many buffers the driver shall have."""

    _fields_ = (
        ("count", c_uint32),
        ("type", c_uint32),
        ("memory", c_uint32),
        ("capabilities", c_uint32),
        ("flags", c_uint32),
    )


class Buffer(ctypes.Structure):
    """One buffer, and the image in it."""

    _fields_ = (
        ("index", c_uint32),
        ("type", c_uint32),
        ("bytesused", c_uint32),
        ("flags", c_uint32),
        ("field", c_uint32),
        ("seconds", c_long),
        ("microseconds", c_long),
        ("timecode", c_uint32 * 4),
        ("sequence", c_uint32),
        ("memory", c_uint32),
        ("offset", c_ulong),
        ("length", c_uint32),
        ("reserved", c_uint32),
        ("request", c_int32),
    )


class ControlDescription(ctypes.Structure):
    """One control, such as exposure."""

    _fields_ = (
        ("id", c_uint32),
        ("type", c_uint32),
        ("name", c_char * 32),
        ("minimum", c_int32),
        ("maximum", c_int32),
        ("step", c_int32),
        ("default", c_int32),
        ("flags", c_uint32),
        ("reserved", c_uint32 * 2),
    )


class Control(ctypes.Structure):
    """The value of a control."""

    _fields_ = (("id", c_uint32), ("value", c_int32))


def _request(direction: int, number: int, struct: type[ctypes.Structure] | type[c_int32]) -> int:
    """The number of an ioctl, as <asm-generic/ioctl.h> makes it: direction, size, 'V', number."""
    return direction << 30 | ctypes.sizeof(struct) << 16 | ord("V") << 8 | number


_WRITE, _READ, _BOTH = 1, 2, 3

QUERYCAP = _request(_READ, 0, Capability)
ENUM_FMT = _request(_BOTH, 2, FormatDescription)
S_FMT = _request(_BOTH, 5, Format)
REQBUFS = _request(_BOTH, 8, RequestBuffers)
QUERYBUF = _request(_BOTH, 9, Buffer)
QBUF = _request(_BOTH, 15, Buffer)
DQBUF = _request(_BOTH, 17, Buffer)
STREAMON = _request(_WRITE, 18, c_int32)
STREAMOFF = _request(_WRITE, 19, c_int32)
G_PARM = _request(_BOTH, 21, StreamParameters)
S_PARM = _request(_BOTH, 22, StreamParameters)
G_CTRL = _request(_BOTH, 27, Control)
S_CTRL = _request(_BOTH, 28, Control)
QUERYCTRL = _request(_BOTH, 36, ControlDescription)
ENUM_FRAMESIZES = _request(_BOTH, 74, FrameSize)
ENUM_FRAMEINTERVALS = _request(_BOTH, 75, FrameInterval)


def ioctl(file: int, request: int, argument: ctypes.Structure | c_int32) -> None:
    """Asks the driver; `argument` is changed in place.

    Raises:
        OSError: If the driver refuses.
    """
    fcntl.ioctl(file, request, argument, True)


def fourcc(code: int) -> str:
    """The four characters of a pixel format, such as MJPG."""
    return code.to_bytes(4, "little").decode("latin-1")


def code_of(characters: str) -> int:
    """The inverse of `fourcc`."""
    return int.from_bytes(characters.encode("latin-1"), "little")
