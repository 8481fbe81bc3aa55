"""The clock of a bench: how finely it counts, and whether something was wrong with it.

`time.monotonic_ns` is CLOCK_MONOTONIC, the clock of V4L2's images and of ROS's steady time: it never steps, but it does
not count while the machine is suspended, and whoever stamped an image by the wall clock is wrong when that one steps.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable

from pi0_edge.bench.result import ClockCheck

NAME = "CLOCK_MONOTONIC"
SUSPENDED_S = 0.005
WALL_STEP_S = 0.050
"""Further than network time moves a clock in a run by slewing it, at most 0.5 ms in a second."""

_READINGS = 1000

Clock = Callable[[], int]
"""Nanoseconds."""


def boot_time_ns() -> int:
    """Nanoseconds since the machine was started, those in which it was suspended included."""
    return time.clock_gettime_ns(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


class ClockWatch:
    """Compares the clock with two others, from its making until it is asked."""

    def __init__(
        self, monotonic: Clock = time.monotonic_ns, boot: Clock = boot_time_ns, wall: Clock = time.time_ns
    ) -> None:
        """Reads all three.

        Args:
            monotonic: By which the bench measures.
            boot: The same with the time of suspensions.
            wall: Which others may have stamped by.
        """
        self._monotonic, self._boot, self._wall = monotonic, boot, wall
        self._begin_ns = monotonic()
        self._boot_offset_ns, self._wall_offset_ns = self._offsets()

    def check(self) -> ClockCheck:
        """What happened to the clocks meanwhile."""
        boot, wall = self._offsets()
        suspended_s = (boot - self._boot_offset_ns) * 1e-9
        ran_s = max((self._monotonic() - self._begin_ns) * 1e-9, 0.0)
        stepped_s = (wall - self._wall_offset_ns) * 1e-9 - suspended_s
        problem = ""
        if self._monotonic() < self._begin_ns:
            problem = f"{NAME} went back"
        elif suspended_s > SUSPENDED_S:
            problem = f"the machine was suspended for {suspended_s:.3g} s"
        elif abs(stepped_s) > WALL_STEP_S + 5e-4 * ran_s:
            problem = f"the wall clock stepped by {stepped_s:.3g} s: images that were stamped by it are wrong"
        return ClockCheck(NAME, self.uncertainty_us(), problem)

    def uncertainty_us(self) -> float:
        """The longest of many spans between two readings that follow each other, the hundredth part left out.

        A span that an interrupt of the operating system lengthened is no property of the clock.
        """
        readings = [self._monotonic() for _ in range(_READINGS)]
        spans = sorted(after - before for before, after in itertools.pairwise(readings))
        return spans[-_READINGS // 100] * 1e-3

    def _offsets(self) -> tuple[int, int]:
        """Boot and wall clock, less the monotonic one."""
        now = self._monotonic()
        return self._boot() - now, self._wall() - now
