"""Gives every watcher its own bounded queue of telemetry; a slow watcher loses the oldest ticks, nobody waits."""

import logging
import queue
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from protos.bridge_pb2 import Telemetry

_DEPTH = 256  # ticks, five seconds

logger = logging.getLogger(__name__)


class Watcher:
    """One reader of telemetry."""

    def __init__(self, depth: int) -> None:
        self.dropped = 0
        self._queue: queue.Queue[Telemetry] = queue.Queue(depth)

    def put(self, telemetry: Telemetry) -> None:
        """Adds a tick, in place of the oldest where the reader is too slow."""
        while True:
            try:
                self._queue.put_nowait(telemetry)
                return
            except queue.Full:
                self._drop_oldest()

    def get(self, timeout_s: float) -> Telemetry | None:
        """The oldest tick that was not read yet, or None after `timeout_s` seconds."""
        try:
            return self._queue.get(timeout=timeout_s)
        except queue.Empty:
            return None

    def _drop_oldest(self) -> None:
        try:
            self._queue.get_nowait()
            self.dropped += 1
        except queue.Empty:
            return


class TelemetryFanout:
    """Copies telemetry to all watchers."""

    def __init__(self, depth: int = _DEPTH) -> None:
        self._depth = depth
        self._watchers: list[Watcher] = []
        self._lock = threading.Lock()

    @property
    def watchers(self) -> int:
        """How many watch now."""
        return len(self._watchers)

    @contextmanager
    def watch(self) -> Iterator[Watcher]:
        """A watcher that receives every tick while the context lasts."""
        watcher = Watcher(self._depth)
        with self._lock:
            self._watchers.append(watcher)
        try:
            yield watcher
        finally:
            with self._lock:
                self._watchers.remove(watcher)
            if watcher.dropped:
                logger.warning("a watcher of telemetry was too slow and lost %d ticks", watcher.dropped)

    def publish(self, telemetry: Telemetry) -> None:
        """Hands one tick to every watcher."""
        with self._lock:
            for watcher in self._watchers:
                watcher.put(telemetry)
