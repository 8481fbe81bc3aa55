"""Small LeRobotDataset folders as other programs write them: any times, any storage of the images, v2.0 and v2.1.

In every image a white square stands where its time says, so that an image tells its own moment.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

HEIGHT, WIDTH = 48, 96
SPEED = 30.0
"""Of the square, pixels per second."""
TASK = "Transfer cube"
TIME_BASE = Fraction(1, 12800)
CAMERA = "observation.images.cam"


def picture(time: float) -> NDArray[np.uint8]:
    """The image of a moment, uint8 (48, 96, 3)."""
    image = np.full((HEIGHT, WIDTH, 3), 40, np.uint8)
    column = round(SPEED * time)
    image[16:32, column : column + 12] = 255
    return image


def time_shown(image: NDArray[np.uint8]) -> float:
    """The moment that an image shows, in seconds, to half a pixel or 1/60 s."""
    brightness = image.astype(float).mean((0, 2)) - 40
    brightness[brightness < 20] = 0
    return float((brightness @ np.arange(WIDTH)) / brightness.sum() - 5.5) / SPEED


def write_video(path: Path, times: ArrayLike) -> None:
    """One video whose images are of `times`, in seconds."""
    import av

    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=50, options={"crf": "4", "bf": "0"})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv444p"
        stream.codec_context.time_base = TIME_BASE
        for time in np.asarray(times).tolist():
            frame = av.VideoFrame.from_ndarray(picture(time), format="rgb24")
            frame.pts, frame.time_base = round(time / TIME_BASE), TIME_BASE
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def write_dataset(
    root: Path,
    times: ArrayLike,
    *,
    episodes: int = 1,
    video_times: ArrayLike | None = None,
    stored: Sequence[Any] | None = None,
    camera: Mapping[str, Any] | None = None,
    info: Mapping[str, Any] | None = None,
    columns: Mapping[str, Any] | None = None,
    dims: int = 2,
    states: NDArray[np.generic] | None = None,
) -> Path:
    """A dataset of version v2.1 whose episodes are all alike.

    Args:
        root: Its folder.
        times: Timestamp of each row, in seconds.
        episodes: How many.
        video_times: When the images of the video were taken; those of the rows where None.
        stored: Instead of a video, the values of an image column.
        camera: Changes of the camera's feature.
        info: Changes of meta/info.json.
        columns: Other or further columns; None leaves one out.
        dims: Of state and action.
        states: [rows, dims]; a slow wave where None.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = len(np.asarray(times))
    waves = 0.5 * np.sin(np.asarray(times)[:, None] + np.arange(dims)) if states is None else np.asarray(states)
    vector = {"dtype": "float32", "shape": [dims], "names": None}
    kind = "video" if stored is None else "image"
    images = {"dtype": kind, "shape": [HEIGHT, WIDTH, 3], "names": ["height", "width", "channels"], **(camera or {})}
    content = {
        "codebase_version": "v2.1",
        "fps": 30,
        "chunks_size": 1000,
        "data_path": "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet",
        "video_path": None
        if stored
        else "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4",
        "features": {"observation.state": vector, "action": vector, CAMERA: images},
        **(info or {}),
    }
    _write(root / "meta/info.json", json.dumps(content))
    _write(root / "meta/tasks.jsonl", json.dumps({"task_index": 0, "task": TASK}))
    lengths = [{"episode_index": episode, "tasks": [TASK], "length": rows} for episode in range(episodes)]
    _write(root / "meta/episodes.jsonl", "\n".join(map(json.dumps, lengths)))
    for episode in range(episodes):
        table: dict[str, Any] = {
            "observation.state": waves.astype(np.float32).tolist(),
            "action": waves.astype(np.float32).tolist(),
            "timestamp": np.asarray(times, np.float32),
            "episode_index": np.full(rows, episode),
            "task_index": np.zeros(rows, int),
            **({} if stored is None else {CAMERA: stored}),
            **(columns or {}),
        }
        path = root / f"data/chunk-000/episode_{episode:06d}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table({name: value for name, value in table.items() if value is not None}), path)
        if stored is None:
            video = root / f"videos/chunk-000/{CAMERA}/episode_{episode:06d}.mp4"
            write_video(video, times if video_times is None else video_times)
    return root


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text + "\n")
