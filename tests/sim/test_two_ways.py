"""The task with two ways: its scene, both ways of its expert, and what its success means."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pi0_edge.errors import ConfigError, MissingDependencyError, ObservationError
from pi0_edge.robots import load_robot

try:
    from pi0_edge.sim.aloha import HOME, JOINT_NAMES
    from pi0_edge.sim.aloha_two_ways import TARGET_HEIGHT, WAYS, AlohaTwoWays, AlohaTwoWaysOneArm
    from pi0_edge.sim.demonstration import demonstrate, disturbance_of
    from pi0_edge.sim.tasks import TASKS, TRANSFER_CUBE, TWO_WAYS, TWO_WAYS_ONE_ARM, simulated_task, way_of
    from pi0_edge.sim.two_ways_expert import EPISODE_TICKS, TwoWaysExpert
except MissingDependencyError as error:
    pytest.skip(str(error), allow_module_level=True)

seeds = st.integers(0, 2**31)


@pytest.fixture(scope="module")
def env():
    environment = AlohaTwoWays()
    yield environment
    environment.close()


@pytest.fixture(scope="module")
def expert():
    return TwoWaysExpert()


def play(env, setpoints, seed):
    """Plays an episode until success or a touch; the rewards of its ticks."""
    env.reset(seed)
    rewards = []
    for setpoint in setpoints:
        env.step(setpoint)
        rewards.append(env.reward)
        if env.success or env.failed:
            break
    return rewards


def test_the_scene_depends_on_the_seed_only_and_the_arms_start_at_home(env):
    env.reset(7)
    first = env.post, env.target
    env.reset(8)
    assert np.abs(env.post - first[0]).max() > 1e-3
    np.random.seed(0)
    env.reset(7)
    np.testing.assert_array_equal(env.post, first[0])
    np.testing.assert_array_equal(env.target, first[1])
    np.testing.assert_array_equal(env.state, HOME)
    assert (env.reward, env.success, env.failed, env.way) == (0, False, False, None)


@settings(max_examples=40, deadline=None)
@given(seeds)
def test_the_target_is_behind_the_post_and_both_are_where_the_arm_reaches(env, seed):
    env.reset(seed)
    (x, y), target = env.post, env.target
    assert 0.03 <= x <= 0.09 and 0.46 <= y <= 0.54
    assert 0.09 <= x - target[0] <= 0.12 and abs(target[1] - y) <= 0.03 and target[2] == TARGET_HEIGHT
    assert env.pinch[0] > x + 0.05  # the gripper starts on the other side


@pytest.mark.parametrize("seed", [0, 1, 2, 3, 77, 400, 998, 2**31 - 1])  # of all seeds, the expert touches in some
def test_both_ways_succeed_smoothly_and_their_average_runs_into_the_post(env, expert, seed):
    env.reset(seed)
    ways = expert.ways(env)
    for way, setpoints in zip(WAYS, ways, strict=True):
        assert setpoints.shape == (EPISODE_TICKS, 14) and setpoints.dtype == np.float32
        path = np.concatenate([HOME[None], HOME[None], setpoints]).astype(np.float64)
        assert np.abs(np.diff(path, axis=0)).max() < 0.09 and np.abs(np.diff(path, 2, axis=0)).max() < 0.012
        np.testing.assert_array_equal(setpoints[:, :7], np.tile(HOME[:7], (EPISODE_TICKS, 1)))
        rewards = play(env, setpoints, seed)
        assert env.success and env.way == way and rewards == sorted(rewards) and set(rewards) == {0, 1, 2}
        assert 40 < len(rewards) < 65
    play(env, (ways[0] + ways[1]) / 2, seed)
    assert env.failed and not env.success and env.way is None and env.reward == 0


def test_a_touch_is_final(env, expert):
    """Nothing that follows makes a success of an episode in which the post was touched."""
    env.reset(3)
    near, far = expert.ways(env)
    play(env, (near + far) / 2, 3)
    assert env.failed
    for setpoint in np.concatenate([near[::-1], near]):
        env.step(setpoint)
    assert env.failed and not env.success and np.linalg.norm(env.pinch - env.target) < 0.02
    env.reset(3)
    assert not env.failed


def test_the_target_counts_only_after_the_post_was_passed(env):
    env.reset(5)
    for _ in range(5):
        env.step(HOME)
    assert (env.reward, env.way) == (0, None)


def test_the_way_of_another_scene_often_fails(env, expert):
    """The setpoints depend on the scene: success is not an accident of the motion."""
    outcomes = []
    for seed in range(2000, 2016):
        env.reset(seed + 1)
        setpoints = expert.ways(env)[seed % 2]
        play(env, setpoints, seed)
        outcomes.append(env.success)
    assert np.mean(outcomes) < 0.75


def test_the_expert_takes_both_ways_equally_often_whatever_is_seen():
    """Shares of 50 %: exactly of all seeds, within 4 standard deviations in any half that a picture could tell."""
    taken = np.array([way_of(seed, 2) for seed in range(100_000, 104_000)])
    places = np.array([np.random.default_rng(seed).uniform(size=4) for seed in range(100_000, 104_000)])
    assert taken.mean() == 0.5 and taken[::2].std() > 0.49 and abs(taken[::2].mean() - 0.5) < 4 * 0.5 / np.sqrt(2000)
    for place in places.T:
        assert abs(taken[place < 0.5].mean() - 0.5) < 4 * 0.5 / np.sqrt(1900)
    disturbed = np.array([disturbance_of(seed, 3).any() for seed in range(100_000, 101_000)])
    assert abs(taken[:1000][disturbed].mean() - 0.5) < 4 * 0.5 / np.sqrt(700)
    assert {way_of(seed, 1) for seed in range(20)} == {0}


def test_post_and_target_are_seen_from_the_start_whole(env):
    places, centres = [], []
    for seed in range(3000, 3010):
        env.reset(seed)
        image = env.render("top", 112, 112).astype(int)
        blue = (image[..., 2] > 120) & (image[..., 0] < 80)
        green = (image[..., 1] > 120) & (image[..., 0] < 80) & (image[..., 2] < 80)
        assert blue.sum() > 60 and green.sum() > 15
        rows, columns = np.nonzero(green)
        assert rows.min() > 2 and rows.max() < 109 and columns.min() > 2 and columns.max() < 109
        places.append(env.target[:2])
        centres.append((columns.mean(), rows.mean(), 1.0))
    fit, *_ = np.linalg.lstsq(np.array(centres), np.array(places), rcond=None)
    assert np.abs(np.array(centres) @ fit - np.array(places)).max() < 0.006


def test_a_demonstration_is_of_the_way_that_its_seed_says(env, expert):
    for way in range(2):
        seed = next(seed for seed in range(4000, 4100) if way_of(seed, 2) == way)
        episode = demonstrate(env, expert, seed)
        env.reset(seed)
        np.testing.assert_array_equal(episode.action, expert.ways(env)[way])


def test_a_robot_of_one_arm_moves_as_the_right_arm_of_two(env, expert):
    """The same scene, setpoints, states, images and outcome, in 7 dimensions."""
    one = AlohaTwoWaysOneArm()
    assert one.joint_names() == JOINT_NAMES[7:] and env.joint_names() == JOINT_NAMES
    env.reset(6)
    one.reset(6)
    both, right = expert.ways(env)[0], expert.ways(one)[0]
    np.testing.assert_array_equal(right, both[:, 7:])
    for tick in range(EPISODE_TICKS):
        np.testing.assert_array_equal(one.state, env.state[7:])
        env.step(both[tick])
        one.step(right[tick])
    assert one.success and env.success
    np.testing.assert_array_equal(one.render("top", 32, 32), env.render("top", 32, 32))
    assert demonstrate(one, expert, 100_000).state.shape == (EPISODE_TICKS, 7)
    with pytest.raises(ObservationError, match="7 finite numbers"):
        one.step(both[0])
    one.close()


def test_the_robot_layout_of_one_arm_has_the_joints_of_its_simulation():
    robot = load_robot("aloha_sim_right")
    assert robot.action_names == AlohaTwoWaysOneArm.joint_names()
    assert (robot.state_dim, robot.action_dim, list(robot.cameras), robot.control_hz) == (7, 7, ["top"], 50)


def test_tasks_are_found_by_name_and_others_are_refused_with_the_known_ones():
    assert [simulated_task(name) for name in TASKS] == [TRANSFER_CUBE, TWO_WAYS, TWO_WAYS_ONE_ARM]
    assert len({task.prompt for task in TASKS.values()}) == len(TASKS)
    with pytest.raises(ConfigError, match=r"task 'fold' is not known; .* transfer-cube, two-ways, two-ways-one-arm"):
        simulated_task("fold")


@pytest.mark.slow
def test_the_expert_succeeds_in_200_scenes(env, expert):
    won, taken = 0, []
    for seed in range(200):
        env.reset(seed)
        taken.append(way_of(seed, 2))
        play(env, expert.ways(env)[taken[-1]], seed)
        won += env.success
    assert won >= 198
    assert 0.43 <= np.mean(taken) <= 0.57
