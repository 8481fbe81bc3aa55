"""Metadata of a LeRobotDataset folder, the same structure for v2.1 (jsonl files) and v3.0 (parquet files)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pi0_edge.datasets.feature_statistics import Statistics, pooled
from pi0_edge.datasets.lerobot_layout import (
    CHUNK_SIZE,
    EPISODES_STATS_V21,
    EPISODES_V21,
    INFO,
    STATS,
    TASKS_V21,
    TASKS_V30,
)
from pi0_edge.errors import DatasetError, MissingDependencyError
from pi0_edge.json_files import read_json_object

try:
    import pyarrow as pa
    import pyarrow.parquet as pq
except ImportError as error:
    raise MissingDependencyError(f"datasets need pyarrow ({error}): pip install 'pi0-edge[train]'") from error

VERSIONS = ("v2.1", "v3.0")
ADVICE = "expected a complete LeRobotDataset: fetch it again"


@dataclass(frozen=True)
class Clip:
    """Where the images of one camera in one episode are: a file and a start time in seconds."""

    path: Path
    start: float


@dataclass(frozen=True)
class EpisodeInfo:
    """One episode: its number, length in frames, tasks and files."""

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
    stats: dict[str, Statistics]


def load_metadata(root: Path) -> DatasetMetadata:
    """Read ``meta/`` of a dataset folder.

    Raises:
        DatasetError: A file is missing or damaged, or the version is neither v2.1 nor v3.0.
    """
    info = read_json_object(root / INFO, DatasetError, ADVICE)
    version = info.get("codebase_version")
    if version not in VERSIONS:
        raise DatasetError(f"{root / INFO}: codebase_version is {version!r}; only {' and '.join(VERSIONS)} can be read")
    try:
        parts = _v21(root, info) if version == "v2.1" else _v30(root, info)
        return DatasetMetadata(version, float(info["fps"]), info["features"], *parts)
    except (KeyError, TypeError, ValueError) as error:
        raise DatasetError(f"{root / 'meta'} is damaged: {type(error).__name__} {error}; fetch it again") from error


def read_table(path: Path) -> pa.Table:
    """Read a parquet file.

    Raises:
        DatasetError: It is missing or damaged.
    """
    if not path.is_file():
        raise DatasetError(f"{path} is missing; the dataset is incomplete, fetch it again")
    try:
        return pq.ParquetFile(path).read()
    except (pa.ArrowException, OSError) as error:
        raise DatasetError(f"{path} is not a complete parquet file ({error}); fetch it again") from error


_Parts = tuple[tuple[str, ...], tuple[EpisodeInfo, ...], dict[str, Statistics]]


def _cameras(info: dict[str, Any]) -> list[str]:
    return [name for name, feature in info["features"].items() if feature["dtype"] == "video"]


def _v21(root: Path, info: dict[str, Any]) -> _Parts:
    rows = sorted(_read_jsonl(root / TASKS_V21), key=lambda row: row["task_index"])
    episodes = tuple(_v21_episode(root, info, row) for row in _read_jsonl(root / EPISODES_V21))
    parts = [_arrays(row["stats"]) for row in _read_jsonl(root / EPISODES_STATS_V21)]
    stats = {key: pooled([part[key] for part in parts]) for key in parts[0]} if parts else {}
    return tuple(row["task"] for row in rows), episodes, stats


def _v21_episode(root: Path, info: dict[str, Any], row: dict[str, Any]) -> EpisodeInfo:
    index = row["episode_index"]
    place = {"episode_index": index, "episode_chunk": index // info.get("chunks_size", CHUNK_SIZE)}
    clips = {key: Clip(root / info["video_path"].format(video_key=key, **place), 0.0) for key in _cameras(info)}
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
    return (
        tuple(by_index[index] for index in sorted(by_index)),
        episodes,
        _arrays(read_json_object(root / STATS, DatasetError, ADVICE)),
    )


def _v30_episode(root: Path, info: dict[str, Any], row: dict[str, Any]) -> EpisodeInfo:
    def path(template: str, key: str, **fields: str) -> Path:
        place = {name: row[f"{key}/{name}"] for name in ("chunk_index", "file_index")}
        return root / template.format(**place, **fields)

    clips = {
        camera: Clip(
            path(info["video_path"], f"videos/{camera}", video_key=camera), row[f"videos/{camera}/from_timestamp"]
        )
        for camera in _cameras(info)
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
