"""Reads LeRobotDataset folders, v2.1 and v3.0, with pyarrow and PyAV only.

Arrays come episode by episode, images frame by frame in recorded order. Images must be stored as videos (also
AV1); it deliberately does not fetch from a hub, resample in time or convert to tensors.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pi0_edge.datasets.feature_statistics import Statistics
from pi0_edge.datasets.lerobot_layout import ACTION, CAMERA_PREFIX, STATE
from pi0_edge.datasets.lerobot_metadata import EpisodeInfo, load_metadata, read_table
from pi0_edge.datasets.video_files import read_frames
from pi0_edge.errors import DatasetError


class Episode(NamedTuple):
    """State and action of one episode, float32 (T, channels) each."""

    state: NDArray[np.float32]
    action: NDArray[np.float32]


class LeRobotDataset:
    """A dataset folder.

    Raises:
        DatasetError: The folder is no dataset of version v2.1 or v3.0, or its metadata is incomplete.
    """

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)
        self._metadata = load_metadata(self.root)
        self._by_index = {episode.index: episode for episode in self._metadata.episodes}
        self._last_table: tuple[Path, pa.Table] | None = None

    @property
    def version(self) -> str:
        """``v2.1`` or ``v3.0``."""
        return self._metadata.version

    @property
    def fps(self) -> float:
        """Frames per second."""
        return self._metadata.fps

    @property
    def features(self) -> dict[str, dict[str, Any]]:
        """Type, shape and channel names of each recorded feature, as in ``meta/info.json``."""
        return self._metadata.features

    @property
    def episodes(self) -> tuple[EpisodeInfo, ...]:
        """All episodes the metadata names; of a partly fetched dataset some may lack their files."""
        return self._metadata.episodes

    @property
    def tasks(self) -> tuple[str, ...]:
        """Task texts by task index."""
        return self._metadata.tasks

    @property
    def stats(self) -> dict[str, Statistics]:
        """Statistics per feature; quantiles only where the dataset stores them (v3.0)."""
        return self._metadata.stats

    @property
    def cameras(self) -> tuple[str, ...]:
        """Short camera names, e.g. ``top`` for the feature ``observation.images.top``."""
        keys = (key for key, feature in self.features.items() if feature["dtype"] == "video")
        return tuple(key.removeprefix(CAMERA_PREFIX) for key in keys)

    def info(self, index: int) -> EpisodeInfo:
        """Length, tasks and files of an episode.

        Raises:
            DatasetError: No such episode.
        """
        if index not in self._by_index:
            raise DatasetError(f"{self.root} has no episode {index}; it has {len(self._by_index)}")
        return self._by_index[index]

    def episode(self, index: int) -> Episode:
        """State and action of an episode.

        Raises:
            DatasetError: No such episode, or its data is missing, truncated or not finite.
        """
        info = self.info(index)
        table = self._table(info.data)
        if "episode_index" not in table.column_names:
            raise DatasetError(f"{info.data} has no column episode_index; fetch the dataset again")
        rows = table.filter(pa.array(table["episode_index"].to_numpy() == index))
        if rows.num_rows != info.length:
            raise DatasetError(f"{info.data} holds {rows.num_rows} frames of episode {index}, expected {info.length}")
        return Episode(self._vectors(rows, STATE, info), self._vectors(rows, ACTION, info))

    def frames(self, index: int, camera: str) -> Iterator[NDArray[np.uint8]]:
        """Images of an episode in order, uint8 (height, width, 3); ``camera`` short or as the full feature.

        Raises:
            DatasetError: No such episode or camera, or the video is missing, truncated or of another size.
        """
        info = self.info(index)
        key = CAMERA_PREFIX + camera.removeprefix(CAMERA_PREFIX)
        if key not in info.clips:
            raise DatasetError(f"unknown camera {camera!r}; {self.root} has {', '.join(self.cameras) or 'none'}")
        return self._images(info, key)

    def _images(self, info: EpisodeInfo, key: str) -> Iterator[NDArray[np.uint8]]:
        clip, shape = info.clips[key], tuple(self.features[key]["shape"])
        for image in read_frames(clip.path, clip.start, info.length, self.fps):
            if image.shape != shape:
                raise DatasetError(f"{clip.path} has images of shape {image.shape}, expected {shape}")
            yield image

    def _table(self, path: Path) -> pa.Table:
        if self._last_table is None or self._last_table[0] != path:
            self._last_table = path, read_table(path)
        return self._last_table[1]

    def _vectors(self, rows: pa.Table, name: str, info: EpisodeInfo) -> NDArray[np.float32]:
        if name not in rows.column_names:
            raise DatasetError(f"{info.data} has no column {name}; it has {', '.join(rows.column_names)}")
        values = np.array(rows[name].to_pylist(), dtype=object)
        expected = (info.length, *self.features[name]["shape"])
        if values.shape != expected:
            raise DatasetError(f"{name} in episode {info.index} has shape {values.shape}, expected {expected}")
        values = values.astype(np.float32)
        if not np.isfinite(values).all():
            raise DatasetError(f"{name} in episode {info.index} of {self.root} holds values that are not finite")
        return values
