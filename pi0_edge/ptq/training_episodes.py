"""The episodes of training data, as a training profile is collected from them."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from pi0_edge.errors import DatasetError, ObservationError
from pi0_edge.progress import ProgressCallback, Stage
from pi0_edge.ptq.frames import ObservationSource
from pi0_edge.robots import Robot
from pi0_edge.training_profile import (
    LEAST_EPISODES,
    TrainingEpisode,
    TrainingProfile,
    collect_profile,
    find_training_profile,
)
from pi0_edge.training_profile.limits import WATCH_EVERY_S
from pi0_edge.training_profile.pictures import thumbnail

MOST_EPISODES = 200
"""Of more episodes as many are used, spread evenly over all."""

MOST_IMAGES = 60
"""Of each episode, spread evenly where there are more."""


class Motion(NamedTuple):
    """All rows of one episode: states and actions, float32 [rows, dims], in the robot's own units."""

    states: NDArray[np.float32]
    actions: NDArray[np.float32]


@runtime_checkable
class Demonstrations(ObservationSource, Protocol):
    """A source that also has the actions of whole episodes: training data.

    Attributes:
        control_hz: Rows per second.
    """

    control_hz: float

    def motion(self, episode: int) -> Motion:
        """States and actions of one episode, a place in `lengths`.

        Raises:
            DatasetError: If the episode is damaged.
        """
        ...


def training_profile_of(
    checkpoint: str | Path,
    source: ObservationSource,
    robot: Robot,
    on_progress: ProgressCallback | None = None,
) -> TrainingProfile | None:
    """The profile of a source that is training data, or else the one that lies beside the checkpoint, if any.

    Args:
        checkpoint: File or folder.
        source: Of the frames to calibrate on.
        robot: Whose data they are.
        on_progress: Is called after every episode.

    Raises:
        ConfigError: If the profile beside the checkpoint cannot be used.
    """
    collected = profile_of(source, robot, on_progress)
    return find_training_profile(checkpoint) if collected is None else collected


def profile_of(
    source: ObservationSource, robot: Robot, on_progress: ProgressCallback | None = None
) -> TrainingProfile | None:
    """The training profile of a source; None where it has no actions, or fewer than `LEAST_EPISODES` episodes.

    A recording of a robot at work is no training data: whatever is wrong with that robot would become what is expected.
    Episodes that are damaged or do not fit the robot are left out, and counted.

    Args:
        source: Of the training data.
        robot: Whose data they are.
        on_progress: Is called after every episode.
    """
    if not isinstance(source, Demonstrations):
        return None
    chosen = np.unique(np.linspace(0, len(source.lengths) - 1, min(MOST_EPISODES, len(source.lengths))).astype(int))
    stage = Stage("profiling", len(chosen), on_progress)
    episodes = []
    for episode in chosen.tolist():
        with suppress(DatasetError, ObservationError):
            episodes.append(_episode(source, robot, episode))
        stage.advance()
    if len(episodes) < LEAST_EPISODES:
        return None
    name = f"the {source.kind} {source.path}".strip()
    return collect_profile(robot, episodes, source.control_hz, name, left_out=len(chosen) - len(episodes))


def _episode(source: Demonstrations, robot: Robot, episode: int) -> TrainingEpisode:
    length, motion = source.lengths[episode], source.motion(episode)
    if motion.states.shape[1] != robot.state_dim:
        raise DatasetError(f"episode {episode} has {motion.states.shape[1]} joints, {robot.name} has {robot.state_dim}")
    rows = tuple(range(0, length, max(1, length // MOST_IMAGES, round(source.control_hz * WATCH_EVERY_S))))
    images: dict[str, list[NDArray[np.uint8]]] = {}
    sizes: dict[str, tuple[int, int]] = {}
    prompts = set()
    for observation in source.read(episode, rows):
        prompts.add(observation.prompt or robot.default_prompt)
        for name, image in observation.images.items():
            camera = robot.camera(name) or name
            images.setdefault(camera, []).append(thumbnail(image))
            sizes[camera] = image.shape[0], image.shape[1]
    return TrainingEpisode(
        states=motion.states.astype(np.float64),
        actions=motion.actions.astype(np.float64),
        rows=rows,
        images={camera: np.stack(views) for camera, views in images.items()},
        sizes=sizes,
        prompts=frozenset(prompt for prompt in prompts if prompt),
    )
