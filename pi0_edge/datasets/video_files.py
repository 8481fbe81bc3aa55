"""Images to and from video files through PyAV.

Written videos are H.264 with full colour resolution (4:4:4) at a low quantizer: with the usual 4:2:0 a small red
cube on grey is off by 21 of 255 levels on average, with these settings by 1, at 0.7 kB per 112x112 frame.
Read is whatever PyAV decodes, AV1 among it.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pi0_edge.errors import DatasetError, MissingDependencyError

try:
    import av
    from av.error import FFmpegError
except ImportError as error:
    raise MissingDependencyError(f"video files need PyAV ({error}): pip install 'pi0-edge[train]'") from error

CODEC, PIXEL_FORMAT = "h264", "yuv444p"
ENCODER_OPTIONS = {"crf": "4", "g": "10"}
"""Near lossless; a key frame every 10 frames, so that a seek decodes at most 10."""


def video_info(height: int, width: int, fps: int) -> dict[str, Any]:
    """What LeRobot stores about a video in ``meta/info.json``."""
    return {
        "video.height": height,
        "video.width": width,
        "video.codec": CODEC,
        "video.pix_fmt": PIXEL_FORMAT,
        "video.is_depth_map": False,
        "video.fps": fps,
        "video.channels": 3,
        "has_audio": False,
    }


class VideoFileWriter:
    """Writes one mp4 file, one image per 1/fps s."""

    def __init__(self, path: Path, fps: int, height: int, width: int) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._container = av.open(str(path), "w")
        self._stream = self._container.add_stream("libx264", rate=fps, options=ENCODER_OPTIONS)
        self._stream.height, self._stream.width, self._stream.pix_fmt = height, width, PIXEL_FORMAT

    def write(self, image: NDArray[np.uint8]) -> None:
        """Append one image, uint8 (height, width, 3)."""
        self._container.mux(self._stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))

    def close(self) -> None:
        """Write what the encoder still holds and finish the file."""
        self._container.mux(self._stream.encode(None))
        self._container.close()

    def __enter__(self) -> VideoFileWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def read_frames(path: Path, start: float, count: int, fps: float) -> Iterator[NDArray[np.uint8]]:
    """Yield ``count`` images, uint8 (height, width, 3), from ``start`` seconds on.

    Raises:
        DatasetError: The file is missing, is not a video or ends too early.
    """
    if not path.is_file():
        raise DatasetError(f"video file {path} is missing; fetch the dataset again")
    found = 0
    try:
        for image in _decode(path, start - 0.5 / fps):
            yield image
            found += 1
            if found == count:
                return
    except FFmpegError as error:
        raise DatasetError(f"video file {path} cannot be decoded ({error}); fetch the dataset again") from error
    if found < count:
        raise DatasetError(f"video file {path} ends after {found} of the {count} frames from {start:.2f} s on")


def _decode(path: Path, earliest: float) -> Iterator[NDArray[np.uint8]]:
    with av.open(str(path)) as container:
        if not container.streams.video:
            raise DatasetError(f"{path} holds no video stream; fetch the dataset again")
        stream = container.streams.video[0]
        if earliest > 0 and stream.time_base is not None:
            container.seek(int(earliest / stream.time_base), stream=stream)
        for frame in container.decode(stream):
            if frame.time is not None and frame.time >= earliest:
                yield frame.to_ndarray(format="rgb24")
