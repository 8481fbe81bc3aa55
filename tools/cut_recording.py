"""Cuts a LeRobotDataset v2.1 to the first frames of a few episodes, for tests/data/g1_recording.

    python tools/cut_recording.py SOURCE TARGET --episodes 29 2 --frames 80

Episodes are numbered anew from 0. The video is not encoded again: its packets are copied, so what the tests decode is
what the recorder wrote. Statistics are computed from the frames that stay, also as norm_stats.json in openpi's format.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pi0_edge.datasets.feature_statistics import Statistics, image_histogram, image_statistics, vector_statistics
from pi0_edge.datasets.lerobot_layout import ACTION, STATE
from pi0_edge.datasets.video_files import read_frames
from pi0_edge.processing.norm_stats import save_norm_stats

V21_STATISTICS = ("min", "max", "mean", "std", "count")


def main() -> None:
    """Reads the command line and writes the cut dataset."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    parser.add_argument("--episodes", type=int, nargs="+", required=True)
    parser.add_argument("--frames", type=int, required=True)
    given = parser.parse_args()
    cut_dataset(given.source, given.target, given.episodes, given.frames)


def cut_dataset(source: Path, target: Path, episodes: list[int], frames: int) -> None:
    """Writes the first `frames` frames of each of `episodes`, with its licence and metadata that fit."""
    info = json.loads((source / "meta" / "info.json").read_text())
    (target / "meta").mkdir(parents=True)
    shutil.copyfile(source / "LICENSE", target / "LICENSE")
    shutil.copyfile(source / "meta" / "tasks.jsonl", target / "meta" / "tasks.jsonl")
    tasks = {row["episode_index"]: row["tasks"] for row in _read_lines(source / "meta" / "episodes.jsonl")}
    lengths, stats, tables = [], [], []
    for new, old in enumerate(episodes):
        table = _cut_table(_data(source, info, old), _data(target, info, new), new, frames)
        statistics = {name: vector_statistics(values) for name, values in table.items()}
        tables.append(table)
        for key in (name for name, feature in info["features"].items() if feature["dtype"] == "video"):
            video = _video(target, info, key, new)
            _cut_video(_video(source, info, key, old), video, frames)
            times, rows = np.arange(frames) / info["fps"], [f"row {row} of episode {new}" for row in range(frames)]
            images = np.stack(list(read_frames(video, times.tolist(), 0.5 / info["fps"], rows)))
            statistics[key] = image_statistics(image_histogram(images), frames)
        lengths.append({"episode_index": new, "tasks": tasks[old], "length": frames})
        stats.append({"episode_index": new, "stats": {key: _as_lists(found) for key, found in statistics.items()}})
    total = len(episodes)
    info |= {"total_episodes": total, "total_frames": total * frames, "splits": {"train": f"0:{total}"}}
    info["total_videos"] = total * sum(feature["dtype"] == "video" for feature in info["features"].values())
    (target / "meta" / "info.json").write_text(json.dumps(info, indent=4) + "\n")
    _write_lines(target / "meta" / "episodes.jsonl", lengths)
    _write_lines(target / "meta" / "episodes_stats.jsonl", stats)
    pooled = {key: vector_statistics(np.concatenate([table[key] for table in tables])) for key in (STATE, ACTION)}
    fields = {"state": pooled[STATE], "actions": pooled[ACTION]}
    names = ("mean", "std", "q01", "q99")
    norm_stats = {field: {name: found[name] for name in names} for field, found in fields.items()}
    save_norm_stats(target / "norm_stats.json", norm_stats)


def _cut_table(source: Path, target: Path, episode: int, frames: int) -> dict[str, np.ndarray]:
    table = pq.read_table(source).slice(0, frames)
    numbers = {"episode_index": np.full(frames, episode), "index": np.arange(frames) + episode * frames}
    for name, values in numbers.items():
        table = table.set_column(table.column_names.index(name), name, pa.array(values, pa.int64()))
    target.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, target)
    return {name: np.array(table[name].to_pylist()).reshape(frames, -1) for name in table.column_names}


def _cut_video(source: Path, target: Path, frames: int) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(source)) as read, av.open(str(target), "w") as written:
        stream = written.add_stream_from_template(read.streams.video[0], opaque=True)
        packets = [packet for packet in read.demux(video=0) if packet.size][:frames]
        for packet in packets:
            packet.stream = stream
            written.mux(packet)


def _data(root: Path, info: dict[str, Any], episode: int) -> Path:
    return root / info["data_path"].format(episode_chunk=episode // info["chunks_size"], episode_index=episode)


def _video(root: Path, info: dict[str, Any], key: str, episode: int) -> Path:
    chunk = episode // info["chunks_size"]
    return root / info["video_path"].format(episode_chunk=chunk, video_key=key, episode_index=episode)


def _as_lists(statistics: Statistics) -> dict[str, Any]:
    return {name: statistics[name].tolist() for name in V21_STATISTICS}


def _read_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines() if line.strip()]


def _write_lines(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


if __name__ == "__main__":
    main()
