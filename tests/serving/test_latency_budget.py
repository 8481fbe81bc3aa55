"""When chunks are late too often."""

from __future__ import annotations

from hypothesis import example, given
from hypothesis import strategies as st

from pi0_edge.serving.latency_budget import MOST_LATE, WINDOW, LatencyBudget


def late_too_often(times: list[bool]) -> int | None:
    """After how many chunks, counted anew for each."""
    for count in range(1, len(times) + 1):
        if sum(times[max(0, count - WINDOW) : count]) >= MOST_LATE:
            return count
    return None


@given(st.lists(st.booleans(), max_size=60))
@example([True] * 8)
@example([True, False] * 16)
@example([True, False, False] * 20)
def test_it_is_exceeded_when_8_of_the_last_16_chunks_were_late(late: list[bool]):
    told: list[int] = []
    made = 0
    budget = LatencyBudget(100.0, lambda: told.append(made))
    for is_late in late:
        made += 1
        assert budget.add(100.1 if is_late else 100.0) is is_late
    first = late_too_often(late)
    assert told == ([] if first is None else [first])
    assert bool(budget.exceeded) is (first is not None)
    assert budget.misses == sum(late)


def test_it_says_how_late():
    budget = LatencyBudget(50)
    for taken in (10, 10, *[60] * 7, 71.26):
        budget.add(taken)
    assert budget.exceeded == ("8 of the last 10 chunks took longer than the budget of 50 ms, the slowest 71.3 ms")
