"""Any GStreamer pipeline as a camera, such as the CSI cameras of a Jetson, in a process of its own.

The bindings of GStreamer are python3-gi, which exists for the system's Python alone, not for the one in a virtual
environment; so `gstreamer_child.py` runs there and sends images through a pipe. gst-launch with fdsink would need no
bindings, but sends pixels without their times. A crash in a camera driver's library ends the child, not the robot.

The time of an image is base time + running time on the pipeline's clock, which is set to the monotonic one: when the
capturing element dated it, for nvarguscamerasrc the capture itself.
"""

from __future__ import annotations

import os
import select
import subprocess
import tempfile
import time
from pathlib import Path

import numpy as np

from pi0_edge.cameras.gstreamer_child import ENDED, HEADER, MAGIC, NO_BINDINGS
from pi0_edge.cameras.source import READ_TIMEOUT_S, LostCameraError, Picture, Source
from pi0_edge.errors import CameraError, MissingDependencyError
from pi0_edge.robots import CameraSettings

SYSTEM_PYTHON = "/usr/bin/python3"
PACKAGES = "python3-gi gir1.2-gstreamer-1.0 gstreamer1.0-plugins-base"
INSTALL = f"sudo apt-get install {PACKAGES}"

OPEN_TIMEOUT_S, IMAGE_TIMEOUT_S = 10.0, 1.0


class GstreamerSource(Source):
    """A running pipeline."""

    time_source = "pipeline"

    def __init__(self, settings: CameraSettings) -> None:
        """Starts it and waits for its first image.

        Raises:
            CameraError: If the pipeline cannot be built, fails, or gives no image.
            MissingDependencyError: If GStreamer or its bindings are not installed.
        """
        self._pipeline = settings.address
        if not Path(SYSTEM_PYTHON).is_file():
            raise MissingDependencyError(f"GStreamer pipelines need {SYSTEM_PYTHON} with its bindings: {INSTALL}")
        self.fps = settings.fps
        self._messages = tempfile.TemporaryFile()  # noqa: SIM115 -- closed with the source
        script = str(Path(__file__).with_name("gstreamer_child.py"))
        self._images, written = os.pipe()
        arguments = [SYSTEM_PYTHON, "-I", script, self._pipeline]
        self._child = subprocess.Popen(arguments, stdout=written, stderr=self._messages)
        os.close(written)
        self._unread = b""
        try:
            self._wait_for_first()
        except BaseException:
            self.close()
            raise

    def read(self) -> Picture | None:
        """The next image of the pipeline."""
        if not self._is_readable(READ_TIMEOUT_S):
            return None
        magic, taken_ns, width, height, line_bytes, kind = HEADER.unpack(self._receive(HEADER.size))
        if magic != MAGIC:
            raise LostCameraError(f"the pipeline writes to standard output, where its images go: {self._pipeline}")
        content = self._receive(line_bytes * height)
        arrived_ns = time.monotonic_ns()
        lines = np.frombuffer(content, np.uint8).reshape(height, line_bytes)
        pixels = np.ascontiguousarray(lines[:, : width * 3]).reshape(height, width, 3)
        return Picture(pixels, arrived_ns, taken_ns or None, None, kind.rstrip(b"\0").decode())

    def close(self) -> None:
        """Ends the child."""
        self._child.kill()
        self._child.wait()
        os.close(self._images)
        self._messages.close()

    def _wait_for_first(self) -> None:
        deadline = time.monotonic() + OPEN_TIMEOUT_S
        while not self._is_readable(READ_TIMEOUT_S):
            if time.monotonic() > deadline:
                raise CameraError(f"the pipeline gave no image within {OPEN_TIMEOUT_S:g} s: {self._pipeline}")
        try:
            self._unread = self._receive(HEADER.size)
        except LostCameraError as error:
            if self._child.wait() == NO_BINDINGS:
                raise MissingDependencyError(f"GStreamer pipelines need its bindings ({error}): {INSTALL}") from error
            raise CameraError(str(error)) from error

    def _is_readable(self, timeout_s: float) -> bool:
        return bool(self._unread or select.select([self._images], [], [], timeout_s)[0])

    def _receive(self, size: int) -> bytes:
        """Exactly so many bytes."""
        parts, left = [self._unread], size - len(self._unread)
        self._unread = b""
        deadline = time.monotonic() + IMAGE_TIMEOUT_S
        while left:
            if not self._is_readable(max(0.0, deadline - time.monotonic())):
                raise LostCameraError(f"the pipeline stopped in the middle of an image: {self._pipeline}")
            part = os.read(self._images, left)
            if not part:
                raise LostCameraError(self._last_words())
            parts.append(part)
            left -= len(part)
        return b"".join(parts)

    def _last_words(self) -> str:
        code = self._child.wait()
        self._messages.seek(0)
        lines = self._messages.read().decode(errors="replace").strip().splitlines()
        said = lines[-1] if lines else f"it ended with code {code}"
        return said if code == ENDED else f"the pipeline failed: {said}; it was: {self._pipeline}"
