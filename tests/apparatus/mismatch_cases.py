"""A robot with two cameras at work, and the profile of its training data, for tests of the mismatch guard.

The arm is the SO-101: five joints and a gripper. Each camera sees its own background of coloured patches, and in front
of it a block that moves with the first joint.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

from pi0_edge.cameras import CameraImage
from pi0_edge.robots import Robot, load_robot
from pi0_edge.training_profile import TrainingEpisode, TrainingProfile, collect_profile
from pi0_edge.training_profile.pictures import thumbnail

HZ = 50
ROWS = 250
HEIGHT, WIDTH = 60, 80
PROMPT = "Stack the cups"
START = np.array([0.3, -0.9, 0.8, 0.5, -0.6, 0.1])
CAMERAS = ("front", "wrist")


def robot() -> Robot:
    """The SO-101, as it is shipped."""
    return load_robot("so101")


def states(seed: int) -> NDArray[np.float64]:
    """One episode, float64 [250, 6]: from near the start pose along smooth curves; the gripper opens and closes."""
    rng = np.random.default_rng(seed)
    time = np.linspace(0, 1, ROWS)[:, None]
    reach = np.array([0.7, 0.6, -0.5, -0.4, 0.3, 0.8]) * rng.uniform(0.85, 1.0, 6)
    curve = np.sin(np.pi * time) ** 2 * np.array([1, 1, 1, 1, 1, 0]) + np.sin(2 * np.pi * time) ** 2 * np.eye(6)[5]
    return START + rng.normal(0, 0.01, 6) + reach * curve


def actions(moved: NDArray[np.float64]) -> NDArray[np.float64]:
    """Setpoints that lead to the states two rows later."""
    return np.concatenate([moved[2:], moved[-1:], moved[-1:]])


@cache
def background(camera: str) -> NDArray[np.uint8]:
    """uint8 [60, 80, 3], patches of 10 x 10 pixels in colours that have nothing in common from one to the next."""
    rng = np.random.default_rng(CAMERAS.index(camera))
    return np.repeat(np.repeat(rng.integers(40, 220, (6, 8, 3), np.uint8), 10, 0), 10, 1)


def picture(camera: str, state: NDArray[np.float64], seed: int) -> NDArray[np.uint8]:
    """What a camera sees, uint8 [60, 80, 3], with the noise of a sensor."""
    image = background(camera).astype(np.float64)
    column = int(np.clip(30 + 30 * (state[0] - START[0]), 0, WIDTH - 12))
    image[20:40, column : column + 12] = (230, 60, 40)
    noise = np.random.default_rng((seed, CAMERAS.index(camera))).normal(0, 2, image.shape)
    return np.clip(image + noise, 0, 255).astype(np.uint8)


def training_episode(seed: int) -> TrainingEpisode:
    """One episode of training data."""
    moved, rows = states(seed), tuple(range(0, ROWS, HZ // 2))
    return TrainingEpisode(
        states=moved,
        actions=actions(moved),
        rows=rows,
        images={
            camera: np.stack([thumbnail(picture(camera, moved[row], 1000 * seed + row)) for row in rows])
            for camera in CAMERAS
        },
        sizes=dict.fromkeys(CAMERAS, (HEIGHT, WIDTH)),
        prompts=frozenset({PROMPT}),
    )


@cache
def profile() -> TrainingProfile:
    """Of 40 episodes."""
    return collect_profile(robot(), [training_episode(seed) for seed in range(40)], HZ, "made up episodes")


def pictures(state: NDArray[np.float64], seed: int, time_ns: int) -> dict[str, CameraImage]:
    """The images of both cameras of one moment."""
    return {camera: CameraImage(picture(camera, state, seed), time_ns, seed) for camera in CAMERAS}


def at_rest(
    state: NDArray[np.float64] | None = None, seed: int = 7000
) -> list[tuple[NDArray[np.float64], dict[str, CameraImage]]]:
    """Thirty observations of a robot that stands in a pose; the start pose where None."""
    pose = START if state is None else state
    seen = START if state is None else state
    return [(pose, pictures(seen, seed + k, 1_000_000_000 + 20_000_000 * k)) for k in range(30)]
