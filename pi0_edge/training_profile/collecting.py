"""Collects a training profile from episodes of training data.

Half of the episodes give quantiles and examples; the others, which were not seen by then, give the limits
(`pi0_edge.training_profile.limits`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pi0_edge.errors import DatasetError
from pi0_edge.robots import Robot
from pi0_edge.training_profile import pictures, postures
from pi0_edge.training_profile.limits import Limits, conformal_limit, largest_persistent
from pi0_edge.training_profile.profile import (
    HIGH,
    LEVELS,
    LOW,
    ActionProfile,
    CameraProfile,
    JointProfile,
    TrainingProfile,
)

LEAST_EPISODES = 8
"""Fewer say nothing about where episodes begin, and how far an ordinary one may go."""

START_EXAMPLES = 24
EXAMPLES = 24
"""Thumbnails of each camera: first images of episodes, and any images; fewer where there are many cameras."""

MOST_THUMBNAILS = 192
"""Of all cameras, so that the file stays below 1 MB."""

STATE_EXAMPLES = 64

MOST_PROMPTS = 1000


@dataclass(frozen=True, eq=False)
class TrainingEpisode:
    """One episode of training data.

    Attributes:
        states: float64 [rows, joints], in the robot's own units and joint convention.
        actions: float64 [rows, actions], likewise; action k was executed after state k was measured.
        rows: Rows whose images are here, ascending, about half a second apart, the first one included.
        images: By camera of the robot, uint8 [len(rows), 32, 32, 3], from `pictures.thumbnail`.
        sizes: By camera, height and width of its images as they were recorded.
        prompts: What was to be done.
    """

    states: NDArray[np.float64]
    actions: NDArray[np.float64]
    rows: tuple[int, ...]
    images: Mapping[str, pictures.Thumbnails]
    sizes: Mapping[str, tuple[int, int]]
    prompts: frozenset[str]


def collect_profile(
    robot: Robot, episodes: Sequence[TrainingEpisode], control_hz: float | None, source: str, left_out: int = 0
) -> TrainingProfile:
    """The profile of training data.

    Args:
        robot: Whose data they are.
        episodes: At least `LEAST_EPISODES`, all with the same cameras.
        control_hz: Rows per second; None where that is not recorded.
        source: What they come from, for messages.
        left_out: How many episodes could not be used.

    Raises:
        DatasetError: If there are fewer episodes, or not all have the same cameras.
    """
    if len(episodes) < LEAST_EPISODES:
        raise DatasetError(f"{source} has {len(episodes)} episodes; a training profile needs {LEAST_EPISODES}")
    cameras = sorted(episodes[0].images)
    for episode in episodes:
        if sorted(episode.images) != cameras:
            found = ", ".join(episode.images)
            raise DatasetError(f"{source}: an episode has the cameras {found}, others {', '.join(cameras)}")
    missing: dict[str, str] = {}
    if robot.state_dim != robot.action_dim or robot.action_names != tuple(joint.name for joint in robot.joints):
        why = f"the actions of {robot.name} are not positions of its joints"
        missing |= dict.fromkeys(("first-action", "relative-actions", "chunk-overlap"), why)
    if control_hz is None:
        missing["control-rate"] = f"{source} does not say how many actions a second there were"
    prompts = sorted(frozenset().union(*(episode.prompts for episode in episodes)))
    if not 0 < len(prompts) <= MOST_PROMPTS:
        missing["prompt"] = f"{source} has {len(prompts)} prompts, expected 1 to {MOST_PROMPTS}"
    return TrainingProfile(
        robot=robot.name,
        source=source,
        episodes=len(episodes),
        left_out=left_out,
        frames=sum(len(episode.states) for episode in episodes),
        control_hz=None if control_hz is None else float(control_hz),
        prompts=tuple(prompts) if "prompt" not in missing else (),
        joints=_joint_profile(robot, episodes),
        actions=None if "first-action" in missing else _action_profile(episodes, control_hz),
        cameras=_camera_profiles(cameras, episodes),
        missing=missing,
    )


def halves(episodes: Sequence[TrainingEpisode]) -> tuple[list[TrainingEpisode], list[TrainingEpisode]]:
    """Those that give examples, and those that give limits: every other one."""
    return list(episodes[::2]), list(episodes[1::2])


def far_apart(points: NDArray[np.floating], count: int, norm: float) -> list[int]:
    """Places of up to `count` points, each as far as possible from those before (k-centre, Gonzalez 1985).

    Args:
        points: [n, dims].
        count: How many at most; fewer where the others would be equal to one of them.
        norm: Of the distance, 2 or infinity.
    """
    chosen = [0]
    nearest = np.linalg.norm(points - points[0], norm, axis=1)
    while len(chosen) < count and nearest.max() > 0:
        chosen.append(int(nearest.argmax()))
        nearest = np.minimum(nearest, np.linalg.norm(points - points[chosen[-1]], norm, axis=1))
    return chosen


def _quantiles(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.quantile(values, LEVELS, axis=0)


def _beyond(quantiles: NDArray[np.float64], held_out: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
    """How far outside the quantiles whole episodes go, each [rows, joints]; float64 [joints]."""
    outside = [np.maximum(quantiles[LOW] - rows, rows - quantiles[HIGH]).max(axis=0) for rows in held_out]
    return np.array([max(0.0, conformal_limit(of_joint)) for of_joint in np.array(outside).T])


def _joint_profile(robot: Robot, episodes: Sequence[TrainingEpisode]) -> JointProfile:
    known, held_out = halves(episodes)
    state = _quantiles(np.concatenate([episode.states for episode in known]))
    widths = np.maximum(state[HIGH] - state[LOW], postures.least_widths(robot))
    changes = postures.joint_changes(robot)
    names = tuple(joint.name for joint in robot.joints) if len(robot.joints) == robot.state_dim else ()

    def spread(points: NDArray[np.float64]) -> NDArray[np.float64]:
        return points[far_apart(points / widths, STATE_EXAMPLES, np.inf)]

    first = np.stack([episode.states[0] for episode in known])
    start, start_examples = _quantiles(first), spread(first)
    examples = spread(np.concatenate([episode.states[list(episode.rows)] for episode in known]))
    scored = [episode.states[list(episode.rows)] for episode in held_out]
    return JointProfile(
        names=names or tuple(str(place) for place in range(state.shape[1])),
        state=state,
        beyond=_beyond(state, [episode.states for episode in held_out]),
        examples=examples,
        running=_limits(
            [postures.distances(rows, examples, widths) for rows in scored],
            [postures.alternatives(rows, examples, widths, changes) for rows in scored],
        ),
        start=start,
        start_beyond=_beyond(start, [episode.states[:1] for episode in held_out]),
        start_examples=start_examples,
    )


def _action_profile(episodes: Sequence[TrainingEpisode], control_hz: float | None) -> ActionProfile:
    known, held_out = halves(episodes)
    first = _quantiles(np.concatenate([np.abs(episode.actions - episode.states) for episode in known]))
    above = np.array([(np.abs(episode.actions - episode.states) - first[HIGH]).max(axis=0) for episode in held_out])
    half_second = None
    if control_hz is not None:
        ago = max(1, round(control_hz / 2))
        changes = [np.abs(episode.actions[ago:] - episode.actions[:-ago]) for episode in known]
        if any(len(rows) for rows in changes):
            half_second = _quantiles(np.concatenate(changes))
    return ActionProfile(
        first=first,
        first_beyond=np.array([max(0.0, conformal_limit(of_joint)) for of_joint in above.T]),
        half_second=half_second,
    )


def _camera_profiles(cameras: Sequence[str], episodes: Sequence[TrainingEpisode]) -> dict[str, CameraProfile]:
    known, held_out = halves(episodes)
    share = min(1.0, MOST_THUMBNAILS / (START_EXAMPLES + EXAMPLES) / max(1, len(cameras)))
    chosen = {camera: _examples(camera, known, share) for camera in cameras}
    starting = _camera_limits({camera: images[:starts] for camera, (images, starts) in chosen.items()}, held_out, 1)
    running = _camera_limits({camera: images for camera, (images, _) in chosen.items()}, held_out, None)
    return {
        camera: CameraProfile(
            *episodes[0].sizes[camera],
            thumbnails=images,
            starts=starts,
            starting=starting[camera],
            running=running[camera],
        )
        for camera, (images, starts) in chosen.items()
    }


def _camera_limits(
    examples: Mapping[str, pictures.Thumbnails], held_out: Sequence[TrainingEpisode], images_each: int | None
) -> dict[str, Limits]:
    """Limits of every camera from the first `images_each` images of held-out episodes; from all where None."""
    ready = {camera: pictures.ExamplesOfCamera(images) for camera, images in examples.items()}
    limits = {}
    for camera in ready:
        scored = [episode.images[camera][:images_each] for episode in held_out]
        own = [ready[camera].distances(images) for images in scored]
        limits[camera] = _limits(own, [pictures.alternatives(camera, images, ready) for images in scored])
    return limits


def _examples(camera: str, known: Sequence[TrainingEpisode], share: float) -> tuple[pictures.Thumbnails, int]:
    """Thumbnails of one camera, `share` of those that one alone would have, and how many of them are first images."""
    first = np.concatenate([episode.images[camera][:1] for episode in known])
    anywhere = np.concatenate([episode.images[camera] for episode in known])
    starts = first[far_apart(pictures.features(first), max(1, round(share * START_EXAMPLES)), 2)]
    others = anywhere[far_apart(pictures.features(anywhere), max(1, round(share * EXAMPLES)), 2)]
    return np.concatenate([starts, others]), len(starts)


def _limits(own: Sequence[NDArray[np.float64]], others: Sequence[Mapping[str, NDArray[np.float64]]]) -> Limits:
    """Limits from held-out episodes: distances as they are, and by alternative; each [moments]."""
    distance = conformal_limit([largest_persistent(of_episode) for of_episode in own])
    margins = {
        name: conformal_limit([largest_persistent(here - other[name]) for here, other in zip(own, others, strict=True)])
        for name in others[0]
    }
    return Limits(distance, margins)
