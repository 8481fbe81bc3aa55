"""Versions of LeRobotDataset, and that nothing is read before it is needed."""

import json

import numpy as np
import pytest

from pi0_edge.errors import DatasetError, MissingDependencyError

try:
    from dataset_builders import CAMERA, TASK, write_dataset

    from pi0_edge.datasets.lerobot_reader import LeRobotDataset
except (MissingDependencyError, ModuleNotFoundError) as error:
    pytest.skip(str(error), allow_module_level=True)

ROWS = np.arange(8) / 30
STATE = {"mean": [0.1, 0.2], "std": [1.0, 2.0], "min": [-1, -1], "max": [1, 1], "count": [8]}


@pytest.mark.parametrize("version", ["v2.0", "v2.1"])
def test_a_dataset_without_statistics_is_read_and_says_so_only_where_they_are_asked_for(tmp_path, version):
    dataset = LeRobotDataset(write_dataset(tmp_path / "ds", ROWS, info={"codebase_version": version}))
    assert (dataset.version, dataset.tasks, dataset.prompts(0)) == (version, (TASK,), [TASK] * 8)
    assert dataset.episode(0).action.shape == (8, 2)
    assert len(list(dataset.frames(0, "cam"))) == 8
    with pytest.raises(DatasetError, match=r"episodes_stats\.jsonl cannot be read"):
        _ = dataset.stats


@pytest.mark.parametrize("version", ["v2.0", "v2.1"])
def test_statistics_of_the_whole_serve_where_there_are_none_per_episode(tmp_path, version):
    root = write_dataset(tmp_path / "ds", ROWS, info={"codebase_version": version})
    (root / "meta/stats.json").write_text(json.dumps({"observation.state": STATE}))
    assert LeRobotDataset(root).stats["observation.state"]["mean"].tolist() == [0.1, 0.2]


def test_statistics_of_the_episodes_come_first(tmp_path):
    root = write_dataset(tmp_path / "ds", ROWS)
    (root / "meta/stats.json").write_text(json.dumps({"observation.state": {**STATE, "mean": [9, 9]}}))
    (root / "meta/episodes_stats.jsonl").write_text(
        json.dumps({"episode_index": 0, "stats": {"observation.state": STATE}})
    )
    assert LeRobotDataset(root).stats["observation.state"]["mean"].tolist() == [0.1, 0.2]


@pytest.mark.parametrize("content", ["{", "[1]", '{"stats": {"observation.state": 3}}'])
def test_damaged_statistics_are_refused_when_they_are_read(tmp_path, content):
    root = write_dataset(tmp_path / "ds", ROWS)
    (root / "meta/episodes_stats.jsonl").write_text(content)
    dataset = LeRobotDataset(root)
    with pytest.raises(DatasetError, match=r"JSON lines|statistics of .* are damaged"):
        _ = dataset.stats


@pytest.mark.parametrize(
    ("version", "advice"),
    [
        ("v1.6", r"only v2\.0, v2\.1, v3\.0 can be read\. Convert it with LeRobot's convert_dataset_v1_to_v2"),
        ("v2.2", "convert_dataset_v21_to_v30"),
        ("v3.1", "newer than this version of pi0-edge"),
        ("v4.0", "newer than this version of pi0-edge"),
        (None, "Is it a LeRobotDataset"),
        (2.1, "Is it a LeRobotDataset"),
    ],
)
def test_other_versions_are_refused_with_what_helps(tmp_path, version, advice):
    root = write_dataset(tmp_path / "ds", ROWS, info={"codebase_version": version})
    with pytest.raises(DatasetError, match=advice):
        LeRobotDataset(root)


@pytest.mark.parametrize(
    "change",
    [
        {"video_path": None},
        {"features": None},
        {"features": {CAMERA: "video"}},
        {"fps": 0},
        {"fps": None},
        {"fps": "nan"},
        {"data_path": "{}"},
        {"chunks_size": 0},
    ],
)
def test_metadata_that_cannot_be_true_is_damaged(tmp_path, change):
    root = write_dataset(tmp_path / "ds", ROWS, info=change)
    with pytest.raises(DatasetError, match="meta is damaged"):
        LeRobotDataset(root)


def test_each_row_has_its_own_task(tmp_path):
    root = write_dataset(tmp_path / "ds", ROWS, columns={"task_index": [0] * 5 + [1] * 3})
    (root / "meta/tasks.jsonl").write_text('{"task_index": 0, "task": "Open"}\n{"task_index": 1, "task": "Close"}\n')
    lengths = {"episode_index": 0, "tasks": ["Open", "Close"], "length": 8}
    (root / "meta/episodes.jsonl").write_text(json.dumps(lengths))
    assert LeRobotDataset(root).prompts(0) == ["Open"] * 5 + ["Close"] * 3
    (root / "meta/tasks.jsonl").write_text('{"task_index": 0, "task": "Open"}\n')
    with pytest.raises(DatasetError, match="names the task 1 in episode 0; 1 are known"):
        LeRobotDataset(root).prompts(0)


def test_vectors_of_one_are_stored_as_numbers(tmp_path):
    features = {name: {"dtype": "float32", "shape": [1], "names": ["x"]} for name in ("observation.state", "action")}
    columns = {name: np.arange(8, dtype=np.float32) for name in features}
    root = write_dataset(tmp_path / "ds", ROWS, info={"features": features}, columns=columns)
    assert LeRobotDataset(root).episode(0).state.tolist() == [[float(row)] for row in range(8)]


def test_a_dataset_without_actions_still_has_states(tmp_path):
    root = write_dataset(tmp_path / "ds", ROWS, columns={"action": None})
    assert LeRobotDataset(root).states(0).shape == (8, 2)
    with pytest.raises(DatasetError, match="has no column action"):
        LeRobotDataset(root).episode(0)
