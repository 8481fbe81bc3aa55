"""An RTSP camera: GStreamer's server in a process of its own, which can be stopped and started again."""

from __future__ import annotations

import functools
import socket
import subprocess
import time
from types import TracebackType

import pytest

SYSTEM_PYTHON = "/usr/bin/python3"
PACKAGES = "python3-gi gir1.2-gst-rtsp-server-1.0 gstreamer1.0-plugins-base gstreamer1.0-plugins-good"
_IMPORTS = """
import gi
gi.require_version("Gst", "1.0")
gi.require_version("GstRtspServer", "1.0")
from gi.repository import GLib, Gst, GstRtspServer
Gst.init(None)
"""
_SERVE = """
import sys
server = GstRtspServer.RTSPServer()
server.set_address("127.0.0.1")
server.set_service(sys.argv[1])
factory = GstRtspServer.RTSPMediaFactory()
factory.set_launch("( " + sys.argv[2] + " )")
factory.set_shared(True)
server.get_mount_points().add_factory("/camera", factory)
server.attach(None)
GLib.MainLoop().run()
"""


@functools.cache
def _missing() -> str:
    try:
        tried = subprocess.run([SYSTEM_PYTHON, "-c", _IMPORTS], capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        return str(error)
    return (tried.stderr.strip().splitlines() or [""])[-1]


def require_rtsp_server() -> None:
    if missing := _missing():
        pytest.skip(f"no RTSP server here ({missing}): apt-get install {PACKAGES}")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def jpeg_pipeline(pattern: str = "smpte", width: int = 320, height: int = 240, fps: int = 30) -> str:
    """A test picture as JPEG over RTP; with `is-live` it is made at its rate."""
    caps = f"video/x-raw,format=I420,width={width},height={height},framerate={fps}/1"
    return f"videotestsrc is-live=true pattern={pattern} ! {caps} ! jpegenc ! rtpjpegpay name=pay0 pt=26"


class RtspCamera:
    """A server on one port, running from `start` to `stop`."""

    def __init__(self, pipeline: str) -> None:
        require_rtsp_server()
        self.port = free_port()
        self.pipeline = pipeline
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"rtsp://127.0.0.1:{self.port}/camera"

    @property
    def process_id(self) -> int:
        assert self._process is not None
        return self._process.pid

    def __enter__(self) -> RtspCamera:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        self._process = subprocess.Popen([SYSTEM_PYTHON, "-c", _IMPORTS + _SERVE, str(self.port), self.pipeline])
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
                return
            except OSError:
                time.sleep(0.05)
        raise AssertionError("the RTSP server does not listen")

    def stop(self) -> None:
        """Kills it: no goodbye is sent, as when a camera loses its power."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
