"""Metadata of a LeRobotDataset folder, the same structure for v2.0, v2.1 (jsonl files) and v3.0 (parquet files).

Statistics are read apart from the rest, by `load_statistics`: only training needs them, and datasets between v2.0 and
v2.1 keep them in different files.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pi0_edge.datasets.feature_statistics import Statistics, pooled
from pi0_edge.datasets.lerobot_layout import (
    CAMERA_PREFIX,
    CHUNK_SIZE,
    EPISODES_STATS_V21,
    EPISODES_V21,
    IMAGE,
    INFO,
    STATS,
    TASKS_V21,
    TASKS_V30,
    VIDEO,
)
from pi0_edge.errors import DatasetError, MissingDependencyError
from pi0_edge.json_files import read_json_object

try:
    import pyarrow as pa
    import pyarrow.parquet as pq
except ImportError as error:
    raise MissingDependencyError(f"datasets need pyarrow ({error}): pip install 'pi0-edge[train]'") from error

VERSIONS = ("v2.0", "v2.1", "v3.0")
ADVICE = "expected a complete LeRobotDataset: fetch it again"


@dataclass(frozen=True)
class Clip:
    """Where the images of one camera in one episode are.

    Attributes:
        path: The video file, which may hold several episodes.
        start: Where the episode starts in it, in seconds.
        end: Where it ends, in seconds; infinite where the file holds nothing else.
    """

    path: Path
    start: float = 0.0
    end: float = math.inf


@dataclass(frozen=True)
class EpisodeInfo:
    """One episode: its number, length in frames, tasks, file of its rows, and videos by feature."""

    index: int
    length: int
    tasks: tuple[str, ...]
    data: Path
    clips: Mapping[str, Clip]


@dataclass(frozen=True)
class DatasetMetadata:
    """What ``meta/`` says about a dataset."""

    version: str
    fps: float
    features: dict[str, dict[str, Any]]
    tasks: tuple[str, ...]
    episodes: tuple[EpisodeInfo, ...]


def load_metadata(root: Path) -> DatasetMetadata:
    """Read ``meta/`` of a dataset folder, but its statistics.

    Raises:
        DatasetError: A file is missing or damaged, or the version is none of `VERSIONS`.
    """
    info = read_json_object(root / INFO, DatasetError, ADVICE)
    version = info.get("codebase_version")
    if version not in VERSIONS:
        raise DatasetError(
            f"{root / INFO}: codebase_version is {version!r}; only {', '.join(VERSIONS)} can be read. "
            f"{_version_advice(version)}"
        )
    try:
        parts = _v30(root, info) if version == "v3.0" else _v2(root, info)
        return DatasetMetadata(version, _positive(info["fps"]), info["features"], *parts)
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        raise DatasetError(f"{root / 'meta'} is damaged: {type(error).__name__} {error}; fetch it again") from error


def load_statistics(root: Path, version: str) -> dict[str, Statistics]:
    """Read the statistics per feature of a dataset: those of the whole, or else those of its episodes pooled.

    Raises:
        DatasetError: A file is missing or damaged.
    """
    try:
        of_the_whole = (root / STATS).is_file() and not (root / EPISODES_STATS_V21).is_file()
        if version == "v3.0" or of_the_whole:
            return _arrays(read_json_object(root / STATS, DatasetError, ADVICE))
        parts = [_arrays(row["stats"]) for row in _read_jsonl(root / EPISODES_STATS_V21)]
        return {key: pooled([part[key] for part in parts]) for key in parts[0]} if parts else {}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DatasetError(
            f"the statistics of {root} are damaged: {type(error).__name__} {error}; fetch the dataset again"
        ) from error


def read_table(path: Path, without: Collection[str] = ()) -> pa.Table:
    """Read a parquet file, but the columns in `without`.

    Raises:
        DatasetError: It is missing or damaged.
    """
    with opened_parquet(path) as file:
        return file.read([name for name in file.schema_arrow.names if name not in without])


@contextmanager
def opened_parquet(path: Path) -> Iterator[pq.ParquetFile]:
    """A parquet file, open while inside.

    Raises:
        DatasetError: It is missing or damaged.
    """
    if not path.is_file():
        raise DatasetError(f"{path} is missing; the dataset is incomplete, fetch it again")
    try:
        with pq.ParquetFile(path) as file:
            yield file
    except (pa.ArrowException, OSError) as error:
        raise DatasetError(f"{path} is not a complete parquet file ({error}); fetch it again") from error


_Parts = tuple[tuple[str, ...], tuple[EpisodeInfo, ...]]


def cameras_of(features: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """The cameras of a dataset: the feature of each by its short name, ``observation.images.top`` by ``top``."""
    keys = [key for key, feature in features.items() if feature["dtype"] in (VIDEO, IMAGE)]
    return {key.removeprefix(CAMERA_PREFIX): key for key in keys}


def _version_advice(version: object) -> str:
    found = re.fullmatch(r"v?(\d+)\.(\d+)", version) if isinstance(version, str) else None
    if found is None:
        return "Is it a LeRobotDataset?"
    if int(found[1]) < 2:
        return "Convert it with LeRobot's convert_dataset_v1_to_v2.py (lerobot before 0.4), then read v2.0"
    if (int(found[1]), int(found[2])) < (3, 0):
        return "Convert it with LeRobot's convert_dataset_v21_to_v30.py"
    return "It is newer than this version of pi0-edge; update pi0-edge, or record as v3.0"


def _positive(fps: Any) -> float:
    value = float(fps)
    if not (value > 0 and math.isfinite(value)):
        raise ValueError(f"fps is {fps}, expected a number above 0")
    return value


def _videos(info: dict[str, Any]) -> list[str]:
    return [name for name, feature in info["features"].items() if feature["dtype"] == VIDEO]


def _v2(root: Path, info: dict[str, Any]) -> _Parts:
    rows = sorted(_read_jsonl(root / TASKS_V21), key=lambda row: row["task_index"])
    episodes = tuple(_v2_episode(root, info, row) for row in _read_jsonl(root / EPISODES_V21))
    return tuple(row["task"] for row in rows), episodes


def _v2_episode(root: Path, info: dict[str, Any], row: dict[str, Any]) -> EpisodeInfo:
    index = row["episode_index"]
    place = {"episode_index": index, "episode_chunk": index // info.get("chunks_size", CHUNK_SIZE)}
    clips = {key: Clip(root / info["video_path"].format(video_key=key, **place)) for key in _videos(info)}
    return EpisodeInfo(index, row["length"], tuple(row["tasks"]), root / info["data_path"].format(**place), clips)


def _v30(root: Path, info: dict[str, Any]) -> _Parts:
    table = read_table(root / TASKS_V30)
    names = [name for name in table.column_names if name != "task_index"]
    by_index = dict(zip(table["task_index"].to_pylist(), table[names[0]].to_pylist(), strict=True))
    paths = sorted((root / "meta" / "episodes").glob("*/*.parquet"))
    if not paths:
        raise DatasetError(f"{root / 'meta' / 'episodes'} holds no parquet file; the dataset is incomplete")
    tables = [read_table(path) for path in paths]
    wanted = [[name for name in table.column_names if not name.startswith("stats/")] for table in tables]
    rows = [row for table, names in zip(tables, wanted, strict=True) for row in table.select(names).to_pylist()]
    episodes = tuple(_v30_episode(root, info, row) for row in rows)
    return tuple(by_index[index] for index in sorted(by_index)), episodes


def _v30_episode(root: Path, info: dict[str, Any], row: dict[str, Any]) -> EpisodeInfo:
    def path(template: str, key: str, **fields: str) -> Path:
        place = {name: row[f"{key}/{name}"] for name in ("chunk_index", "file_index")}
        return root / template.format(**place, **fields)

    clips = {
        camera: Clip(
            path(info["video_path"], f"videos/{camera}", video_key=camera),
            row[f"videos/{camera}/from_timestamp"],
            row[f"videos/{camera}/to_timestamp"],
        )
        for camera in _videos(info)
    }
    return EpisodeInfo(row["episode_index"], row["length"], tuple(row["tasks"]), path(info["data_path"], "data"), clips)


def _arrays(stats: dict[str, dict[str, Any]]) -> dict[str, Statistics]:
    return {key: {name: np.asarray(entry) for name, entry in entries.items()} for key, entries in stats.items()}


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(f"{path} cannot be read ({error}); {ADVICE}") from error


def _read_jsonl(path: Path) -> list[dict[str, Any]]:
    try:
        return [json.loads(line) for line in _read_text(path).splitlines() if line.strip()]
    except json.JSONDecodeError as error:
        raise DatasetError(f"{path} is not valid JSON lines ({error}); fetch it again") from error
