"""The tick estimate holds under uneven round trips."""

import random

import pytest

from firmware_bridge.errors import LinkError
from firmware_bridge.tick_clock import TickClock

HZ = 50_000_000
PERIOD_US = 20_000


def counter_at(host_ns: int, boot_ns: int) -> int:
    return (host_ns - boot_ns) * HZ // 1_000_000_000


def test_unknown_clock_is_an_error():
    with pytest.raises(LinkError, match="not known yet"):
        TickClock(HZ, PERIOD_US).tick_at(0)


@pytest.mark.parametrize("seed", range(5))
def test_estimate_is_within_half_the_shortest_round_trip(seed: int):
    noise = random.Random(seed)
    boot_ns = noise.randrange(10**12)
    clock = TickClock(HZ, PERIOD_US)
    now = boot_ns + 10**9
    for _ in range(100):
        out, back = noise.randrange(200_000, 40_000_000), noise.randrange(200_000, 40_000_000)
        clock.add_round_trip(now, now + out + back, counter_at(now + out, boot_ns))
        now += 50_000_000
    tick = 12345
    clock.add_tick(tick, counter_at(now - 15_000_000, boot_ns))
    assert clock.tick_at(now) == pytest.approx(tick + 0.75, abs=0.5)
    assert clock.tick_at(now + 200_000_000) - clock.tick_at(now) == pytest.approx(10.0)


def test_exact_round_trip_gives_the_exact_tick():
    clock = TickClock(HZ, PERIOD_US)
    clock.add_round_trip(1_000_000_000, 1_002_000_000, 50_050_000)
    clock.add_tick(50, 50_000_000)
    assert clock.tick_at(1_001_000_000) == pytest.approx(50.05)
    assert clock.round_trip_s == pytest.approx(0.002)


@pytest.mark.parametrize("jump_s", [-1.0, -0.2, 0.2, 60.0])
def test_jump_of_the_counter_is_a_restart(jump_s: float):
    clock = TickClock(HZ, PERIOD_US)
    clock.add_round_trip(1_000_000_000, 1_002_000_000, 50_050_000)
    clock.add_round_trip(2_000_000_000, 2_090_000_000, 50_050_000 + HZ)  # one slow round trip is no jump
    with pytest.raises(LinkError, match="restarted"):
        clock.add_round_trip(3_000_000_000, 3_002_000_000, 50_050_000 + round((2 + jump_s) * HZ))
