"""A video file, or a source of FFmpeg's filters, played at its own rate; a file begins again at its end."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

from pi0_edge.cameras.pacing import Pacing
from pi0_edge.cameras.pyav import REPEATING_CODECS, FFmpegError, av, pixel_format, rgb
from pi0_edge.cameras.source import DamagedImageError, LostCameraError, Picture, Source
from pi0_edge.errors import CameraError
from pi0_edge.robots import CameraSettings


class PlayedVideo(Source):
    """Frames by their presentation times."""

    def __init__(self, settings: CameraSettings) -> None:
        """Opens it.

        Raises:
            CameraError: If there is no such file, graph, or no picture in it.
        """
        self._address, self._generated = settings.address, settings.kind == "lavfi"
        if not self._generated and not Path(self._address).is_file():
            raise CameraError(f"there is no video file {self._address}")
        try:
            self._container = av.open(self._address, format="lavfi" if self._generated else None)
        except (FFmpegError, ValueError) as error:
            raise CameraError(f"{settings.source} cannot be opened: {error}") from error
        if not self._container.streams.video:
            self._container.close()
            raise CameraError(f"{settings.source} has no pictures, expected a video")
        stream = self._container.streams.video[0]
        self.fps = float(stream.average_rate) if stream.average_rate else None
        # A generated picture that does not move is as still as a frozen camera, and a test needs that to be noticed.
        self.may_repeat = stream.codec_context.name in REPEATING_CODECS
        self._pacing, self._base_s, self._last_s = Pacing(), 0.0, 0.0
        self._frames = self._decode()
        self._pending: av.VideoFrame | None = None

    def read(self) -> Picture | None:
        """The next frame once it is due."""
        try:
            frame = self._pending = self._pending or next(self._frames, None) or self._again()
        except FFmpegError as error:
            self._frames = self._decode()
            raise DamagedImageError(f"{self._address}: a picture cannot be decoded: {error}") from error
        due_s = self._base_s + (frame.time or 0.0)
        if not self._pacing.wait(due_s):
            return None
        self._pending, self._last_s = None, due_s
        return Picture(rgb(frame), time.monotonic_ns(), None, None, pixel_format(frame))

    def close(self) -> None:
        """Closes the file."""
        self._container.close()

    def _decode(self) -> Iterator[av.VideoFrame]:
        return self._container.decode(video=0)

    def _again(self) -> av.VideoFrame:
        """The first frame of the next round, one period after the last."""
        if self._generated:
            raise LostCameraError(f"lavfi:{self._address} has ended")
        self._container.seek(0)
        self._frames = self._decode()
        self._base_s = self._last_s + 1 / (self.fps or 30.0)
        frame = next(self._frames, None)
        if frame is None:
            raise LostCameraError(f"{self._address} holds no picture")
        return frame
