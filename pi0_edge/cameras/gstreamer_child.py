"""Runs one GStreamer pipeline and writes its images to standard output; started by `gstreamer.py`, never imported.

It runs in the system's Python, which alone has the bindings of GStreamer (python3-gi, no wheel exists), on whatever
version that is; so it imports nothing else. Before each image comes a header: magic, time, width, height, bytes of a
line, and the pixel format that the pipeline had before it became RGB.

    python3 gstreamer_child.py "videotestsrc is-live=true"
"""

from __future__ import annotations

import struct
import sys
from typing import Any, NoReturn

HEADER = struct.Struct("<4sQIII16s")
MAGIC = b"IMG1"
WAIT_NS = 200_000_000
NO_BINDINGS, REFUSED, ENDED = 3, 4, 5
TAIL = "! videoconvert name=to_rgb ! video/x-raw,format=RGB ! appsink name=newest drop=true max-buffers=1 sync=false"


def fail(code: int, message: str) -> NoReturn:
    """Ends this process with a line for people."""
    sys.stderr.write(message + "\n")
    sys.exit(code)


def main(description: str) -> None:
    """Plays until the reader goes away or the pipeline ends."""
    try:
        import gi  # pyright: ignore[reportMissingImports]

        gi.require_version("Gst", "1.0")
        from gi.repository import GLib, Gst  # pyright: ignore[reportMissingImports]
    except (ImportError, ValueError) as error:
        fail(NO_BINDINGS, str(error))
    Gst.init(None)
    try:
        pipeline = Gst.parse_launch(description + " " + TAIL)
    except GLib.Error as error:
        fail(REFUSED, "it cannot be built: " + error.message)
    pipeline.use_clock(Gst.SystemClock.obtain())  # CLOCK_MONOTONIC, that of time.monotonic_ns
    live = pipeline.set_state(Gst.State.PAUSED)
    if live == Gst.StateChangeReturn.ASYNC:
        live = pipeline.get_state(5 * Gst.SECOND)[0]
    if live == Gst.StateChangeReturn.SUCCESS:
        fail(REFUSED, "it is not live, so its images have no time; for a file use file:PATH, for a test is-live=true")
    pipeline.set_state(Gst.State.PLAYING)
    try:
        write_images(Gst, pipeline)
    finally:
        pipeline.set_state(Gst.State.NULL)


def write_images(gst: Any, pipeline: Any) -> None:
    """Writes each image that the sink has."""
    sink, converter, bus = pipeline.get_by_name("newest"), pipeline.get_by_name("to_rgb"), pipeline.get_bus()
    while True:
        message = bus.pop_filtered(gst.MessageType.ERROR | gst.MessageType.EOS)
        if message is not None and message.type == gst.MessageType.ERROR:
            error, _ = message.parse_error()
            fail(REFUSED, message.src.get_name() + ": " + error.message)
        sample = sink.emit("try-pull-sample", WAIT_NS)
        if sample is not None:
            write_image(gst, pipeline, sample, converter)
        elif message is not None:
            fail(ENDED, "the pipeline has ended")


def write_image(gst: Any, pipeline: Any, sample: Any, converter: Any) -> None:
    """Writes one image with its header."""
    buffer, caps = sample.get_buffer(), sample.get_caps().get_structure(0)
    width, height = caps.get_value("width"), caps.get_value("height")
    running = sample.get_segment().to_running_time(gst.Format.TIME, buffer.pts)
    taken_ns = 0 if running == gst.CLOCK_TIME_NONE else pipeline.get_base_time() + running
    before = converter.get_static_pad("sink").get_current_caps().get_structure(0).get_value("format")
    size = buffer.get_size()
    header = HEADER.pack(MAGIC, taken_ns, width, height, size // height, before.encode())
    output = sys.stdout.buffer
    output.write(header)
    output.write(buffer.extract_dup(0, size))
    output.flush()


if __name__ == "__main__":
    try:
        main(sys.argv[1])
    except BrokenPipeError:
        sys.exit(0)
