"""One camera: a thread reads it, keeps its newest image, watches for faults, and opens it again when it was lost."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from pi0_edge.cameras.images import CameraImage
from pi0_edge.cameras.opening import open_source
from pi0_edge.cameras.source import DamagedImageError, Picture, Source, TimeSource
from pi0_edge.cameras.watch import CameraFault, ImageWatch, silence_s
from pi0_edge.errors import CameraError, MissingDependencyError, Pi0EdgeError
from pi0_edge.robots import CameraSettings

logger = logging.getLogger(__name__)

USUAL_FPS = 30.0
"""Taken for cameras whose rate nobody states."""

REOPEN_S = 0.5
"""Between two attempts to open a camera that was lost."""

CLOSE_TIMEOUT_S = 2.0
"""A network camera that does not answer would otherwise keep a robot's program from ending for seconds."""

_RATE_WINDOW_S = 2.0


@dataclass(frozen=True)
class CameraHealth:
    """How a camera does.

    Attributes:
        source: Where its images come from, without a password.
        time_source: What `CameraImage.taken_ns` is; None before it was first opened.
        width: Of its last image, pixels; None before the first.
        height: Of its last image, pixels; None before the first.
        format: Of its images before they became RGB; None before the first.
        rate_hz: Images per second, measured over the last two seconds.
        age_s: How long ago its last image was taken; None before the first.
        images: How many came since the start, those that were discarded after opening left out.
        dropped: How many were lost by the camera's own count, or came damaged.
        openings: How often it was opened.
        opened_ns: When it was last opened, on the clock of `time.monotonic_ns`; None before that.
        fault: Why its images cannot be used, or None.
    """

    source: str
    time_source: TimeSource | None
    width: int | None
    height: int | None
    format: str | None
    rate_hz: float
    age_s: float | None
    images: int
    dropped: int
    openings: int
    opened_ns: int | None
    fault: CameraFault | None


class Camera:
    """A camera that is read until it is closed.

    Attributes:
        name: What the robot calls it.
        settings: What it was opened with.
    """

    def __init__(
        self, name: str, settings: CameraSettings, opener: Callable[[CameraSettings], Source] = open_source
    ) -> None:
        """Begins to open and to read it.

        Args:
            name: What the robot calls it.
            settings: What to open.
            opener: Opens the source.
        """
        self.name, self.settings = name, settings
        self._opener = opener
        size = None if settings.width is None or settings.height is None else (settings.width, settings.height)
        self._watch = ImageWatch(size)
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._closing = threading.Event()
        self._newest: CameraImage | None = None
        self._last_seen: CameraImage | None = None
        self._source: Source | None = None
        self._time_source: TimeSource | None = None
        self._fps = settings.fps or USUAL_FPS
        self._arrivals: deque[int] = deque(maxlen=256)
        self._last_arrival_ns: int | None = None
        self._images = self._dropped = self._openings = 0
        self._opened_ns: int | None = None
        self._refusal: Pi0EdgeError | None = None
        self._thread = threading.Thread(target=self._run, name=f"camera {name}", daemon=True)
        self._thread.start()

    @property
    def period_s(self) -> float:
        """Seconds between two images, as the settings or the camera itself state it."""
        return 1 / self._fps

    @property
    def time_source(self) -> TimeSource | None:
        """What `CameraImage.taken_ns` is; None before it was first opened."""
        return self._time_source

    @property
    def newest(self) -> CameraImage | None:
        """The newest good image, whatever its age; None before the first."""
        return self._newest

    @property
    def last_seen(self) -> CameraImage | None:
        """The last image that came, good or not, for people to look at; None before the first."""
        return self._last_seen

    @property
    def fault(self) -> CameraFault | None:
        """Why its images cannot be used now, or None."""
        with self._lock:
            return self._fault(time.monotonic_ns())

    def wait_for_image(self, timeout_s: float) -> None:
        """Returns when its images are good.

        Raises:
            CameraError: If it cannot be opened, or there is no good image in time; the message names the camera.
            MissingDependencyError: If a package that it needs is not installed.
        """
        deadline_ns = time.monotonic_ns() + int(timeout_s * 1e9)
        with self._changed:
            while True:
                fault = self._fault(time.monotonic_ns())
                if self._refusal is not None:
                    raise type(self._refusal)(f"camera {self.name}: {self._refusal}") from self._refusal
                if fault is None and self._watch.has_proved_good(self._fps):
                    return
                left_s = (deadline_ns - time.monotonic_ns()) / 1e9
                if left_s <= 0:
                    said = f": {fault.message}" if fault else f"; {self.settings.shown} gave none"
                    raise CameraError(f"camera {self.name}: no image that can be used in time{said}")
                self._changed.wait(min(left_s, 0.1))

    def health(self) -> CameraHealth:
        """How it does now."""
        now_ns = time.monotonic_ns()
        with self._lock:
            image = self._last_seen
            return CameraHealth(
                source=self.settings.shown,
                time_source=self._time_source,
                width=None if image is None else image.pixels.shape[1],
                height=None if image is None else image.pixels.shape[0],
                format=self._watch.format,
                rate_hz=self._rate_hz(now_ns),
                age_s=None if image is None else (now_ns - image.taken_ns) / 1e9,
                images=self._images,
                dropped=self._dropped,
                openings=self._openings,
                opened_ns=self._opened_ns,
                fault=self._fault(now_ns),
            )

    def stop(self) -> None:
        """Tells the thread to end, and does not wait for it."""
        self._closing.set()

    def close(self) -> None:
        """Ends the thread and lets go of the device; one that is just being opened is let go when that has ended."""
        self.stop()
        self._thread.join(CLOSE_TIMEOUT_S)

    def _fault(self, now_ns: int) -> CameraFault | None:
        """What the images showed, or that none comes any more."""
        if self._watch.fault is not None or self._last_arrival_ns is None:
            return self._watch.fault
        silent_s = (now_ns - self._last_arrival_ns) / 1e9
        if silent_s <= silence_s(self._fps):
            return None
        return CameraFault("frozen", f"it has given no image for {silent_s:.2f} s", self._last_arrival_ns)

    def _rate_hz(self, now_ns: int) -> float:
        recent = [moment for moment in self._arrivals if now_ns - moment < _RATE_WINDOW_S * 1e9]
        return (len(recent) - 1) / ((recent[-1] - recent[0]) / 1e9) if len(recent) > 1 else 0.0

    def _run(self) -> None:
        while not self._closing.is_set():
            try:
                source = self._opener(self.settings)
            except Exception as error:  # of whatever library opens it
                self._not_opened(error)
                self._closing.wait(REOPEN_S)
                continue
            try:
                self._opened(source)
                self._read(source)
            except CameraError as error:
                logger.warning("lost camera=%s reason=%s", self.name, error)
                self._lost(str(error))
            except Exception as error:  # of whatever library reads it: a robot must learn that this camera is gone
                logger.exception("reading camera=%s failed", self.name)
                self._lost(f"reading it failed: {type(error).__name__}: {error}")
            finally:
                source.close()
            self._closing.wait(REOPEN_S)

    def _not_opened(self, error: Exception) -> None:
        if not isinstance(error, Pi0EdgeError):
            logger.error("opening camera=%s failed", self.name, exc_info=error)
            error = CameraError(f"opening it failed: {type(error).__name__}: {error}")
        with self._changed:
            if not self._openings or isinstance(error, MissingDependencyError):
                self._refusal = error
            self._watch.lost(str(error), time.monotonic_ns())
            self._changed.notify_all()

    def _opened(self, source: Source) -> None:
        with self._lock:
            self._openings += 1
            self._opened_ns = time.monotonic_ns()
            self._refusal = None
            self._time_source = source.time_source
            self._fps = self.settings.fps or source.fps or USUAL_FPS
            self._watch.opened()
        logger.info("opened camera=%s source=%s times=%s", self.name, self.settings.shown, source.time_source)

    def _lost(self, message: str) -> None:
        with self._changed:
            self._watch.lost(message, time.monotonic_ns())
            self._arrivals.clear()
            self._last_arrival_ns = None
            self._changed.notify_all()

    def _read(self, source: Source) -> None:
        """Reads until the camera is closed.

        Raises:
            LostCameraError: If it is gone.
        """
        settings = self.settings
        discard = source.discard_first if settings.discard_first is None else settings.discard_first
        sequence, first_number = -1, None
        while not self._closing.is_set():
            try:
                picture = source.read()
            except DamagedImageError as error:
                sequence += 1
                self._damaged(error)
                continue
            if picture is None:
                continue
            if discard:
                discard -= 1
                continue
            if picture.number is None:
                number = sequence + 1
            else:
                first_number = picture.number if first_number is None else first_number
                number = picture.number - first_number
            self._take(picture, number, max(0, number - sequence - 1), source)
            sequence = number

    def _damaged(self, error: DamagedImageError) -> None:
        with self._changed:
            self._dropped += 1
            self._watch.damaged(str(error), time.monotonic_ns(), self._fps)
            self._changed.notify_all()

    def _take(self, picture: Picture, number: int, missed: int, source: Source) -> None:
        # An image is never taken after it came: some drivers date it ahead.
        taken_ns = picture.arrived_ns if picture.stamp_ns is None else min(picture.stamp_ns, picture.arrived_ns)
        may_repeat = source.may_repeat if self.settings.may_repeat is None else self.settings.may_repeat
        with self._changed:
            before = self._watch.fault
            self._last_seen = CameraImage(picture.pixels, taken_ns, number)
            if self._watch.see(picture, self._fps, may_repeat):
                self._newest = self._last_seen
            self._time_source = source.time_source
            self._arrivals.append(picture.arrived_ns)
            self._last_arrival_ns = picture.arrived_ns
            self._images += 1
            self._dropped += missed
            self._changed.notify_all()
        after = self._watch.fault
        if after != before and (after is None or before is None or after.kind != before.kind):
            logger.warning("camera=%s fault=%s", self.name, after.message if after else "none, it is back")
