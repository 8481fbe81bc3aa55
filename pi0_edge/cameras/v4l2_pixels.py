"""The pixel formats of V4L2 as RGB."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pi0_edge.cameras import v4l2_interface as v4l2
from pi0_edge.cameras.pyav import FFmpegError, av, rgb
from pi0_edge.cameras.source import DamagedImageError

COMPRESSED = ("MJPG", "JPEG")
_RAW = {"YUYV": ("yuyv422", 2), "UYVY": ("uyvy422", 2), "RGB3": ("rgb24", 3), "BGR3": ("bgr24", 3), "GREY": ("gray", 1)}
"""Name in FFmpeg, and bytes of a pixel."""

FORMATS = (*COMPRESSED, *_RAW)
"""What can be read, the first that a camera offers where nobody chooses: USB has room for two compressed cameras."""

_JPEG_START, _JPEG_END = b"\xff\xd8", b"\xff\xd9"


class PixelReader:
    """Reads the buffers of one camera.

    Attributes:
        format: Four characters.
    """

    def __init__(self, layout: v4l2.PixelFormat) -> None:
        self.format = v4l2.fourcc(layout.pixelformat)
        self._width, self._height = layout.width, layout.height
        self._line_bytes, self._image_bytes = layout.bytesperline, layout.sizeimage
        # FFmpeg's decoder, because cameras leave out the Huffman tables that other decoders need.
        self._decoder = av.VideoCodecContext.create("mjpeg", "r") if self.format in COMPRESSED else None
        if self._decoder is not None:
            self._decoder.options = {"err_detect": "explode"}

    def read(self, content: bytes) -> NDArray[np.uint8]:
        """The image in a buffer, uint8 [height, width, 3].

        Args:
            content: The bytes that the driver says it used.

        Raises:
            DamagedImageError: If it is incomplete or cannot be decoded.
        """
        return self._read_raw(content) if self._decoder is None else self._read_jpeg(content, self._decoder)

    def _read_raw(self, content: bytes) -> NDArray[np.uint8]:
        name, pixel_bytes = _RAW[self.format]
        line_bytes = self._line_bytes or self._width * pixel_bytes
        expected = line_bytes * self._height
        if len(content) < expected:
            raise DamagedImageError(f"an image has {len(content)} bytes, expected {expected} for {self.format}")
        lines = np.frombuffer(content, np.uint8, expected).reshape(self._height, line_bytes)
        lines = lines[:, : self._width * pixel_bytes]
        if self.format == "RGB3":
            return np.ascontiguousarray(lines).reshape(self._height, self._width, 3)
        shape = (self._height, self._width) + ((pixel_bytes,) if pixel_bytes > 1 else ())
        return rgb(av.VideoFrame.from_ndarray(np.ascontiguousarray(lines).reshape(shape), format=name))

    def _read_jpeg(self, content: bytes, decoder: av.VideoCodecContext) -> NDArray[np.uint8]:
        whole = content.rstrip(b"\0")  # some cameras fill the buffer up
        if not (whole.startswith(_JPEG_START) and whole.endswith(_JPEG_END)):
            raise DamagedImageError(f"an image of {len(content)} bytes is no whole JPEG: it does not end with FF D9")
        try:
            frames = decoder.decode(av.Packet(whole))
        except FFmpegError as error:
            raise DamagedImageError(f"a JPEG of {len(whole)} bytes cannot be decoded: {error}") from error
        if not frames:
            raise DamagedImageError(f"a JPEG of {len(whole)} bytes holds no picture")
        return rgb(frames[0])
