"""The training profile on its way: collected from a dataset, kept in a calibration, handed on to a bundle."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from cli_runner import run
from observation_sources import write_npz
from policy_builders import DIMS, PROMPT, write_checkpoint

from pi0_edge.bundle import open_bundle
from pi0_edge.errors import QuantizationError
from pi0_edge.ptq.calibration_file import Calibration, write_statistics
from pi0_edge.ptq.training_episodes import profile_of, training_profile_of
from pi0_edge.robots import load_robot
from pi0_edge.training_profile import NAME, load_training_profile

torch.set_num_threads(1)
EPISODES, ROWS, HZ = 12, 60, 25
FEW = ("--frames", 16)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return write_checkpoint(tmp_path_factory.mktemp("profiled") / "checkpoint")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """Episodes in which all joints swing by 0.2, and a square wanders through the image."""
    pytest.importorskip("pi0_edge.datasets.lerobot_reader", reason="datasets need pyarrow and av")
    from pi0_edge.datasets.lerobot_writer import LeRobotWriter

    root = tmp_path_factory.mktemp("demonstrations") / "dataset"
    names = [joint.name for joint in load_robot("aloha_sim").joints]
    rng = np.random.default_rng(0)
    with LeRobotWriter(root, HZ, names, {"top": (32, 48)}, robot_type="aloha") as writer:
        for _ in range(EPISODES):
            phase = rng.uniform(0, 0.3, DIMS) + np.linspace(0, 3, ROWS + 1)[:, None]
            swing = (0.2 * np.sin(phase)).astype(np.float32)
            images = np.full((ROWS, 32, 48, 3), 60, np.uint8)
            top, left = rng.integers(0, 24), rng.integers(0, 40)
            for row, image in enumerate(images):
                column = (left + row) % 40
                image[top : top + 8, column : column + 8] = (200, 40, 40)
            writer.add_episode(swing[:-1], swing[1:], {"top": images}, PROMPT)
    return root


def test_a_dataset_gives_a_profile(dataset):
    from pi0_edge.ptq.sources import LeRobotObservations

    robot = load_robot("aloha_sim")
    steps: list[int] = []
    profile = profile_of(LeRobotObservations(dataset, robot), robot, lambda progress: steps.append(progress.done))
    assert profile is not None and steps == list(range(EPISODES + 1))
    assert (profile.episodes, profile.left_out, profile.frames) == (EPISODES, 0, EPISODES * ROWS)
    assert (profile.control_hz, profile.prompts, profile.missing) == (HZ, (PROMPT,), {})
    assert (profile.cameras["top"].height, profile.cameras["top"].width) == (32, 48)
    assert 0.19 < profile.joints.state[-1].max() <= 0.2
    assert profile.actions is not None
    np.testing.assert_allclose(profile.actions.first[-1], 0.2 * 3 / ROWS, rtol=0.1)


def test_a_recording_of_a_robot_at_work_is_no_training_data(checkpoint, tmp_path):
    from pi0_edge.ptq.sources import ArchivedObservations

    robot = load_robot("aloha_sim")
    source = ArchivedObservations(write_npz(tmp_path / "robot.npz"), robot)
    assert profile_of(source, robot) is None
    assert training_profile_of(checkpoint, source, robot) is None
    ran = run("calibrate", "--output", tmp_path / "c", "--checkpoint", checkpoint, "--dataset", source.path, *FEW)
    assert "no training data were given" in ran.out
    wanted = run(
        *("calibrate", "--output", tmp_path / "c", "--checkpoint", checkpoint, "--dataset", source.path, *FEW),
        *("--training-profile", tmp_path / "profile.json"),
    )
    assert wanted.code == 2 and "is no training data, of which there could be a profile" in wanted.err
    assert not (tmp_path / "profile.json").exists()


def test_calibration_shows_keeps_and_hands_on_the_profile(checkpoint, dataset, tmp_path):
    output, file, bundle = tmp_path / "c", tmp_path / "profile.json", tmp_path / "bundle"
    common = ["--checkpoint", checkpoint, "--dataset", dataset]
    ran = run("calibrate", "--output", output, *common, *FEW, "--training-profile", file, "--json")
    assert ran.code == 0, ran.err
    assert ran.result["training_data"] == f"12 episodes of the lerobot v3.0 {dataset}, 14 joints, top, 25 Hz"
    assert f"training data, for the mismatch guard: {ran.result['training_data']}" in ran.err
    kept = Calibration.load(output).training_profile
    assert kept is not None and kept.to_bytes() == load_training_profile(file).to_bytes()
    few = ["--calibration", output, "--held-out", 8, "--draws", 2, "--executed", 4]
    made = run("quantize", *common, "--scheme", "int8-w8a8", *few, "--output", bundle)
    assert made.code == 1, made.err  # so few frames pass no gate; the bundle is written nevertheless
    carried = open_bundle(bundle).training_profile()
    assert carried is not None and carried.to_bytes() == kept.to_bytes()
    assert "training data, for the mismatch guard: 12 episodes" in made.out


def test_a_profile_beside_the_checkpoint_is_used_where_the_frames_have_none(dataset, tmp_path):
    from pi0_edge.ptq.sources import ArchivedObservations, LeRobotObservations

    robot = load_robot("aloha_sim")
    beside = write_checkpoint(tmp_path / "checkpoint")
    collected = profile_of(LeRobotObservations(dataset, robot), robot)
    assert collected is not None
    collected.save(beside / NAME)
    source = ArchivedObservations(write_npz(tmp_path / "robot.npz"), robot)
    found = training_profile_of(beside, source, robot)
    assert found is not None and found.to_bytes() == collected.to_bytes()


def test_a_damaged_profile_in_a_calibration_is_refused(checkpoint, tmp_path):
    output = tmp_path / "c"
    source = write_npz(tmp_path / "robot.npz")
    run("calibrate", "--output", output, "--checkpoint", checkpoint, "--dataset", source, *FEW)
    calibration = Calibration.load(output)
    assert calibration.training_profile is None  # as in files made before there were any
    layers = {
        name: {"tokens": layer.tokens, "amax": layer.amax, "percentile": layer.percentile}
        for name, layer in calibration.layers.items()
    }
    tensors = {f"{name}.channel_amax": layer.channel_amax for name, layer in calibration.layers.items()}
    description = {"kind": "calibration", "version": 1, "source": calibration.source.to_dict(), "layers": layers}
    write_statistics(output, tensors, {**description, "training_profile": {"format": "something"}})
    with pytest.raises(QuantizationError, match="its training profile has the format 'something'"):
        Calibration.load(output)
