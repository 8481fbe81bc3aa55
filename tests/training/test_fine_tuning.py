"""Fine-tuning from files to files: one robot, several robots of different dimensions, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import dataset_builders
import numpy as np
import pytest
import torch
from cli_runner import run
from dataset_builders import write_dataset
from policy_builders import CONFIG, write_checkpoint
from safetensors.torch import load_file

from pi0_edge.checkpoints import open_checkpoint
from pi0_edge.errors import ConfigError, DatasetError
from pi0_edge.processing import Observation, load_processor
from pi0_edge.training.fine_tuning import FineTuning, fine_tune
from pi0_edge.training.run import train

pytestmark = pytest.mark.system

TIMES = np.arange(12) / 30
FAST: dict[str, Any] = {"steps": 2, "batch": 2, "warmup_steps": 1, "save_every": 2, "learning_rate": 1e-3}


def layout(folder: Path, name: str, dims: int) -> str:
    """A robot with so many joints and one camera."""
    robot = {"name": name, "state_dim": dims, "action_dim": dims, "cameras": {"cam": "base_0_rgb"}, "control_hz": 30}
    path = folder / f"{name}.yaml"
    path.write_text(json.dumps(robot))
    return str(path)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A policy, and demonstrations of robots of 14, 7 and 18 dimensions: two arms, one arm, two arms on a base."""
    folder = tmp_path_factory.mktemp("fine_tuning")
    found: dict[str, Any] = {"policy": write_checkpoint(folder / "policy")}
    for name, dims in (("two_arms", 14), ("one_arm", 7), ("mobile", 18)):
        waves = np.sin(TIMES[:, None] * (1 + np.arange(dims))) * (1 + dims)
        found[name] = write_dataset(folder / name, TIMES, episodes=2, dims=dims, states=waves)
        found[f"{name}.yaml"] = layout(folder, name, dims)
    return found


def test_one_network_learns_three_robots_each_with_its_statistics(tmp_path: Path, files: dict[str, Any]):
    names = ("two_arms", "one_arm", "mobile")
    how = FineTuning(tune="expert", **{**FAST, "batch": 3}, held_out=1, validate_every=1)
    result = fine_tune(
        [files[name] for name in names],
        tmp_path,
        files["policy"],
        how,
        robots=[files[f"{name}.yaml"] for name in names],
    )
    weights = [load_file(tmp_path / f"checkpoint-{name}/model.safetensors") for name in names]
    before = load_file(files["policy"] / "model.safetensors")
    for name, tensor in weights[0].items():
        assert all(torch.equal(tensor, other[name]) for other in weights[1:])
        assert torch.equal(tensor, before[name]) == name.startswith(("vision", "projector", "token_emb", "prefix"))
    for name, dims in zip(names, (14, 7, 18), strict=True):
        opened = open_checkpoint(tmp_path / f"checkpoint-{name}")
        processor = load_processor(opened.folder, opened.infer_config())
        waves = (np.sin(TIMES[:, None] * (1 + np.arange(dims))) * (1 + dims)).astype(np.float32)
        assert (processor.robot.name, processor.robot.action_dim) == (name, dims)
        np.testing.assert_allclose(processor.normalization.state.stats["mean"], waves.mean(0), atol=1e-4)
        seen = Observation({"cam": np.zeros((48, 96, 3), np.uint8)}, waves[0], "Transfer cube")
        normalized = processor.to_normalized(waves[:10], seen)
        assert (normalized[:, dims:] == 0).all()
        np.testing.assert_allclose(processor.to_physical(normalized, seen), waves[:10], atol=1e-3)
    assert result.plot.read_bytes()[:4] == b"\x89PNG" and result.steps == 2
    metadata = json.loads(_progress(tmp_path))
    assert [one["step"] for one in metadata["validations"]] == [1, 2] and len(metadata["norms"]) == 2


def _progress(folder: Path) -> str:
    from safetensors import safe_open

    with safe_open(folder / "state.safetensors", framework="pt") as file:
        return file.metadata()["progress"]


@pytest.mark.parametrize("tune", ["full", "lora"])
def test_the_command_fine_tunes_and_goes_on(tmp_path: Path, files: dict[str, Any], tune: str):
    arguments = (
        *("train", "--dataset", files["two_arms"], "--robot", files["two_arms.yaml"], "--output", tmp_path / "run"),
        *("--start", files["policy"], "--tune", tune, "--steps", 2, "--batch", 2, "--accumulate", 2, "--save-every", 1),
        *("--weights", "bf16", "--times", "uniform", "--learning-rate", "1e-2", "--json"),
    )
    ran = run(*map(str, arguments))
    assert ran.code == 0, ran.err
    first = load_file(tmp_path / "run/checkpoint/model.safetensors")
    assert first.keys() == load_file(files["policy"] / "model.safetensors").keys()
    assert first["expert.layers.0.mlp.up.weight"].dtype is torch.bfloat16
    assert ran.result["parameters"]["learned"] > 0
    again = run(*map(str, arguments))
    assert again.code == 0, again.err
    for name, tensor in load_file(tmp_path / "run/checkpoint/model.safetensors").items():
        assert torch.equal(tensor, first[name]), name
    other = run(*(str(a).replace("uniform", "logit-normal") for a in arguments))
    assert other.code == 2 and "other settings" in other.err


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tune": "half"}, "tune is 'half'"),
        ({"lora": "openpi"}, "lora is 'openpi', expected one of None unless tune is lora"),
        ({"tune": "lora", "lora": "mine"}, "lora is 'mine', expected one of None, openpi, lerobot"),
        ({"times": "gamma"}, "times is 'gamma'"),
        ({"weights": "fp8"}, "weights is 'fp8'"),
        ({"steps": 0}, "steps is 0"),
        ({"learning_rate": float("nan")}, "learning_rate is nan"),
        ({"prefix_memory": -1.0}, "prefix_memory is -1"),
    ],
)
def test_settings_that_are_not_possible_are_refused(changes: dict[str, Any], message: str):
    with pytest.raises(ConfigError, match=message):
        FineTuning(**changes)


def test_datasets_that_do_not_fit_are_refused(tmp_path: Path, files: dict[str, Any]):
    how = FineTuning(**FAST)
    with pytest.raises(ConfigError, match=r"2 robot\(s\) are named for 1 dataset"):
        fine_tune([files["one_arm"]], tmp_path, files["policy"], how, robots=["aloha", "aloha_sim"])
    with pytest.raises(DatasetError, match="has 7 numbers, two_arms has 14"):
        fine_tune([files["one_arm"]], tmp_path, files["policy"], how, robots=[files["two_arms.yaml"]])
    with pytest.raises(DatasetError, match=r"has the cameras cam, expected at least one of aloha_sim"):
        fine_tune([files["two_arms"]], tmp_path, files["policy"], how)
    with pytest.raises(DatasetError, match="has 2 episodes, expected more than the 2 that are held out"):
        fine_tune([files["one_arm"]], tmp_path, files["policy"], FineTuning(held_out=2), robots=[files["one_arm.yaml"]])
    assert CONFIG.action_dim == 32


def with_tasks(root: Path, *tasks: str) -> Path:
    """A dataset of the one arm whose table of tasks holds these."""
    write_dataset(root, TIMES, episodes=2, dims=7)
    lines = [json.dumps({"task_index": index, "task": task}) for index, task in enumerate(tasks)]
    (root / "meta/tasks.jsonl").write_text("".join(f"{line}\n" for line in lines))
    return root


def test_a_dataset_without_a_table_of_tasks_asks_for_no_more_room(tmp_path: Path, files: dict[str, Any]):
    data = with_tasks(tmp_path / "data")
    result = fine_tune([data], tmp_path / "run", files["policy"], FineTuning(**FAST), robots=[files["one_arm.yaml"]])
    assert open_checkpoint(result.checkpoint).infer_config().max_prompt_tokens == CONFIG.max_prompt_tokens


def test_a_text_of_a_dataset_does_not_make_a_network_of_any_size(tmp_path: Path, files: dict[str, Any]):
    data = with_tasks(tmp_path / "data", "Wave", "Transfer the cube " * 200)
    message = r"'Transfer the cube .* tokens, expected at most 1024; shorten"
    with pytest.raises(DatasetError, match=message):
        fine_tune([data], tmp_path / "run", files["policy"], FineTuning(**FAST), robots=[files["one_arm.yaml"]])


@pytest.mark.slow
def test_a_small_network_learns_two_robots_from_scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(dataset_builders, "HEIGHT", 112)
    monkeypatch.setattr(dataset_builders, "WIDTH", 112)
    datasets = [write_dataset(tmp_path / str(dims), TIMES, dims=dims) for dims in (14, 7)]
    robots = [layout(tmp_path, f"arms{dims}", dims) for dims in (14, 7)]
    small: dict[str, Any] = {"steps": 2, "vision_steps": 2, "batch": 2, "camera": "cam", "times": "logit-normal"}
    result = train(datasets, tmp_path / "run", robot=robots, **small)
    assert result.checkpoint == tmp_path / "run/checkpoint-arms14"
    weights = [load_file(tmp_path / f"run/checkpoint-arms{dims}/model.safetensors") for dims in (14, 7)]
    assert all(torch.equal(tensor, weights[1][name]) for name, tensor in weights[0].items())
    for dims in (14, 7):
        opened = open_checkpoint(tmp_path / f"run/checkpoint-arms{dims}")
        assert load_processor(opened.folder, opened.infer_config()).normalization.actions.dims == dims
    with pytest.raises(ConfigError, match=r"1 robot\(s\) are given for 2 dataset\(s\)"):
        train(datasets, tmp_path / "other", robot=robots[0], **small)
