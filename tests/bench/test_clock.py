"""What can be wrong with a clock is found: suspension, a wall clock that steps, a clock that goes back."""

from __future__ import annotations

import itertools

import pytest

from pi0_edge.bench.clock import ClockWatch

SECOND = 10**9


class Times:
    """Three clocks that a test sets."""

    def __init__(self) -> None:
        self._grain = itertools.count()
        self.ran = self.suspended = self.stepped = 0

    def monotonic(self) -> int:
        return self.ran + 40 * next(self._grain)

    def boot(self) -> int:
        return self.monotonic() + self.suspended

    def wall(self) -> int:
        return self.monotonic() + self.suspended + self.stepped + 1_700_000_000 * SECOND


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"ran": 600 * SECOND}, ""),
        ({"ran": 600 * SECOND, "stepped": 300_000_000}, ""),  # network time slews by up to 0.5 ms in a second
        ({"ran": 60 * SECOND, "suspended": 90 * SECOND}, "suspended for 90 s"),
        ({"ran": 60 * SECOND, "stepped": -3 * SECOND}, "wall clock stepped by -3 s"),
        ({"ran": 60 * SECOND, "stepped": 200_000_000}, "wall clock stepped by 0.2 s"),
        ({"ran": -SECOND}, "went back"),
    ],
)
def test_what_happened_to_the_clocks_is_told(change: dict[str, int], problem: str):
    times = Times()
    watch = ClockWatch(times.monotonic, times.boot, times.wall)
    vars(times).update(change)
    found = watch.check()
    assert (problem in found.problem) if problem else (found.problem == "")
    assert found.uncertainty_us == pytest.approx(0.04)


def test_the_clock_of_this_machine_is_fine_and_finer_than_a_tick():
    found = ClockWatch().check()
    assert found.problem == ""
    assert 0.0 < found.uncertainty_us < 1000.0
