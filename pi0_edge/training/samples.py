"""Demonstrations as training samples: an observation at one tick and the chunk of actions that followed it.

Episodes are held in memory as uint8 pictures and float32 arrays; images and chunks are cut from them per batch. A chunk
that runs past the end of its episode repeats the last action, which is what the arm should do there: hold.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pi0_edge.datasets.lerobot_reader import LeRobotDataset
from pi0_edge.errors import DatasetError
from pi0_edge.model import ModelInputs

STD_FLOOR = 0.05
"""Smallest standard deviation, in physical units: a joint that hardly moves must not become a source of noise."""


@dataclass(frozen=True)
class Demonstration:
    """One episode.

    Attributes:
        frames: uint8 [pictures, size, size, 3], one picture every `stride` ticks.
        states: float32 [ticks, dims], physical units.
        actions: float32 [ticks, dims], physical units.
    """

    frames: NDArray[np.uint8]
    states: NDArray[np.float32]
    actions: NDArray[np.float32]


def load_demonstrations(root: Path, camera: str, stride: int) -> list[Demonstration]:
    """Reads every episode of a LeRobotDataset, keeping one picture every `stride` ticks.

    Raises:
        DatasetError: If the dataset has no episode or lacks the camera.
    """
    dataset = LeRobotDataset(root)
    demonstrations = []
    for index in dataset.episodes:
        states, actions = dataset.episode(index)
        frames = np.stack([frame for tick, frame in enumerate(dataset.frames(index, camera)) if tick % stride == 0])
        demonstrations.append(Demonstration(frames, states, actions))
    if not demonstrations:
        raise DatasetError(f"{root} has no episode to train on")
    return demonstrations


def moments(arrays: list[NDArray[np.float32]]) -> dict[str, list[float]]:
    """Mean, standard deviation (at least `STD_FLOOR`), 1 % and 99 % quantiles per dimension, as in norm_stats.json."""
    values = np.concatenate(arrays).astype(np.float64)
    return {
        "mean": values.mean(0).tolist(),
        "std": np.maximum(values.std(0), STD_FLOOR).tolist(),
        "q01": np.quantile(values, 0.01, axis=0).tolist(),
        "q99": np.quantile(values, 0.99, axis=0).tolist(),
    }


class SampleBatches:
    """Random batches of normalized samples, reproducible from a seed."""

    def __init__(
        self,
        demonstrations: list[Demonstration],
        stride: int,
        stats: dict[str, dict[str, list[float]]],
        tokens: list[int],
        horizon: int,
        action_dim: int,
    ) -> None:
        self.demonstrations = demonstrations
        self.stride = stride
        self.tokens = torch.tensor(tokens)
        self.horizon = horizon
        self.action_dim = action_dim
        self._states = [self._normalized(d.states, stats["state"]) for d in demonstrations]
        self._actions = [self._normalized(d.actions, stats["actions"]) for d in demonstrations]
        # Every stored picture of every episode is equally likely.
        self._index = np.concatenate(
            [np.stack([np.full(len(d.frames), i), np.arange(len(d.frames))], 1) for i, d in enumerate(demonstrations)]
        )

    def __len__(self) -> int:
        return len(self._index)

    def draw(self, batch: int, rng: np.random.Generator) -> tuple[ModelInputs, Tensor]:
        """A batch of inputs and of normalized chunks, float32 [batch, horizon, action_dim]."""
        picks = self._index[rng.integers(len(self._index), size=batch)]
        images = np.stack([self.demonstrations[episode].frames[picture] for episode, picture in picks])
        states = np.stack([self._states[episode][picture * self.stride] for episode, picture in picks])
        chunks = np.stack([self._chunk(episode, picture * self.stride) for episode, picture in picks])
        pixels = torch.from_numpy(images).permute(0, 3, 1, 2)[:, None].float() / 255 * 2 - 1
        inputs = ModelInputs(
            images=pixels.contiguous(),
            image_mask=torch.ones(batch, 1, dtype=torch.bool),
            tokens=self.tokens.expand(batch, -1),
            token_mask=torch.ones(batch, len(self.tokens), dtype=torch.bool),
            state=self._padded(states),
        )
        return inputs, self._padded(chunks)

    def _chunk(self, episode: int, tick: int) -> NDArray[np.float32]:
        actions = self._actions[episode]
        return actions[np.minimum(np.arange(tick, tick + self.horizon), len(actions) - 1)]

    def _padded(self, values: NDArray[np.float32]) -> Tensor:
        out = torch.zeros(*values.shape[:-1], self.action_dim)
        out[..., : values.shape[-1]] = torch.from_numpy(values)
        return out

    @staticmethod
    def _normalized(values: NDArray[np.float32], stats: dict[str, list[float]]) -> NDArray[np.float32]:
        return ((values - np.array(stats["mean"])) / (np.array(stats["std"]) + 1e-6)).astype(np.float32)
