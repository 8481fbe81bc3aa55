"""Network cameras over RTSP: by TCP, without buffering, each image dated by its arrival.

RTSP dates images by the sender's clock from an unknown start; only its sender reports could tie that to a clock, and
cheap cameras send none. So `taken_ns` is the arrival of the packet that completes the image, before it is decoded:
exposure, encoding and the network lie before it, 50 to 300 ms by the camera. `max_age_s` cannot see that part.
"""

from __future__ import annotations

import time
from collections import deque

from pi0_edge.cameras.pyav import REPEATING_CODECS, FFmpegError, av, pixel_format, rgb
from pi0_edge.cameras.source import DamagedImageError, LostCameraError, Picture, Source
from pi0_edge.errors import CameraError
from pi0_edge.robots import CameraSettings

OPTIONS = {"rtsp_transport": "tcp", "fflags": "nobuffer", "flags": "low_delay", "probesize": "32768"}
"""UDP loses packets when a machine is busy, and a torn image looks like any other; FFmpeg buffers otherwise."""

OPEN_TIMEOUT_S, SILENCE_TIMEOUT_S = 5.0, 1.0


class NetworkSource(Source):
    """An RTSP stream."""

    def __init__(self, settings: CameraSettings) -> None:
        """Connects.

        Raises:
            CameraError: If nobody answers, or there is no video in the stream.
        """
        self._shown = settings.shown
        timeout = (OPEN_TIMEOUT_S, SILENCE_TIMEOUT_S)
        try:
            self._container = av.open(settings.address, options={**OPTIONS, **settings.options}, timeout=timeout)
        except FFmpegError as error:
            raise CameraError(
                f"{self._shown} cannot be opened ({error.strerror}); is the camera on, and are path, user and password "
                "right?"
            ) from error
        if not self._container.streams.video:
            self._container.close()
            raise CameraError(f"{self._shown} has no video, expected one stream of it")
        stream = self._container.streams.video[0]
        stream.thread_type = "SLICE"  # threads over whole frames would delay each image by one for every thread
        self.fps = float(stream.average_rate) if stream.average_rate else None
        self.may_repeat = stream.codec_context.name in REPEATING_CODECS
        self._packets = self._container.demux(stream)
        self._decoded: deque[Picture] = deque()

    def read(self) -> Picture | None:
        """The next image; a stream that is silent for a second is lost."""
        if self._decoded:
            return self._decoded.popleft()
        try:
            packet = next(self._packets, None)
        except FFmpegError as error:
            raise LostCameraError(
                f"{self._shown} has sent nothing for {SILENCE_TIMEOUT_S:g} s ({error.strerror})"
            ) from error
        if packet is None or packet.size == 0:
            raise LostCameraError(f"{self._shown} has ended its stream")
        arrived_ns = time.monotonic_ns()
        try:
            frames = packet.decode()
        except FFmpegError as error:
            raise DamagedImageError(f"{self._shown}: an image cannot be decoded: {error.strerror}") from error
        if packet.is_corrupt or any(getattr(frame, "is_corrupt", False) for frame in frames):
            raise DamagedImageError(f"{self._shown}: an image came incomplete")
        self._decoded.extend(Picture(rgb(frame), arrived_ns, None, None, pixel_format(frame)) for frame in frames)
        return self._decoded.popleft() if self._decoded else None

    def close(self) -> None:
        """Ends the connection."""
        self._container.close()
