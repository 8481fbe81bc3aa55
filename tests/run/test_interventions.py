"""A person's path: continuous, slow, within limits, and still when nobody says anything."""

from __future__ import annotations

import time

import numpy as np
import pytest

from firmware_bridge.robot import load_joints
from firmware_bridge.splice import NOTHING, Plan
from pi0_edge.errors import ConfigError
from pi0_edge.run.interventions import CHUNK_TICKS, LEAD_TICKS, SILENCE_S, SPEED, PersonPath, StreamedSetpoints

ALOHA = load_joints("aloha")
TICK_S = 0.02
STEP = SPEED * ALOHA.velocity * TICK_S


def followed(path: PersonPath, target, first: int = 100, ticks: int = 400, entry: int = LEAD_TICKS) -> np.ndarray:
    """What an arm executes whose chunks enter so many ticks after they were sent."""
    executed: dict[int, np.ndarray] = {}
    for tick in range(first, first + ticks):
        if path.due(tick):
            for row, setpoint in enumerate(path.chunk(tick, target)):
                if row + 1 >= entry or tick == first:
                    executed[tick + 1 + row] = setpoint
    return np.array([executed[tick] for tick in sorted(executed)])


@pytest.mark.parametrize("entry", [1, 3, LEAD_TICKS])
def test_chunks_continue_each_other_and_reach_the_target_slowly(entry: int):
    target = ALOHA.home + 0.3
    executed = followed(PersonPath(ALOHA, TICK_S, NOTHING, ALOHA.home), target, entry=entry)
    assert (np.abs(np.diff(executed, axis=0)) <= STEP * (1 + 1e-9)).all()
    np.testing.assert_allclose(executed[-1], np.clip(target, ALOHA.lower, ALOHA.upper), atol=1e-9)


def test_a_path_begins_with_what_the_arm_is_executing():
    plan = Plan(101, np.linspace(ALOHA.home, ALOHA.home + 0.1, 50))
    chunk = PersonPath(ALOHA, TICK_S, plan, ALOHA.home).chunk(100, ALOHA.home)
    np.testing.assert_array_equal(chunk[:LEAD_TICKS], plan.setpoints[:LEAD_TICKS])
    assert (np.abs(np.diff(chunk, axis=0)) <= STEP * (1 + 1e-9)).all()


def test_the_arm_is_held_where_it_is_while_nobody_says_anything():
    path = PersonPath(ALOHA, TICK_S, NOTHING, ALOHA.home)
    assert (followed(path, None) == ALOHA.home).all()
    assert len(path.chunk(900, None, 50)) == 50


def test_a_target_beyond_the_limits_ends_at_the_limits():
    executed = followed(PersonPath(ALOHA, TICK_S, NOTHING, ALOHA.home), np.full(14, 99.0), ticks=1500)
    np.testing.assert_allclose(executed[-1], ALOHA.upper)


def test_chunks_overlap_so_that_one_may_be_lost():
    path = PersonPath(ALOHA, TICK_S, NOTHING, ALOHA.home)
    sent = [tick for tick in range(100, 200) if path.due(tick) and len(path.chunk(tick, None))]
    assert max(np.diff(sent)) * 2 <= CHUNK_TICKS


def test_streamed_setpoints_count_only_while_they_are_new():
    source = StreamedSetpoints("leader arm", ALOHA)
    assert source.target() is None
    source.put(ALOHA.home)
    np.testing.assert_array_equal(source.target(), ALOHA.home)  # pyright: ignore[reportArgumentType]
    source.begin(ALOHA.home)
    assert source.target() is None
    source.put(ALOHA.home)
    time.sleep(SILENCE_S + 0.05)
    assert source.target() is None


@pytest.mark.parametrize("wrong", [[0.0] * 13, [float("nan")] * 14])
def test_a_target_of_other_joints_or_without_numbers_is_refused(wrong):
    with pytest.raises(ConfigError, match="expected 14 finite positions"):
        StreamedSetpoints("leader arm", ALOHA).put(wrong)
