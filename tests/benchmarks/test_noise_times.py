"""The comparison of noise times: its table on episodes that are known, what a run goes on with, and what it keeps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import get_args

import pytest
import torch
from policy_builders import CONFIG, write_checkpoint
from safetensors.torch import load_file
from toy_motions import TWO_ARMS

from pi0_edge.errors import ConfigError, MissingDependencyError
from pi0_edge.evaluation.statistics import Rollout
from pi0_edge.model.flow import TimeDistribution

try:
    from benchmarks.noise_times import EULER_STEPS, Cell, Networks, measure, started_network, table
except MissingDependencyError as error:
    pytest.skip(str(error), allow_module_level=True)

TIMES: tuple[TimeDistribution, ...] = get_args(TimeDistribution)
KEPT = ("vision", "projector", "token_embedding", "prefix")


def rollouts(scenes: Sequence[int], won: int) -> tuple[Rollout, ...]:
    """So many episodes, of which the first succeed after a second."""
    return tuple(Rollout(scene, place < won, 50 if place < won else 150, 2.0) for place, scene in enumerate(scenes))


def test_the_table_pools_the_seeds_and_compares_in_pairs():
    cells = [
        Cell("uniform", seed, 1, rollouts(range(10 * seed, 10 * seed + 10), won)) for seed, won in ((0, 2), (1, 4))
    ]
    cells += [Cell("beta", seed, 1, rollouts(range(10 * seed, 10 * seed + 10), 10)) for seed in (1, 0)]
    uniform, beta = table(cells).splitlines()[2:]
    # Wilson's interval of 6 of 20 is 14.5 to 51.9 %, that of 20 of 20 83.9 to 100 %.
    assert beta.startswith("| beta | 1 | 20 of 20 | 84 to 100 % | 100, 100 % | 1.00 s | –")
    assert uniform.startswith("| uniform | 1 | 6 of 20 | 15 to 52 % | 20, 40 % | 1.00 s | -70.0 (")


def test_cells_that_never_succeed_have_no_time_and_need_no_reference():
    (row,) = table([Cell("logit-normal", 0, 10, rollouts(range(4), 0))]).splitlines()[2:]
    assert "| 0 of 4 |" in row and row.count("–") == 2


def test_an_interrupted_comparison_trains_and_plays_each_cell_once(tmp_path: Path):
    trained: list[tuple[str, int]] = []
    played: list[tuple[str, int, int]] = []

    def train(times: TimeDistribution, seed: int) -> Path:
        trained.append((times, seed))
        return Path(f"{times}-{seed}")

    def play(checkpoint: Path, steps: int, scenes: Sequence[int]) -> tuple[Rollout, ...]:
        if len(played) == 6:
            raise KeyboardInterrupt
        played.append((str(checkpoint), steps, scenes[0]))
        return rollouts(scenes, 1)

    output = tmp_path / "cells.jsonl"
    with pytest.raises(KeyboardInterrupt):
        measure(train, play, TIMES, 2, 3, output)
    before = list(played)
    played.clear()
    cells: list[Cell] = []
    while not cells:  # six cells at a time
        try:
            cells = measure(train, play, TIMES, 2, 3, output)
        except KeyboardInterrupt:
            before += played
            played.clear()
    before += played
    assert len(before) == len(set(before)) == len(TIMES) * 2 * len(EULER_STEPS)
    assert {first for checkpoint, _, first in before if checkpoint.endswith("-1")} == {3}  # scenes of their own
    assert [cell.key for cell in cells] == [(t, seed, n) for t in TIMES for seed in (0, 1) for n in EULER_STEPS]
    with pytest.raises(ConfigError, match="holds 3 episodes of a cell, expected 4"):
        measure(train, play, TIMES, 2, 4, output)


def test_a_network_keeps_the_prefix_and_starts_with_an_expert_of_its_seed(tmp_path: Path):
    start = write_checkpoint(tmp_path / "start", seed=5)
    trained = load_file(start / "model.safetensors")
    first, again, other = (started_network(start, CONFIG, seed) for seed in (1, 1, 2))
    for name, parameter in first.named_parameters():
        kept = name.startswith(KEPT)
        assert parameter.requires_grad != kept
        assert torch.equal(parameter, again.get_parameter(name))
        assert torch.equal(parameter, trained[name]) == kept or not parameter.std() > 0, name
        assert torch.equal(parameter, other.get_parameter(name)) == kept or not parameter.std() > 0, name


def test_runs_of_one_seed_differ_in_their_noise_times_alone(tmp_path: Path, toy_start: Path):
    demonstrations = TWO_ARMS.record(tmp_path / "demos", episodes=2)
    networks = Networks(toy_start, demonstrations, tmp_path, steps=2)
    weights = {times: load_file(networks.train(times, 0) / "model.safetensors") for times in TIMES}
    before = load_file(toy_start / "model.safetensors")
    for name, tensor in weights["beta"].items():
        kept = name.startswith(KEPT)
        assert torch.equal(tensor, before[name]) == kept, name
        assert torch.equal(tensor, weights["uniform"][name]) == kept, name
    saved = (tmp_path / "beta-0/state.safetensors").stat().st_mtime_ns
    assert networks.train("beta", 0) == tmp_path / "beta-0/checkpoint"
    assert (tmp_path / "beta-0/state.safetensors").stat().st_mtime_ns == saved


def test_networks_of_other_steps_start_or_data_are_not_taken(tmp_path: Path, toy_start: Path):
    demonstrations = TWO_ARMS.record(tmp_path / "demos", episodes=2)
    others = TWO_ARMS.record(tmp_path / "others", episodes=2, seed=1)
    output = tmp_path / "networks"
    Networks(toy_start, demonstrations, output, steps=2)
    Networks(toy_start, demonstrations, output, steps=2)
    other_start = write_checkpoint(tmp_path / "start", seed=5)
    for start, dataset, steps in (
        (toy_start, demonstrations, 3),
        (toy_start, others, 2),
        (other_start, demonstrations, 2),
    ):
        with pytest.raises(ConfigError, match=r"budget.json says that what is there was made with"):
            Networks(start, dataset, output, steps)


@pytest.fixture
def toy_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A policy of the toy robot, trained for one step."""
    from toy_motions import CAMERA, TOY

    from pi0_edge.model import PRESETS
    from pi0_edge.training.run import train

    monkeypatch.setitem(PRESETS, "toy", replace(TOY))
    demonstrations = TWO_ARMS.record(tmp_path / "start-demos", episodes=2)
    layout = TWO_ARMS.layout(tmp_path)
    small = {"steps": 1, "vision_steps": 1, "batch": 2, "preset": "toy", "camera": CAMERA}
    return train(demonstrations, tmp_path / "start-run", robot=layout, **small).checkpoint
