"""Recording demonstrations: what lands in the dataset, and which requests are refused."""

import dataclasses
import itertools

import numpy as np
import pytest

from pi0_edge.errors import ConfigError, DatasetError, MissingDependencyError

try:
    from pi0_edge.datasets.lerobot_reader import LeRobotDataset
    from pi0_edge.sim.aloha import JOINT_NAMES
    from pi0_edge.sim.aloha_transfer_cube import AlohaTransferCube
    from pi0_edge.sim.demonstration import Demonstration, demonstrate
    from pi0_edge.sim.expert import TransferCubeExpert
    from pi0_edge.sim.record import RecordingReport, record, write_demonstrations
    from pi0_edge.sim.tasks import TRANSFER_CUBE
except MissingDependencyError as error:
    pytest.skip(str(error), allow_module_level=True)

SEED = 100_002


@pytest.mark.slow
def test_worker_processes_record_what_one_process_would(tmp_path):
    reports = []
    report = record(tmp_path / "cube", 2, first_seed=SEED, workers=2, on_progress=reports.append)
    assert report.kept == reports[-1].done == 2
    assert [progress.note for progress in reports[1:]] == [f"{tried + 1} tried" for tried in range(report.tried)]
    dataset = LeRobotDataset(tmp_path / "cube")
    assert (dataset.fps, dataset.tasks, dataset.cameras) == (50, ("Transfer cube",), ("top",))
    assert dataset.features["action"]["names"] == list(JOINT_NAMES)
    env, expert = AlohaTransferCube(), TransferCubeExpert()
    played = (demonstrate(env, expert, seed) for seed in itertools.count(SEED))
    for index, expected in enumerate(itertools.islice((one for one in played if one.success), 2)):
        found = dataset.episode(index)
        np.testing.assert_array_equal(found.action, expected.action)
        np.testing.assert_array_equal(found.state, expected.state)
        images = np.stack(list(dataset.frames(index, "top")))
        assert np.abs(images.astype(int) - expected.images).mean() < 1.0
    env.close()


@pytest.mark.parametrize("seed", [0, 999, -5])
def test_seeds_kept_for_evaluation_are_refused(tmp_path, seed):
    with pytest.raises(ConfigError, match=f"first_seed is {seed}; seeds below 1000 are kept for evaluation"):
        record(tmp_path / "cube", episodes=1, first_seed=seed)
    assert not (tmp_path / "cube").exists()


@pytest.mark.parametrize(("episodes", "workers"), [(0, 2), (3, 0)])
def test_zero_episodes_or_zero_workers_are_refused(tmp_path, episodes, workers):
    with pytest.raises(ConfigError, match="at least 1"):
        record(tmp_path / "cube", episodes=episodes, workers=workers)


def synthetic(success):
    return Demonstration(
        images=np.zeros((5, 112, 112, 3), np.uint8),
        state=np.full((5, 14), success, np.float32),
        action=np.zeros((5, 14), np.float32),
        success=success,
    )


def test_failed_episodes_are_left_out(tmp_path):
    outcomes = [True, False, False, True, True]
    report = write_demonstrations(tmp_path / "cube", map(synthetic, outcomes), TRANSFER_CUBE, episodes=2)
    assert dataclasses.astuple(report) == (2, 4) and isinstance(report, RecordingReport)
    dataset = LeRobotDataset(tmp_path / "cube")
    assert len(dataset.episodes) == 2
    assert all((dataset.episode(index).state == 1).all() for index in range(2))


def test_too_few_successes_leave_no_dataset(tmp_path):
    with pytest.raises(DatasetError, match="only 1 of 3 episodes succeeded, 2 were asked for"):
        write_demonstrations(tmp_path / "cube", map(synthetic, [False, True, False]), TRANSFER_CUBE, episodes=2)
    with pytest.raises(DatasetError, match=r"info\.json cannot be read"):
        LeRobotDataset(tmp_path / "cube")
