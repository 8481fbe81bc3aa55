"""A network camera that shows given images: Motion JPEG over RTSP, as many IP cameras send it.

The server is GStreamer's. Its bindings exist for the system's Python alone, so it is a process of its own.
"""

from __future__ import annotations

import contextlib
import os
import select
import subprocess
import tempfile
from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from pi0_edge.demo.rtsp_child import NO_BINDINGS
from pi0_edge.errors import CameraError, MissingDependencyError

SYSTEM_PYTHON = "/usr/bin/python3"
INSTALL = (
    "sudo apt-get install python3-gi gir1.2-gst-rtsp-server-1.0 gstreamer1.0-plugins-base gstreamer1.0-plugins-good"
)
READY_LIMIT_S = 20.0


class RtspCamera:
    """A camera at `url`, from entering the context to leaving it."""

    def __init__(self, port: int, name: str, width: int, height: int, fps: int) -> None:
        """Prepares it; nothing listens yet.

        Args:
            port: Of loopback.
            name: Path of the address.
            width: Of the images, a multiple of 8 as JPEG over RTP demands (RFC 2435, section 3.1.5).
            height: The same.
            fps: Images a second, as the stream announces.
        """
        self.url = f"rtsp://127.0.0.1:{port}/{name}"
        self._shape = (height, width, 3)
        self._arguments = [str(port), name, str(width), str(height), str(fps)]

    def __enter__(self) -> RtspCamera:
        """Starts the server, and returns when it listens.

        Raises:
            MissingDependencyError: GStreamer, its RTSP server or their bindings are not installed.
            CameraError: The port is in use, or the server does not start in time.
        """
        if not Path(SYSTEM_PYTHON).is_file():
            raise MissingDependencyError(f"a camera over RTSP needs {SYSTEM_PYTHON} with GStreamer: {INSTALL}")
        self._messages = tempfile.TemporaryFile()
        script = str(Path(__file__).with_name("rtsp_child.py"))
        read, written = os.pipe()
        self._images = os.fdopen(written, "wb")
        self._server = subprocess.Popen(
            [SYSTEM_PYTHON, "-I", script, *self._arguments],
            stdin=read,
            stdout=subprocess.PIPE,
            stderr=self._messages,
            start_new_session=True,  # Ctrl-C is for the process that shows the images; this one ends with its input
        )
        os.close(read)
        try:
            self._wait_until_ready()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.close()

    def show(self, image: NDArray[np.uint8]) -> None:
        """Sends an image, uint8 [height, width, 3], to whoever watches.

        Raises:
            CameraError: It has another size, or the server has ended.
        """
        if image.shape != self._shape or image.dtype != np.uint8:
            raise CameraError(f"the camera {self.url} shows uint8 {self._shape}, found {image.dtype} {image.shape}")
        try:
            self._images.write(image.tobytes())
            self._images.flush()
        except OSError as error:
            raise CameraError(f"the camera {self.url} has ended: {self._said()}") from error

    def close(self) -> None:
        """Ends the server."""
        self._server.kill()
        self._server.wait()
        for pipe in (self._images, self._server.stdout, self._messages):
            with contextlib.suppress(OSError):  # an image that the server no longer reads
                if pipe is not None:
                    pipe.close()

    def _wait_until_ready(self) -> None:
        output = self._server.stdout
        if output is None or not select.select([output], [], [], READY_LIMIT_S)[0]:
            raise CameraError(f"the camera {self.url} was not ready within {READY_LIMIT_S:.0f} s: {self._said()}")
        if output.readline() == b"ready\n":
            return
        if self._server.wait() == NO_BINDINGS:
            raise MissingDependencyError(f"a camera over RTSP cannot be made ({self._said()}): {INSTALL}")
        raise CameraError(f"the camera {self.url} did not start: {self._said()}")

    def _said(self) -> str:
        self._messages.seek(0)
        return self._messages.read().decode(errors="replace").strip()[-600:] or "it said nothing"
