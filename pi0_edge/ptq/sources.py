"""Where observations come from: a LeRobotDataset, a recording of the policy server, an .npz file, or the simulation.

source = open_source("recordings/", robot)
source = open_frames(None, policy, 64)      # its simulated task, long enough for 64 frames of either half
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pi0_edge.datasets.lerobot_layout import CAMERA_PREFIX
from pi0_edge.errors import DatasetError
from pi0_edge.policy import Policy
from pi0_edge.processing import Observation, Robot
from pi0_edge.processing.recordings import ObservationArchive
from pi0_edge.progress import ProgressCallback
from pi0_edge.ptq.frames import ObservationSource
from pi0_edge.ptq.training_episodes import Motion

if TYPE_CHECKING:
    from pi0_edge.datasets.lerobot_metadata import Clip, EpisodeInfo


def open_frames(
    frames: str | Path | ObservationSource | None,
    policy: Policy,
    least: int,
    on_progress: ProgressCallback | None = None,
) -> ObservationSource:
    """The observations that an argument `frames` means.

    Args:
        frames: Path for `open_source`, or a source that is open. None runs the policy in its simulated task.
        policy: Its robot says which cameras count.
        least: Observations that either half of the simulated episodes must have; recordings are taken as they are.
        on_progress: Is called while the simulation runs.

    Raises:
        DatasetError: If the path holds nothing that the policy's robot has a camera for.
        ObservationError: If a file is damaged, or the policy is not one of the simulated robot.
        MissingDependencyError: If the simulation is needed and not installed.
    """
    if frames is None:
        from pi0_edge.ptq.simulated_source import SimulatedObservations

        return SimulatedObservations(policy, least, on_progress)
    if isinstance(frames, str | Path):
        return open_source(frames, policy.processor.robot)
    return frames


def open_source(path: str | Path, robot: Robot) -> ObservationSource:
    """The observations at `path`: a LeRobotDataset, a recording of the policy server, or an .npz file.

    Raises:
        DatasetError: If it is none of these, or holds nothing that this robot has a camera for.
        ObservationError: If a file in it is damaged.
    """
    path = Path(path)
    if (path / "meta" / "info.json").is_file():
        return LeRobotObservations(path, robot)
    if path.suffix == ".npz" or any(path.glob("**/*.npz")):
        return ArchivedObservations(path, robot)
    raise DatasetError(
        f"{path} holds no observations; expected a LeRobotDataset folder (with meta/info.json), a folder that "
        "`pi0-edge serve --record` wrote, or an .npz file"
    )


class ArchivedObservations:
    """Files of observations; each folder is one episode, its files in the order of their names.

    Attributes:
        kind: "npz" for a file, "recording" for a folder.
        path: The file or folder.
        lengths: Frames of each episode.
        cameras: Those of the robot that are recorded, as they are called there.

    Raises:
        DatasetError: If there is no file, or none of the robot's cameras.
        ObservationError: If a file is damaged, or has other cameras than the first one.
    """

    def __init__(self, path: Path, robot: Robot) -> None:
        self.kind = "recording" if path.is_dir() else "npz"
        self.path = str(path)
        files = sorted(path.rglob("*.npz")) if path.is_dir() else [path]
        episodes: dict[Path, list[ObservationArchive]] = {}
        for file in files:
            episodes.setdefault(file.parent, []).append(ObservationArchive(file))
        self._episodes = list(episodes.values())
        self.lengths = tuple(sum(archive.frames for archive in episode) for episode in self._episodes)
        found = {camera for episode in self._episodes for archive in episode for camera in archive.cameras}
        self.cameras = _cameras_of(robot, found)
        if not self.cameras:
            raise DatasetError(
                f"{path} has the cameras {', '.join(sorted(found)) or 'none'}; expected at least one of the cameras of "
                f"{robot.name}: {', '.join(robot.cameras)}"
            )

    def read(self, episode: int, frames: Sequence[int]) -> Iterator[Observation]:
        """The observations of one episode at `frames`, ascending; a camera that a file lacks is absent.

        Raises:
            ObservationError: If a file is damaged.
        """
        first = 0
        for archive in self._episodes[episode]:
            chosen = [frame - first for frame in frames if first <= frame < first + archive.frames]
            if chosen:
                yield from archive.read(chosen, [camera for camera in self.cameras if camera in archive.cameras])
            first += archive.frames


class LeRobotObservations:
    """The episodes whose files are there, with the cameras that the robot has.

    Attributes:
        kind: "lerobot v2.0", "lerobot v2.1" or "lerobot v3.0".
        path: The folder.
        lengths: Frames of each episode.
        cameras: Those of the robot that are recorded, as they are called there.
        control_hz: Frames per second.

    Raises:
        DatasetError: If there is no such episode or camera.
    """

    def __init__(self, root: Path, robot: Robot) -> None:
        from pi0_edge.datasets.lerobot_reader import LeRobotDataset  # needs pyarrow and PyAV; recordings do not

        self._dataset = LeRobotDataset(root)
        self.kind = f"lerobot {self._dataset.version}"
        self.path = str(root)
        self.control_hz = self._dataset.fps
        self.cameras = _cameras_of(robot, self._dataset.cameras)
        self._episodes = [episode for episode in self._dataset.episodes if self._is_complete(episode)]
        self.lengths = tuple(episode.length for episode in self._episodes)
        if not self.cameras:
            raise DatasetError(
                f"{root} has the cameras {', '.join(self._dataset.cameras) or 'none'}; expected at least one of the "
                f"cameras of {robot.name}: {', '.join(robot.cameras)}"
            )
        if not self._episodes:
            raise DatasetError(
                f"{root} names {len(self._dataset.episodes)} episodes, but none has all its files; fetch it again"
            )

    def read(self, episode: int, frames: Sequence[int]) -> Iterator[Observation]:
        """The observations of one episode at `frames`, ascending.

        Raises:
            DatasetError: If the episode is damaged.
        """
        info = self._episodes[episode]
        states, prompts = self._dataset.states(info.index), self._dataset.prompts(info.index)
        views = [self._dataset.frames(info.index, camera, frames) for camera in self.cameras]
        for frame, images in zip(frames, zip(*views, strict=True), strict=True):
            yield Observation(dict(zip(self.cameras, images, strict=True)), states[frame], prompts[frame])

    def motion(self, episode: int) -> Motion:
        """States and actions of all rows of one episode.

        Raises:
            DatasetError: If the episode is damaged.
        """
        return Motion(*self._dataset.episode(self._episodes[episode].index))

    def _is_complete(self, episode: EpisodeInfo) -> bool:
        """Whether all its files exist: a dataset may have been fetched in part."""
        return all(path.is_file() for path in (episode.data, *(clip.path for clip in self._clips(episode))))

    def _clips(self, episode: EpisodeInfo) -> Iterator[Clip]:
        """The videos of the robot's cameras; those with their images in the rows have none."""
        return (clip for key, clip in episode.clips.items() if key.removeprefix(CAMERA_PREFIX) in self.cameras)


def _cameras_of(robot: Robot, names: Iterable[str]) -> tuple[str, ...]:
    """The names that mean a camera of the robot, in the order of its cameras."""
    order = list(robot.cameras)
    places = [(order.index(camera), name) for name in names if (camera := robot.camera(name)) is not None]
    return tuple(name for _, name in sorted(places))
