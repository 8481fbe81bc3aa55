"""Pictures and plots of a run in Rerun, live or in an .rrd file.

The recording of a run is the .mcap file; an .rrd file is for looking at, with the viewer of the same version.
"""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from firmware_bridge.client import Tick
from pi0_edge.cameras import CameraImage
from pi0_edge.errors import ConfigError, MissingDependencyError
from pi0_edge.output_paths import check_output_path
from pi0_edge.run.events import Answered, Event, Observed

LIVE = "live"

WAITING = 512
"""What waits for the viewer; more is left out, and the run does not notice."""

_JPEG_QUALITY = 80
_MEMORY = "256MiB"  # what a viewer that connects later is shown
_CLOSE_S = 5.0


class RerunViewer:
    """A listener that shows a run; a context manager.

    Attributes:
        address: Where a viewer connects (`rerun ADDRESS`); empty for a file.
        left_out: What was not shown, because the viewer or the disk was too slow.
    """

    def __init__(self, target: str, joint_names: tuple[str, ...]) -> None:
        """Begins to show.

        Args:
            target: `live`, or the path of a new .rrd file.
            joint_names: In the order of the actions.

        Raises:
            ConfigError: `target` is neither.
            MissingDependencyError: Rerun is not installed.
        """
        if target != LIVE and Path(target).suffix != ".rrd":
            raise ConfigError(f"rerun is {target!r}; expected `{LIVE}`, or a file name that ends in .rrd")
        try:
            rerun: Any = import_module("rerun")
        except ImportError as error:
            raise MissingDependencyError(
                f"Rerun is not installed, and --rerun needs it ({error}): pip install 'pi0-edge[rerun]'"
            ) from error
        self.address = ""
        self.left_out = 0
        self._rerun = rerun
        self._names = joint_names
        self._recording: Any = rerun.RecordingStream("pi0-edge run")
        if target == LIVE:
            self.address = self._recording.serve_grpc(server_memory_limit=_MEMORY)
        else:
            check_output_path("--rerun", Path(target), (".rrd",))
            self._recording.save(target)
        self._waiting: queue.Queue[Callable[[], None] | None] = queue.Queue(WAITING)
        self._thread = threading.Thread(target=self._work, name="run-rerun", daemon=True)
        self._thread.start()

    def __enter__(self) -> RerunViewer:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        with contextlib.suppress(queue.Full):
            self._waiting.put(None, timeout=_CLOSE_S)
        self._thread.join(_CLOSE_S)
        self._recording.disconnect()

    def on_observed(self, observed: Observed) -> None:
        """The prompt, where it changes, is an event of the run."""

    def on_answered(self, answered: Answered) -> None:
        """The chunk as curves, one for each joint, and how long it took."""
        self._put(lambda: self._show_chunk(answered))

    def on_tick(self, tick: Tick) -> None:
        """Commanded and measured positions, currents, and the ring of setpoints."""
        self._put(lambda: self._show_tick(tick))

    def on_event(self, event: Event) -> None:
        """A line of text."""
        if event.name != "setpoints":
            self._put(lambda: self._show_event(event))

    def on_image(self, camera: str, image: CameraImage) -> None:
        """A picture."""
        self._put(lambda: self._show_image(camera, image))

    def _put(self, show: Callable[[], None]) -> None:
        try:
            self._waiting.put_nowait(show)
        except queue.Full:
            self.left_out += 1

    def _work(self) -> None:
        for show in iter(self._waiting.get, None):
            show()

    def _show_tick(self, tick: Tick) -> None:
        self._at(tick.tick, time.monotonic_ns())
        for name, commanded, measured, current in zip(
            self._names, tick.executed, tick.measured, tick.current, strict=True
        ):
            self._plot(f"joints/{name}/commanded", commanded)
            self._plot(f"joints/{name}/measured", measured)
            self._plot(f"currents/{name}", current)
        self._plot("ring_level", tick.ring_level)
        if tick.chunk_id:
            self._plot("age_of_information_ticks", (tick.tick - tick.observed_tick) & 0xFFFFFFFF)

    def _show_chunk(self, answered: Answered) -> None:
        self._at(answered.observed.tick, answered.observed.time_ns)
        self._plot("policy/to_chunk_ms", answered.to_chunk_ms)
        self._plot("policy/infer_ms", answered.infer_ms)
        self._recording.log("policy/chunk", self._rerun.Tensor(answered.chunk, dim_names=("action", "joint")))

    def _show_event(self, event: Event) -> None:
        self._at(event.tick, event.time_ns)
        self._recording.log("events", self._rerun.TextLog(f"{event.name} {event.text}".strip()))

    def _show_image(self, camera: str, image: CameraImage) -> None:
        self._recording.disable_timeline("tick")  # the camera has its own clock
        self._recording.set_time("time", duration=image.taken_ns * 1e-9)
        picture = self._rerun.Image(np.ascontiguousarray(image.pixels)).compress(jpeg_quality=_JPEG_QUALITY)
        self._recording.log(f"cameras/{camera}", picture)

    def _at(self, tick: int, time_ns: int) -> None:
        self._recording.set_time("tick", sequence=tick)
        self._recording.set_time("time", duration=time_ns * 1e-9)

    def _plot(self, path: str, value: float) -> None:
        self._recording.log(path, self._rerun.Scalars(float(value)))
