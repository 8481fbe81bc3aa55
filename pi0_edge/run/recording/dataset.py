"""A recording as a LeRobotDataset v3.0, for training and calibration.

A frame is a tick: the state that was measured then, the newest image of each camera that was there by then, and as
action what the firmware executed in the tick after, which is the action that was due. A column says whose ticks they
are.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pi0_edge.datasets.lerobot_writer import LeRobotWriter
from pi0_edge.errors import RecordingError
from pi0_edge.progress import ProgressCallback, Stage
from pi0_edge.protos import recording_pb2
from pi0_edge.run.recording.episodes import RecordedEpisode, episodes_of
from pi0_edge.run.recording.run_recording import RunRecording, StoredImage

INTERVENTION = "intervention"
"""The column that LeRobot's DAgger recordings have: true where a person moved the arm."""

IMAGE_AGE_S = 0.1
"""Oldest image that a frame may show, by default."""

SHORTEST_TICKS = 10
"""Episodes with fewer frames are left out."""

_NS = 1_000_000_000


@dataclass(frozen=True)
class ExportReport:
    """What was written.

    Attributes:
        episodes: In the dataset.
        frames: In the dataset.
        by_person: Frames whose action is a person's.
        left_out: Why episodes are not in it, one sentence each.
        oldest_image_s: Largest age of an image in a frame.
    """

    episodes: int
    frames: int
    by_person: int
    left_out: tuple[str, ...]
    oldest_image_s: float


def export_dataset(
    recording: RunRecording,
    root: Path,
    labels: Sequence[str] = (),
    image_age_s: float = IMAGE_AGE_S,
    on_progress: ProgressCallback | None = None,
) -> ExportReport:
    """Writes the episodes of a recording as a dataset.

    Args:
        recording: Of a run.
        root: New or empty folder.
        labels: Only episodes with one of these labels; all where empty.
        image_age_s: Oldest image that a frame may show. Where the recorder was told of every image of the cameras, the
            default holds; with the images of observations alone, it does not.
        on_progress: Is called after every episode.

    Raises:
        RecordingError: If no episode is left, or images are missing or older.
        DatasetError: If the folder is not empty.
    """
    episodes, left_out = _chosen(episodes_of(recording), labels)
    if not episodes:
        raise RecordingError(
            f"{recording.path} has no episode to write: {'; '.join(left_out) or 'the arm never moved'}"
        )
    cameras = _cameras(recording)
    control_hz = recording.description.robot.control_hz
    if control_hz is None or control_hz != int(control_hz):
        raise RecordingError(f"the robot of {recording.path} has control_hz {control_hz}, expected a whole number")
    names = recording.description.joint_names
    stage = Stage("episodes", len(episodes), on_progress)
    frames = by_person = 0
    oldest = 0.0
    features = {INTERVENTION: {"dtype": "bool", "shape": [1], "names": None}}
    robot = recording.description.robot.name
    with LeRobotWriter(root, int(control_hz), names, cameras, robot, features) as writer:
        for episode in episodes:
            before, after = episode.ticks[:-1], episode.ticks[1:]
            state = np.array([tick.measured or tick.executed for tick in before], np.float32)
            action = np.array([tick.executed for tick in after], np.float32)
            persons = np.array(episode.by_person[1:], np.bool_)
            images = {}
            for camera in cameras:
                images[camera], age_s = _images(recording, camera, before, image_age_s)
                oldest = max(oldest, age_s)
            writer.add_episode(state, action, images, episode.prompt, {INTERVENTION: persons})
            frames += len(before)
            by_person += int(persons.sum())
            stage.advance()
    return ExportReport(len(episodes), frames, by_person, tuple(left_out), oldest)


def _chosen(episodes: Sequence[RecordedEpisode], labels: Sequence[str]) -> tuple[list[RecordedEpisode], list[str]]:
    chosen, left_out = [], []
    for number, episode in enumerate(episodes, start=1):
        if len(episode.ticks) - 1 < SHORTEST_TICKS:
            left_out.append(f"episode {number} has {len(episode.ticks) - 1} frames, fewer than {SHORTEST_TICKS}")
        elif labels and episode.label not in labels:
            label = f"the label {episode.label!r}" if episode.label else "no label"
            left_out.append(f"episode {number} has {label}, expected {' or '.join(map(repr, labels))}")
        else:
            chosen.append(episode)
    return chosen, left_out


def _cameras(recording: RunRecording) -> dict[str, tuple[int, int]]:
    """Height and width of each camera's images."""
    found = {}
    for camera in recording.cameras:
        pixels = recording.pixels(recording.images(camera)[0], f"an image of camera {camera}")
        found[camera] = (pixels.shape[0], pixels.shape[1])
    return found


def _time_ns(tick: recording_pb2.RecordedTick) -> int:
    return round(tick.host_time_s * _NS) or tick.time_ns


def _images(
    recording: RunRecording, camera: str, ticks: Sequence[recording_pb2.RecordedTick], image_age_s: float
) -> tuple[NDArray[np.uint8], float]:
    """The newest image of a camera at each tick, uint8 [ticks, height, width, 3], and the age of the oldest."""
    found: NDArray[np.uint8] | None = None
    last: StoredImage | None = None
    pixels = np.zeros(0, np.uint8)
    oldest = 0.0
    for row, tick in enumerate(ticks):
        image = recording.image_at(camera, _time_ns(tick))
        if image is None:
            raise RecordingError(f"{recording.path} has no image of camera {camera} from before tick {tick.tick}")
        age_s = (_time_ns(tick) - image.taken_ns) / _NS
        oldest = max(oldest, age_s)
        if age_s > image_age_s:
            raise RecordingError(
                f"the newest image of camera {camera} at tick {tick.tick} is {age_s:.2f} s old, more than "
                f"{image_age_s:g} s: a policy that is trained on it would act late. Record every image of the cameras, "
                "or allow older ones"
            )
        if last is None or image.place != last.place:
            pixels, last = recording.pixels(image, f"an image of camera {camera}"), image
        if found is None:
            found = _on_disk((len(ticks), *pixels.shape))
        if pixels.shape != found.shape[1:]:
            raise RecordingError(
                f"camera {camera} changes from {found.shape[1:]} to {pixels.shape} at tick {tick.tick}"
            )
        found[row] = pixels
    assert found is not None  # noqa: S101 - an episode has ticks
    return found, oldest


def _on_disk(shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """An array in a file without a name: the images of one episode can be larger than memory."""
    with tempfile.TemporaryFile() as file:
        return np.memmap(file, np.uint8, "w+", shape=shape)
