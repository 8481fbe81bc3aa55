"""Datasets of pi0-edge in LeRobot's own reader: every frame, image, state and task."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import numpy as np
import pytest

from pi0_edge.datasets.lerobot_reader import LeRobotDataset
from pi0_edge.datasets.lerobot_writer import LeRobotWriter

PYTHON = os.environ.get("PI0_EDGE_LEROBOT_PYTHON")
"""An interpreter with LeRobot and what its datasets need."""

PROGRAM = Path(__file__).parents[2] / "apparatus" / "lerobot_dataset_dump.py"
LENGTHS, TASKS = (7, 12, 5), ("Transfer cube", "Put it back", "Transfer cube")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(PYTHON is None, reason="PI0_EDGE_LEROBOT_PYTHON names no interpreter that has LeRobot"),
]


def write(root: Path) -> None:
    random = np.random.default_rng(0)
    with LeRobotWriter(root, 50, ["a", "b", "c"], {"top": (48, 64), "side": (32, 48)}, "mine") as writer:
        for length, task in zip(LENGTHS, TASKS, strict=True):
            images = {
                name: random.integers(0, 256, (length, *size, 3), np.uint8)
                for name, size in {"top": (48, 64), "side": (32, 48)}.items()
            }
            vectors = random.normal(size=(2, length, 3)).astype(np.float32)
            writer.add_episode(vectors[0], vectors[1], images, task)


def test_lerobots_reader_sees_what_ours_sees(tmp_path):
    root, output = tmp_path / "recorded", tmp_path / "read.npz"
    write(root)
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "home")}
    command = [str(PYTHON), str(PROGRAM), str(root), str(output)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    with np.load(output) as read:
        ours = LeRobotDataset(root)
        first = 0
        for number, (length, task) in enumerate(zip(LENGTHS, TASKS, strict=True)):
            rows = slice(first, first + length)
            state, action = ours.episode(number)
            np.testing.assert_array_equal(read["observation.state"][rows], state)
            np.testing.assert_array_equal(read["action"][rows], action)
            np.testing.assert_array_equal(read["episode_index"][rows], number)
            np.testing.assert_array_equal(read["frame_index"][rows], np.arange(length))
            np.testing.assert_allclose(read["timestamp"][rows], np.arange(length) / 50, atol=1e-4)
            assert set(read["task"][rows]) == {task}
            for camera in ("top", "side"):
                theirs = np.round(read[f"observation.images.{camera}"][rows] * 255).transpose(0, 2, 3, 1)
                expected = np.stack(list(ours.frames(number, camera)))
                assert theirs.shape == expected.shape
                # Two decoders of one video may round its colours differently.
                assert np.abs(theirs - expected.astype(float)).max() <= 2, camera
            first += length
        assert (first, int(read["fps"])) == (len(read["task"]), 50)
