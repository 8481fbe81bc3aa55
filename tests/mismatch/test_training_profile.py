"""The training profile: limits, file, damage, and what it is collected from."""

from __future__ import annotations

import json
from dataclasses import replace

import mismatch_cases as cases
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pi0_edge.errors import ConfigError, DatasetError
from pi0_edge.shipped import shipped_checkpoint
from pi0_edge.training_profile import NAME, collect_profile, find_training_profile, load_training_profile
from pi0_edge.training_profile.collecting import far_apart
from pi0_edge.training_profile.limits import conformal_limit, largest_persistent, persistent
from pi0_edge.training_profile.pictures import CELLS, SIDE, _cells


@pytest.mark.parametrize(("episodes", "rank"), [(99, 99), (199, 198), (999, 990), (10, 10), (1, 1)])
def test_the_limit_is_the_smallest_score_that_covers_new_episodes(episodes, rank):
    """ceil((n + 1)(1 - 1 %))-th smallest, or the largest where there are fewer than 99."""
    scores = np.random.default_rng(0).permutation(episodes) + 1.0
    assert conformal_limit(scores) == rank


def test_a_new_episode_exceeds_the_limit_as_rarely_as_promised():
    rng = np.random.default_rng(0)
    exceeded = [rng.random() > conformal_limit(rng.random(200), 0.05) for _ in range(4000)]
    assert 0.035 < np.mean(exceeded) < 0.065


def test_what_persists_is_reached_by_two_thirds():
    assert persistent(np.arange(1.0, 31.0)) == 11  # 20 of 30 values are 11 or more
    assert persistent(np.array([1.0, 1, 0])) == 1
    assert persistent(np.array([1.0, 0, 0])) == 0
    assert largest_persistent(np.array([0, 0, 9, 9, 9, 9, 9, 9, 0, 0, 0, 0.0])) == 9
    assert largest_persistent(np.array([0, 9, 0, 9, 0, 9, 0, 9, 0, 9, 0, 9.0])) == 0


@given(st.floats(1.0, 4.0))
def test_cells_of_a_cropped_image_average_its_middle(zoom):
    weights = _cells(zoom)
    np.testing.assert_allclose(weights.sum(1), 1, atol=1e-5)
    centres = weights @ (np.arange(SIDE) + 0.5)
    width = SIDE / zoom / CELLS
    middles = SIDE / 2 + width * (np.arange(CELLS) - CELLS / 2 + 0.5)
    np.testing.assert_allclose(centres, middles, atol=0.13)  # a pixel that is cut counts at its own middle


def test_examples_are_far_apart():
    points = np.array([[0.0], [0.1], [5], [5.1], [10], [10]])
    assert far_apart(points, 3, 2) == [0, 4, 2]
    assert len(far_apart(np.zeros((4, 2)), 3, np.inf)) == 1  # equal points are one


def test_a_profile_is_read_as_it_was_written(tmp_path):
    profile = cases.profile()
    path = tmp_path / NAME
    profile.save(path)
    read = load_training_profile(path)
    assert read.to_bytes() == profile.to_bytes() == path.read_bytes()
    assert read.prompts == (cases.PROMPT,) and read.control_hz == cases.HZ and read.episodes == 40
    np.testing.assert_allclose(read.joints.state, profile.joints.state, rtol=1e-5, atol=1e-9)
    for camera in cases.CAMERAS:
        np.testing.assert_array_equal(read.cameras[camera].thumbnails, profile.cameras[camera].thumbnails)
    assert len(profile.to_bytes()) < 1_000_000
    assert find_training_profile(tmp_path) is not None and find_training_profile(tmp_path / "x" / "y") is None
    assert list(tmp_path.iterdir()) == [path]


def test_the_same_data_give_the_same_bytes():
    episodes = [cases.training_episode(seed) for seed in range(10)]
    first, again = (collect_profile(cases.robot(), episodes, cases.HZ, "made up").to_bytes() for _ in range(2))
    assert first == again


def test_the_file_stays_small_with_many_cameras():
    episodes = []
    for seed in range(60):
        episode = cases.training_episode(seed)
        views = {f"camera_{k}": episode.images["front"] ^ np.uint8(k) for k in range(8)}
        episodes.append(replace(episode, images=views, sizes=dict.fromkeys(views, (60, 80))))
    profile = collect_profile(cases.robot(), episodes, cases.HZ, "made up")
    assert len(profile.cameras) == 8 and len(profile.to_bytes()) < 1_000_000


@given(cut=st.floats(0, 0.999))
def test_a_truncated_file_is_refused(cut, tmp_path_factory):
    content = cases.profile().to_bytes()
    path = tmp_path_factory.mktemp("cut") / NAME
    path.write_bytes(content[: int(cut * len(content))])
    with pytest.raises(ConfigError, match=str(path)):
        load_training_profile(path)


def _changed(*keys: str | int, value: object) -> bytes:
    content = json.loads(cases.profile().to_bytes())
    place = content
    for key in keys[:-1]:
        place = place[key]
    place[keys[-1]] = value
    return json.dumps(content).encode()


@pytest.mark.parametrize(
    ("keys", "value", "says"),
    [
        (("format",), "something", "has the format 'something', expected"),
        (("format_version",), 2, "has format version 2, this pi0-edge reads 1"),
        (("joints", "state", 1, 0), None, "is damaged"),
        (("joints", "state", 1, 0), float("nan"), "not finite"),
        (("joints", "beyond"), [0.0], "has the shape"),
        (("joints", "names"), ["one"], "has the shape"),
        (("joints", "running", "distance"), "far", "is no finite number"),
        (("cameras", "front", "thumbnails"), "AAA", "is damaged"),
        (("cameras", "front", "thumbnails"), "", "is damaged"),
        (("cameras", "front", "starts"), 10_000, "are first images"),
        (("cameras", "front", "height"), -1, "is no count"),
        (("control_hz",), 0, "not above zero"),
        (("prompts",), [3], "is no str"),
        (("actions", "first"), [], "has the shape"),
    ],
)
def test_a_wrong_value_is_named(keys, value, says, tmp_path):
    path = tmp_path / NAME
    path.write_bytes(_changed(*keys, value=value))
    with pytest.raises(ConfigError, match=says):
        load_training_profile(path)


def test_a_missing_file_and_a_huge_one_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="cannot be read"):
        load_training_profile(tmp_path / NAME)
    with (tmp_path / NAME).open("wb") as file:
        file.truncate(5 * 2**20)
    with pytest.raises(ConfigError, match="at most"):
        load_training_profile(tmp_path / NAME)


def test_too_few_or_different_episodes_are_refused():
    episodes = [cases.training_episode(seed) for seed in range(8)]
    with pytest.raises(DatasetError, match="has 7 episodes; a training profile needs 8"):
        collect_profile(cases.robot(), episodes[:7], cases.HZ, "these")
    one_view = {"front": episodes[0].images["front"]}
    with pytest.raises(DatasetError, match="an episode has the cameras front, others front, wrist"):
        collect_profile(cases.robot(), [*episodes[:7], replace(episodes[7], images=one_view)], cases.HZ, "these")


def test_what_the_data_lack_is_said():
    episodes = [replace(cases.training_episode(seed), prompts=frozenset()) for seed in range(8)]
    profile = collect_profile(cases.robot(), episodes, None, "these")
    assert profile.missing.keys() == {"control-rate", "prompt"}
    assert profile.actions is not None and profile.actions.half_second is None
    assert "an unknown rate" in profile.summary


def test_the_shipped_policy_has_a_profile():
    profile = find_training_profile(shipped_checkpoint())
    assert profile is not None
    assert (profile.robot, profile.control_hz, profile.prompts) == ("aloha_sim", 50, ("Transfer cube",))
    assert list(profile.cameras) == ["top"] and profile.episodes >= 100
