"""Reads a dataset with LeRobot's own reader: a program of its own, run by an interpreter that has LeRobot.

Called with the folder of a dataset and a file to write: every frame's image, state, action, times and numbers as .npz.
"""

from __future__ import annotations

import inspect
import sys

import numpy as np

try:
    from lerobot.datasets.lerobot_dataset import LeRobotDataset  # pyright: ignore[reportMissingImports]
except ModuleNotFoundError:
    from lerobot.datasets import LeRobotDataset  # pyright: ignore[reportMissingImports]

ROOT, OUTPUT = sys.argv[1:]

backend = {"video_backend": "pyav"} if "video_backend" in inspect.signature(LeRobotDataset).parameters else {}
dataset = LeRobotDataset("somebody/recorded", root=ROOT, **backend)
frames = [dataset[index] for index in range(len(dataset))]
columns = {
    name: np.stack([frame[name].numpy() for frame in frames])
    for name in frames[0]
    if hasattr(frames[0][name], "numpy") and not name.endswith("_is_pad")
}
task = np.array([frame["task"] for frame in frames])
np.savez(OUTPUT, task=task, fps=dataset.fps, **columns)  # pyright: ignore[reportArgumentType]
