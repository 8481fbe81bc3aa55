"""What calibration and gate refuse to work on, each with the frame, the joint or the camera that is wrong."""

from typing import Any

import numpy as np
import pytest
from observation_sources import moving_images, states, write_npz
from policy_builders import DIMS, PROMPT, write_checkpoint

from pi0_edge.errors import ConfigError, DatasetError, ObservationError
from pi0_edge.policy import Policy
from pi0_edge.processing import Mode, Normalization, Normalizer, ObservationProcessor
from pi0_edge.processing.observation import Observation
from pi0_edge.processing.recordings import write_observation_archive
from pi0_edge.ptq.frame_checks import UnfitFrames, inspect_frames
from pi0_edge.ptq.frames import Frames, Place
from pi0_edge.ptq.sources import open_source

MINIMUM = 16
FRAMES = 30


@pytest.fixture(scope="module")
def processor(tmp_path_factory) -> ObservationProcessor:
    return Policy.load(write_checkpoint(tmp_path_factory.mktemp("checks") / "policy"), "reference").processor


def inspect(path, processor, frames=FRAMES, unfit=None):
    source = open_source(path, processor.robot)
    places = tuple(Place(0, frame) for frame in range(frames))
    return inspect_frames(Frames(source, places), processor, MINIMUM, unfit)


def changed(values: np.ndarray, place: Any, value: Any) -> np.ndarray:
    values = values.copy()
    values[place] = value
    return values


def test_fit_frames_pass_and_are_named_by_their_hash(tmp_path, processor):
    found = inspect(write_npz(tmp_path / "a.npz", FRAMES), processor)
    assert (found.frames, found.cameras, len(found.sha256)) == (FRAMES, ("top",), 64)
    assert inspect(write_npz(tmp_path / "same.npz", FRAMES), processor).sha256 == found.sha256
    for name, change in {
        "images.top": changed(moving_images(FRAMES), (3, 0, 0, 0), 1),
        "state": changed(states(FRAMES), (3, 5), 0.123),
        "prompt": np.array("Transfer cube please"),
    }.items():
        other = write_npz(tmp_path / f"{name}.npz", FRAMES, **{name: change})
        assert inspect(other, processor).sha256 != found.sha256


BLACK = np.random.default_rng(0).integers(0, 6, (FRAMES, 40, 60, 3), np.uint8)  # a covered lens is not quite zero
STILL = np.repeat(moving_images(1), FRAMES, 0)
REFUSED = {
    "all black": ({"images.top": BLACK}, DatasetError, "camera top of the npz .* is black in 30 of 30 frames"),
    "often black": (
        {"images.top": changed(moving_images(FRAMES), slice(0, 4), BLACK[:4])},
        DatasetError,
        "black in 4 of 30 frames",
    ),
    "identical": ({"images.top": STILL}, DatasetError, "shows the same image in all 30 frames; is it frozen"),
    "nearly identical": (
        {"images.top": (STILL + np.random.default_rng(0).normal(0, 1.5, STILL.shape)).clip(0, 255).astype(np.uint8)},
        DatasetError,
        "shows the same image in all 30 frames",
    ),
    "few that differ": (
        {"images.top": np.repeat(moving_images(10), 3, 0)},
        DatasetError,
        "only 10 of 30 frames of the npz .* differ from each other, expected at least 16",
    ),
    "NaN": (
        {"state": changed(states(FRAMES), (7, 3), np.nan)},
        ObservationError,
        "episode 0, frame 7: state has nan at index 3",
    ),
    "infinite": (
        {"state": changed(states(FRAMES), (7, 3), np.inf)},
        ObservationError,
        "episode 0, frame 7: state has inf at index 3",
    ),
    "degrees": (
        {"state": changed(states(FRAMES), (9, 8), 57.3)},
        ObservationError,
        r"frame 9: the state of joint right_shoulder is 57.3, expected -3.346 to 3.577 \(10 standard deviations",
    ),
    "another robot": ({"state": np.zeros((FRAMES, 7))}, ObservationError, "expected 14 numbers"),
    "long prompt": ({"prompt": "x " * 500}, ObservationError, "frame 0: prompt has .* tokens"),
}


@pytest.mark.parametrize(("change", "kind", "message"), REFUSED.values(), ids=REFUSED)
def test_unfit_frames_are_refused(tmp_path, processor, change, kind, message):
    with pytest.raises(kind, match=message):
        inspect(write_npz(tmp_path / "a.npz", FRAMES, **change), processor)


def test_a_few_black_frames_are_no_reason(tmp_path, processor):
    pictures = changed(moving_images(FRAMES), slice(0, 3), BLACK[:3])
    assert inspect(write_npz(tmp_path / "a.npz", FRAMES, **{"images.top": pictures}), processor).frames == FRAMES


def test_a_frozen_camera_beside_one_that_moves_is_named(tmp_path, processor):
    path = write_npz(tmp_path / "a.npz", FRAMES, **{"images.left_wrist": STILL})
    with pytest.raises(DatasetError, match=r"camera left_wrist .* same image in all"):
        inspect(path, processor)


def test_a_camera_that_drops_out_is_named(tmp_path, processor):
    pictures, values = moving_images(FRAMES), states(FRAMES)
    for number in range(FRAMES):
        images = {"top": pictures[number], "left_wrist": pictures[-number]}
        if number == 20:
            del images["left_wrist"]
        write_observation_archive(tmp_path / f"{number:06d}.npz", Observation(images, values[number], PROMPT), 0, 0)
    with pytest.raises(DatasetError, match="frame 20: it has the cameras top, others have top, left_wrist"):
        inspect(tmp_path, processor)


def test_too_few_frames_are_refused(tmp_path, processor):
    with pytest.raises(DatasetError, match="has 15 frames for this purpose, expected at least 16"):
        inspect(write_npz(tmp_path / "a.npz", 15), processor, frames=15)


def test_quantile_statistics_allow_the_width_of_their_range_on_either_side(tmp_path, processor):
    normalizer = Normalizer(Mode.OPENPI_QUANTILE, {"q01": np.full(DIMS, -1.0), "q99": np.full(DIMS, 1.0)})
    of_quantiles = ObservationProcessor(
        processor.robot, processor.tokenizer, Normalization(normalizer, normalizer), processor.config
    )
    inside = write_npz(tmp_path / "inside.npz", FRAMES, state=changed(states(FRAMES), (4, 6), 2.9))
    assert inspect(inside, of_quantiles).frames == FRAMES
    outside = write_npz(tmp_path / "outside.npz", FRAMES, state=changed(states(FRAMES), (4, 6), -3.1))
    with pytest.raises(ObservationError, match=r"joint left_gripper is -3.1, expected -3 to 3 \(the range and its"):
        inspect(outside, of_quantiles)


def test_without_statistics_any_state_is_in_range(tmp_path, processor):
    identity = Normalizer(Mode.IDENTITY)
    free = ObservationProcessor(
        processor.robot, processor.tokenizer, Normalization(identity, identity), processor.config
    )
    path = write_npz(tmp_path / "a.npz", FRAMES, state=changed(states(FRAMES), (4, 6), 1e6))
    assert inspect(path, free).frames == FRAMES


def test_as_many_unfit_frames_as_allowed_are_left_out_and_named(tmp_path, processor):
    values = changed(changed(states(FRAMES), (7, 3), np.nan), (9, 8), 57.3)
    path, unfit = write_npz(tmp_path / "a.npz", FRAMES, state=values), UnfitFrames(2)
    found = inspect(path, processor, unfit=unfit)
    assert (found.frames, len(found.fit), len(list(found.fit))) == (FRAMES - 2,) * 3
    assert not {Place(0, 7), Place(0, 9)} & set(found.fit.places)
    first, second = found.left_out
    assert first.startswith("episode 0, frame 7: state has nan at index 3")
    assert second.startswith("episode 0, frame 9: the state of joint right_shoulder is 57.3")
    assert list(unfit.reasons) == [Place(0, 7), Place(0, 9)]
    others = np.delete(np.arange(FRAMES), [7, 9])
    clean = write_npz(
        tmp_path / "clean.npz", FRAMES - 2, **{"images.top": moving_images(FRAMES)[others], "state": values[others]}
    )
    assert inspect(clean, processor, FRAMES - 2).sha256 == found.sha256
    assert inspect(path, processor, unfit=unfit).left_out == found.left_out, "the same frames do not count twice"
    with pytest.raises(
        DatasetError, match=r"more unfit frames than .* \(1\): episode 0, frame 7: .*; episode 0, frame 9:"
    ):
        inspect(path, processor, unfit=UnfitFrames(1))
    with pytest.raises(ObservationError, match=r"frame 7: state has nan .* give skip_unfit=N"):
        inspect(path, processor, unfit=UnfitFrames(0))


def test_a_camera_that_drops_out_may_be_left_out(tmp_path, processor):
    pictures, values = moving_images(FRAMES), states(FRAMES)
    for number in range(FRAMES):
        images = {"top": pictures[number], **({"left_wrist": pictures[-number]} if number != 20 else {})}
        write_observation_archive(tmp_path / f"{number:06d}.npz", Observation(images, values[number], PROMPT), 0, 0)
    found = inspect(tmp_path, processor, unfit=UnfitFrames(1))
    assert found.frames == FRAMES - 1 and "frame 20: it has the cameras top" in found.left_out[0]


def test_what_remains_must_be_enough(tmp_path, processor):
    path = write_npz(tmp_path / "a.npz", 17, state=changed(states(17), ([1, 2], 0), np.inf))
    with pytest.raises(DatasetError, match="has 15 frames for this purpose, expected at least 16"):
        inspect(path, processor, 17, UnfitFrames(5))


def test_less_than_no_unfit_frames_is_refused():
    with pytest.raises(ConfigError, match="skip_unfit is -1; expected 0 or more"):
        UnfitFrames(-1)
