"""PyAV, for cameras: one import with its advice, and decoded frames as RGB."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pi0_edge.errors import MissingDependencyError

try:
    import av
    from av.error import FFmpegError
except ImportError as error:
    raise MissingDependencyError(
        f"video files, network cameras and compressed USB cameras need PyAV ({error}): pip install 'pi0-edge[cameras]'"
    ) from error

REPEATING_CODECS = frozenset({"h264", "hevc", "av1", "vp8", "vp9", "mpeg4"})
"""They code what changes: a still scene can decode to equal images."""


def rgb(frame: av.VideoFrame) -> NDArray[np.uint8]:
    """The pixels of a decoded frame, uint8 [height, width, 3].

    Raises:
        FFmpegError: If its pixel format cannot be converted.
    """
    return np.asarray(frame.to_ndarray(format="rgb24"), np.uint8)


def pixel_format(frame: av.VideoFrame) -> str:
    """The pixel format that a frame was decoded to, such as yuv420p."""
    return frame.format.name


__all__ = ["REPEATING_CODECS", "FFmpegError", "av", "pixel_format", "rgb"]
