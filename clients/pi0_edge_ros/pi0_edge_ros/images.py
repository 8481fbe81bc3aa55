"""Pixels from `sensor_msgs/Image` and `sensor_msgs/CompressedImage`, whatever class the messages have."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pi0_edge.errors import MissingDependencyError, ObservationError

LARGEST_PIXELS = 32 << 20
"""Bytes of one image, as many as a policy server takes in one observation."""

_CHANNELS = {"rgb8": (0, 1, 2), "bgr8": (2, 1, 0), "rgba8": (0, 1, 2), "bgra8": (2, 1, 0)}
_BYTES_PER_PIXEL = {"rgb8": 3, "bgr8": 3, "rgba8": 4, "bgra8": 4}
_PNG = b"\x89PNG\r\n\x1a\n"
_JPEG = b"\xff\xd8"


def read_image(message: Any) -> NDArray[np.uint8]:
    """The pixels of a `sensor_msgs/Image`.

    Args:
        message: With `height`, `width`, `encoding`, `step` and `data`. `is_bigendian` means nothing for bytes.

    Returns:
        uint8 [height, width, 3], RGB, a copy.

    Raises:
        ObservationError: If the encoding is another than rgb8, bgr8, rgba8 and bgra8, or the sizes do not fit.
    """
    if message.encoding not in _CHANNELS:
        raise ObservationError(
            f"an image of encoding {message.encoding!r:.40}, expected one of {', '.join(_CHANNELS)}; let the driver or "
            "image_proc convert it"
        )
    size = _BYTES_PER_PIXEL[message.encoding]
    height, width, step = message.height, message.width, message.step
    if not height or not width or step < width * size:
        raise ObservationError(
            f"an image of height {height}, width {width} and step {step}, expected a step of at least {width * size} "
            f"bytes ({message.encoding})"
        )
    _check_size(height, width)
    data = np.frombuffer(message.data, np.uint8)
    if len(data) != height * step:
        raise ObservationError(
            f"an image of {len(data)} bytes, expected {height * step} (height {height}, step {step})"
        )
    rows = data.reshape(height, step)[:, : width * size].reshape(height, width, size)
    return np.ascontiguousarray(rows[:, :, _CHANNELS[message.encoding]])


def read_compressed_image(message: Any) -> NDArray[np.uint8]:
    """The pixels of a `sensor_msgs/CompressedImage`, JPEG or PNG.

    The content says which of the two it is. What stands in `format` about colours describes the image before it was
    compressed: both kinds of file say themselves what their colours are.

    Args:
        message: With `format` and `data`.

    Returns:
        uint8 [height, width, 3], RGB.

    Raises:
        ObservationError: If it is neither, is damaged, is not in colour, or unfolds to more than 32 MiB.
        MissingDependencyError: If Pillow is not installed.
    """
    content = bytes(message.data)
    if "compressedDepth" in message.format:
        raise ObservationError(f"a compressed image of format {message.format!r:.60}, expected colours and no depth")
    if content.startswith(_JPEG):
        return _read_jpeg(content)
    if content.startswith(_PNG):
        return _read_png(content)
    raise ObservationError(
        f"a compressed image of format {message.format!r:.60} that is neither JPEG nor PNG; set the format parameter "
        "of the camera's compressed transport to one of them"
    )


def _read_jpeg(content: bytes) -> NDArray[np.uint8]:
    from pi0_edge.serving.jpeg_images import decode_jpeg, read_header

    header = read_header(content)
    _check_size(header.height, header.width)
    return decode_jpeg(content, header.height, header.width)


def _read_png(content: bytes) -> NDArray[np.uint8]:
    try:
        from PIL import Image
    except ImportError as error:
        raise MissingDependencyError(f"PNG images need Pillow ({error}): apt-get install python3-pil") from error

    try:
        with Image.open(io.BytesIO(content), formats=("PNG",)) as image:
            _check_size(image.height, image.width)
            if image.mode not in ("RGB", "RGBA"):
                raise ObservationError(f"a PNG of mode {image.mode}, expected colours of 8 bits: RGB or RGBA")
            return np.ascontiguousarray(np.asarray(image)[:, :, :3])
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ObservationError(f"a PNG that cannot be decoded: {error}") from error


def _check_size(height: int, width: int) -> None:
    if height * width * 3 > LARGEST_PIXELS:
        raise ObservationError(
            f"an image of {height} x {width} pixels, expected at most {LARGEST_PIXELS} bytes in RGB; scale it down, as "
            "the policy does anyway"
        )
