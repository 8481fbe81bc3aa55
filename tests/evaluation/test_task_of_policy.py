"""Which task a policy plays, and what it is told there."""

from dataclasses import replace

import numpy as np
import pytest
from policy_builders import write_checkpoint

from pi0_edge.errors import MissingDependencyError
from pi0_edge.policy import Policy

try:
    from pi0_edge.evaluation.rollout import evaluate, prompt_of, roll_out, task_of
    from pi0_edge.sim.aloha_two_ways import AlohaTwoWays
    from pi0_edge.sim.tasks import TRANSFER_CUBE, TWO_WAYS
    from pi0_edge.sim.two_ways_expert import TwoWaysExpert
except MissingDependencyError as error:
    pytest.skip(str(error), allow_module_level=True)


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    return Policy.load(write_checkpoint(tmp_path_factory.mktemp("two") / "checkpoint"), "reference")


def told(policy, prompt):
    policy.processor.robot = replace(policy.processor.robot, default_prompt=prompt)
    return policy


def test_a_policy_plays_the_task_of_its_default_prompt_and_is_told_that(policy):
    trained = told(policy, TWO_WAYS.prompt)
    assert task_of(trained) is TWO_WAYS and prompt_of(trained, TWO_WAYS) == TWO_WAYS.prompt
    assert prompt_of(trained, TRANSFER_CUBE) == TRANSFER_CUBE.prompt
    (rollout,) = evaluate(trained, [3], prompt="Reach").rollouts
    assert (rollout.success, rollout.ticks) == (False, TWO_WAYS.max_ticks)


@pytest.mark.parametrize("prompt", [None, "Fold the towel", "Transfer cube"])
def test_a_policy_of_no_known_task_transfers_the_cube_and_keeps_its_words(policy, prompt):
    other = told(policy, prompt)
    assert task_of(other) is TRANSFER_CUBE
    assert prompt_of(other, TRANSFER_CUBE) == (prompt or TRANSFER_CUBE.prompt)


def test_an_episode_ends_at_a_touch_and_at_the_target():
    env, expert = AlohaTwoWays(), TwoWaysExpert()
    env.reset(5)
    near, far = expert.ways(env)
    asked = []

    def controller(way):
        def control(_, tick):
            asked.append(tick)
            return way[tick : tick + 25].astype(np.float64)

        return control

    won = roll_out(env, controller(near), 5, TWO_WAYS.max_ticks)
    assert won.success and won.best_reward == TWO_WAYS.stages and 40 < won.ticks < 65 and asked == [0, 25, 50]
    asked.clear()
    lost = roll_out(env, controller((near + far) / 2), 5, TWO_WAYS.max_ticks)
    assert (lost.success, lost.ticks, lost.best_reward) == (False, TWO_WAYS.max_ticks, 0) and asked == [0, 25]
    env.close()
