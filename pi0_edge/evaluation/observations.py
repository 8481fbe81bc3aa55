"""Observations to compare engines on: from a recorded dataset, or from what a policy meets in the simulation."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pi0_edge.datasets.lerobot_reader import LeRobotDataset
from pi0_edge.errors import DatasetError
from pi0_edge.evaluation.rollout import MAX_TICKS, observe
from pi0_edge.policy import Policy
from pi0_edge.processing import Observation
from pi0_edge.processing.robot_layouts import Robot
from pi0_edge.sim.aloha_transfer_cube import AlohaTransferCube

EXECUTED = 25
"""Ticks between two observations of a rollout."""


def recorded_observations(root: Path, robot: Robot, count: int) -> list[Observation]:
    """Up to `count` frames spread evenly over the episodes of a LeRobotDataset.

    Raises:
        DatasetError: If the dataset has no episode or none of the robot's cameras.
    """
    dataset = LeRobotDataset(root)
    cameras = [camera for camera in dataset.cameras if camera in robot.cameras]
    if not dataset.episodes or not cameras:
        raise DatasetError(
            f"{root} has {len(dataset.episodes)} episodes with the cameras {', '.join(dataset.cameras) or 'none'}; "
            f"expected at least one of the cameras of {robot.name}: {', '.join(robot.cameras)}"
        )
    episodes = dataset.episodes[:: max(1, len(dataset.episodes) // count)][:count]
    per_episode = -(-count // len(episodes))
    found = (frame for info in episodes for frame in _frames(dataset, info.index, cameras, per_episode))
    return list(islice(found, count))


def simulated_observations(policy: Policy, prompt: str, first_seed: int, count: int) -> list[Observation]:
    """The first `count` observations that a policy meets in closed loop, every `EXECUTED` ticks."""
    env = AlohaTransferCube()
    try:
        return list(islice(_met(env, policy, prompt, first_seed), count))
    finally:
        env.close()


def _frames(dataset: LeRobotDataset, index: int, cameras: list[str], count: int) -> Iterator[Observation]:
    info = dataset.info(index)
    states, _ = dataset.episode(index)
    ticks = sorted({int(tick) for tick in np.linspace(0, info.length - 1, count)})
    pictures = {camera: _pick(dataset.frames(index, camera), ticks) for camera in cameras}
    for place, tick in enumerate(ticks):
        images = {camera: frames[place] for camera, frames in pictures.items()}
        yield Observation(images, states[tick], info.tasks[0] if info.tasks else None)


def _pick(frames: Iterator[NDArray[np.uint8]], ticks: list[int]) -> list[NDArray[np.uint8]]:
    return [frame for tick, frame in enumerate(islice(frames, ticks[-1] + 1)) if tick in set(ticks)]


def _met(env: AlohaTransferCube, policy: Policy, prompt: str, seed: int) -> Iterator[Observation]:
    size = policy.engine.config.vision.image_size
    while True:
        env.reset(seed)
        for tick in range(0, MAX_TICKS, EXECUTED):
            observation = observe(env, prompt, size)
            yield observation
            for setpoint in policy.infer(observation, noise_seed=seed * 10_000 + tick).actions[:EXECUTED]:
                env.step(setpoint)
            if env.success:
                break
        seed += 1
