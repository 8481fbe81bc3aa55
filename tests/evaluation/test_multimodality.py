"""Figures of two ways, by synthetic policies whose figures are known."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pi0_edge.errors import ConfigError, MissingDependencyError, ObservationError

try:
    from pi0_edge.evaluation.multimodality import (
        MOVING,
        PATH_TICKS,
        draw_paths,
        expert_sampler,
        figures_of,
        measure_ways,
        rms_jerk,
        sliced_wasserstein,
        unit_directions,
    )
    from pi0_edge.sim.aloha import CONTROL_HZ, HOME
    from pi0_edge.sim.aloha_two_ways import AlohaTwoWays
    from pi0_edge.sim.two_ways_expert import TwoWaysExpert
except MissingDependencyError as error:
    pytest.skip(str(error), allow_module_level=True)

SEED = 11
DRAWS = 64


@pytest.fixture(scope="module")
def env():
    environment = AlohaTwoWays()
    yield environment
    environment.close()


@pytest.fixture(scope="module")
def expert():
    return TwoWaysExpert()


@pytest.fixture(scope="module")
def ways(env, expert):
    env.reset(SEED)
    return [way.astype(np.float64) for way in expert.ways(env)]


def measured(env, sample, **options):
    return measure_ways(sample, [SEED], image_size=8, env=env, **options)


def test_the_expert_itself_is_at_the_floor(env, expert):
    figures = measured(env, expert_sampler(env, expert))
    assert (figures.collisions, figures.neither, figures.near + figures.far) == (0, 0, DRAWS)
    assert figures.share is not None and figures.share_interval is not None
    low, high = figures.share_interval
    assert abs(figures.share - 0.5) < 4 * 0.5 / np.sqrt(DRAWS) and 0.15 < high - low < 0.3
    assert figures.mode_error < 1e-7
    assert figures.jerk == pytest.approx(figures.expert_jerk, rel=0.02)
    assert figures.distance < 3 * figures.floor


def test_the_average_of_both_ways_always_touches_and_has_no_share(env, ways):
    figures = measured(env, lambda observation, seed: (ways[0] + ways[1]) / 2)
    assert figures.collision_rate == 1 and figures.collision_interval[0] > 0.9
    assert figures.share is None and figures.share_interval is None
    apart = np.sqrt(((ways[0] - ways[1])[:PATH_TICKS, MOVING] ** 2).mean())
    assert figures.mode_error == pytest.approx(apart / 2, rel=1e-3)
    assert figures.distance == pytest.approx(apart / 2, rel=0.25)  # 256 directions of 300 dimensions
    assert figures.distance > 1.5 * figures.floor
    assert figures.to_dict()["near_share"] is None


@pytest.mark.parametrize(("way", "share"), [(0, 1.0), (1, 0.0)])
def test_a_policy_of_one_way_has_a_share_of_one_or_zero_and_no_mode_error(env, ways, way, share):
    figures = measured(env, lambda observation, seed: ways[way])
    assert (figures.share, figures.collisions) == (share, 0)
    assert figures.mode_error < 1e-7
    apart = np.sqrt(((ways[0] - ways[1])[:PATH_TICKS, MOVING] ** 2).mean())
    assert figures.distance == pytest.approx(apart / np.sqrt(2), rel=0.25)  # half of the paths move all the way
    assert figures.distance > 2 * figures.floor


def test_noise_that_touches_nothing_is_found_by_its_jerk(env):
    """Collisions alone would call this a good policy."""

    def shaking(observation, seed):
        return HOME + 0.01 * np.random.default_rng(seed // PATH_TICKS % 4).standard_normal((PATH_TICKS, 14))

    figures = measured(env, shaking)
    assert (figures.collisions, figures.neither, figures.share) == (0, DRAWS, None)
    assert figures.jerk > 20 * figures.expert_jerk


def test_a_policy_of_short_chunks_is_asked_until_the_path_is_full_with_a_new_seed_each_time(env, ways):
    asked = []

    def short(observation, seed):
        asked.append(seed)
        tick = seed % PATH_TICKS
        return ways[0][tick : tick + 20]

    scene = draw_paths(env, TwoWaysExpert(), short, SEED, 2, executed=16, image_size=8)
    assert [seed % PATH_TICKS for seed in asked] == [0, 16, 32, 48] * 2 and len(set(asked)) == 8
    for path in scene.paths:
        np.testing.assert_array_equal(path, ways[0][:PATH_TICKS])
    assert scene.outcomes == ("near", "near")


def test_figures_of_several_scenes_are_pooled(env, expert, ways):
    scenes = []
    for seed in (SEED, SEED + 1):
        env.reset(seed)
        own = expert.ways(env)
        scenes.append(draw_paths(env, expert, lambda observation, _, own=own: own[1], seed, 3, image_size=8))
    figures = figures_of(scenes)
    assert (figures.scenes, figures.paths, figures.far, figures.share) == (2, 6, 6, 0.0)


@pytest.mark.parametrize(("seeds", "options"), [([], {}), ([1], {"draws": 63}), ([1], {"executed": 0})])
def test_what_would_say_little_is_refused(env, seeds, options):
    with pytest.raises(ConfigError, match="64 draws"):
        measure_ways(lambda observation, seed: HOME[None], seeds, env=env, **options)


@pytest.mark.parametrize("chunk", [np.zeros((0, 14)), np.zeros((50, 7)), np.zeros(14), np.full((50, 14), np.nan)])
def test_a_chunk_that_is_none_of_this_robot_is_refused(env, chunk):
    with pytest.raises(ObservationError, match=r"expected finite numbers \[n, 14\]"):
        measured(env, lambda observation, seed: chunk)


def test_the_same_policy_gets_the_same_figures(env, expert):
    scenes = [draw_paths(env, expert, expert_sampler(env, expert), SEED, 4, image_size=8) for _ in range(2)]
    assert figures_of(scenes[:1]) == figures_of(scenes[1:])


points = st.integers(1, 40).flatmap(lambda n: st.tuples(st.just(n), st.integers(1, 12), st.integers(0, 2**31)))


@settings(max_examples=50, deadline=None)
@given(points)
def test_the_distance_of_sets_is_one(drawn):
    """Zero for the same set in any order, symmetric, and the triangle inequality holds."""
    count, dimensions, seed = drawn
    rng = np.random.default_rng(seed)
    directions = unit_directions(32, dimensions, rng)
    np.testing.assert_allclose(np.linalg.norm(directions, axis=1), 1)
    first, second, third = rng.standard_normal((3, count, dimensions))
    assert sliced_wasserstein(first, first[rng.permutation(count)], directions) == pytest.approx(0, abs=1e-12)
    there = sliced_wasserstein(first, second, directions)
    assert there == pytest.approx(sliced_wasserstein(second, first, directions))
    around = sliced_wasserstein(first, third, directions) + sliced_wasserstein(third, second, directions)
    assert there <= around + 1e-12
    assert sliced_wasserstein(first * 3, second * 3, directions) == pytest.approx(3 * there)


def test_two_points_are_as_far_apart_as_the_root_mean_square_of_their_differences():
    rng = np.random.default_rng(0)
    offset = rng.standard_normal(50)
    distance = sliced_wasserstein(np.zeros((1, 50)), offset[None], unit_directions(20_000, 50, rng))
    assert distance == pytest.approx(np.sqrt((offset**2).mean()), rel=0.03)


def test_a_shift_of_normal_points_is_found_in_one_dimension():
    rng = np.random.default_rng(0)
    normal = rng.standard_normal((4000, 1))
    distance = sliced_wasserstein(normal, rng.standard_normal((4000, 1)) + 2, np.ones((1, 1)))
    assert distance == pytest.approx(2, abs=0.1)


def test_sets_of_different_sizes_are_refused():
    with pytest.raises(ValueError, match="equally large"):
        sliced_wasserstein(np.zeros((3, 2)), np.zeros((4, 2)), np.ones((1, 2)))


def test_jerk_of_a_cubic_is_its_third_derivative():
    """From rest at home; the third difference of a tick cubed is 6 from the fourth setpoint on."""
    ticks = np.arange(1, 61) / CONTROL_HZ
    path = HOME[MOVING] + 5 * ticks[:, None] ** 3
    assert rms_jerk(path[None].repeat(2, 0), MOVING) == pytest.approx(30, rel=0.03)
    assert rms_jerk(np.broadcast_to(HOME[MOVING], (1, 50, len(MOVING))), MOVING) == 0
