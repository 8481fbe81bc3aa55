"""The benchmark of two robots: its table, its budgets, and that finished episodes are not played again."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest
from policy_builders import write_checkpoint

from pi0_edge.errors import ConfigError, MissingDependencyError
from pi0_edge.evaluation.statistics import Evaluation, Rollout
from pi0_edge.robots import load_robot

try:
    import benchmarks.two_robots as two_robots
    from benchmarks.two_robots import RESULTS, ROBOTS, TOGETHER, Budget, Played, measure, networks, table
except MissingDependencyError as error:
    pytest.skip(str(error), allow_module_level=True)


def test_robots_have_the_dimensions_and_tasks_that_they_are_said_to_have():
    for robot in ROBOTS:
        assert load_robot(robot.name).action_dim == robot.dims == len(robot.task.environment.joint_names())
    assert len({robot.task.prompt for robot in ROBOTS}) == len(ROBOTS)


def test_a_network_alone_sees_as_many_observations_of_its_robot():
    together, *alone = networks(alone=True)
    assert [network.robots for network in alone] == [(robot,) for robot in ROBOTS]
    assert all(network.batch * len(together.robots) == together.batch for network in alone)
    assert networks(alone=False) == [together]
    started = networks(alone=True, start=Path("policy"))
    assert not {network.name for network in started} & {network.name for network in (together, *alone)}


def test_episodes_that_are_there_are_neither_trained_nor_played_again(tmp_path: Path):
    """Without demonstrations, runs and time, only what the file holds can make this table."""
    rollouts = tuple(Rollout(seed, seed < 3, 55 if seed < 3 else 150, 2.0) for seed in range(4))
    played = [Played(TOGETHER, robot.name, rollouts) for robot in ROBOTS]
    (tmp_path / RESULTS).write_text("".join(json.dumps(asdict(one)) + "\n" for one in played))
    found = measure(networks(alone=False), Budget(demonstrations=1, steps=1, episodes=4), tmp_path)
    assert found == played
    rows = table(found).splitlines()[2:]
    assert rows[0] == "| together | aloha_sim | 14 | 3 of 4 | 30 to 95 % | 1.10 s |"
    assert rows[1].startswith("| together | aloha_sim_right | 7 | 3 of 4 |")


def finished(folder: Path, *ends: str) -> None:
    rollouts = (Rollout(0, True, 55, 2.0),)
    played = [Played(f"{TOGETHER}{end}", robot.name, rollouts) for end in ends for robot in ROBOTS]
    (folder / RESULTS).write_text("".join(json.dumps(asdict(one)) + "\n" for one in played))


def test_what_is_there_is_not_taken_for_that_of_another_budget(tmp_path: Path):
    first, second = (write_checkpoint(tmp_path / name, seed=seed) for name, seed in (("first", 1), ("second", 2)))
    finished(tmp_path, "", "-from-start")
    measure(networks(alone=False), Budget(5, 10, 1), tmp_path)
    measure(networks(alone=False, start=first), Budget(5, 20, 1, first), tmp_path)  # kept apart, with steps of its own
    measure(networks(alone=False), Budget(5, 10, 1), tmp_path)
    for other in (Budget(6, 10, 1), Budget(5, 20, 1), Budget(5, 20, 1, second), Budget(5, 10, 1, first)):
        with pytest.raises(ConfigError, match=r"json says that what is there was made with .*: repeat those"):
            measure(networks(alone=False, start=other.start), other, tmp_path)


def test_each_robot_plays_its_own_task_whatever_its_policy_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    asked: list[str | None] = []

    def evaluate(_policy: object, seeds: range, *, task: str | None = None) -> Evaluation:
        asked.append(task)
        return Evaluation(tuple(Rollout(seed, True, 55, 2.0) for seed in seeds))

    monkeypatch.setattr(two_robots, "evaluate", evaluate)
    monkeypatch.setattr(two_robots, "trained", lambda *_: {robot.name: tmp_path for robot in ROBOTS})
    monkeypatch.setattr(two_robots.Policy, "load", lambda *_: None)
    measure(networks(alone=False), Budget(1, 1, 2), tmp_path)
    assert asked == ["two-ways", "two-ways-one-arm"]
