"""The player refuses a moving chunk that repeats for longer than a second, and no other repetition."""

import numpy as np
import pytest

from firmware_bridge.bridge.player import FROZEN_S, FrozenOutput
from firmware_bridge.errors import ChunkError

TICK_S = 0.02
SWING = np.sin(np.arange(50.0))[:, None].repeat(3, axis=1)
FROZEN_TICKS = round(FROZEN_S / TICK_S)


def test_the_same_moving_chunk_is_refused_once_observations_are_a_second_newer():
    output = FrozenOutput()
    for observed in range(100, 101 + FROZEN_TICKS, 10):
        output.check(SWING, observed, TICK_S)
    with pytest.raises(ChunkError, match=r"same moving chunk since 1\.2 s"):
        output.check(SWING, 100 + FROZEN_TICKS + 10, TICK_S)


def test_a_chunk_that_differs_by_one_bit_is_another_one():
    output, other = FrozenOutput(), SWING.copy()
    other[-1, -1] = np.nextafter(other[-1, -1], 2.0)
    for observed in range(0, 1000, 10):
        output.check(SWING if observed % 20 else other, observed, TICK_S)


def test_a_chunk_that_holds_still_or_answers_the_same_observation_may_repeat():
    output = FrozenOutput()
    for observed in range(0, 1000, 10):
        output.check(np.zeros((50, 3)), observed, TICK_S)
    for _ in range(100):
        output.check(SWING, 1000, TICK_S)


def test_one_action_alone_does_not_move():
    output = FrozenOutput()
    for observed in range(0, 1000, 10):
        output.check(SWING[:1], observed, TICK_S)
