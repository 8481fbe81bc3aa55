"""Statistics of a robot that a checkpoint was not trained on, from its demonstrations.

They are of what the network sees: states in π0's joint convention, and actions of whole chunks, relative to the state
where the robot's actions are relative, as openpi's `compute_norm_stats` takes them.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from pi0_edge.datasets.lerobot_reader import LeRobotDataset
from pi0_edge.processing.actions import delta_mask, to_delta
from pi0_edge.processing.joint_conventions import CONVENTIONS
from pi0_edge.processing.norm_stats import FieldStats
from pi0_edge.robots import Robot
from pi0_edge.training.processed_samples import episode_of
from pi0_edge.training.samples import moments


def robot_statistics(root: Path, robot: Robot, episodes: list[int], horizon: int, stride: int) -> dict[str, FieldStats]:
    """Statistics of "state" and "actions" per dimension.

    Args:
        root: LeRobotDataset folder.
        robot: Whose joint convention and relative actions count.
        episodes: Their numbers.
        horizon: Actions of a chunk.
        stride: Ticks per chunk that is counted.

    Raises:
        DatasetError: If an episode cannot be read, or has other dimensions than the robot.
    """
    dataset, convention, delta = (
        LeRobotDataset(root),
        CONVENTIONS[robot.joint_convention],
        delta_mask(robot.delta_actions),
    )
    states, actions = [], []
    for index in episodes:
        episode = episode_of(dataset, index, robot)
        of_pi = convention.state_to_pi(episode.state.astype(np.float64))
        commands = convention.actions_to_pi(episode.action.astype(np.float64))
        states.append(of_pi)
        for tick in range(0, len(of_pi), stride):
            chunk = commands[np.minimum(np.arange(tick, tick + horizon), len(commands) - 1)]
            actions.append(to_delta(chunk, of_pi[tick], delta))
    return {"state": moments(states), "actions": moments(actions)}
