"""Images as they are stored: `foxglove.CompressedImage`, which viewers show because of its name.

PNG keeps every pixel, so that a chunk can be computed again bit for bit; JPEG is about a tenth of its size and is for
looking at and for training.

The message type is made here, in a pool of its own, from the fields of foxglove/CompressedImage.proto
(foxglove-schemas-protobuf): a generated module would collide with Foxglove's where both are imported.
"""

from __future__ import annotations

import io
import zlib
from typing import Any

import numpy as np
from google.protobuf import timestamp_pb2
from google.protobuf.descriptor_pb2 import FieldDescriptorProto, FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from numpy.typing import NDArray

from pi0_edge.errors import MissingDependencyError, RecordingError

try:
    from PIL import Image, UnidentifiedImageError
except ImportError as error:
    raise MissingDependencyError(f"recordings need Pillow ({error}): pip install 'pi0-edge[recording]'") from error

LOSSLESS, LOSSY = "png", "jpeg"
JPEG_QUALITY = 90
_PNG_LEVEL = 1
"""The fastest; level 6 makes files 16 % smaller and takes four times as long (benchmarks/results/recording.txt)."""
_NS = 1_000_000_000


def _message_class() -> Any:
    pool = DescriptorPool()
    pool.AddSerializedFile(timestamp_pb2.DESCRIPTOR.serialized_pb)
    kinds = FieldDescriptorProto
    fields = (
        ("timestamp", 1, kinds.TYPE_MESSAGE),
        ("frame_id", 4, kinds.TYPE_STRING),
        ("data", 2, kinds.TYPE_BYTES),
        ("format", 3, kinds.TYPE_STRING),
    )
    file = FileDescriptorProto(name="foxglove/CompressedImage.proto", package="foxglove", syntax="proto3")
    file.dependency.append(timestamp_pb2.DESCRIPTOR.name)
    message = file.message_type.add(name="CompressedImage")
    for name, number, kind in fields:
        field = message.field.add(name=name, number=number, type=kind, label=kinds.LABEL_OPTIONAL)
        if kind == kinds.TYPE_MESSAGE:
            field.type_name = ".google.protobuf.Timestamp"
    pool.Add(file)
    return GetMessageClass(pool.FindMessageTypeByName("foxglove.CompressedImage"))


CompressedImage: Any = _message_class()
"""`foxglove.CompressedImage`: timestamp, frame_id, data, format."""


def encode_image(pixels: NDArray[np.uint8], camera: str, wall_ns: int, lossless: bool) -> Any:
    """The message of an image.

    Args:
        pixels: uint8 [height, width, 3], RGB.
        camera: Its name.
        wall_ns: When it was taken, nanoseconds since 1970.
        lossless: PNG, else JPEG.
    """
    content = io.BytesIO()
    image = Image.fromarray(np.ascontiguousarray(pixels))
    if lossless:
        image.save(content, "PNG", compress_level=_PNG_LEVEL)
    else:
        image.save(content, "JPEG", quality=JPEG_QUALITY)
    taken = timestamp_pb2.Timestamp(seconds=wall_ns // _NS, nanos=wall_ns % _NS)
    message = CompressedImage(frame_id=camera, data=content.getvalue(), format=LOSSLESS if lossless else LOSSY)
    message.timestamp.MergeFromString(taken.SerializeToString())  # of another pool
    return message


def decode_image(message: Any, name: str) -> NDArray[np.uint8]:
    """The pixels of a message, uint8 [height, width, 3].

    Raises:
        RecordingError: If it holds no complete PNG or JPEG; the message begins with `name`.
    """
    try:
        with Image.open(io.BytesIO(message.data), formats=("PNG", "JPEG")) as image:
            return np.asarray(image.convert("RGB"))
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise RecordingError(f"{name} is not a complete image ({error})") from error


def pixel_crc(pixels: NDArray[np.uint8]) -> int:
    """CRC-32 of the pixels, row major."""
    return zlib.crc32(np.ascontiguousarray(pixels).data)
