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
"""Fewer whole episodes say nothing about where and before what an episode begins."""

START_EXAMPLES = 24
EXAMPLES = 24
"""Thumbnails of each camera: first images of episodes, and any images; fewer where there are many cameras."""

MOST_THUMBNAILS = 192
"""Of all cameras, so that the file stays below 1 MB."""

STATE_EXAMPLES = 64

MOST_PROMPTS = 1000

_START_RULES = ("start-pose", "joint-zero")
_ACTION_RULES = ("first-action", "relative-actions", "chunk-overlap")


@dataclass(frozen=True, eq=False)
class TrainingEpisode:
    """One episode of training data.

    Attributes:
        states: float64 [rows, joints], in the robot's own units and joint convention.
        actions: float64 [rows, joints], likewise; None where they are not recorded.
        rows: Rows whose images are here, ascending, about half a second apart, the first one included.
        images: By camera of the robot, uint8 [len(rows), 32, 32, 3], from `pictures.thumbnail`.
        sizes: By camera, height and width of its images as they were recorded.
        prompts: What was to be done.
        is_whole: Whether its first row is where an episode began.
    """

    states: NDArray[np.float64]
    actions: NDArray[np.float64] | None
    rows: tuple[int, ...]
    images: Mapping[str, pictures.Thumbnails]
    sizes: Mapping[str, tuple[int, int]]
    prompts: frozenset[str]
    is_whole: bool = True


def collect_profile(
    robot: Robot, episodes: Sequence[TrainingEpisode], control_hz: float | None, source: str
) -> TrainingProfile:
    """The profile of training data.

    Args:
        robot: Whose data they are.
        episodes: At least two, all with the same cameras.
        control_hz: Rows per second; None where that is not recorded.
        source: What they come from, for messages.

    Raises:
        DatasetError: If there are fewer than two episodes, or not all have the same cameras.
    """
    if len(episodes) < 2:
        raise DatasetError(f"{source} has {len(episodes)} episodes; a training profile needs two, to compare them")
    cameras = sorted(episodes[0].images)
    if odd := [episode for episode in episodes if sorted(episode.images) != cameras]:
        raise DatasetError(
            f"{source}: an episode has the cameras {', '.join(odd[0].images)}, others {', '.join(cameras)}"
        )
    with_starts = all(episode.is_whole for episode in episodes) and len(episodes) >= LEAST_EPISODES
    missing: dict[str, str] = {}
    if not with_starts:
        why = f"{source} has {len(episodes)} episodes whose beginning is known, expected at least {LEAST_EPISODES}"
        missing |= dict.fromkeys(_START_RULES, why if episodes[0].is_whole else f"{source} has no whole episodes")
    actions = _action_profile(robot, episodes, control_hz)
    if isinstance(actions, str):
        missing |= dict.fromkeys(_ACTION_RULES, f"{source}: {actions}")
    if control_hz is None:
        missing["control-rate"] = f"{source} does not say how many actions a second there were"
    prompts = sorted(frozenset().union(*(episode.prompts for episode in episodes)))
    if not 0 < len(prompts) <= MOST_PROMPTS:
        missing["prompt"] = f"{source} has {len(prompts)} prompts, expected 1 to {MOST_PROMPTS}"
    return TrainingProfile(
        robot=robot.name,
        source=source,
        episodes=len(episodes),
        frames=sum(len(episode.states) for episode in episodes),
        control_hz=control_hz,
        prompts=tuple(prompts) if "prompt" not in missing else (),
        joints=_joint_profile(robot, episodes, with_starts),
        actions=None if isinstance(actions, str) else actions,
        cameras=_camera_profiles(cameras, episodes, with_starts),
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


def _joint_profile(robot: Robot, episodes: Sequence[TrainingEpisode], with_starts: bool) -> JointProfile:
    known, held_out = halves(episodes)
    state = _quantiles(np.concatenate([episode.states for episode in known]))
    widths = np.maximum(state[HIGH] - state[LOW], postures.least_widths(robot))
    changes = postures.joint_changes(robot)

    def nearest(of: Sequence[NDArray[np.float64]], count: int) -> NDArray[np.float64]:
        points = np.concatenate(of)
        return points[far_apart(points / widths, count, np.inf)]

    def limits(examples: NDArray[np.float64], scored: Sequence[NDArray[np.float64]]) -> Limits:
        own = [postures.distances(rows, examples, widths) for rows in scored]
        others = [postures.alternatives(rows, examples, widths, changes) for rows in scored]
        return _limits(own, others)

    examples = nearest([episode.states[list(episode.rows)] for episode in known], STATE_EXAMPLES)
    running = limits(examples, [episode.states[list(episode.rows)] for episode in held_out])
    names = tuple(joint.name for joint in robot.joints) if len(robot.joints) == robot.state_dim else ()
    names = names or tuple(str(place) for place in range(state.shape[1]))
    profile = JointProfile(names, state, _beyond(state, [e.states for e in held_out]), examples, running)
    if not with_starts:
        return profile
    first = [episode.states[:1] for episode in known]
    start = _quantiles(np.concatenate(first))
    start_examples = nearest(first, STATE_EXAMPLES)
    held_out_first = [episode.states[:1] for episode in held_out]
    return JointProfile(
        names,
        state,
        profile.beyond,
        examples,
        running,
        start=start,
        start_beyond=_beyond(start, held_out_first),
        start_examples=start_examples,
        starting=limits(start_examples, held_out_first),
    )


def _action_profile(robot: Robot, episodes: Sequence[TrainingEpisode], control_hz: float | None) -> ActionProfile | str:
    """The actions, or why they say nothing."""
    if robot.action_names != tuple(joint.name for joint in robot.joints) or robot.state_dim != robot.action_dim:
        return "its actions are not positions of the joints"
    known, held_out = (
        [(episode.states, episode.actions) for episode in half if episode.actions is not None and len(episode.rows) > 1]
        for half in halves(episodes)
    )
    if not known or not held_out:
        return "it holds no actions"
    first = _quantiles(np.concatenate([np.abs(actions - states) for states, actions in known]))
    above = [(np.abs(actions - states) - first[HIGH]).max(axis=0) for states, actions in held_out]
    beyond = np.array([max(0.0, conformal_limit(of_joint)) for of_joint in np.array(above).T])
    half_second = None
    if control_hz is not None:
        ago = max(1, round(control_hz / 2))
        later = [np.abs(actions[ago:] - actions[:-ago]) for _, actions in known if len(actions) > ago]
        half_second = _quantiles(np.concatenate(later)) if later else None
    change = _quantiles(np.concatenate([np.abs(np.diff(actions, axis=0)) for _, actions in known]))
    return ActionProfile(first, beyond, change, half_second)


def _camera_profiles(
    cameras: Sequence[str], episodes: Sequence[TrainingEpisode], with_starts: bool
) -> dict[str, CameraProfile]:
    known, held_out = halves(episodes)
    share = min(1.0, MOST_THUMBNAILS / (START_EXAMPLES + EXAMPLES) / max(1, len(cameras)))
    chosen = {camera: _examples(camera, known, with_starts, share) for camera in cameras}
    phases = {
        "starting": {camera: images[:starts] for camera, (images, starts) in chosen.items()},
        "running": {camera: images for camera, (images, _) in chosen.items()},
    }
    limits: dict[str, dict[str, Limits]] = {"starting": {}, "running": {}}
    for phase, examples in phases.items():
        if phase == "starting" and not with_starts:
            continue
        ready = {camera: pictures.ExamplesOfCamera(images) for camera, images in examples.items()}
        last = 1 if phase == "starting" else None
        for camera in cameras:
            scored = [episode.images[camera][:last] for episode in held_out]
            own = [ready[camera].distances(images) for images in scored]
            limits[phase][camera] = _limits(own, [pictures.alternatives(camera, images, ready) for images in scored])
    return {
        camera: CameraProfile(
            *episodes[0].sizes[camera],
            thumbnails=images,
            starts=starts,
            starting=limits["starting"].get(camera),
            running=limits["running"][camera],
        )
        for camera, (images, starts) in chosen.items()
    }


def _examples(
    camera: str, known: Sequence[TrainingEpisode], with_starts: bool, share: float
) -> tuple[pictures.Thumbnails, int]:
    """Thumbnails of one camera, `share` of those that one alone would have, and how many of them are first images."""
    anywhere = np.concatenate([episode.images[camera] for episode in known])
    others = anywhere[far_apart(pictures.features(anywhere), round(share * EXAMPLES), 2)]
    if not with_starts:
        return others, 0
    first = np.concatenate([episode.images[camera][:1] for episode in known])
    starts = first[far_apart(pictures.features(first), round(share * START_EXAMPLES), 2)]
    return np.concatenate([starts, others]), len(starts)


def _limits(own: Sequence[NDArray[np.float64]], others: Sequence[Mapping[str, NDArray[np.float64]]]) -> Limits:
    """Limits from held-out episodes: distances as they are, and by alternative; each [moments]."""
    distance = conformal_limit([largest_persistent(of_episode) for of_episode in own])
    margins = {
        name: conformal_limit([largest_persistent(here - other[name]) for here, other in zip(own, others, strict=True)])
        for name in others[0]
    }
    return Limits(distance, margins)
