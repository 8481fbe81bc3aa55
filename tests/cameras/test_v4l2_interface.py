"""The structs of V4L2 against the header, and its pixel formats against pictures."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
from fractions import Fraction

import numpy as np
import pytest
from picture_sources import noise

from pi0_edge.cameras import v4l2_interface as v4l2
from pi0_edge.cameras.pyav import av
from pi0_edge.cameras.source import DamagedImageError
from pi0_edge.cameras.v4l2 import time_of
from pi0_edge.cameras.v4l2_device import control_name
from pi0_edge.cameras.v4l2_pixels import FORMATS, PixelReader

STRUCTS = {
    "v4l2_capability": v4l2.Capability,
    "v4l2_fmtdesc": v4l2.FormatDescription,
    "v4l2_pix_format": v4l2.PixelFormat,
    "v4l2_format": v4l2.Format,
    "v4l2_frmsizeenum": v4l2.FrameSize,
    "v4l2_frmivalenum": v4l2.FrameInterval,
    "v4l2_streamparm": v4l2.StreamParameters,
    "v4l2_requestbuffers": v4l2.RequestBuffers,
    "v4l2_buffer": v4l2.Buffer,
    "v4l2_queryctrl": v4l2.ControlDescription,
    "v4l2_control": v4l2.Control,
}
OFFSETS = {
    ("v4l2_capability", "device_caps"): v4l2.Capability.device_caps,
    ("v4l2_fmtdesc", "pixelformat"): v4l2.FormatDescription.pixelformat,
    ("v4l2_pix_format", "sizeimage"): v4l2.PixelFormat.sizeimage,
    ("v4l2_format", "fmt"): v4l2.Format.as_,
    ("v4l2_frmsizeenum", "discrete"): v4l2.FrameSize.values,
    ("v4l2_frmivalenum", "discrete"): v4l2.FrameInterval.values,
    ("v4l2_streamparm", "parm.capture.timeperframe.numerator"): v4l2.StreamParameters.numerator,
    ("v4l2_buffer", "bytesused"): v4l2.Buffer.bytesused,
    ("v4l2_buffer", "flags"): v4l2.Buffer.flags,
    ("v4l2_buffer", "timestamp.tv_sec"): v4l2.Buffer.seconds,
    ("v4l2_buffer", "timestamp.tv_usec"): v4l2.Buffer.microseconds,
    ("v4l2_buffer", "sequence"): v4l2.Buffer.sequence,
    ("v4l2_buffer", "m.offset"): v4l2.Buffer.offset,
    ("v4l2_buffer", "length"): v4l2.Buffer.length,
    ("v4l2_queryctrl", "minimum"): v4l2.ControlDescription.minimum,
    ("v4l2_queryctrl", "flags"): v4l2.ControlDescription.flags,
}
# fmt: off
REQUESTS = (
    "QUERYCAP", "ENUM_FMT", "S_FMT", "REQBUFS", "QUERYBUF", "QBUF", "DQBUF", "STREAMON", "STREAMOFF", "G_PARM",
    "S_PARM", "G_CTRL", "S_CTRL", "QUERYCTRL", "ENUM_FRAMESIZES", "ENUM_FRAMEINTERVALS",
)
FLAGS = (
    "BUF_TYPE_VIDEO_CAPTURE", "MEMORY_MMAP", "CAP_VIDEO_CAPTURE", "CAP_DEVICE_CAPS", "CTRL_FLAG_DISABLED",
    "CTRL_FLAG_NEXT_CTRL", "BUF_FLAG_ERROR", "BUF_FLAG_TIMESTAMP_MASK", "BUF_FLAG_TIMESTAMP_MONOTONIC",
    "BUF_FLAG_TSTAMP_SRC_MASK", "BUF_FLAG_TSTAMP_SRC_SOE",
)
# fmt: on
VALUES = {
    **{f"VIDIOC_{name}": getattr(v4l2, name) for name in REQUESTS},
    **{f"V4L2_{name}": getattr(v4l2, name) for name in FLAGS},
    "V4L2_CTRL_TYPE_CTRL_CLASS": v4l2.CTRL_TYPE_CLASS,
    "V4L2_FRMSIZE_TYPE_DISCRETE": v4l2.FRMSIZE_DISCRETE,
    "V4L2_FRMIVAL_TYPE_DISCRETE": v4l2.FRMIVAL_DISCRETE,
    "V4L2_PIX_FMT_MJPEG": v4l2.code_of("MJPG"),
    "V4L2_PIX_FMT_YUYV": v4l2.code_of("YUYV"),
}


def test_structs_requests_and_flags_are_those_of_the_header(tmp_path):
    if shutil.which("gcc") is None:
        pytest.skip("gcc is not installed")
    expressions = [f"sizeof(struct {name})" for name in STRUCTS]
    expressions += [f"offsetof(struct {struct}, {field})" for struct, field in OFFSETS]
    expressions += list(VALUES)
    lines = "".join(f'    printf("%llu\\n", (unsigned long long)({expression}));\n' for expression in expressions)
    source = tmp_path / "layout.c"
    source.write_text(
        "#include <stddef.h>\n#include <stdio.h>\n#include <sys/time.h>\n#include <linux/videodev2.h>\n"
        f"int main(void)\n{{\n{lines}    return 0;\n}}\n"
    )
    subprocess.run(["gcc", str(source), "-o", str(tmp_path / "layout")], check=True)
    printed = subprocess.run([tmp_path / "layout"], capture_output=True, text=True, check=True).stdout.split()
    found = dict(zip(expressions, map(int, printed), strict=True))
    sizes = {f"sizeof(struct {name})": v4l2.ctypes.sizeof(struct) for name, struct in STRUCTS.items()}
    offsets = {f"offsetof(struct {s}, {f})": member.offset for (s, f), member in OFFSETS.items()}
    assert found == {**sizes, **offsets, **VALUES}


# What the driver vivid gave for its sixth image at 640x360 YUYV, recorded in a virtual machine.
RECORDED = bytes.fromhex(
    "01000000 01000000 00080700 01200000 01000000 00000000 1500000000000000 076a010000000000"
    "00000000 00000000 00000000 00000000 05000000 01000000 0010070000000000 00080700 00000000 00000000 00000000"
)


def buffer(flags: int) -> v4l2.Buffer:
    recorded = v4l2.Buffer.from_buffer_copy(RECORDED)
    recorded.flags = flags
    return recorded


def test_a_recorded_buffer_is_read():
    recorded = v4l2.Buffer.from_buffer_copy(RECORDED)
    assert (recorded.index, recorded.bytesused, recorded.flags, recorded.sequence) == (1, 460800, 0x2001, 5)
    assert time_of(recorded) == ("frame end", 21_092_679_000)


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (0x2001, ("frame end", 21_092_679_000)),
        (0x12001, ("exposure start", 21_092_679_000)),
        (0x0001, ("arrival", None)),
        (0x4001, ("arrival", None)),
    ],
)
def test_the_flags_say_what_the_time_is(flags, expected):
    assert time_of(buffer(flags)) == expected


@pytest.mark.parametrize(
    ("title", "name"),
    [
        ("White Balance, Automatic", "white_balance_automatic"),
        ("Exposure Time, Absolute", "exposure_time_absolute"),
        ("Gain", "gain"),
        ("Power Line Frequency", "power_line_frequency"),
    ],
)
def test_controls_have_the_names_that_v4l2_ctl_shows(title, name):
    assert control_name(title) == name


def reader(code: str, width: int, height: int, line_bytes: int = 0) -> PixelReader:
    return PixelReader(v4l2.PixelFormat(width, height, v4l2.code_of(code), 0, line_bytes, 0))


def smooth() -> np.ndarray:
    """A picture that chroma subsampling and JPEG change little, uint8 [48, 64, 3]."""
    y, x = np.mgrid[0:48, 0:64]
    return np.stack([4 * x, 5 * y, 255 - 2 * x - y], -1).astype(np.uint8)


@pytest.mark.parametrize(("code", "name"), [("YUYV", "yuyv422"), ("BGR3", "bgr24"), ("RGB3", "rgb24")])
@pytest.mark.parametrize("padding", [0, 16])
def test_raw_formats_become_rgb(code, name, padding):
    frame = av.VideoFrame.from_ndarray(smooth(), format="rgb24")
    lines = frame.to_ndarray(format=name).reshape(48, -1)
    padded = np.pad(lines, ((0, 0), (0, padding)), constant_values=7)
    found = reader(code, 64, 48, padded.shape[1]).read(padded.tobytes())
    assert np.abs(found.astype(int) - smooth()).max() <= (0 if "24" in name else 12)


def jpeg() -> bytes:
    encoder = av.VideoCodecContext.create("mjpeg", "w")
    encoder.width, encoder.height, encoder.pix_fmt, encoder.time_base = 64, 48, "yuvj422p", Fraction(1, 30)
    # On one processor FFmpeg would write tables of its own choice, without which the image is lost.
    encoder.options = {"qmin": "2", "qmax": "2", "huffman": "default"}
    frame = av.VideoFrame.from_ndarray(smooth(), format="rgb24").reformat(format="yuvj422p")
    return b"".join(bytes(packet) for packet in [*encoder.encode(frame), *encoder.encode(None)])


def test_motion_jpeg_becomes_rgb_also_from_a_buffer_that_is_filled_up():
    mjpg = reader("MJPG", 64, 48)
    for content in (jpeg(), jpeg() + bytes(100)):
        found = mjpg.read(content)
        assert found.shape == (48, 64, 3)
        assert np.abs(found.astype(int) - smooth()).max() <= 16


def without_huffman_tables(content: bytes) -> bytes:
    while (start := content.find(b"\xff\xc4")) >= 0:
        length = int.from_bytes(content[start + 2 : start + 4], "big")
        content = content[:start] + content[start + 2 + length :]
    return content


def test_motion_jpeg_without_huffman_tables_is_read_too():
    bare = without_huffman_tables(jpeg())
    assert len(bare) < len(jpeg())
    assert np.array_equal(reader("MJPG", 64, 48).read(bare), reader("MJPG", 64, 48).read(jpeg()))


@pytest.mark.parametrize("change", [lambda b: b[:-40], lambda b: b[: len(b) // 2], lambda b: b"", lambda b: b[10:]])
def test_a_jpeg_that_is_cut_is_damaged(change):
    with pytest.raises(DamagedImageError, match="no whole JPEG"):
        reader("MJPG", 64, 48).read(change(jpeg()))


def test_a_raw_image_that_is_short_is_damaged():
    with pytest.raises(DamagedImageError, match="an image has 6143 bytes, expected 6144 for YUYV"):
        reader("YUYV", 64, 48).read(bytes(6143))


def test_a_damaged_image_does_not_spoil_the_next():
    mjpg = reader("MJPG", 64, 48)
    whole = mjpg.read(jpeg())
    for seed in range(20):
        content = bytearray(jpeg())
        for place in np.random.default_rng(seed).integers(200, len(content) - 2, 20):
            content[place] = noise(seed, 1, 1)[0, 0, 0]
        with contextlib.suppress(DamagedImageError):
            mjpg.read(bytes(content))
        assert np.array_equal(mjpg.read(jpeg()), whole)


def test_every_format_has_a_reader():
    for code in FORMATS:
        assert reader(code, 64, 48).format == code
