"""Which firmware tick it is now, by the host's clock.

Each ping is answered with the value of the board's free-running counter. The answer with the shortest round
trip of the last few seconds places the counter on the host's clock, at most half that round trip wrong; the
counter then runs at its nominal frequency, and telemetry says at which counter value a tick began. This is a
thin estimate: it does not learn the drift of the crystal (50 ppm is 0.2 ms in the window of 3 seconds). The
board never changes its clock for the host.
"""

import statistics
import threading
from collections import deque
from typing import NamedTuple

from firmware_bridge.errors import LinkError

_WINDOW = 64  # round trips, 3.2 seconds of pings
_JUMP_NS = 50_000_000  # more than any crystal drifts while a link is down for minutes


class _RoundTrip(NamedTuple):
    duration_ns: int
    middle_ns: int
    counter: int


class TickClock:
    """Maps the host's monotonic clock to firmware ticks. Safe to use from several threads."""

    def __init__(self, counter_hz: int, tick_period_us: int) -> None:
        self.counter_hz = counter_hz
        self.tick_period_s = tick_period_us * 1e-6
        self._round_trips: deque[_RoundTrip] = deque(maxlen=_WINDOW)
        self._tick: tuple[int, int] | None = None
        self._lock = threading.Lock()

    def add_round_trip(self, sent_ns: int, received_ns: int, counter: int) -> None:
        """Takes the counter value that answers a ping sent and answered at these host times.

        Raises:
            LinkError: the counter has jumped, which it does only when the board restarts.
        """
        with self._lock:
            if self._round_trips:
                best = min(self._round_trips)
                slack_ns = best.duration_ns // 2 + _JUMP_NS
                lowest = self._counter_at(best, sent_ns - slack_ns)
                if not lowest <= counter <= self._counter_at(best, received_ns + slack_ns):
                    raise LinkError("the counter of the microcontroller jumped: it has restarted")
            self._round_trips.append(_RoundTrip(received_ns - sent_ns, (sent_ns + received_ns) // 2, counter))

    def add_tick(self, tick: int, counter: int) -> None:
        """Takes the counter value at which a tick began."""
        with self._lock:
            self._tick = (tick, counter)

    @property
    def ready(self) -> bool:
        """Whether a ping was answered and a tick was reported."""
        return bool(self._round_trips) and self._tick is not None

    @property
    def round_trip_s(self) -> float:
        """Median round trip of the last seconds; 0 before the first."""
        with self._lock:
            durations = [trip.duration_ns for trip in self._round_trips]
        return statistics.median(durations) * 1e-9 if durations else 0.0

    def tick_at(self, host_ns: int) -> float:
        """The tick at a host time, with its fraction.

        Raises:
            LinkError: nothing is known of the board's clock yet.
        """
        with self._lock:
            if not self._round_trips or self._tick is None:
                raise LinkError("the clock of the microcontroller is not known yet; wait for its telemetry")
            best = min(self._round_trips)
            tick, tick_counter = self._tick
        return tick + (self._counter_at(best, host_ns) - tick_counter) / (self.counter_hz * self.tick_period_s)

    def _counter_at(self, best: _RoundTrip, host_ns: int) -> float:
        return best.counter + (host_ns - best.middle_ns) * 1e-9 * self.counter_hz
