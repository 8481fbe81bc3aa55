"""Rules about images: what happened to a camera is named; light, noise and an arm in view are not accused."""

from __future__ import annotations

from collections.abc import Callable

import mismatch_cases as cases
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from pi0_edge.cameras import CameraImage
from pi0_edge.run.mismatch.camera_rules import CameraRules, Seen
from pi0_edge.training_profile.pictures import CAMERA_CHANGES, features, thumbnail

Images = NDArray[np.uint8]
WINDOW = 8


@pytest.fixture(scope="module")
def rules() -> CameraRules:
    return CameraRules(cases.profile().cameras)


def seen(camera: str, change: Callable[[Images], Images] = lambda x: x, count: int = 30, **still: int) -> list[Seen]:
    """Images of a robot at rest, changed."""
    images = [change(cases.picture(camera, cases.START, 8000 + k)) for k in range(count)]
    return [Seen.of(CameraImage(np.ascontiguousarray(x), still.get("taken", k), k)) for k, x in enumerate(images)]


def cropped(image: Images) -> Images:
    return np.asarray(Image.fromarray(image[9:51, 12:68]).resize((80, 60)))


def wider(image: Images) -> Images:
    around = np.zeros((90, 120, 3), np.uint8)
    around[15:75, 20:100] = image
    return around


PLANTED = {
    "mirrored": (lambda x: x[:, ::-1], "camera-mirrored", "mirrored left to right"),
    "flipped": (lambda x: x[::-1], "camera-turned", "flipped top to bottom"),
    "upside down": (lambda x: x[::-1, ::-1], "camera-turned", "upside down"),
    "turned left": (lambda x: np.rot90(x), "camera-turned", "turned to the left"),
    "turned right": (lambda x: np.rot90(x, -1), "camera-turned", "turned to the right"),
    "bgr": (lambda x: x[..., ::-1], "camera-colours", "BGR for RGB"),
    "narrower": (cropped, "camera-zoom", "shows 1/1.5 of the width"),
    "wider": (wider, "camera-zoom", "shows 1.5 times the width"),
    "black": (lambda x: x // 100, "camera-black", "is black"),
}


@pytest.mark.parametrize("camera", cases.CAMERAS)
@pytest.mark.parametrize("name", PLANTED)
def test_what_happened_to_a_camera_is_named(rules, camera, name):
    change, rule, words = PLANTED[name]
    (found,) = rules.at_rest({camera: seen(camera, change)})
    assert (found.rule, found.subject, found.refuses) == (rule, camera, True)
    assert words in found.text


def test_swapped_cameras_are_both_named(rules):
    found = rules.at_rest({"front": seen("wrist"), "wrist": seen("front")})
    assert [(mismatch.rule, mismatch.subject) for mismatch in found] == [
        ("camera-swapped", "front"),
        ("camera-swapped", "wrist"),
    ]
    assert "it came from the camera wrist" in found[0].text


def test_two_thirds_of_the_images_are_needed(rules):
    bad, good = seen("front", lambda x: x[:, ::-1]), seen("front")
    assert rules.at_rest({"front": bad[:20] + good[:10]}) != []
    assert rules.at_rest({"front": bad[:19] + good[:11]}) == []


def test_another_scene_warns(rules):
    scene = np.random.default_rng(5).integers(0, 255, (6, 8, 3), np.uint8).repeat(10, 0).repeat(10, 1)
    (found,) = rules.at_rest({"front": seen("front", lambda _: scene)})
    assert (found.rule, found.refuses) == ("camera-view", False)


def test_a_stopped_camera_is_frozen(rules):
    (found,) = rules.at_rest({"front": seen("front", taken=5)})
    assert found.rule == "camera-frozen" and found.refuses


def test_a_camera_that_repeats_an_image_while_the_robot_moves_is_frozen(rules):
    same = cases.picture("front", cases.START, 1)
    images = [Seen.of(CameraImage(same, k, k)) for k in range(WINDOW)]
    (found,) = rules.while_running("front", images, [], moved=0.3)
    assert found.rule == "camera-frozen" and found.refuses
    assert rules.while_running("front", images, [], moved=0.1) == []  # a simulated camera at rest does the same


def test_a_camera_of_no_training_data_may_only_be_black_or_frozen(rules):
    assert rules.at_rest({"other": seen("front")}) == []
    assert rules.compared("other", seen("front")[0]) is None
    assert [found.rule for found in rules.at_rest({"other": seen("front", lambda x: x * 0)})] == ["camera-black"]


@given(
    gain=st.floats(0.75, 1.3),
    gamma=st.floats(0.8, 1.25),
    balance=st.tuples(*[st.floats(0.93, 1.07)] * 3),
    camera=st.sampled_from(cases.CAMERAS),
)
@settings(max_examples=40)
def test_other_light_is_not_accused(gain, gamma, balance, camera):
    def change(image: Images) -> Images:
        return (255 * np.clip(gain * np.array(balance) * (image / 255) ** gamma, 0, 1)).astype(np.uint8)

    assert CameraRules(cases.profile().cameras).at_rest({camera: seen(camera, change, 3)}) == []


@given(st.integers(0, 10_000))
@settings(max_examples=25)
def test_images_of_ordinary_episodes_are_never_accused(seed):
    rules = CameraRules(cases.profile().cameras)
    episode = cases.training_episode(seed)
    for camera in cases.CAMERAS:
        images = [Seen(small, k) for k, small in enumerate(episode.images[camera])]
        assert rules.at_rest({camera: images[:1]}) == []
        compared = [found for image in images if (found := rules.compared(camera, image)) is not None]
        for first in range(len(images) - WINDOW + 1):
            window = slice(first, first + WINDOW)
            assert rules.while_running(camera, images[window], compared[window], moved=1.0) == []


@pytest.mark.parametrize("name", ["mirrored", "flipped", "upside down", "turned left", "turned right", "bgr"])
def test_an_alternative_undoes_what_was_planted(name):
    image = cases.picture("front", cases.START, 3)
    square = np.ascontiguousarray(image[:, :60])
    planted = thumbnail(np.ascontiguousarray(PLANTED[name][0](square)))
    undone = features(np.ascontiguousarray(CAMERA_CHANGES[name].undo(planted[None])))
    apart = np.linalg.norm(undone - features(thumbnail(square)[None]))
    assert apart < 0.3 < 5 < np.linalg.norm(features(planted[None]) - features(thumbnail(square)[None]))


def test_exposure_contrast_and_white_balance_change_little():
    image = thumbnail(cases.picture("wrist", cases.START, 3))[None]
    brighter = np.clip(1.2 * image.astype(float) + 3, 0, 255).astype(np.uint8)
    warmer = np.clip(image * np.array([1.05, 1, 0.95]), 0, 255).astype(np.uint8)
    for changed in (brighter, warmer):
        assert np.linalg.norm(features(changed) - features(image)) < 1.5
    assert np.linalg.norm(features(image[..., ::-1]) - features(image)) > 5


def test_a_large_image_has_the_thumbnail_of_a_small_one():
    small = cases.picture("front", cases.START, 3)
    large = small.repeat(16, 0).repeat(16, 1)
    assert np.abs(thumbnail(large).astype(int) - thumbnail(small)).mean() < 3
