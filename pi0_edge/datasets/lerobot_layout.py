"""Names and paths that the reader and the writer of LeRobotDataset folders share.

A v3.0 folder holds ``meta/info.json``, ``meta/stats.json``, ``meta/tasks.parquet``, one row per episode in
``meta/episodes/``, one row per frame in ``data/`` and images in ``videos/<feature>/``; files of the last three
hold many episodes each. A v2.0 or v2.1 folder has one data file and one video per episode and keeps its metadata in
``.jsonl`` files. Field names are LeRobot's (lerobot 0.4, ``lerobot/datasets``).
"""

from __future__ import annotations

from typing import Any

INFO = "meta/info.json"
STATS = "meta/stats.json"
TASKS_V30 = "meta/tasks.parquet"
EPISODES_V30 = "meta/episodes/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
DATA_V30 = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
VIDEO_V30 = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
TASKS_V21 = "meta/tasks.jsonl"
EPISODES_V21 = "meta/episodes.jsonl"
EPISODES_STATS_V21 = "meta/episodes_stats.jsonl"

CHUNK_SIZE = 1000
"""Most files per ``chunk-`` folder."""

STATE, ACTION = "observation.state", "action"
OTHER_NAMES = {STATE: "state", ACTION: "actions"}
"""What openpi's example converters call them where a dataset has no feature of LeRobot's name."""
CAMERA_PREFIX = "observation.images."
VIDEO, IMAGE = "video", "image"
"""``dtype`` of a camera whose images are in video files, and of one whose images are in the rows."""
TIMESTAMP = "timestamp"

INDEX_FEATURES: dict[str, dict[str, Any]] = {
    "timestamp": {"dtype": "float32", "shape": [1], "names": None},
    "frame_index": {"dtype": "int64", "shape": [1], "names": None},
    "episode_index": {"dtype": "int64", "shape": [1], "names": None},
    "index": {"dtype": "int64", "shape": [1], "names": None},
    "task_index": {"dtype": "int64", "shape": [1], "names": None},
}
"""The columns every dataset has: time in the episode (s), place in the episode, in the dataset, task."""
