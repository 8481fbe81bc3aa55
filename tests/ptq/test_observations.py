"""Where observations come from, and that what is judged on is never what was calibrated on."""

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from observation_sources import SIZE, moving_images, states, write_npz
from policy_builders import DIMS, write_checkpoint

from pi0_edge.errors import DatasetError, MissingDependencyError, ObservationError
from pi0_edge.processing import Observation, load_robot
from pi0_edge.processing.recordings import write_observation_archive
from pi0_edge.ptq.frames import Place, split_frames
from pi0_edge.ptq.sources import open_source

ROBOT = load_robot("aloha_sim")


class Numbered:
    """Episodes whose states say where they stand."""

    kind: str = "made up"
    path: str = ""
    cameras: tuple[str, ...] = ("top",)

    def __init__(self, lengths: Sequence[int]) -> None:
        self.lengths = tuple(lengths)

    def read(self, episode: int, frames: Sequence[int]) -> Iterator[Observation]:
        return (Observation({}, [episode, frame]) for frame in frames)


LENGTHS = st.lists(st.integers(1, 60), min_size=1, max_size=12)
COUNTS = st.integers(0, 80)


@settings(max_examples=200, deadline=None)
@given(LENGTHS, COUNTS, COUNTS, st.integers(0, 99))
def test_both_halves_are_disjoint_ordered_and_repeatable(lengths, calibration, held_out, seed):
    split = split_frames(Numbered(lengths), calibration, held_out, seed)
    mine, others = split.calibration.places, split.held_out.places
    assert not set(mine) & set(others)
    assert len(set(mine)) == len(mine) <= calibration and len(set(others)) == len(others) <= held_out
    if len(lengths) > 1:
        assert not {place.episode for place in mine} & {place.episode for place in others}
    for frames in (split.calibration, split.held_out):
        read = [Place(*map(int, np.asarray(observation.state))) for observation in frames]
        assert tuple(read) == frames.places == tuple(sorted(read, key=lambda place: (place.episode, place.frame)))
        assert len(read) == len(frames)
    again = split_frames(Numbered(lengths), calibration, held_out, seed)
    assert (again.calibration.places, again.held_out.places) == (mine, others)


@settings(max_examples=100, deadline=None)
@given(LENGTHS, LENGTHS, COUNTS, COUNTS, st.integers(0, 99))
def test_more_episodes_never_hold_out_a_calibration_episode(lengths, more, calibration, held_out, seed):
    """Also with other counts, and where episodes were recorded in between."""
    before = split_frames(Numbered(lengths), calibration, 0, seed).calibration.places
    later = lengths if len(lengths) == 1 else [*lengths, *more]
    assert not set(before) & set(split_frames(Numbered(later), 0, held_out, seed).held_out.places)


@pytest.mark.parametrize("lengths", [[1000], [100] * 10, [400, 100, 300, 200]])
def test_frames_are_spread_evenly(lengths):
    split = split_frames(Numbered(lengths), 20, 20, 0)
    for frames in (split.calibration, split.held_out):
        assert len(frames) == 20
        owned = sum(lengths[episode] for episode in {place.episode for place in frames.places})
        for episode in {place.episode for place in frames.places}:
            ticks = [place.frame for place in frames.places if place.episode == episode]
            if len(lengths) > 1:
                assert len(ticks) == pytest.approx(20 * lengths[episode] / owned, abs=1)
                assert max(np.diff([0, *ticks, lengths[episode]])) <= owned / 20 + 1


def test_another_seed_is_another_split():
    splits = {split_frames(Numbered([50] * 8), 30, 30, seed).calibration.places for seed in range(6)}
    assert len(splits) > 3


def test_an_npz_file_is_one_episode(tmp_path):
    path = write_npz(
        tmp_path / "robot.npz", 30, prompt="Transfer cube", **{"images.other": np.zeros((30, 2, 2, 3), "u1")}
    )
    source = open_source(path, ROBOT)
    assert (source.kind, source.path, source.lengths, source.cameras) == ("npz", str(path), (30,), ("top",))
    first, second = source.read(0, [4, 29])
    np.testing.assert_array_equal(second.images["top"], moving_images(30)[29])
    np.testing.assert_array_equal(first.state, states(30)[4])
    assert (set(first.images), first.prompt) == ({"top"}, "Transfer cube")


def test_a_recording_has_one_episode_per_run_of_the_server(tmp_path):
    pictures, values = moving_images(7), states(7)
    for number in range(7):
        folder = tmp_path / ("20260101T000000Z-1" if number < 3 else "20260102T000000Z-1")
        folder.mkdir(exist_ok=True)
        observation = Observation({"top": pictures[number]}, values[number], "x")
        write_observation_archive(folder / f"{number:06d}.npz", observation, number, number)
    (tmp_path / "20260102T000000Z-1" / ".000009.npz.tmp").write_bytes(b"cut off")
    source = open_source(tmp_path, ROBOT)
    assert (source.kind, source.lengths) == ("recording", (3, 4))
    found = list(source.read(1, [0, 3]))
    np.testing.assert_array_equal(found[0].images["top"], pictures[3])
    np.testing.assert_array_equal(found[1].images["top"], pictures[6])
    assert open_source(tmp_path / "20260102T000000Z-1", ROBOT).lengths == (4,)


def test_a_dataset_is_read_frame_by_frame(tmp_path):
    try:
        from pi0_edge.datasets.lerobot_writer import LeRobotWriter
    except MissingDependencyError as error:
        pytest.skip(str(error))
    with LeRobotWriter(tmp_path / "set", 50, ROBOT.action_names, {"top": SIZE, "side": SIZE}, "aloha") as writer:
        for first in (0, 100):
            views = {"top": moving_images(12, first), "side": moving_images(12, first + 50)}
            values = states(12, first).astype(np.float32)
            writer.add_episode(values, values, views, "Transfer cube")
    source = open_source(tmp_path / "set", ROBOT)
    assert (source.kind, source.lengths, source.cameras) == ("lerobot v3.0", (12, 12), ("top",))
    found = list(source.read(1, [2, 9]))
    for frame, observation in zip((2, 9), found, strict=True):
        difference = observation.images["top"].astype(int) - moving_images(12, 100)[frame]
        assert np.abs(difference).mean() < 4  # of the video codec
        np.testing.assert_array_equal(observation.state, states(12, 100).astype(np.float32)[frame])
        assert observation.prompt == "Transfer cube"
    other = dataclasses.replace(ROBOT, cameras={"front": "base_0_rgb"}, camera_aliases={"side": "front"})
    renamed = open_source(tmp_path / "set", other)
    assert renamed.cameras == ("side",), "the name that a policy of LeRobot was trained with"
    assert next(renamed.read(0, [0])).images.keys() == {"side"}
    with pytest.raises(DatasetError, match="cameras top, side; expected at least one of the cameras of g1: cam_high"):
        open_source(tmp_path / "set", load_robot("g1"))


def test_the_simulation_runs_whole_episodes(tmp_path):
    try:
        from pi0_edge.ptq.simulated_source import SimulatedObservations
        from pi0_edge.sim.aloha_transfer_cube import AlohaTransferCube

        AlohaTransferCube().close()
    except MissingDependencyError as error:
        pytest.skip(str(error))
    from pi0_edge.policy import Policy

    policy = Policy.load(write_checkpoint(tmp_path / "policy"), "reference")
    reported: list[int] = []
    source = SimulatedObservations(policy, 3, lambda progress: reported.append(progress.done))
    assert (source.kind, source.lengths, reported) == ("simulation", (20, 20), [0, 3])  # random weights never succeed
    split = split_frames(source, 3, 3, 0)
    for frames in (split.calibration, split.held_out):
        assert [observation.prompt for observation in frames] == ["Transfer cube"] * 3
    assert all(np.asarray(observation.state).shape == (DIMS,) for observation in split.calibration)


def test_a_path_without_observations_is_refused_by_name(tmp_path):
    for path in (tmp_path, tmp_path / "absent"):
        with pytest.raises(DatasetError, match="holds no observations; expected a LeRobotDataset folder"):
            open_source(path, ROBOT)
    with pytest.raises(ObservationError, match="not a readable"):
        open_source(tmp_path / "absent.npz", ROBOT)


def test_a_recording_of_another_robot_is_named(tmp_path):
    with pytest.raises(DatasetError, match="has the cameras top; expected at least one of the cameras of g1: cam_high"):
        open_source(write_npz(tmp_path / "a.npz"), load_robot("g1"))
