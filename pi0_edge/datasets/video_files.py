"""Images to and from video files through PyAV.

Written videos are H.264 with full colour resolution (4:4:4) at a low quantizer: with the usual 4:2:0 a small red
cube on grey is off by 21 of 255 levels on average, with these settings by 1, at 0.7 kB per 112x112 frame.
Read is whatever PyAV decodes, AV1 among it. An image is found by its time, never by counting: a video may have another
rate than the rows of its dataset, or gaps.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

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

SAME_TIME = 1e-4
"""Seconds by which two times of the same moment may differ: rows store float32, videos multiples of a time base."""


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


def read_frames(
    path: Path,
    times: Sequence[float],
    tolerance: float,
    names: Sequence[str],
    within: tuple[float, float] = (-math.inf, math.inf),
) -> Iterator[NDArray[np.uint8]]:
    """Yield the image that was taken nearest to each time, uint8 (height, width, 3).

    Args:
        path: The video file.
        times: When images are wanted, ascending, in seconds of the file.
        tolerance: How far from its time an image may have been taken, in seconds.
        names: What each time belongs to, for messages, such as "row 3 of episode 0".
        within: Images from before and from after these two times belong to something else, in seconds of the file.

    Raises:
        DatasetError: The file is missing or is not a video, or no image was taken near one of the times.
    """
    if not path.is_file():
        raise DatasetError(f"video file {path} is missing; fetch the dataset again")
    if not len(times):
        return
    try:
        frames = _frames_between(path, max(within[0], times[0] - 2 * tolerance), within[1])
        before, after = None, next(frames, None)
        for time, name in zip(times, names, strict=True):
            while after is not None and after.time <= time + SAME_TIME:
                before, after = after, next(frames, None)
            found = _nearest(time, before, after)
            if found is None or abs(found.time - time) > tolerance:
                raise DatasetError(_no_image(path, name, time, found, tolerance))
            yield found.image()
    except FFmpegError as error:
        raise DatasetError(f"video file {path} cannot be decoded ({error}); fetch the dataset again") from error


class _Frame(NamedTuple):
    """A decoded frame and its presentation time in seconds of the file."""

    time: float
    decoded: av.VideoFrame

    def image(self) -> NDArray[np.uint8]:
        return np.asarray(self.decoded.to_ndarray(format="rgb24"), np.uint8)


def _nearest(time: float, before: _Frame | None, after: _Frame | None) -> _Frame | None:
    """Of two frames around a time the nearer one, the earlier where both are as near."""
    if before is None or after is None:
        return after if before is None else before
    return after if after.time - time < time - before.time - SAME_TIME else before


def _no_image(path: Path, name: str, time: float, nearest: _Frame | None, tolerance: float) -> str:
    shown = "no image" if nearest is None else f"the nearest image is of {nearest.time:.4f} s"
    return (
        f"video file {path}: {name} is of {time:.4f} s in it, but {shown}; expected one within {tolerance:.4f} s, half "
        "a frame of the rows. Its images and the rows are not of the same moments: encode the video again with the "
        "time of each row, or fetch the dataset again"
    )


def _frames_between(path: Path, earliest: float, latest: float) -> Iterator[_Frame]:
    """Frames in the order of their times."""
    with av.open(str(path)) as container:
        if not container.streams.video:
            raise DatasetError(f"{path} holds no video stream; fetch the dataset again")
        stream = container.streams.video[0]
        if earliest > 0 and stream.time_base is not None:
            container.seek(int(earliest / stream.time_base), stream=stream)
        for frame in container.decode(stream):
            if frame.time is None:
                raise DatasetError(f"video file {path} has an image without a time; encode it again")
            if frame.time > latest:
                return
            if frame.time >= earliest:
                yield _Frame(frame.time, frame)
