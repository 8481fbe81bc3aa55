"""Scenes that share passes of the network go as they go alone."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from policy_builders import CONFIG, write_checkpoint

from pi0_edge.errors import MissingDependencyError, ObservationError
from pi0_edge.policy import Policy

try:
    import mujoco

    from pi0_edge.evaluation.multimodality import draw_paths
    from pi0_edge.evaluation.rollout import evaluate, observe, prompt_of
    from pi0_edge.evaluation.side_by_side import answers_of, draw_paths_together, path_error, play_together
    from pi0_edge.sim.aloha import CONTROL_HZ, HOME, PhysicsError
    from pi0_edge.sim.aloha_two_ways import AlohaTwoWays
    from pi0_edge.sim.tasks import TWO_WAYS
    from pi0_edge.sim.two_ways_expert import TwoWaysExpert
except MissingDependencyError as error:
    pytest.skip(str(error), allow_module_level=True)

SEED = 11


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    """Moves a little around home, so that states and images differ from scene to scene."""
    stats = {"mean": HOME.astype(np.float64), "std": np.full(14, 0.05)}
    config = dataclasses.replace(CONFIG, horizon=50, max_prompt_tokens=40)
    folder = write_checkpoint(tmp_path_factory.mktemp("policy") / "p", stats=stats, config=config)
    return Policy.load(folder, engine="reference", sizes={"euler_steps": 1})


def test_episodes_go_as_they_go_alone(policy):
    seeds = [3, 1, 2]
    played = play_together(policy, TWO_WAYS, seeds, executed=50, at_once=2)  # the third takes the place of another
    alone = evaluate(policy, seeds, task=TWO_WAYS.name, executed=50).rollouts
    assert [episode.rollout for episode in played] == list(alone)
    assert [episode.chunks for episode in played] == [3, 3, 3]
    assert all(episode.jerk > 0 and episode.path_error > 0 for episode in played)


def expert_answers(choose):
    """Chunks of the expert's ways; `choose` gives near (0) or far (1) for a seed of noise."""
    env = AlohaTwoWays()
    env.reset(SEED)
    ways = [way.astype(np.float64) for way in TwoWaysExpert().ways(env)]
    env.close()

    def answer(observations, seeds):
        return [ways[choose(seed)][seed % 50 :][:50] for seed in seeds]

    return answer


@pytest.mark.parametrize("executed", [50, 10])
def test_paths_are_those_that_are_drawn_alone(executed):
    def choose(seed):
        return seed // 50 % 2  # a draw keeps its way, whose chunks begin at the tick that the seed says

    answer, env = expert_answers(choose), AlohaTwoWays()
    (together,) = draw_paths_together(answer, [SEED], 5, executed, 8, at_once=3)
    alone = draw_paths(env, TwoWaysExpert(), lambda seen, seed: answer([seen], [seed])[0], SEED, 5, executed, 8)
    env.close()
    assert together.outcomes == alone.outcomes == tuple(("near", "far")[(SEED * 5 + draw) % 2] for draw in range(5))
    np.testing.assert_array_equal(together.paths, alone.paths)
    np.testing.assert_array_equal(together.ways, alone.ways)


def test_a_path_that_leaves_another_ends_as_its_own():
    """All begin the near way; one of them goes back home after 20 ticks, and neither passes nor touches."""
    near = expert_answers(lambda seed: 0)
    home = np.tile(HOME.astype(np.float64), (50, 1))
    first = SEED * 3 * 50

    def answer(observations, seeds):
        chunks = near(observations, seeds)
        return [
            home if (seed - first) // 50 == 1 and seed % 50 >= 20 else c for c, seed in zip(chunks, seeds, strict=True)
        ]

    (drawn,) = draw_paths_together(answer, [SEED], 3, 20, 8)
    assert drawn.outcomes == ("near", "neither", "near")


def test_an_episode_in_which_the_physics_breaks_down_has_failed(policy, monkeypatch):
    """What noise does to the simulation now and then: it says so after a step, and a reset is the only way on."""
    step = AlohaTwoWays.step

    def break_down(self, setpoint):
        step(self, setpoint)
        with self._physics.check_invalid_state():
            self._physics.data.warning[mujoco.mjtWarning.mjWARN_BADQACC].number += 1  # pyright: ignore[reportAttributeAccessIssue]

    monkeypatch.setattr(AlohaTwoWays, "step", break_down)
    (episode,) = play_together(policy, TWO_WAYS, [1], executed=25)
    assert (episode.rollout.success, episode.failed, episode.chunks) == (False, True, 1)
    (drawn,) = draw_paths_together(expert_answers(lambda seed: 0), [SEED], 2, 10, 8)
    assert drawn.outcomes == ("neither", "neither") and drawn.paths.shape == (2, 50, 14)


def test_a_path_under_which_the_physics_breaks_down_behind_the_post_took_neither_way(monkeypatch):
    (passed,) = draw_paths_together(expert_answers(lambda seed: 0), [SEED], 2, 10, 8)
    assert passed.outcomes == ("near", "near")
    step, ticks = AlohaTwoWays.step, []

    def break_down_at_last(self, setpoint):
        ticks.append(setpoint)
        step(self, setpoint)
        if len(ticks) == 50:
            raise PhysicsError("broke down")

    monkeypatch.setattr(AlohaTwoWays, "step", break_down_at_last)
    (drawn,) = draw_paths_together(expert_answers(lambda seed: 0), [SEED], 2, 10, 8)
    assert drawn.outcomes == ("neither", "neither") and len(ticks) == 50


def test_jerk_is_that_of_the_arm_joints_from_home(policy):
    (episode,) = play_together(policy, TWO_WAYS, [1], executed=50)
    answer, env = answers_of(policy), AlohaTwoWays()
    assert env.arm_joints() == [*range(6), *range(7, 13)]
    env.reset(1)
    setpoints = [HOME.astype(np.float64)] * 3
    while len(setpoints) < 3 + TWO_WAYS.max_ticks and not env.failed:
        observation = observe(env, prompt_of(policy, TWO_WAYS), policy.engine.config.vision.image_size)
        for setpoint in answer([observation], [10_000 + len(setpoints) - 3])[0][:50]:
            env.step(setpoint)
            setpoints.append(setpoint)
    env.close()
    third = np.diff(np.array(setpoints)[:, [*range(6), *range(7, 13)]], n=3, axis=0) * CONTROL_HZ**3
    assert episode.jerk == pytest.approx(np.sqrt((third**2).mean()))


def test_what_a_policy_refuses_is_raised(policy):
    from pi0_edge.processing import Observation

    with pytest.raises(ObservationError):
        answers_of(policy)([Observation({}, np.zeros(14), "Transfer cube")], [0])


def test_the_distance_to_a_way_does_not_ask_when():
    way = np.linspace(0, 1, 50)[:, None] * np.ones(3)
    assert path_error(way[::2], [way, way + 5]) == 0
    assert path_error(way + np.array([0, 0, 0.3]), [way + 5, way]) <= 0.3 / np.sqrt(3) + 1e-12
