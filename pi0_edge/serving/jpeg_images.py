"""Camera images as JPEG for a slow network: written by a client, checked and read by the server.

Pillow does both: the policy needs it already, its codec is libjpeg-turbo, and the header is read here first, so that no
image is decoded whose size is not the one that the request says. Of JPEG only what cameras and encoders write by
default is taken: baseline, three components. A progressive one of few bytes can cost minutes of decoding.
"""

from __future__ import annotations

import io
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pi0_edge.errors import ConfigError, MissingDependencyError, ObservationError

try:
    from PIL import Image
except ImportError as error:
    raise MissingDependencyError(f"JPEG images need Pillow ({error}): pip install 'pi0-edge[policy]'") from error

HEADER_BYTES = 64 << 10
"""More than a JPEG that stores its pixels as they are can need beside them."""

_START, _BEGIN_OF_SCAN, _BASELINE = 0xD8, 0xDA, (0xC0, 0xC1)
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # SOF0 to SOF15, without the tables between them


class JpegHeader(NamedTuple):
    """What the frame header of a JPEG says."""

    width: int
    height: int
    components: int
    is_baseline: bool


def check_jpeg_quality(quality: int | None) -> None:
    """Passes for None and for 1 to 100.

    Raises:
        ConfigError: For anything else.
    """
    if quality is not None and not (type(quality) is int and 1 <= quality <= 100):
        raise ConfigError(f"jpeg_quality is {quality!r}, expected 1 to 100, or None for images as they are")


def encode_jpeg(image: NDArray[np.uint8], quality: int) -> bytes:
    """A baseline JPEG with chroma at half the resolution, as cameras and videos have it.

    Args:
        image: uint8 [height, width, 3], RGB.
        quality: 1 to 100, on the scale of libjpeg.
    """
    content = io.BytesIO()
    Image.fromarray(image).save(content, format="JPEG", quality=quality, subsampling="4:2:0")
    return content.getvalue()


def decode_jpeg(content: bytes, height: int, width: int) -> NDArray[np.uint8]:
    """The pixels of a JPEG whose header fits what was announced; its orientation tag is not followed.

    Args:
        content: The file.
        height: That it must have.
        width: That it must have.

    Returns:
        uint8 [height, width, 3], RGB.

    Raises:
        ObservationError: If it is another size or kind, or cannot be decoded.
    """
    most = height * width * 3 + HEADER_BYTES
    if len(content) > most:
        raise ObservationError(
            f"a JPEG of {len(content)} bytes, expected at most {most} for height {height} and width {width}; send rgb"
        )
    header = read_header(content)
    if (header.height, header.width) != (height, width):
        raise ObservationError(
            f"a JPEG of height {header.height} and width {header.width}, but the request says {height} and {width}"
        )
    if not header.is_baseline or header.components != 3:
        raise ObservationError(
            f"a {'baseline' if header.is_baseline else 'progressive or lossless'} JPEG with {header.components} "
            "components, expected a baseline one with 3; save it as RGB and not progressive"
        )
    try:
        with Image.open(io.BytesIO(content), formats=("JPEG",)) as image:
            pixels = np.asarray(image)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ObservationError(f"a JPEG that cannot be decoded: {error}") from error
    if pixels.shape != (height, width, 3):
        raise ObservationError(f"a JPEG that decodes to {list(pixels.shape)}, expected {[height, width, 3]} in RGB")
    return pixels


def read_header(content: bytes) -> JpegHeader:
    """The frame header, found by walking over the segments before it (ITU-T T.81, annex B).

    Raises:
        ObservationError: If there is none before the first scan, or a second one.
    """
    found = None
    place = 2 if content[:2] == bytes((0xFF, _START)) else len(content)
    while place + 4 <= len(content) and content[place] == 0xFF:
        marker, length = content[place + 1], int.from_bytes(content[place + 2 : place + 4], "big")
        if marker == 0xFF:  # a fill byte
            place += 1
            continue
        if marker in _FRAMES:
            body = content[place + 4 : place + 2 + length]
            if found is not None or len(body) < 6:
                raise ObservationError("a JPEG with two frame headers or a broken one, expected one")
            found = JpegHeader(
                width=int.from_bytes(body[3:5], "big"),
                height=int.from_bytes(body[1:3], "big"),
                components=body[5],
                is_baseline=marker in _BASELINE,
            )
        if marker == _BEGIN_OF_SCAN and found is not None:
            return found
        place += 2 + max(length, 2)
    raise ObservationError("no JPEG: it has no frame header before its first scan")
