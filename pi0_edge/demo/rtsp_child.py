"""Serves raw images as Motion JPEG over RTSP; started by `rtsp_camera.py`, never imported.

It runs in the system's Python, which alone has the bindings of GStreamer, so it imports nothing else. Images come on
standard input, one after the other without anything between them; it ends with its input. An image that nobody watches
is dropped.

    python3 rtsp_child.py PORT NAME WIDTH HEIGHT FPS
"""

from __future__ import annotations

import sys
import threading
from typing import Any, NoReturn

NO_BINDINGS, REFUSED = 3, 4
ELEMENTS = ("appsrc", "videoconvert", "jpegenc", "rtpjpegpay")
QUALITY = 95
TWO_IMAGES = 2


def fail(code: int, message: str) -> NoReturn:
    """Ends this process with a line for people."""
    sys.stderr.write(message + "\n")
    sys.exit(code)


def bindings() -> tuple[Any, Any, Any]:
    """GLib, Gst and GstRtspServer."""
    try:
        import gi  # pyright: ignore[reportMissingImports]

        gi.require_version("Gst", "1.0")
        gi.require_version("GstRtspServer", "1.0")
        from gi.repository import GLib, Gst, GstRtspServer  # pyright: ignore[reportMissingImports]
    except (ImportError, ValueError) as error:
        fail(NO_BINDINGS, str(error))
    Gst.init(None)
    if lacking := [name for name in ELEMENTS if Gst.ElementFactory.find(name) is None]:
        fail(NO_BINDINGS, "GStreamer has no element " + ", ".join(lacking))
    return GLib, Gst, GstRtspServer


def main(port: str, name: str, width: int, height: int, fps: int) -> None:
    """Serves until standard input ends."""
    glib, gst, rtsp = bindings()
    raw = f"video/x-raw,format=RGB,width={width},height={height},framerate={fps}/1"
    factory = rtsp.RTSPMediaFactory()
    factory.set_launch(
        f"( appsrc name=images is-live=true do-timestamp=true format=time max-buffers={TWO_IMAGES} "
        f"leaky-type=downstream caps={raw} ! videoconvert ! video/x-raw,format=I420 ! jpegenc quality={QUALITY} ! "
        "rtpjpegpay name=pay0 pt=26 )"
    )
    factory.set_shared(True)
    watched: list[Any] = []  # the source of the present stream: it exists while somebody watches

    def begin(_factory: object, media: Any) -> None:
        watched[:] = [media.get_element().get_by_name("images")]
        media.connect("unprepared", lambda _media: watched.clear())

    factory.connect("media-configure", begin)
    server = rtsp.RTSPServer()
    server.set_address("127.0.0.1")
    server.set_service(port)
    server.get_mount_points().add_factory("/" + name, factory)
    if server.attach(None) == 0:
        fail(REFUSED, f"port {port} cannot be listened on; another program has it")
    loop = glib.MainLoop()

    def pass_on() -> None:
        while len(image := sys.stdin.buffer.read(3 * width * height)) == 3 * width * height:
            for source in tuple(watched):
                source.emit("push-buffer", gst.Buffer.new_wrapped(image))
        loop.quit()

    threading.Thread(target=pass_on, daemon=True).start()
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    loop.run()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], *map(int, sys.argv[3:6]))
