"""Demonstrations as training samples: an observation at one tick and the chunk of actions that followed it.

Episodes are held in memory as uint8 images and float32 arrays; batches of images and chunks are cut from them. A chunk
that runs past the end of its episode repeats the last action, which is what the arm should do there: hold.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pi0_edge.datasets.lerobot_reader import LeRobotDataset
from pi0_edge.errors import DatasetError
from pi0_edge.model import ModelInputs
from pi0_edge.training.sources import Batch

STD_FLOOR = 0.05
"""Smallest standard deviation, in physical units: a joint that hardly moves must not become a source of noise."""


@dataclass(frozen=True)
class Demonstration:
    """One episode.

    Attributes:
        images: uint8 [images, size, size, 3], one image every `stride` ticks.
        states: float32 [ticks, dims], physical units.
        actions: float32 [ticks, dims], physical units.
    """

    images: NDArray[np.uint8]
    states: NDArray[np.float32]
    actions: NDArray[np.float32]


@dataclass(frozen=True)
class Augmentation:
    """Makes the policy use the image.

    Once an arm moves, its joints show where the expert goes, and a policy that is trained on all ticks alike learns to
    continue its own motion and to ignore the camera. Two remedies, both in training alone:

    Attributes:
        opening_share: Share of each batch that is drawn from the first ticks of the episodes, where only the image
            shows where to go.
        opening_ticks: How many ticks that is.
        state_noise: Standard deviation of noise on the state, in normalized units.
    """

    opening_share: float
    opening_ticks: int
    state_noise: float


def load_demonstrations(root: Path, camera: str, stride: int) -> list[Demonstration]:
    """Reads every episode of a LeRobotDataset, keeping one image every `stride` ticks.

    Raises:
        DatasetError: If the dataset has no episode or lacks the camera.
    """
    dataset = LeRobotDataset(root)
    demonstrations = []
    for info in dataset.episodes:
        episode = dataset.episode(info.index)
        images = [image for tick, image in enumerate(dataset.frames(info.index, camera)) if tick % stride == 0]
        demonstrations.append(Demonstration(np.stack(images), episode.state, episode.action))
    if not demonstrations:
        raise DatasetError(f"{root} has no episode to train on")
    return demonstrations


def moments(arrays: Sequence[NDArray[np.floating]]) -> dict[str, NDArray[np.float64]]:
    """Mean, standard deviation (at least `STD_FLOOR`), 1 % and 99 % quantiles per dimension, as in norm_stats.json."""
    values = np.concatenate(arrays).astype(np.float64)
    return {
        "mean": values.mean(0),
        "std": np.maximum(values.std(0), STD_FLOOR),
        "q01": np.quantile(values, 0.01, axis=0),
        "q99": np.quantile(values, 0.99, axis=0),
    }


class SampleBatches:
    """Random batches of normalized samples, reproducible from a seed."""

    def __init__(
        self,
        demonstrations: list[Demonstration],
        stride: int,
        stats: Mapping[str, Mapping[str, NDArray[np.float64]]],
        tokens: list[int],
        horizon: int,
        action_dim: int,
        augmentation: Augmentation,
    ) -> None:
        self.demonstrations = demonstrations
        self.stride = stride
        self.tokens = torch.tensor(tokens)
        self.horizon = horizon
        self.action_dim = action_dim
        self.augmentation = augmentation
        self._states = [self._normalized(d.states, stats["state"]) for d in demonstrations]
        self._actions = [self._normalized(d.actions, stats["actions"]) for d in demonstrations]
        self._index = np.concatenate(
            [np.stack([np.full(len(d.images), i), np.arange(len(d.images))], 1) for i, d in enumerate(demonstrations)]
        )
        self._opening = self._index[self._index[:, 1] * stride < augmentation.opening_ticks]

    def __len__(self) -> int:
        return len(self._index)

    @property
    def index(self) -> NDArray[np.int64]:
        """Every observation, int64 [observations, 2]: episode and image."""
        return self._index

    @property
    def actions(self) -> Tensor:
        """Normalized actions of all demonstrations, float32 [actions, action_dim]."""
        return self._padded(np.concatenate(self._actions))

    def draw(self, batch: int, rng: np.random.Generator) -> tuple[ModelInputs, Tensor]:
        """A batch of inputs and of normalized chunks, float32 [batch, horizon, action_dim]."""
        return self.observed(self.picks(batch, rng), rng)

    def batch(self, size: int, rng: np.random.Generator) -> Batch:
        """As `draw`, with what the training loop needs besides."""
        picks = self.picks(size, rng)
        inputs, chunks = self.observed(picks, rng)
        keys = tuple(f"{episode}-{image}" for episode, image in picks)
        return Batch(inputs, chunks, self._actions[0].shape[1], keys)

    def observed(self, picks: NDArray[np.int64], rng: np.random.Generator) -> tuple[ModelInputs, Tensor]:
        """Inputs and chunks of chosen observations, the states with noise of `rng`.

        Args:
            picks: int64 [batch, 2], episode and image of each.
            rng: For the noise on the states.
        """
        batch = len(picks)
        images = np.stack([self.demonstrations[episode].images[image] for episode, image in picks])
        states = np.stack([self._states[episode][image * self.stride] for episode, image in picks])
        chunks = np.stack([self._chunk(episode, image * self.stride) for episode, image in picks])
        pixels = torch.from_numpy(images).permute(0, 3, 1, 2)[:, None].float() / 255 * 2 - 1
        inputs = ModelInputs(
            images=pixels.contiguous(),
            image_mask=torch.ones(batch, 1, dtype=torch.bool),
            tokens=self.tokens.expand(batch, -1),
            token_mask=torch.ones(batch, len(self.tokens), dtype=torch.bool),
            state=self._padded(states + self.augmentation.state_noise * rng.standard_normal(states.shape)),
        )
        return inputs, self._padded(chunks)

    def picks(self, batch: int, rng: np.random.Generator) -> NDArray[np.int64]:
        """Rows of (episode, image): the openings' share first, the rest from anywhere."""
        opening = round(batch * self.augmentation.opening_share)
        return np.concatenate(
            [
                pool[rng.integers(len(pool), size=n)]
                for pool, n in ((self._opening, opening), (self._index, batch - opening))
            ]
        )

    def _chunk(self, episode: int, tick: int) -> NDArray[np.float32]:
        actions = self._actions[episode]
        return actions[np.minimum(np.arange(tick, tick + self.horizon), len(actions) - 1)]

    def _padded(self, values: NDArray[np.floating]) -> Tensor:
        out = torch.zeros(*values.shape[:-1], self.action_dim)
        out[..., : values.shape[-1]] = torch.from_numpy(values)
        return out

    @staticmethod
    def _normalized(values: NDArray[np.float32], stats: Mapping[str, NDArray[np.float64]]) -> NDArray[np.float32]:
        return ((values - stats["mean"]) / (stats["std"] + 1e-6)).astype(np.float32)


class AlternatingBatches:
    """Batches of several robots, each of one of them in turn at random."""

    def __init__(self, sources: Sequence[SampleBatches]) -> None:
        self._sources = sources

    @property
    def horizon(self) -> int:
        """Actions of a chunk, the same of all."""
        return self._sources[0].horizon

    def draw(self, batch: int, rng: np.random.Generator) -> tuple[ModelInputs, Tensor]:
        """As `SampleBatches.draw`."""
        # A single source takes nothing from the generator, so that its batches stay what they were.
        which = int(rng.integers(len(self._sources))) if len(self._sources) > 1 else 0
        return self._sources[which].draw(batch, rng)
