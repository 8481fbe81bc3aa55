"""The distance to the expert is zero for the expert, and what is added to it otherwise."""

from __future__ import annotations

import numpy as np
import pytest

from pi0_edge.errors import MissingDependencyError

try:
    from pi0_edge.comparison.precision import DRAWS, EVERY_TICKS, precision_of, seen_by_expert
    from pi0_edge.sim.aloha import JOINT_NAMES
    from pi0_edge.sim.tasks import TWO_WAYS, way_of
    from pi0_edge.sim.two_ways_expert import EPISODE_TICKS
except MissingDependencyError as error:
    pytest.skip(str(error), allow_module_level=True)

SEED = 2
ARM = [index for index, name in enumerate(JOINT_NAMES) if not name.endswith("gripper")]


@pytest.fixture(scope="module")
def seen():
    return seen_by_expert(TWO_WAYS, [SEED], image_size=8)


def test_both_ways_are_good_at_the_start_and_the_taken_one_afterwards(seen):
    assert len(seen) == EPISODE_TICKS // EVERY_TICKS
    assert [len(one.ways) for one in seen] == [2] + [1] * (len(seen) - 1)
    assert all(one.ways.shape[1] == EPISODE_TICKS - EVERY_TICKS * place for place, one in enumerate(seen))
    np.testing.assert_array_equal(seen[0].ways[way_of(SEED, 2)][EVERY_TICKS:], seen[1].ways[0])


def following(seen, way, moved=0.0):
    """Answers with the expert's own setpoints; `moved` is added to every joint."""
    known = {id(one.observation): one.ways[min(way, len(one.ways) - 1)] for one in seen}
    return lambda observations, seeds: [known[id(one)].astype(np.float64) + moved for one in observations]


@pytest.mark.parametrize("way", [0, 1])
def test_the_expert_is_at_zero_on_either_way(seen, way):
    found = precision_of(following(seen, way), seen, 25, ARM)
    assert (found.first, found.executed, found.observations) == (0, 0, len(seen))


def test_what_is_added_is_found(seen):
    found = precision_of(following(seen, 0, moved=0.02), seen, 8, ARM)
    assert found.first == pytest.approx(0.02, abs=1e-6) and found.executed == pytest.approx(0.02, abs=1e-6)


def test_only_what_is_executed_counts(seen):
    def answer(observations, seeds):
        chunks = following(seen, 0)(observations, seeds)
        return [np.concatenate((chunk[:4], chunk[4:] + 1.0)) for chunk in chunks]

    assert precision_of(answer, seen, 4, ARM).executed == 0
    assert precision_of(answer, seen, 8, ARM).executed > 0.5


def test_every_chunk_has_noise_of_its_own(seen):
    given = []

    def answer(observations, seeds):
        given.extend(seeds)
        return following(seen, 0)(observations, seeds)

    precision_of(answer, seen, 4, ARM)
    assert given == list(range(len(seen) * DRAWS))
