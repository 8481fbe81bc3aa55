"""Records a run while it happens, in a thread of its own, and never at the robot's expense.

A call of the run only puts what it is told into a queue. The queue has a bound in bytes: where the disk is full, or so
slow that the bound is reached, the recording ends, says so once, and the robot goes on. What was recorded by then can
be read.
"""

from __future__ import annotations

import dataclasses
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from firmware_bridge.client import Tick
from pi0_edge.cameras import CameraImage
from pi0_edge.errors import RecordingError
from pi0_edge.run.events import Answered, Event, Observed
from pi0_edge.run.recording.description import RunDescription
from pi0_edge.run.recording.file_writer import RecordingFile
from pi0_edge.run.recording.messages import (
    ANSWERS,
    EVENTS,
    OBSERVATIONS,
    TICKS,
    OutgoingMessage,
    answer_message,
    event_message,
    image_message,
    observation_message,
    tick_message,
)

FLUSH_S = 1.0
"""How much of a recording a killed process can lose."""

WAITING_BYTES = 256 << 20
"""Most that waits for the disk, by default."""

CLOSE_LIMIT_S = 60.0
"""How long `close` waits for the disk."""

_SMALL = 1024  # bytes that something without images counts as
_NS = 1_000_000_000

logger = logging.getLogger(__name__)


class RunRecorder:
    """A listener of a run that records it; also a context manager.

    Attributes:
        path: The recording when it is closed.
        ended: Why the recording ended early; None while it goes on and after an ordinary end.
    """

    def __init__(
        self,
        path: Path,
        description: RunDescription,
        *,
        lossless: bool = True,
        waiting_bytes: int = WAITING_BYTES,
        on_ended: Callable[[str], object] | None = None,
    ) -> None:
        """Begins a recording.

        Args:
            path: A new file, NAME.mcap; until it is closed, it is NAME.mcap.partial.
            description: What the run is made of; this computer's clocks are added to it.
            lossless: Whether the images that the policy is asked about are kept as they are, so that chunks can be
                computed again bit for bit. Other images are JPEG in any case.
            waiting_bytes: Most that may wait for the disk; more ends the recording.
            on_ended: Is told once why the recording ended early, from the recorder's thread or from that of the run.

        Raises:
            RecordingError: If the file cannot be begun.
        """
        self.path = path
        self.ended: str | None = None
        self._offset_ns = time.time_ns() - time.monotonic_ns()
        self._lossless, self._limit, self._on_ended = lossless, waiting_bytes, on_ended
        try:
            self._file = RecordingFile(path, dataclasses.replace(description, wall_minus_monotonic_ns=self._offset_ns))
        except OSError as error:
            raise RecordingError(
                f"cannot record into {path} ({error}); expected a folder that can be written"
            ) from error
        self._waiting: deque[tuple[Any, int, int]] = deque()
        self._waiting_bytes = 0
        self._closing = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="run-recorder", daemon=True)
        self._thread.start()

    def __enter__(self) -> RunRecorder:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def on_observed(self, observed: Observed) -> None:
        """An observation goes to the policy."""
        self._put(observed, sum(image.pixels.nbytes for image in observed.images.values()))

    def on_answered(self, answered: Answered) -> None:
        """A chunk came back and was played or refused."""
        self._put(answered, answered.chunk.nbytes)

    def on_tick(self, tick: Tick) -> None:
        """The firmware executed a tick."""
        self._put(tick, 0)

    def on_event(self, event: Event) -> None:
        """Something else happened."""
        self._put(event, 0)

    def on_image(self, camera: str, image: CameraImage) -> None:
        """A camera took an image, whether the policy is asked about it or not; for viewing and for datasets."""
        self._put((camera, image), image.pixels.nbytes)

    def close(self) -> None:
        """Writes what waits, closes the file and gives it its name; does nothing where the recording has ended."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join(CLOSE_LIMIT_S)
        if self._thread.is_alive():
            self._end(f"the disk did not take the rest within {CLOSE_LIMIT_S:g} s")

    def _put(self, entry: Any, size: int) -> None:
        too_much = False
        with self._changed:
            if self.ended is not None or self._closing:
                return
            self._waiting_bytes += size + _SMALL
            too_much = self._waiting_bytes > self._limit
            if not too_much:
                self._waiting.append((entry, time.monotonic_ns(), size + _SMALL))
                self._changed.notify()
        if too_much:
            self._end(f"the disk is too slow: {self._limit >> 20} MiB waited for it")

    def _run(self) -> None:
        try:
            self._write_all()
            if self.ended is None:
                self._file.close()
                return
        except OSError as error:
            self._end(f"{error.strerror or error} ({self._file.partial})")
        except Exception as error:  # the robot must not notice
            logger.exception("the recorder failed")
            self._end(f"{type(error).__name__}: {error}")
        self._abandon()

    def _write_all(self) -> None:
        flushed_s = time.monotonic()
        while True:
            with self._changed:
                if not self._waiting and not self._closing and self.ended is None:
                    self._changed.wait(max(0.0, flushed_s + FLUSH_S - time.monotonic()))
                if self.ended is not None:
                    return
                taken, done = list(self._waiting), self._closing
                self._waiting.clear()
            for entry, arrived_ns, size in taken:
                for outgoing in self._messages(entry, arrived_ns):
                    self._file.write(outgoing)
                with self._changed:
                    self._waiting_bytes -= size
                flushed_s = self._flush_when_due(flushed_s)
            if done:
                return
            flushed_s = self._flush_when_due(flushed_s)

    def _flush_when_due(self, flushed_s: float) -> float:
        if time.monotonic() - flushed_s < FLUSH_S:
            return flushed_s
        self._file.flush()
        return time.monotonic()

    def _messages(self, entry: Any, arrived_ns: int) -> Iterator[OutgoingMessage]:
        match entry:
            case Observed():
                for camera, image in entry.images.items():
                    yield self._image(camera, image, arrived_ns, self._lossless)
                yield OutgoingMessage(OBSERVATIONS, observation_message(entry), entry.time_ns, arrived_ns)
            case Answered():
                yield OutgoingMessage(ANSWERS, answer_message(entry), entry.time_ns, arrived_ns)
            case Tick():
                captured_ns = round(entry.host_time_s * _NS) or arrived_ns
                yield OutgoingMessage(TICKS, tick_message(entry, arrived_ns), captured_ns, arrived_ns)
            case Event():
                yield OutgoingMessage(EVENTS, event_message(entry), entry.time_ns, arrived_ns)
            case (str() as camera, CameraImage() as image):
                yield self._image(camera, image, arrived_ns, lossless=False)

    def _image(self, camera: str, image: CameraImage, arrived_ns: int, lossless: bool) -> OutgoingMessage:
        return image_message(camera, image.pixels, image.taken_ns, arrived_ns, self._offset_ns, lossless)

    def _end(self, reason: str) -> None:
        with self._changed:
            if self.ended is not None:
                return
            self.ended = reason
            self._waiting.clear()
            self._changed.notify()
        logger.warning("the recording %s ended: %s; the robot goes on", self._file.partial, reason)
        if self._on_ended is not None:
            try:
                self._on_ended(reason)
            except Exception:  # whoever is told must not stop the robot either
                logger.exception("the listener of a recording's end failed")

    def _abandon(self) -> None:
        try:
            self._file.abandon()
        except OSError as error:
            logger.warning("%s was not cut to its last whole record: %s", self._file.partial, error)
