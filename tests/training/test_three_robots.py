"""One network for two arms, one arm and two arms on a mobile base: 14, 7 and 18 dimensions in one training run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from toy_motions import CAMERA, MOBILE, TICKS, TOY, TOY_ROBOTS, ToyRobot, picture

from pi0_edge.errors import ConfigError, DatasetError
from pi0_edge.model import PRESETS, Pi0
from pi0_edge.policy import Policy
from pi0_edge.processing import Observation, load_robot
from pi0_edge.training.fine_tuning import FineTuning, fine_tune
from pi0_edge.training.run import train
from pi0_edge.training.samples import moments

pytestmark = pytest.mark.system

FAST: dict[str, Any] = {"steps": 3, "vision_steps": 1, "batch": 6, "preset": "toy", "camera": CAMERA, "save_every": 3}


@pytest.fixture(autouse=True)
def toy_preset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PRESETS, "toy", TOY)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Any]]:
    folder = tmp_path_factory.mktemp("robots")
    return {
        "datasets": [robot.record(folder / robot.name, episodes=3) for robot in TOY_ROBOTS],
        "robots": [robot.layout(folder) for robot in TOY_ROBOTS],
    }


@pytest.fixture(scope="module")
def policies(tmp_path_factory: pytest.TempPathFactory, files: dict[str, list[Any]]) -> dict[str, Path]:
    """The checkpoints of one run on all three robots."""
    output = tmp_path_factory.mktemp("run")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(PRESETS, "toy", TOY)
        train(files["datasets"], output, robot=files["robots"], **FAST)
    return {robot.name: output / f"checkpoint-{robot.name}" for robot in TOY_ROBOTS}


def seen_by(robot: ToyRobot, dot: np.ndarray, tick: int = 0, prompt: str | None = None) -> Observation:
    return Observation({CAMERA: picture(dot)}, robot.states(TICKS)[tick], prompt)


def test_three_robots_share_one_network_and_each_keeps_its_own_rest(policies: dict[str, Path]):
    weights = [load_file(folder / "model.safetensors") for folder in policies.values()]
    for name, tensor in weights[0].items():
        assert all(torch.equal(tensor, other[name]) for other in weights[1:]), name
    for robot in TOY_ROBOTS:
        policy = Policy.load(policies[robot.name], "reference")
        described = policy.processor.robot
        assert (described.name, described.action_dim, described.default_prompt) == (
            robot.name,
            robot.dims,
            robot.prompt,
        )
        rng = np.random.default_rng((0, robot.dims))
        wanted = moments([robot.motion(rng.uniform(-1, 1, 2)) for _ in range(3)])
        for name in ("mean", "std"):
            np.testing.assert_allclose(policy.processor.normalization.actions.stats[name], wanted[name], atol=1e-5)


def test_each_checkpoint_answers_in_its_own_dimensions_and_units(policies: dict[str, Path]):
    dot = np.zeros(2)
    for robot in TOY_ROBOTS:
        policy = Policy.load(policies[robot.name], "reference")
        actions = policy.infer(seen_by(robot, dot), noise_seed=1).actions
        assert actions.shape == (TOY.horizon, robot.dims) and np.isfinite(actions).all()
        stats = policy.processor.normalization.actions.stats
        # An untrained network answers with noise of a few deviations: far from it are other units.
        assert (np.abs(actions - stats["mean"]) < 8 * stats["std"]).all()
        told = policy.infer(seen_by(robot, dot, prompt=robot.prompt), noise_seed=1).actions
        np.testing.assert_array_equal(told, actions)
        other = policy.infer(seen_by(robot, dot, prompt="Stand still"), noise_seed=1).actions
        assert not np.array_equal(other, actions)


class Counted:
    """Stands before `Pi0.loss`: 0 to 2 over the dimensions of the batch's robot, NaN in its padding.

    Only the mean over all the robot's dimensions, and over no other, is 1.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.prompts: dict[int, set[tuple[int, ...]]] = {}
        real = Pi0.loss

        def poisoned(model: Pi0, inputs: Any, actions: torch.Tensor, *rest: Any) -> torch.Tensor:
            dims = int(torch.nonzero(actions.abs().sum((0, 1)))[-1]) + 1
            assert int(torch.nonzero(inputs.state.abs().sum(0))[-1]) + 1 == dims
            for tokens, mask in zip(inputs.tokens, inputs.token_mask, strict=True):
                self.prompts.setdefault(dims, set()).add(tuple(tokens[mask].tolist()))
            loss = real(model, inputs, actions, *rest) * 0
            each = torch.arange(loss.shape[-1])
            return torch.where(each < dims, loss + 2 * each / (dims - 1), torch.nan)

        monkeypatch.setattr(Pi0, "loss", poisoned)


def test_the_loss_counts_the_dimensions_of_each_robot_and_no_padding(
    tmp_path: Path, files: dict[str, list[Any]], monkeypatch: pytest.MonkeyPatch
):
    counted = Counted(monkeypatch)
    result = train(files["datasets"], tmp_path, robot=files["robots"], **FAST)
    assert result.loss == pytest.approx(1)
    assert sorted(counted.prompts) == [7, 14, 18]
    assert all(len(prompts) == 1 for prompts in counted.prompts.values())
    assert len(set.union(*counted.prompts.values())) == 3  # each robot is told its own task


def test_fine_tuning_counts_the_same_dimensions(
    tmp_path: Path, files: dict[str, list[Any]], policies: dict[str, Path], monkeypatch: pytest.MonkeyPatch
):
    counted = Counted(monkeypatch)
    how = FineTuning(tune="full", steps=2, batch=3, save_every=2, warmup_steps=1)
    result = fine_tune(files["datasets"], tmp_path, policies["two_arms"], how, robots=files["robots"])
    assert result.loss == pytest.approx(1) and sorted(counted.prompts) == [7, 14, 18]


def test_a_policy_of_one_robot_learns_others_whose_prompts_are_longer_for_it(
    tmp_path: Path, files: dict[str, list[Any]]
):
    """A small policy spells the prompt of its own robot in few tokens, and takes no more than its preset says."""
    PRESETS["toy"] = narrow = replace(TOY, max_prompt_tokens=6)
    first = train(files["datasets"][:1], tmp_path / "first", robot=files["robots"][:1], **FAST)
    how = FineTuning(tune="full", steps=1, batch=3, save_every=1, warmup_steps=1)
    fine_tune(files["datasets"], tmp_path / "all", first.checkpoint, how, robots=files["robots"])
    for robot in TOY_ROBOTS:
        policy = Policy.load(tmp_path / f"all/checkpoint-{robot.name}", "reference")
        assert policy.engine.config.max_prompt_tokens > narrow.max_prompt_tokens
        assert policy.processor.robot.default_prompt == robot.prompt
        assert policy.infer(seen_by(robot, np.zeros(2)), noise_seed=0).actions.shape == (TOY.horizon, robot.dims)


def test_a_layout_that_was_made_for_another_task_is_told_that_of_the_demonstrations(
    tmp_path: Path, files: dict[str, list[Any]], policies: dict[str, Path]
):
    """With statistics of the demonstrations, as above, with given ones, and as the robot that a checkpoint records."""
    assert load_robot(files["robots"][2]).default_prompt == "Transfer cube" != MOBILE.prompt
    how = FineTuning(tune="full", steps=1, batch=1, save_every=1, warmup_steps=1)
    given = policies[MOBILE.name] / "norm_stats.json"
    data, robots = files["datasets"][2:], files["robots"][2:]
    result = fine_tune(data, tmp_path, policies[MOBILE.name], how, robots=robots, norm_stats=given)
    assert Policy.load(result.checkpoint, "reference").processor.robot.default_prompt == MOBILE.prompt
    retold = replace(MOBILE, prompt="Park").record(tmp_path / "parking", episodes=1)
    result = fine_tune([retold], tmp_path / "recorded", policies[MOBILE.name], how)
    assert Policy.load(result.checkpoint, "reference").processor.robot.default_prompt == "Park"
    result = fine_tune([retold, *data], tmp_path / "both", policies[MOBILE.name], replace(how, batch=2))
    assert Policy.load(result.checkpoint, "reference").processor.robot.default_prompt == MOBILE.prompt


def test_a_base_that_does_not_fit_is_refused(tmp_path: Path, files: dict[str, list[Any]]):
    with pytest.raises(DatasetError, match=r"state of .* have shape \[14\], expected \[18\] \(toy, mobile_base\)"):
        train(files["datasets"][0], tmp_path, robot=MOBILE.layout(tmp_path), **FAST)
    with pytest.raises(ConfigError, match="parts that are a multiple of the 3 dataset"):
        train(files["datasets"], tmp_path / "odd", robot=files["robots"], **{**FAST, "batch": 4, "accumulate": 4})
