"""Telemetry for many watchers, and the age of information of what the arm executes.

Every watcher has a bounded queue of its own: a slow watcher loses the oldest ticks and does not delay the others.

Age of information is the age of the observation that an executed tick answers. Telemetry names for each tick the chunk
that its setpoint came from and the tick of the observation behind that chunk. The age is the difference of the two
ticks: it holds everything between the camera and the motor, the policy, the networks, the wire and the wait in the ring
of setpoints. Ticks without a setpoint have no age. The figure is the one of Kaul, Yates and Gruteser, "Real-time
status: How often should one update?", INFOCOM 2012.
"""

import logging
import queue
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pi0_edge.protos.bridge_pb2 import Telemetry

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
        """Number of watchers."""
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
        """Sends one tick to every watcher."""
        with self._lock:
            for watcher in self._watchers:
                watcher.put(telemetry)


_WINDOW = 500  # executed ticks that a running figure covers, 10 seconds


class AgeOfInformation(NamedTuple):
    """Median, tail and worst age of `ticks` executed ticks, in seconds; all 0 where none was executed."""

    ticks: int
    p50_s: float
    p99_s: float
    max_s: float

    @classmethod
    def of(cls, ages_s: NDArray[np.floating]) -> "AgeOfInformation":
        """Of ages in seconds, [n]."""
        if not ages_s.size:
            return cls(0, 0.0, 0.0, 0.0)
        p50, p99 = np.percentile(ages_s, (50, 99))
        return cls(ages_s.size, float(p50), float(p99), float(ages_s.max()))


def ages_s(
    tick: NDArray[np.uint32], observed_tick: NDArray[np.uint32], chunk_id: NDArray[np.uint32], tick_period_s: float
) -> NDArray[np.floating]:
    """Age of every tick of a recording that executed a setpoint, in seconds.

    Args:
        tick: [n], as telemetry reports it.
        observed_tick: [n], of the observation behind the setpoint.
        chunk_id: [n], 0 where no setpoint was executed.
        tick_period_s: Seconds.

    Returns:
        [m], in the order of the recording, m ≤ n.
    """
    age = (tick - observed_tick).astype(np.int32)  # ticks wrap around
    return age[chunk_id != 0] * tick_period_s


class AgeWindow:
    """The age over the last executed ticks. One thread adds, others may read."""

    def __init__(self, ticks: int = _WINDOW) -> None:
        self._recent: deque[int] = deque(maxlen=ticks)

    def add(self, tick: int, observed_tick: int, chunk_id: int) -> None:
        """Takes one tick of telemetry."""
        if chunk_id:
            self._recent.append((tick - observed_tick) & 0xFFFFFFFF)

    def figure(self, tick_period_s: float) -> AgeOfInformation:
        """Median, tail and worst of the window."""
        return AgeOfInformation.of(np.array(self._recent.copy(), dtype=np.uint32).astype(np.int32) * tick_period_s)
