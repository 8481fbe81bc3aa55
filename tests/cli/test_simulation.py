"""`evaluate`, `quantize` and `train` where they need the simulation or a dataset."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from bundle_builders import FAILED, bundle_inputs
from cli_runner import run
from policy_builders import DIMS, write_checkpoint

from pi0_edge.bundle import write_bundle
from pi0_edge.checkpoints import open_checkpoint
from pi0_edge.errors import MissingDependencyError
from pi0_edge.policy import Policy

try:
    from pi0_edge.datasets.lerobot_writer import LeRobotWriter
    from pi0_edge.sim.aloha import JOINT_NAMES
except MissingDependencyError as error:
    pytest.skip(str(error), allow_module_level=True)

pytestmark = pytest.mark.system

torch.set_num_threads(1)
KEPT = ("norm_stats.json", "tokenizer.json")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return write_checkpoint(tmp_path_factory.mktemp("simulated") / "checkpoint")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """Two short episodes of noise in the shape of the real demonstrations."""
    root = tmp_path_factory.mktemp("datasets") / "noise"
    rng = np.random.default_rng(0)
    with LeRobotWriter(root, 50, JOINT_NAMES, {"top": (112, 112)}, robot_type="aloha") as writer:
        for _ in range(2):
            state = rng.normal(0, 0.1, (70, DIMS)).astype(np.float32)
            pictures = rng.integers(0, 256, (70, 112, 112, 3), np.uint8)
            writer.add_episode(state, state + np.float32(0.01), {"top": pictures}, "Transfer cube")
    return root


def test_evaluate_pairs_engines_on_the_same_seeds_and_gates(checkpoint):
    options = ["--scheme", "fp32", "--scheme", "int8-w8a8", "--seeds", "3:4", "--per-seed", "--require", "0.9"]
    ran = run("evaluate", "--checkpoint", checkpoint, *options, "--json")
    assert ran.code == 1  # random weights transfer nothing
    assert ran.result["passed"] is False
    for scheme in ("fp32", "int8-w8a8"):
        summary = ran.result["schemes"][scheme]
        assert (summary["episodes"], summary["successes"], summary["mean_ticks_to_success"]) == (1, 0, None)
        low, high = summary["interval_95"]
        assert low == 0 and 0.5 < high < 1
        assert [episode["seed"] for episode in ran.result["episodes"][scheme]] == [3]
    (pair,) = ran.result["pairs"]
    assert (pair["neither"], pair["p_value"]) == (1, 1.0)
    assert "Wilson" in ran.err


def test_evaluate_plays_a_bundle_whatever_its_gate_said(tmp_path):
    write_bundle(tmp_path / "orin-1", **{**bundle_inputs(tmp_path), "gate": FAILED})
    ran = run("evaluate", "--bundle", tmp_path / "orin-1", "--seeds", "3:4", "--require", "0.9", "--json")
    assert (ran.code, list(ran.result["schemes"])) == (1, ["orin-1"])


def test_evaluate_replays_demonstrations_as_a_baseline(checkpoint, dataset):
    options = ["--scheme", "fp32", "--seeds", "3:4", "--baseline", "replay", "--dataset", dataset]
    ran = run("evaluate", "--checkpoint", checkpoint, *options, "--json")
    assert ran.code == 0
    assert list(ran.result["schemes"]) == ["fp32", "replay"]


def test_evaluate_plays_the_task_that_it_is_told(checkpoint, dataset):
    options = ["--task", "two-ways", "--scheme", "fp32", "--seeds", "3:4", "--per-seed", "--prompt", "Reach"]
    ran = run("evaluate", "--checkpoint", checkpoint, *options, "--baseline", "replay", "--dataset", dataset, "--json")
    assert ran.code == 0 and ran.result["task"] == "two-ways"
    assert ran.result["schemes"]["fp32"]["successes"] == ran.result["schemes"]["replay"]["successes"] == 0
    assert {episode["ticks"] for episode in ran.result["episodes"]["fp32"]} == {150}
    assert "of 2)" in ran.err


@pytest.mark.parametrize(
    "command", [["evaluate", "--checkpoint", "nowhere", "--seeds", "3:4"], ["record", "--output", "nowhere"]]
)
def test_an_unknown_task_is_refused_with_the_known_ones(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ran = run(*command, "--task", "fold", "--json")
    assert ran.code == 2
    assert "'fold' is not known; the simulated ALOHA has transfer-cube, two-ways" in ran.result["error"]
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_quantize_judges_on_a_dataset_and_in_closed_loop(checkpoint, dataset):
    options = ["--dataset", dataset, "--held-out", "8", "--draws", "3", "--episodes", "1"]
    ran = run("quantize", "--checkpoint", checkpoint, "--scheme", "int8-w8a8", *options, "--json")
    assert "gate" in ran.result, ran.err
    success = ran.result["gate"]["success"]
    assert (success["neither"], success["difference"]) == (1, 0.0)  # random weights transfer nothing
    low, high = success["interval_95"]
    assert low < -0.1 < 0.1 < high
    assert ran.code == 1  # one episode proves nothing
    (reason,) = ran.result["gate"]["verdict"]["reasons"]
    assert "lower end of the difference in success" in reason
    assert [joint["name"] for joint in ran.result["gate"]["joints"]] == list(JOINT_NAMES)


def test_train_makes_a_checkpoint_that_opens_and_goes_on_after_an_interruption(dataset, tmp_path, monkeypatch):
    from pi0_edge.training.trainer import Trainer

    options = ["--dataset", dataset, "--output", tmp_path / "run", "--steps", "3", "--vision-steps", "1"]
    options += ["--batch", "2", "--save-every", "1"]
    real = Trainer._step

    def interrupted(self: Trainer, step: int) -> tuple[float, float]:
        if step == 2:
            raise KeyboardInterrupt
        return real(self, step)

    monkeypatch.setattr(Trainer, "_step", interrupted)
    assert run("train", *options).code == 130
    assert not (tmp_path / "run" / "checkpoint").exists()
    monkeypatch.setattr(Trainer, "_step", real)
    ran = run("train", *options, "--json")
    assert ran.code == 0
    assert ran.result["steps"] == 3 and ran.result["loss"] > 0
    assert (tmp_path / "run" / "loss.png").stat().st_size > 1000
    robot = Policy.load(Path(ran.result["checkpoint"]), "reference").processor.robot
    assert (robot.action_dim, robot.default_prompt) == (DIMS, "Transfer cube")
    further = ["--output", tmp_path / "further", "--start", ran.result["checkpoint"], "--max-delay", "3"]
    tuned = run("train", "--dataset", dataset, *further, "--steps", "1", "--batch", "2", "--json")
    assert tuned.code == 0
    before, after = (open_checkpoint(result["checkpoint"]) for result in (ran.result, tuned.result))
    assert after.infer_config() == replace(before.infer_config(), trained_delay=3)
    for name in KEPT:
        assert (before.folder / name).read_text() == (after.folder / name).read_text()
    other = run("train", *options, "--seed", "1", "--json")
    assert other.code == 2
    assert "other settings" in other.result["error"]


def test_an_interrupted_run_ends_where_an_unbroken_one_does(dataset, tmp_path):
    from safetensors.torch import load_file

    from pi0_edge.progress import Progress
    from pi0_edge.training.run import train

    def stop_after_one(progress: Progress) -> None:
        if progress.stage == "flow" and progress.done == 2:
            raise KeyboardInterrupt

    options: dict[str, Any] = {"steps": 3, "vision_steps": 1, "batch": 2, "save_every": 1}
    unbroken = train(dataset, tmp_path / "unbroken", **options)
    with pytest.raises(KeyboardInterrupt):
        train(dataset, tmp_path / "broken", **options, on_progress=stop_after_one)
    resumed = train(dataset, tmp_path / "broken", **options)
    ours, theirs = (load_file(run.checkpoint / "model.safetensors") for run in (resumed, unbroken))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--camera", "selfie"], "selfie"),
        (["--preset", "huge"], "'huge' is not known"),
        (["--preset", "pi05"], "π0.5"),
        (["--preset", "pi0"], r"expected \[224, 224, 3\]"),
        (["--robot", "droid"], "droid"),
        (["--learning-rate", "0"], "learning_rate"),
        (["--max-delay", "50"], "trained_delay must leave an action"),
    ],
)
def test_training_options_that_do_not_fit_are_refused(dataset, tmp_path, options, message):
    ran = run("train", "--dataset", dataset, "--output", tmp_path, "--steps", "1", *options, "--json")
    assert ran.code == 2
    assert message.replace("\\", "") in ran.result["error"]
