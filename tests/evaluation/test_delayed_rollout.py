"""Rollouts with injected delay, with the scripted expert in the place of a policy."""

from __future__ import annotations

from itertools import cycle

import numpy as np
import pytest

from firmware_bridge.replanning import ChunkScheduler
from firmware_bridge.splice import HoldSwap, Plan
from pi0_edge.errors import MissingDependencyError

try:
    from pi0_edge.evaluation.delayed_rollout import DelayedRollout, injected_delay, roll_out_delayed
    from pi0_edge.sim.aloha_transfer_cube import AlohaTransferCube
    from pi0_edge.sim.expert import TransferCubeExpert
    from pi0_edge.sim.tasks import TRANSFER_CUBE
except MissingDependencyError as error:
    pytest.skip(str(error), allow_module_level=True)

SEED = 7


class FirstActionSwap(HoldSwap):
    def enter(self, plan: Plan, chunk: Plan, tick: int) -> Plan:
        return Plan(tick, chunk.setpoints)


@pytest.fixture(scope="module")
def env():
    environment = AlohaTransferCube()
    yield environment
    environment.close()


def roll_out(env: AlohaTransferCube, delays: list[int], splice: HoldSwap) -> DelayedRollout:
    """One episode of the expert, whose chunks take these delays in turn."""
    env.reset(SEED)
    x, y = env.cube_pose[:2]
    path = TransferCubeExpert().setpoints((float(x), float(y)))

    def answer(observation, tick, continuation):
        return path.astype(np.float64)[np.minimum(np.arange(tick, tick + 50), len(path) - 1)]

    scheduler = ChunkScheduler(splice, replan_ticks=25)
    turns = cycle(delays)
    return roll_out_delayed(env, TRANSFER_CUBE, answer, scheduler, lambda: next(turns), "Transfer cube", 16, SEED)


def test_a_late_chunk_is_entered_at_the_action_that_is_due(env):
    """Chunks that agree with each other leave no trace at their borders, however late they are."""
    prompt, late = roll_out(env, [0], HoldSwap()), roll_out(env, [9], HoldSwap())
    assert prompt.success and late.success
    np.testing.assert_array_equal(prompt.executed[11:200], late.executed[11:200])  # after the first wait
    assert prompt.entries[:3] == [1, 26, 51] and late.entries[:3] == [10, 35, 60]
    assert prompt.starved == late.starved == 0
    border, inside = late.jerk()
    assert np.abs(border).max() <= np.abs(inside).max()
    assert prompt.path_error() < 1e-5  # the expert speaks float32


def test_a_chunk_entered_at_its_first_action_jerks(env):
    naive = roll_out(env, [9, 2], FirstActionSwap())
    border, inside = naive.jerk()
    assert np.abs(border).max() > 5 * np.abs(inside).max()


def test_ticks_without_a_setpoint_hold_the_last_one_and_are_counted(env):
    slow = roll_out(env, [60], HoldSwap())  # a chunk of 50 is past due when it is there
    assert not slow.success and slow.starved > 100
    assert (np.diff(slow.executed, axis=0) == 0).all()


def test_injected_delays_are_at_least_the_given_one_and_at_most_a_tenth_more():
    rng = np.random.default_rng(0)
    assert {injected_delay(400, 0.1, rng) for _ in range(200)} == {20, 21, 22}
    assert {injected_delay(0, 0.1, rng) for _ in range(20)} == {0}
