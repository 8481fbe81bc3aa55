"""Writes demonstrations as a LeRobotDataset v3.0 folder that LeRobot's own reader opens.

Fifty episodes share a data file and a video. LeRobot looks frames up by time in single precision with a tolerance
of 0.1 ms, which a video longer than 1024 s cannot meet; fifty episodes of 20 s still can.

``meta/info.json`` is written last, by :meth:`LeRobotWriter.close`: an interrupted recording is not mistaken for a
dataset. It deliberately cannot append to an existing folder.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pi0_edge.datasets.feature_statistics import (
    Statistics,
    image_histogram,
    image_statistics,
    vector_statistics,
)
from pi0_edge.datasets.lerobot_layout import (
    ACTION,
    CAMERA_PREFIX,
    CHUNK_SIZE,
    DATA_V30,
    EPISODES_V30,
    INDEX_FEATURES,
    INFO,
    STATE,
    STATS,
    TASKS_V30,
    VIDEO_V30,
)
from pi0_edge.datasets.video_files import VideoFileWriter, video_info
from pi0_edge.errors import DatasetError, MissingDependencyError
from pi0_edge.synced_files import save_synced, sync_tree

try:
    import pyarrow as pa
    import pyarrow.parquet as pq
except ImportError as error:
    raise MissingDependencyError(f"datasets need pyarrow ({error}): pip install 'pi0-edge[train]'") from error

EPISODES_PER_FILE = 50
Images = NDArray[np.uint8]


class LeRobotWriter:
    """Collects episodes of one robot with one state and one action vector and any number of cameras.

    Raises:
        DatasetError: ``root`` exists and is not empty.
    """

    def __init__(
        self,
        root: Path,
        fps: int,
        joint_names: Sequence[str],
        cameras: Mapping[str, tuple[int, int]],
        robot_type: str,
        further: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> None:
        """Start an empty dataset.

        Args:
            root: New or empty folder.
            fps: Frames per second.
            joint_names: Of state and action, in order.
            cameras: (height, width) in pixels by short name, e.g. ``top``.
            robot_type: Name of the robot.
            further: Further features of one number or truth value per frame, as ``meta/info.json`` describes them.
        """
        if root.exists() and any(root.iterdir()):
            raise DatasetError(f"{root} is not empty; choose another folder or remove it first")
        self._root, self._fps, self._robot_type = root, fps, robot_type
        self._joint_names, self._cameras = list(joint_names), dict(cameras)
        self._further = {name: dict(feature) for name, feature in (further or {}).items()}
        self._features = self._describe_features()
        self._tasks: dict[str, int] = {}
        self._episodes: list[dict[str, Any]] = []
        self._vectors: dict[str, list[NDArray[Any]]] = {}
        self._histograms: dict[str, NDArray[np.int64]] = {}
        self._videos: dict[str, VideoFileWriter] = {}
        self._data: pq.ParquetWriter | None = None
        self._frames = self._frames_in_file = 0

    def add_episode(
        self,
        state: NDArray[np.float32],
        action: NDArray[np.float32],
        images: Mapping[str, Images],
        task: str,
        further: Mapping[str, NDArray[Any]] | None = None,
    ) -> None:
        """Append one episode of T frames.

        Args:
            state: (T, joints), measured.
            action: (T, joints), setpoints.
            images: By camera, uint8 (T, height, width, 3).
            task: The instruction of the episode.
            further: (T,), one for each further feature.

        Raises:
            DatasetError: A length, a shape or a camera does not fit.
        """
        columns = dict(further or {})
        self._check(state, action, images)
        self._check_further(columns, len(state))
        if len(self._episodes) % EPISODES_PER_FILE == 0:
            self._next_files()
        table = self._frame_table(state, action, self._tasks.setdefault(task, len(self._tasks)), columns)
        self._write_frames(table, images)
        statistics = self._episode_statistics(table, images)
        self._episodes.append(self._episode_row(len(state), task, statistics))
        self._frames += len(state)
        self._frames_in_file += len(state)

    def close(self) -> None:
        """Finish the open files and write the metadata.

        Raises:
            DatasetError: There is no episode.
        """
        self._close_files()
        if not self._episodes:
            raise DatasetError(f"no episode was recorded for {self._root}; a dataset has at least one")
        self._write_table(pa.Table.from_pylist(self._episodes), EPISODES_V30.format(chunk_index=0, file_index=0))
        self._write_table(_task_table(self._tasks), TASKS_V30)
        self._write_json(self._total_statistics(), STATS)
        sync_tree(self._root)  # a folder is a dataset by its description, which therefore comes last
        self._write_json(self._info(), INFO)

    def __enter__(self) -> LeRobotWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.close()
        else:
            self._close_files()

    def _describe_features(self) -> dict[str, dict[str, Any]]:
        vector = {"dtype": "float32", "shape": [len(self._joint_names)], "names": self._joint_names}
        cameras = {
            CAMERA_PREFIX + name: {
                "dtype": "video",
                "shape": [height, width, 3],
                "names": ["height", "width", "channels"],
                "info": video_info(height, width, self._fps),
            }
            for name, (height, width) in self._cameras.items()
        }
        return {STATE: vector, ACTION: vector, **cameras, **self._further, **INDEX_FEATURES}

    def _check(self, state: NDArray[Any], action: NDArray[Any], images: Mapping[str, Images]) -> None:
        expected = {STATE: (len(self._joint_names),), ACTION: (len(self._joint_names),)}
        expected |= {CAMERA_PREFIX + name: (*size, 3) for name, size in self._cameras.items()}
        found = {STATE: state, ACTION: action, **{CAMERA_PREFIX + name: p for name, p in images.items()}}
        if found.keys() != expected.keys():
            raise DatasetError(f"an episode has {sorted(found)}, this dataset has {sorted(expected)}")
        for name, values in found.items():
            if values.shape != (len(state), *expected[name]) or len(state) == 0:
                raise DatasetError(f"{name} has shape {values.shape}, expected ({len(state)} frames, {expected[name]})")
        if not (np.isfinite(state).all() and np.isfinite(action).all()):
            raise DatasetError("state or action holds a value that is not finite")

    def _check_further(self, columns: Mapping[str, NDArray[Any]], frames: int) -> None:
        if columns.keys() != self._further.keys():
            raise DatasetError(f"an episode has {sorted(columns)} as well, this dataset has {sorted(self._further)}")
        for name, values in columns.items():
            if values.shape != (frames,):
                raise DatasetError(f"{name} has shape {values.shape}, expected ({frames},)")

    def _place(self) -> dict[str, int]:
        chunk, file = divmod(len(self._episodes) // EPISODES_PER_FILE, CHUNK_SIZE)
        return {"chunk_index": chunk, "file_index": file}

    def _next_files(self) -> None:
        self._close_files()
        self._frames_in_file = 0
        for name, (height, width) in self._cameras.items():
            path = self._root / VIDEO_V30.format(video_key=CAMERA_PREFIX + name, **self._place())
            self._videos[name] = VideoFileWriter(path, self._fps, height, width)

    def _close_files(self) -> None:
        for video in self._videos.values():
            video.close()
        self._videos.clear()
        if self._data is not None:
            self._data.close()
            self._data = None

    def _frame_table(
        self, state: NDArray[Any], action: NDArray[Any], task: int, further: Mapping[str, NDArray[Any]]
    ) -> pa.Table:
        frames = np.arange(len(state))
        vector = pa.list_(pa.float32(), len(self._joint_names))
        columns = {
            STATE: pa.array(list(state.astype(np.float32)), vector),
            ACTION: pa.array(list(action.astype(np.float32)), vector),
            **{name: pa.array(values) for name, values in further.items()},
            "timestamp": pa.array((frames / self._fps).astype(np.float32)),
            "frame_index": pa.array(frames),
            "episode_index": pa.array(np.full(len(state), len(self._episodes))),
            "index": pa.array(frames + self._frames),
            "task_index": pa.array(np.full(len(state), task)),
        }
        return pa.table(columns)

    def _write_frames(self, table: pa.Table, images: Mapping[str, Images]) -> None:
        if self._data is None:
            path = self._root / DATA_V30.format(**self._place())
            path.parent.mkdir(parents=True, exist_ok=True)
            self._data = pq.ParquetWriter(path, table.schema)
        self._data.write_table(table)
        for name, video in self._videos.items():
            for image in images[name]:
                video.write(np.ascontiguousarray(image))

    def _episode_statistics(self, table: pa.Table, images: Mapping[str, Images]) -> dict[str, Statistics]:
        statistics: dict[str, Statistics] = {}
        for name in table.column_names:
            values = np.stack(table[name].to_numpy()).reshape(table.num_rows, -1)
            self._vectors.setdefault(name, []).append(values)
            statistics[name] = vector_statistics(values)
        for name, frames in images.items():
            key, histogram = CAMERA_PREFIX + name, image_histogram(frames)
            self._histograms[key] = self._histograms.get(key, 0) + histogram
            statistics[key] = image_statistics(histogram, len(frames))
        return statistics

    def _episode_row(self, length: int, task: str, statistics: dict[str, Statistics]) -> dict[str, Any]:
        place = self._place()
        row: dict[str, Any] = {"episode_index": len(self._episodes), "tasks": [task], "length": length}
        row |= {f"data/{name}": value for name, value in place.items()}
        row |= {"dataset_from_index": self._frames, "dataset_to_index": self._frames + length}
        for camera in self._cameras:
            key = f"videos/{CAMERA_PREFIX}{camera}"
            row |= {f"{key}/{name}": value for name, value in place.items()}
            row[f"{key}/from_timestamp"] = self._frames_in_file / self._fps
            row[f"{key}/to_timestamp"] = (self._frames_in_file + length) / self._fps
        for key, entries in statistics.items():
            row |= {f"stats/{key}/{name}": entry.tolist() for name, entry in entries.items()}
        return row | {"meta/episodes/chunk_index": 0, "meta/episodes/file_index": 0}

    def _total_statistics(self) -> dict[str, dict[str, Any]]:
        totals = {key: vector_statistics(np.concatenate(parts)) for key, parts in self._vectors.items()}
        totals |= {key: image_statistics(histogram, self._frames) for key, histogram in self._histograms.items()}
        return {key: {name: entry.tolist() for name, entry in entries.items()} for key, entries in totals.items()}

    def _info(self) -> dict[str, Any]:
        return {
            "codebase_version": "v3.0",
            "robot_type": self._robot_type,
            "total_episodes": len(self._episodes),
            "total_frames": self._frames,
            "total_tasks": len(self._tasks),
            "chunks_size": CHUNK_SIZE,
            "data_files_size_in_mb": 100,
            "video_files_size_in_mb": 200,
            "fps": self._fps,
            "splits": {"train": f"0:{len(self._episodes)}"},
            "data_path": DATA_V30,
            "video_path": VIDEO_V30,
            "features": self._features,
        }

    def _write_table(self, table: pa.Table, name: str) -> None:
        path = self._root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table, path)

    def _write_json(self, content: dict[str, Any], name: str) -> None:
        save_synced(self._root / name, (json.dumps(content, indent=4, ensure_ascii=False) + "\n").encode())


def _task_table(tasks: dict[str, int]) -> pa.Table:
    """Task texts as the index of a pandas table, which is how LeRobot looks them up."""
    table = pa.table({"task_index": pa.array(list(tasks.values())), "task": pa.array(list(tasks))})
    columns = [
        {"name": name, "field_name": name, "pandas_type": kind, "numpy_type": numpy_kind, "metadata": None}
        for name, kind, numpy_kind in (("task_index", "int64", "int64"), ("task", "unicode", "object"))
    ]
    pandas = {"index_columns": ["task"], "column_indexes": [], "columns": columns, "pandas_version": "2.0.0"}
    return table.replace_schema_metadata({"pandas": json.dumps(pandas)})
