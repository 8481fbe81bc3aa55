"""The comparison of step counts: its figures on episodes that are known, and that an interrupted run goes on."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from policy_builders import CONFIG, write_checkpoint

from pi0_edge.errors import ConfigError, MissingDependencyError, ObservationError
from pi0_edge.policy import Policy
from pi0_edge.shipped import shipped_checkpoint

try:
    from benchmarks.distilled_steps import CONTROL_HZ, FIRST_SEED, Cell, Episode, Players, Variant, measure, variants
    from pi0_edge.evaluation.delayed_rollout import DelayedRollout
    from pi0_edge.sim.tasks import TRANSFER_CUBE, TWO_WAYS
except MissingDependencyError as error:
    pytest.skip(str(error), allow_module_level=True)

TEN = Variant("10 steps, fp32", "teacher", "aa", "fp32")
ONE = Variant("1 step, fp32", "student", "bb", "fp32")


def episode(variant: str, seed: int, success: bool, ticks: int) -> Episode:
    return Episode(
        TRANSFER_CUBE.name,
        variant,
        "aa",
        0,
        seed,
        success,
        ticks,
        border_jerk_square=4.0 * ticks,
        border_jerk_count=ticks,
    )


def test_the_figures_of_known_episodes():
    """Three of four succeed, on average after 4 s, and the failed one took 10 s: 3 tasks in 22 s."""
    first = [episode("a", seed, True, 150) for seed in range(4)]
    second = [episode("b", seed, seed < 3, (150, 200, 250, 500)[seed]) for seed in range(4)]
    cell = Cell.of(second, first)
    assert (cell.successes, cell.episodes) == (3, 4)
    assert cell.seconds == pytest.approx(200 / CONTROL_HZ)
    assert cell.tasks_per_hour == pytest.approx(3 * 3600 / 22)
    assert cell.border_jerk == pytest.approx(2.0)
    assert (cell.pairing.only_first, cell.pairing.only_second) == (1, 0)
    assert cell.slower is not None
    mean, low, high = cell.slower
    assert mean == pytest.approx(1.0) and 0 <= low <= mean <= high <= 2
    assert "3 of 4" in cell.row() and "-25.0" in cell.row()


def test_a_policy_that_never_succeeds_has_no_time():
    first = [episode("a", seed, True, 150) for seed in range(4)]
    cell = Cell.of([episode("b", seed, False, 500) for seed in range(4)], first)
    assert np.isnan(cell.seconds) and cell.tasks_per_hour == 0 and cell.slower is None
    assert cell.row().count("–") == 2


def still(variant: Variant, delay_ms: int, seed: int) -> DelayedRollout:
    """An episode of 60 ticks in which nothing moves; one step fails on every second seed."""
    won = variant is TEN or seed % 2 == 0
    return DelayedRollout(seed, [*range(14)], (), won, np.zeros((61, 14)), [1, 26], 0, [delay_ms])


def test_a_failure_that_is_final_early_counts_as_a_whole_episode():
    """The two ways end at a touch; a policy shall not win tasks per hour by failing soon."""
    lost, won = still(ONE, 0, 701), still(ONE, 0, 700)
    assert [Episode.of(TWO_WAYS, ONE, 0, rollout).ticks for rollout in (lost, won)] == [TWO_WAYS.max_ticks, 60]
    assert Episode.of(TRANSFER_CUBE, ONE, 0, lost).ticks == TRANSFER_CUBE.max_ticks


def test_one_file_holds_the_episodes_of_several_tasks(tmp_path: Path):
    output, asked = tmp_path / "episodes.jsonl", []

    def play(variant: Variant, delay_ms: int, seed: int) -> DelayedRollout:
        asked.append(seed)
        return still(variant, delay_ms, seed)

    for task in (TRANSFER_CUBE, TWO_WAYS, TRANSFER_CUBE):
        measure(play, task, [TEN], [0], 2, output)
    tasks = [json.loads(line)["task"] for line in output.read_text().splitlines()]
    assert tasks == [TRANSFER_CUBE.name] * 2 + [TWO_WAYS.name] * 2
    assert len(asked) == 4


def test_a_student_of_the_same_name_plays_its_own_episodes(tmp_path: Path):
    """Students of one number of steps are called the same; their checkpoints are not."""
    output, asked = tmp_path / "episodes.jsonl", []

    def play(variant: Variant, delay_ms: int, seed: int) -> DelayedRollout:
        asked.append(variant.sha256)
        return still(TEN if variant.sha256 == "cc" else ONE, delay_ms, seed)

    won = [
        measure(play, TRANSFER_CUBE, [replace(ONE, sha256=sha256)], [0], 4, output)[0].successes
        for sha256 in ("bb", "cc", "bb")
    ]
    assert won == [2, 4, 2]
    assert asked == ["bb"] * 4 + ["cc"] * 4


@pytest.mark.parametrize("missing", [("checkpoint",), ("task", "checkpoint")])
def test_episodes_that_do_not_tell_their_checkpoint_are_refused_in_words(tmp_path: Path, missing: tuple[str, ...]):
    output = tmp_path / "episodes.jsonl"
    measure(still, TRANSFER_CUBE, [TEN], [0], 1, output)
    line = json.loads(output.read_text())
    output.write_text(json.dumps({name: value for name, value in line.items() if name not in missing}) + "\n")
    with pytest.raises(ConfigError, match=r"another version of this benchmark .*'checkpoint'.*; name another file"):
        measure(still, TRANSFER_CUBE, [TEN], [0], 1, output)


def test_an_episode_of_two_ways_has_its_own_scene_time_limit_and_prompt(tmp_path: Path):
    longer = replace(CONFIG, max_prompt_tokens=48)
    random = Variant("random", str(write_checkpoint(tmp_path / "random", config=longer)), "", "fp32")
    rollout = Players(TWO_WAYS)(random, 0, FIRST_SEED)
    assert not rollout.success
    assert len(rollout.executed) <= TWO_WAYS.max_ticks + 1
    assert len(rollout.ways) == 2
    with pytest.raises(ObservationError, match=TWO_WAYS.prompt):  # longer than what the shipped policy was made for
        Players(TWO_WAYS)(Variant("shipped", str(shipped_checkpoint()), "", "fp32"), 0, FIRST_SEED)


def test_an_interrupted_comparison_plays_each_episode_once(tmp_path: Path):
    asked: list[tuple[str, int, int]] = []

    def play(variant: Variant, delay_ms: int, seed: int) -> DelayedRollout:
        if len(asked) == 7:
            asked.append(("stop", 0, 0))
            raise KeyboardInterrupt
        asked.append((variant.name, delay_ms, seed))
        return still(variant, delay_ms, seed)

    with pytest.raises(KeyboardInterrupt):
        measure(play, TRANSFER_CUBE, [TEN, ONE], [0, 200], 4, tmp_path / "episodes.jsonl")
    cells = measure(play, TRANSFER_CUBE, [TEN, ONE], [0, 200], 4, tmp_path / "episodes.jsonl")
    keys = [key for key in asked if key[0] != "stop"]
    assert len(keys) == len(set(keys)) == 16
    assert len((tmp_path / "episodes.jsonl").read_text().splitlines()) == 16
    assert [(cell.variant, cell.delay_ms, cell.successes) for cell in cells] == [
        (TEN.name, 0, 4),
        (ONE.name, 0, 2),
        (TEN.name, 200, 4),
        (ONE.name, 200, 2),
    ]
    seeds = {json.loads(line)["seed"] for line in (tmp_path / "episodes.jsonl").read_text().splitlines()}
    assert seeds == set(range(FIRST_SEED, FIRST_SEED + 4))


def test_the_teacher_plays_first_and_in_as_few_steps_as_the_student_too(tmp_path: Path):
    teacher, student = shipped_checkpoint(), tmp_path / "student"
    shutil.copytree(teacher, student)
    config = json.loads((student / "config.json").read_text())
    config["processing"]["settings"] = {**config["processing"].get("settings", {}), "euler_steps": 1}
    (student / "config.json").write_text(json.dumps(config))
    found = variants(str(teacher), [str(student)], "int8-w8a8")
    assert [variant.name for variant in found] == [
        "10 steps, fp32",
        "10 steps, int8-w8a8",
        "1 step, fp32",
        "1 step, int8-w8a8",
        "1 step, undistilled",
    ]
    assert [len(found[place].load().engine.times) for place in (0, 2, 4)] == [10, 1, 1]
    sha256 = Policy.load(teacher, "reference").checkpoint_sha256
    assert {variant.sha256 for variant in found} == {sha256}  # of the weights, which are the teacher's here
    with pytest.raises(ConfigError, match="same number of steps"):
        variants(str(teacher), [str(student), str(student)], "int8-w8a8")
