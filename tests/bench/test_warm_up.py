"""A warm-up is over when the latency is steady, and says so where it is not."""

from __future__ import annotations

import time

import pytest

from pi0_edge.bench.warm_up import WINDOW, is_steady, warm_up


def test_steady_is_what_no_longer_changes():
    cold = [50.0, *(20.0 * 0.9**k + 5.0 for k in range(60))]
    assert not any(is_steady(cold[:count]) for count in range(2 * WINDOW + 3))
    assert is_steady(cold)
    assert is_steady([5.0, 5.0, 9.0, 5.0, 5.0] * 4)  # single ones may differ
    assert not is_steady([5.0] * WINDOW + [6.0] * WINDOW)  # it becomes slower
    assert not is_steady([5.0] * (2 * WINDOW - 1))


def test_slow_chunks_need_fewer():
    assert is_steady([9000.0, 5200.0, 5100.0, 5300.0, 5200.0, 5250.0])
    assert not is_steady([9000.0, 8000.0, 7000.0, 5300.0, 5200.0, 5250.0])


@pytest.mark.real_time
def test_it_ends_when_it_is_over_and_keeps_every_sample():
    left = iter([0.03, 0.02, 0.01, *[0.002] * 1000])
    samples, over = warm_up(lambda _: time.sleep(next(left)) or {})
    assert over and len(samples) >= 2 * WINDOW
    assert samples[0] >= 30.0


@pytest.mark.real_time
def test_one_that_is_never_over_is_given_up():
    numbers = iter(range(10**6))
    samples, over = warm_up(lambda _: time.sleep(0.001 * 1.1 ** next(numbers)) or {}, limit_s=0.2)
    assert not over and len(samples) >= 2 * WINDOW
