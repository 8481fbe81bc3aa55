"""The benchmark of two robots: its table, its budgets, and that finished episodes are not played again."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from pi0_edge.errors import MissingDependencyError
from pi0_edge.evaluation.statistics import Rollout
from pi0_edge.robots import load_robot

try:
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
