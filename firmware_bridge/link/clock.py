"""Which firmware tick it is now, by the host's clock.

`ClockRegression` fits the board's counter as a line over host time, in the manner of Klipper's `clocksync.py`.

Each ping is answered with the counter of the board. Where the ping took as long to go as the answer to come back, the
counter was read in the middle of the round trip; it was read between its ends in any case. An exponentially weighted
linear regression over these middles gives the counter at every host time and, as its slope, the drift of the board's
crystal against the host's. It differs from Klipper, which asks once a second and regresses over the time of sending, in
three points: the middle of the round trip is the time of the reading, the weights decay with time instead of with
every answer, and a prior with mean zero limits the drift while there are few answers.

The error: a constant difference between the two delays shifts the line by half that difference, which
no exchange of messages over the same line can measure; it is never more than half a round trip. `ClockRegression` is
pure arithmetic: times are arguments.

`TickClock` adds the ticks: telemetry places them on the counter. Tick n begins at `epoch` + n · period of the counter,
and the interrupt that reports it is never early, so the epoch is the smallest one that any report shows. The board
never changes its clock for the host, and every time at which something is due is a tick of the board.
"""

import math
import statistics
import threading
from collections import deque
from dataclasses import dataclass
from enum import Enum

from firmware_bridge.errors import LinkError

MEMORY_S = 30.0  # a round trip of so long ago weighs 1/e
_PRIOR_DRIFT = 100e-6  # standard deviation of crystals, before any answer
_PRIOR_NOISE_S = 0.5e-3  # of one middle, before any answer
_OUTLIER_SIGMAS = 5.0
_OUTLIER_S = 0.5e-3  # a smaller distance from the line is no outlier
_WINDOW = 64  # round trips that give the usual duration, 3.2 seconds of pings
_LONG_S = 1e-3  # a round trip longer than the lower quartile by more is not used
_PATIENCE_S = 10.0  # after so long without a usable round trip, the usual duration has changed
_RESTART_S = 0.05  # more than any crystal drifts while a link is down for minutes
_BOUND_SIGMAS = 3.0
_RESTARTED = "the counter of the microcontroller fell back: it has restarted"


class Verdict(Enum):
    """How one round trip was used.

    USED: the fit uses it. REJECTED: it was too long, or too far from the line. STEPPED: it contradicts the line, and a
    new fit begins with it: the counter ran on while the host's clock stood still (a suspended host), or the first
    answers had been slow. RESTARTED: the counter is smaller than before; the board was restarted.
    """

    USED = 0
    REJECTED = 1
    STEPPED = 2
    RESTARTED = 3


class ClockRegression:
    """Counter over host time. Host times are in ns of any monotonic clock; not safe for several threads.

    Attributes:
        counter_hz: Nominal frequency of the counter.
        used: Round trips that the fit uses.
        rejected: Round trips that it does not use.
        steps: How often a new fit began.
    """

    def __init__(self, counter_hz: int) -> None:
        self.counter_hz = counter_hz
        self.used = 0
        self.rejected = 0
        self.steps = 0
        self._durations: deque[float] = deque(maxlen=_WINDOW)
        self._base_drift = 0.0
        self._begin(0, 0)

    @property
    def ready(self) -> bool:
        """Whether any round trip was used."""
        return self.used > 0

    @property
    def round_trip_s(self) -> float:
        """Median of the last round trips; 0 before the first."""
        return statistics.median(self._durations) if self._durations else 0.0

    @property
    def drift(self) -> float:
        """How much faster than nominal the counter runs by the host's clock, as a fraction (1e-6 is one ppm)."""
        return self._base_drift + self._slope

    def counter_at(self, host_ns: int) -> float:
        """The counter at a host time, in counts."""
        elapsed_s = (host_ns - self._origin_ns) * 1e-9
        nominal = elapsed_s * (1.0 + self._base_drift)
        return self._origin_counter + (nominal + self._deviation(elapsed_s)) * self.counter_hz

    def host_ns_at(self, counter: int) -> int:
        """The host time at which the counter had or will have this value."""
        deviation_s = self._mean_deviation - self._slope * self._mean_time
        board_s = (counter - self._origin_counter) / self.counter_hz - deviation_s
        return self._origin_ns + round(board_s / (1.0 + self.drift) * 1e9)

    def uncertainty_at(self, host_ns: int) -> float:
        """Bound of the error of `counter_at`, in seconds.

        Half a mean used round trip, which bounds what unequal delays can do, and three standard errors of the
        regression. It grows while no answers arrive.
        """
        distance_s = (host_ns - self._origin_ns) * 1e-9 - self._mean_time
        variance = self._variance * (1.0 / max(self._weight, 1.0) + distance_s**2 / self._time_information)
        return 0.5 * self._mean_duration + _BOUND_SIGMAS * math.sqrt(variance)

    def add(self, sent_ns: int, received_ns: int, counter: int) -> Verdict:
        """Takes the counter value that answers a ping sent and answered at these host times."""
        duration_s = (received_ns - sent_ns) * 1e-9
        self._durations.append(duration_s)
        if not self.ready:
            self._begin((sent_ns + received_ns) // 2, counter)
            return self._use(0.0, 0.0, duration_s)
        verdict = self._judge(sent_ns, received_ns, counter)
        if verdict is Verdict.STEPPED:
            self.steps += 1
            self._base_drift = self.drift
            self._begin((sent_ns + received_ns) // 2, counter)
            self._use(0.0, 0.0, duration_s)
        elif verdict is Verdict.USED:
            self._use(*self._point(sent_ns, received_ns, counter), duration_s)
        else:
            self.rejected += 1
        return verdict

    def _judge(self, sent_ns: int, received_ns: int, counter: int) -> Verdict:
        tolerance_s = max(_OUTLIER_S, _OUTLIER_SIGMAS * math.sqrt(self._variance))
        behind_s = (self.counter_at(sent_ns) - counter) / self.counter_hz
        ahead_s = (counter - self.counter_at(received_ns)) / self.counter_hz
        if behind_s > tolerance_s + _RESTART_S + self.uncertainty_at(sent_ns):
            return Verdict.RESTARTED
        if max(behind_s, ahead_s) > tolerance_s:
            return Verdict.STEPPED
        if (received_ns - sent_ns) * 1e-9 > self._usual_duration() + _LONG_S:
            return Verdict.REJECTED
        elapsed_s, deviation_s = self._point(sent_ns, received_ns, counter)
        if elapsed_s - self._last_used_s > _PATIENCE_S:
            return Verdict.STEPPED
        outlying = abs(deviation_s - self._deviation(elapsed_s)) > tolerance_s
        return Verdict.REJECTED if outlying else Verdict.USED

    def _usual_duration(self) -> float:
        ordered = sorted(self._durations)
        return ordered[len(ordered) // 4]

    def _point(self, sent_ns: int, received_ns: int, counter: int) -> tuple[float, float]:
        """Host time since the origin at the middle of the round trip, and how far the board is ahead, both in s."""
        elapsed_s = ((sent_ns + received_ns) // 2 - self._origin_ns) * 1e-9
        board_s = (counter - self._origin_counter) / self.counter_hz
        return elapsed_s, board_s - elapsed_s * (1.0 + self._base_drift)

    def _begin(self, host_ns: int, counter: int) -> None:
        """Removes all points; their drift becomes the mean of the prior of the slope."""
        self._origin_ns = host_ns
        self._origin_counter = counter
        self._last_used_s = 0.0
        self._weight = 0.0
        self._mean_time = 0.0
        self._mean_deviation = 0.0
        self._mean_duration = 0.0
        self._time_spread = 0.0
        self._covariance = 0.0
        self._squared_residuals = 0.0

    def _use(self, elapsed_s: float, deviation_s: float, duration_s: float) -> Verdict:
        kept = math.exp(-max(0.0, elapsed_s - self._last_used_s) / MEMORY_S)
        residual_s = deviation_s - self._deviation(elapsed_s)
        self._squared_residuals = kept * self._squared_residuals + residual_s**2
        self._weight = kept * self._weight + 1.0
        step_s = elapsed_s - self._mean_time
        self._mean_time += step_s / self._weight
        self._mean_deviation += (deviation_s - self._mean_deviation) / self._weight
        self._mean_duration += (duration_s - self._mean_duration) / self._weight
        self._time_spread = kept * self._time_spread + step_s * (elapsed_s - self._mean_time)
        self._covariance = kept * self._covariance + step_s * (deviation_s - self._mean_deviation)
        self._last_used_s = elapsed_s
        self.used += 1
        return Verdict.USED

    @property
    def _variance(self) -> float:
        """Of one middle around the line, s²; the prior counts as one answer."""
        return (_PRIOR_NOISE_S**2 + self._squared_residuals) / (1.0 + self._weight)

    @property
    def _time_information(self) -> float:
        """What the slope is divided by: the spread of the points, and the prior as if it came from points."""
        return self._time_spread + self._variance / _PRIOR_DRIFT**2

    @property
    def _slope(self) -> float:
        return self._covariance / self._time_information

    def _deviation(self, elapsed_s: float) -> float:
        return self._mean_deviation + self._slope * (elapsed_s - self._mean_time)


@dataclass(frozen=True)
class ClockEstimate:
    """How well the board's clock is known.

    Attributes:
        drift_ppm: How much faster than nominal the board's counter runs by the host's clock.
        uncertainty_s: Bound of the error of `tick_at`, in seconds.
        round_trip_s: Median of the last round trips, in seconds.
        used: Round trips that the estimate rests on, all since the board started.
        rejected: Round trips that were too long or too far off.
        steps: How often a new fit began, as after the host was suspended.
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
            LinkError: The counter is smaller than before, which happens only when the board restarts.
        """
        with self._lock:
            verdict = self._regression.add(sent_ns, received_ns, counter)
        if verdict is Verdict.RESTARTED:
            raise LinkError(_RESTARTED)
        return verdict

    def add_tick(self, tick: int, counter: int) -> None:
        """Takes the counter value at which the interrupt of a tick ran; ticks come in order.

        Raises:
            LinkError: The counter is smaller than before, which happens only when the board restarts.
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
            LinkError: No estimate of the board's clock exists yet.
        """
        with self._lock:
            return (self._regression.counter_at(host_ns) - self._known_epoch()) / self._period

    def host_ns_at(self, tick: int) -> int:
        """The host time at which a tick begins or began.

        Raises:
            LinkError: No estimate of the board's clock exists yet.
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
