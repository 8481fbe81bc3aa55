"""Reads LeRobotDataset folders, v2.0, v2.1 and v3.0.

Arrays come episode by episode, images frame by frame in recorded order, from videos (also AV1) or from the rows
themselves. The image of a row is the one that was taken nearest to the row's timestamp, and none is more than half a
frame away. It deliberately does not fetch from a hub, interpolate in time or convert to tensors.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pi0_edge.datasets.feature_statistics import Statistics
from pi0_edge.datasets.image_shapes import possible_shapes
from pi0_edge.datasets.lerobot_layout import ACTION, CAMERA_PREFIX, IMAGE, OTHER_NAMES, STATE, TIMESTAMP
from pi0_edge.datasets.lerobot_metadata import EpisodeInfo, cameras_of, load_metadata, load_statistics, read_table
from pi0_edge.datasets.row_times import checked_times, half_a_frame
from pi0_edge.datasets.video_files import read_frames
from pi0_edge.errors import DatasetError


class Episode(NamedTuple):
    """State and action of one episode, float32 (T, channels) each."""

    state: NDArray[np.float32]
    action: NDArray[np.float32]


class LeRobotDataset:
    """A dataset folder.

    Raises:
        DatasetError: The folder is no dataset of version v2.0, v2.1 or v3.0, or its metadata is incomplete.
    """

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)
        self._metadata = load_metadata(self.root)
        self._features = cameras_of(self._metadata.features)
        self._by_index = {episode.index: episode for episode in self._metadata.episodes}
        self._last_table: tuple[Path, pa.Table] | None = None

    @property
    def version(self) -> str:
        """``v2.0``, ``v2.1`` or ``v3.0``."""
        return self._metadata.version

    @property
    def fps(self) -> float:
        """Frames per second, as the metadata states them."""
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

    @cached_property
    def stats(self) -> dict[str, Statistics]:
        """Statistics per feature; quantiles only where the dataset stores them (v3.0). Read at first use.

        Raises:
            DatasetError: Their file is missing or damaged.
        """
        return load_statistics(self.root, self.version)

    @property
    def cameras(self) -> tuple[str, ...]:
        """Short camera names, e.g. ``top`` for the feature ``observation.images.top``."""
        return tuple(self._features)

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
        rows = self._rows(self.info(index))
        found = [self._vectors(rows, name, self.info(index)) for name in (STATE, ACTION)]
        for name, values in zip((STATE, ACTION), found, strict=True):
            if not np.isfinite(values).all():
                raise DatasetError(f"{name} in episode {index} of {self.root} holds values that are not finite")
        return Episode(*found)

    def states(self, index: int) -> NDArray[np.float32]:
        """The state of an episode, float32 (T, channels), as recorded: also where values are not finite.

        Raises:
            DatasetError: No such episode, or its data is missing or truncated.
        """
        return self._vectors(self._rows(self.info(index)), STATE, self.info(index))

    def prompts(self, index: int) -> list[str | None]:
        """The task of each row of an episode, of which there may be several; None where there is none.

        Raises:
            DatasetError: No such episode or task, or its data is missing or truncated.
        """
        info = self.info(index)
        rows = self._rows(info)
        if len(info.tasks) < 2 or "task_index" not in rows.column_names:
            return [info.tasks[0] if info.tasks else None] * info.length
        numbers = rows["task_index"].to_pylist()
        if unknown := [number for number in numbers if number not in range(len(self.tasks))]:
            raise DatasetError(
                f"{info.data} names the task {unknown[0]} in episode {index}; {len(self.tasks)} are known"
            )
        return [self.tasks[number] for number in numbers]

    def frames(self, index: int, camera: str, rows: Sequence[int] | None = None) -> Iterator[NDArray[np.uint8]]:
        """Images of an episode in order, uint8 (height, width, 3).

        Args:
            index: Number of the episode.
            camera: Short name, or the full feature.
            rows: The rows whose images are wanted, ascending; None for all.

        Raises:
            DatasetError: No such episode or camera; its file is missing, truncated or of another size; or there is no
                image of the moment of a row.
        """
        info = self.info(index)
        key = self._features.get(camera.removeprefix(CAMERA_PREFIX))
        if key is None:
            raise DatasetError(f"unknown camera {camera!r}; {self.root} has {', '.join(self.cameras) or 'none'}")
        wanted = range(info.length) if rows is None else rows
        found = (
            self._stored(info, key, wanted) if self.features[key]["dtype"] == IMAGE else self._filmed(info, key, wanted)
        )
        return self._of_one_size(found, key)

    def _filmed(self, info: EpisodeInfo, key: str, wanted: Sequence[int]) -> Iterator[NDArray[np.uint8]]:
        rows = self._rows(info)
        if TIMESTAMP not in rows.column_names:
            raise DatasetError(
                f"{info.data} has no column {TIMESTAMP}, without which a video's images and the rows cannot be related"
            )
        times = checked_times(rows[TIMESTAMP].to_pylist(), info.data, info.index, self.fps)
        clip, tolerance = info.clips[key], half_a_frame(times, self.fps)
        chosen = [clip.start + times[row] for row in wanted]
        names = [f"row {row} of episode {info.index}" for row in wanted]
        # Half of the tolerance: no image of the episode before or after is as near to this one's ends.
        within = clip.start - tolerance / 2, clip.end - tolerance / 2
        return read_frames(clip.path, chosen, tolerance, names, within)

    def _stored(self, info: EpisodeInfo, key: str, wanted: Sequence[int]) -> Iterator[NDArray[np.uint8]]:
        from pi0_edge.datasets.stored_images import read_stored  # needs Pillow

        return read_stored(info.data, self.root, key, info.index, wanted)

    def _of_one_size(self, images: Iterator[NDArray[np.uint8]], key: str) -> Iterator[NDArray[np.uint8]]:
        shapes = possible_shapes(self.features[key])
        for image in images:
            if image.shape not in shapes:
                height, width, _ = image.shape
                stated, names = self.features[key].get("shape"), self.features[key].get("names")
                raise DatasetError(
                    f"{self.root}: {key} has images {height} high and {width} wide in 3 colours, but meta/info.json "
                    f"states the shape {stated} with the names {names}; correct it, or fetch the dataset again"
                )
            yield image

    def _rows(self, info: EpisodeInfo) -> pa.Table:
        """The rows of an episode without the images in them."""
        table = self._table(info.data)
        if "episode_index" not in table.column_names:
            raise DatasetError(f"{info.data} has no column episode_index; fetch the dataset again")
        rows = table.filter(pa.array(table["episode_index"].to_numpy() == info.index))
        if rows.num_rows != info.length:
            raise DatasetError(
                f"{info.data} holds {rows.num_rows} frames of episode {info.index}, expected {info.length}"
            )
        return rows

    def _table(self, path: Path) -> pa.Table:
        if self._last_table is None or self._last_table[0] != path:
            images = [key for key in self._features.values() if self.features[key]["dtype"] == IMAGE]
            self._last_table = path, read_table(path, without=images)
        return self._last_table[1]

    def _vectors(self, rows: pa.Table, name: str, info: EpisodeInfo) -> NDArray[np.float32]:
        key = name if name in self.features else OTHER_NAMES[name]
        if key not in rows.column_names or key not in self.features:
            raise DatasetError(f"{info.data} has no column {name}; it has {', '.join(rows.column_names)}")
        values = np.array(rows[key].to_pylist(), dtype=object)
        expected = (info.length, *self.features[key]["shape"])
        if expected[1:] == (1,) and values.shape == expected[:1]:  # LeRobot stores vectors of one as numbers
            values = values.reshape(expected)
        if values.shape != expected:
            raise DatasetError(f"{name} in episode {info.index} has shape {values.shape}, expected {expected}")
        try:
            return values.astype(np.float32)
        except (TypeError, ValueError) as error:
            raise DatasetError(f"{name} in episode {info.index} of {self.root} holds no numbers ({error})") from error
