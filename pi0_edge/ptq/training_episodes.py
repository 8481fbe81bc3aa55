"""The episodes of a source of observations, as a training profile is collected from them."""

from __future__ import annotations

from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from pi0_edge.errors import DatasetError, ObservationError
from pi0_edge.processing.observation import checked_state
from pi0_edge.progress import ProgressCallback, Stage
from pi0_edge.ptq.frames import ObservationSource
from pi0_edge.robots import Robot
from pi0_edge.training_profile import TrainingEpisode, TrainingProfile, collect_profile
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
class MotionSource(Protocol):
    """A source that also has the actions of whole episodes.

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


def profile_of(
    source: ObservationSource, robot: Robot, on_progress: ProgressCallback | None = None
) -> TrainingProfile | None:
    """The training profile of a source; None where it has fewer than two episodes.

    Episodes that are damaged, or do not fit the robot, are left out.

    Args:
        source: Of the training data; one that is a `MotionSource` also tells about actions and the control rate.
        robot: Whose data they are.
        on_progress: Is called after every episode.
    """
    chosen = np.unique(np.linspace(0, len(source.lengths) - 1, min(MOST_EPISODES, len(source.lengths))).astype(int))
    if len(chosen) < 2:
        return None
    stage = Stage("profiling", len(chosen), on_progress)
    episodes = []
    for episode in chosen:
        try:
            episodes.append(_episode(source, robot, int(episode)))
        except (DatasetError, ObservationError):
            continue
        finally:
            stage.advance()
    if len(episodes) < 2:
        return None
    hz = source.control_hz if isinstance(source, MotionSource) else None
    return collect_profile(robot, episodes, hz, f"the {source.kind} {source.path}".strip())


def _episode(source: ObservationSource, robot: Robot, episode: int) -> TrainingEpisode:
    length, motion = source.lengths[episode], None
    step = max(1, length // MOST_IMAGES)
    if isinstance(source, MotionSource):
        motion = source.motion(episode)
        step = max(step, round(source.control_hz * WATCH_EVERY_S))
    rows = tuple(range(0, length, step))
    images: dict[str, list[NDArray[np.uint8]]] = {}
    sizes: dict[str, tuple[int, int]] = {}
    states, prompts = [], set()
    for observation in source.read(episode, rows):
        states.append(checked_state(observation, robot))
        prompts.add(observation.prompt or robot.default_prompt)
        for name, image in observation.images.items():
            camera = robot.camera(name) or name
            images.setdefault(camera, []).append(thumbnail(image))
            sizes[camera] = image.shape[0], image.shape[1]
    if motion is None:
        rows = tuple(range(len(states)))
    elif motion.states.shape[1] != robot.state_dim or not np.isfinite(motion.states).all():
        raise DatasetError(f"episode {episode} has no finite states of {robot.state_dim} joints")
    return TrainingEpisode(
        states=np.array(states) if motion is None else motion.states.astype(np.float64),
        actions=None if motion is None else motion.actions.astype(np.float64),
        rows=rows,
        images={camera: np.stack(views) for camera, views in images.items()},
        sizes=sizes,
        prompts=frozenset(prompt for prompt in prompts if prompt),
    )
