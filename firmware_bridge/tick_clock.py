"""Which firmware tick it is now, by the host's clock.

Pings place the board's free-running counter on the host's clock (see `clock_regression`); telemetry places the ticks
on the counter. Tick n begins at `epoch` + n · period of the counter, and the interrupt that reports it is never early,
so the epoch is the smallest one that any report shows. The board never changes its clock for the host, and every time
at which something is due is a tick of the board.
"""

import threading
from dataclasses import dataclass

from firmware_bridge.clock_regression import ClockRegression, Verdict
from firmware_bridge.errors import LinkError

_RESTARTED = "the counter of the microcontroller fell back: it has restarted"


@dataclass(frozen=True)
class ClockEstimate:
    """How well the board's clock is known.

    Attributes:
        drift_ppm: how much faster than nominal the board's counter runs by the host's clock.
        uncertainty_s: bound of the error of `tick_at`, in seconds.
        round_trip_s: median of the last round trips, in seconds.
        used: round trips that the estimate rests on, all since the board started.
        rejected: round trips that were too long or too far off.
        steps: how often the estimate began anew, as after the host was suspended.
    """

    drift_ppm: float
    uncertainty_s: float
    round_trip_s: float
    used: int
    rejected: int
    steps: int


class TickClock:
    """Maps the host's monotonic clock to firmware ticks. Safe to use from several threads."""

    def __init__(self, counter_hz: int, tick_period_us: int) -> None:
        self.counter_hz = counter_hz
        self.tick_period_s = tick_period_us * 1e-6
        self._period = counter_hz * tick_period_us // 1_000_000  # in counts, as the firmware rounds it
        self._regression = ClockRegression(counter_hz)
        self._epoch: int | None = None
        self._last_counter = 0
        self._lock = threading.Lock()

    def add_round_trip(self, sent_ns: int, received_ns: int, counter: int) -> Verdict:
        """Takes the counter value that answers a ping sent and answered at these host times.

        Raises:
            LinkError: the counter fell back, which it does only when the board restarts.
        """
        with self._lock:
            verdict = self._regression.add(sent_ns, received_ns, counter)
        if verdict is Verdict.RESTARTED:
            raise LinkError(_RESTARTED)
        return verdict

    def add_tick(self, tick: int, counter: int) -> None:
        """Takes the counter value at which the interrupt of a tick ran; ticks come in order.

        Raises:
            LinkError: the counter fell back, which it does only when the board restarts.
        """
        with self._lock:
            if counter < self._last_counter:
                raise LinkError(_RESTARTED)
            self._last_counter = counter
            epoch = counter - tick * self._period
            self._epoch = epoch if self._epoch is None else min(self._epoch, epoch)

    @property
    def ready(self) -> bool:
        """Whether a ping was answered and a tick was reported."""
        return self._regression.ready and self._epoch is not None

    @property
    def round_trip_s(self) -> float:
        """Median round trip of the last seconds; 0 before the first."""
        with self._lock:
            return self._regression.round_trip_s

    def tick_at(self, host_ns: int) -> float:
        """The tick at a host time, with its fraction.

        Raises:
            LinkError: nothing is known of the board's clock yet.
        """
        with self._lock:
            return (self._regression.counter_at(host_ns) - self._known_epoch()) / self._period

    def host_ns_at(self, tick: int) -> int:
        """The host time at which a tick begins or began.

        Raises:
            LinkError: nothing is known of the board's clock yet.
        """
        with self._lock:
            return self._regression.host_ns_at(self._known_epoch() + tick * self._period)

    def estimate(self, host_ns: int) -> ClockEstimate:
        """How well the clock is known at a host time."""
        with self._lock:
            line = self._regression
            return ClockEstimate(
                drift_ppm=line.drift * 1e6,
                uncertainty_s=line.uncertainty_at(host_ns),
                round_trip_s=line.round_trip_s,
                used=line.used,
                rejected=line.rejected,
                steps=line.steps,
            )

    def _known_epoch(self) -> int:
        if not self._regression.ready or self._epoch is None:
            raise LinkError("the clock of the microcontroller is not known yet; wait for its telemetry")
        return self._epoch
