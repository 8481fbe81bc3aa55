"""Demonstrations as a published checkpoint is given them: through the processing that also serves it.

Cameras, image size, prompt of each row, joint convention, relative actions and normalization are those of the policy's
`ObservationProcessor`, so that training and running cannot differ. Images are held in memory as uint8, scaled to the
network's size where the policy's settings let anyone scale them.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pi0_edge.datasets.lerobot_reader import Episode, LeRobotDataset
from pi0_edge.errors import DatasetError
from pi0_edge.model import ModelInputs
from pi0_edge.processing import Observation, ObservationProcessor
from pi0_edge.processing.images import resize_with_pad
from pi0_edge.robots import Robot
from pi0_edge.training.sources import Batch


@dataclass(frozen=True)
class _Episode:
    """One episode; images by camera, one every `stride` ticks."""

    images: dict[str, list[NDArray[np.uint8]]]
    states: NDArray[np.float32]
    actions: NDArray[np.float32]
    prompts: list[str | None]


class ProcessedSamples:
    """Random batches of one dataset, of one robot.

    Attributes:
        name: Tells datasets apart.
    """

    def __init__(self, root: Path, processor: ObservationProcessor, episodes: list[int], stride: int) -> None:
        """Reads episodes.

        Args:
            root: LeRobotDataset folder.
            processor: Of the policy for this robot.
            episodes: Their numbers.
            stride: Ticks per observation that is used.

        Raises:
            DatasetError: If there is no episode, or the dataset lacks cameras or dimensions of the robot.
        """
        self.name = str(root)
        self._processor = processor
        self._stride = stride
        dataset = LeRobotDataset(root)
        cameras = _cameras(dataset, processor)
        self._episodes = [self._read(dataset, index, cameras) for index in episodes]
        if not self._episodes:
            raise DatasetError(f"{root} has no episode to train on")
        ticks = [range(0, len(episode.states), stride) for episode in self._episodes]
        self._index = [(number, tick) for number, of_one in enumerate(ticks) for tick in of_one]

    def __len__(self) -> int:
        return len(self._index)

    def batch(self, size: int, rng: np.random.Generator) -> Batch:
        """See `Source.batch`."""
        return self._collated([self._index[i] for i in rng.integers(len(self._index), size=size)])

    def spread(self, size: int) -> Batch:
        """The same observations each time, evenly spread over all; fewer where there are not so many."""
        places = np.unique(np.linspace(0, len(self._index) - 1, size).round().astype(int))
        return self._collated([self._index[i] for i in places])

    def _read(self, dataset: LeRobotDataset, index: int, cameras: list[str]) -> _Episode:
        episode = episode_of(dataset, index, self._processor.robot)
        wanted = list(range(0, len(episode.state), self._stride))
        images = {
            camera: [self._scaled(frame) for frame in dataset.frames(index, camera, wanted)] for camera in cameras
        }
        return _Episode(images, episode.state, episode.action, dataset.prompts(index))

    def _scaled(self, frame: NDArray[np.uint8]) -> NDArray[np.uint8]:
        if not self._processor.settings.an_engine_may_scale:
            return frame
        return resize_with_pad(frame, self._processor.config.vision.image_size)

    def _collated(self, picks: list[tuple[int, int]]) -> Batch:
        observations = [self._observation(self._episodes[number], tick) for number, tick in picks]
        inputs = [self._processor.to_model_inputs(observation) for observation in observations]
        chunks = [
            self._processor.to_normalized(self._chunk(self._episodes[number], tick), observation)
            for (number, tick), observation in zip(picks, observations, strict=True)
        ]
        keys = tuple(f"{number}-{tick}" for number, tick in picks)
        robot = self._processor.robot
        return Batch(_joined(inputs), torch.from_numpy(np.stack(chunks)), robot.action_dim, keys, self.name)

    def _observation(self, episode: _Episode, tick: int) -> Observation:
        images = {camera: frames[tick // self._stride] for camera, frames in episode.images.items()}
        return Observation(images, episode.states[tick], episode.prompts[tick])

    def _chunk(self, episode: _Episode, tick: int) -> NDArray[np.float32]:
        horizon = self._processor.config.horizon
        return episode.actions[np.minimum(np.arange(tick, tick + horizon), len(episode.actions) - 1)]


def episode_of(dataset: LeRobotDataset, index: int, robot: Robot) -> Episode:
    """State and action of an episode of this robot.

    Raises:
        DatasetError: If it cannot be read, or has other dimensions.
    """
    episode = dataset.episode(index)
    widths = (("state", episode.state, robot.state_dim), ("action", episode.action, robot.action_dim))
    for name, values, width in widths:
        if values.shape[1] != width:
            raise DatasetError(f"{name} of {dataset.root} has {values.shape[1]} numbers, {robot.name} has {width}")
    return episode


def _cameras(dataset: LeRobotDataset, processor: ObservationProcessor) -> list[str]:
    """The cameras of the dataset that the robot has."""
    found = [camera for camera in dataset.cameras if processor.robot.camera(camera) is not None]
    if not found:
        raise DatasetError(
            f"{dataset.root} has the cameras {', '.join(dataset.cameras) or 'none'}, expected at least one of "
            f"{processor.robot.name}: {', '.join(processor.robot.cameras)}"
        )
    return found


def _joined(inputs: list[ModelInputs]) -> ModelInputs:
    """Batches of one as one batch, prompts padded to the longest."""
    longest = max(one.tokens.shape[1] for one in inputs)

    def padded(x: Tensor) -> Tensor:
        return torch.nn.functional.pad(x, (0, longest - x.shape[1]))

    return ModelInputs(
        images=torch.cat([one.images for one in inputs]),
        image_mask=torch.cat([one.image_mask for one in inputs]),
        tokens=torch.cat([padded(one.tokens) for one in inputs]),
        token_mask=torch.cat([padded(one.token_mask) for one in inputs]),
        state=torch.cat([one.state for one in inputs]),
    )
