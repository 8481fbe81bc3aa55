"""How long to wait for an acknowledgement before sending again: srtt + 4 · rttvar, as in RFC 6298 and Klipper.

    rttvar ← 3/4 · rttvar + 1/4 · |srtt − sample|,   srtt ← 7/8 · srtt + 1/8 · sample

Only answers to what was sent once are samples (Karn's rule); every wait in vain doubles the next one.
"""

SHORTEST_S = 0.025  # as in Klipper; the firmware's loop, the scheduler of the host
LONGEST_S = 0.25  # a line that is dead for as long has stopped the arm; it is tried often enough to find it back


class RoundTripTimer:
    """The waiting time, learnt from samples."""

    def __init__(self, first_s: float) -> None:
        """Begins with a guess.

        Args:
            first_s: waiting time before anything was measured, in seconds.
        """
        self._first_s = first_s
        self._smoothed_s: float | None = None
        self._variation_s = 0.0
        self._backoff = 1

    @property
    def smoothed_s(self) -> float:
        """The usual time until an acknowledgement; the first guess before any sample."""
        return self._first_s if self._smoothed_s is None else self._smoothed_s

    @property
    def wait_s(self) -> float:
        """How long to wait now."""
        return min(LONGEST_S, self.usual_s * self._backoff)

    @property
    def usual_s(self) -> float:
        """How long to wait where nothing was waited for in vain before."""
        return max(SHORTEST_S, self.smoothed_s + 4.0 * self._variation_s)

    def sample(self, seconds: float) -> None:
        """Takes the time between sending something once and its acknowledgement."""
        self._backoff = 1
        if self._smoothed_s is None:
            self._smoothed_s, self._variation_s = seconds, seconds / 2.0
            return
        self._variation_s += (abs(self._smoothed_s - seconds) - self._variation_s) / 4.0
        self._smoothed_s += (seconds - self._smoothed_s) / 8.0

    def waited_in_vain(self) -> None:
        """Doubles the next waiting time."""
        self._backoff = min(2 * self._backoff, 64)
