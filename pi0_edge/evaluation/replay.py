"""The baseline: demonstrations replayed open-loop, whatever the cameras show."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from pi0_edge.datasets.lerobot_reader import LeRobotDataset
from pi0_edge.errors import DatasetError
from pi0_edge.evaluation.rollout import Rollout, replay_chooser, roll_out
from pi0_edge.sim.aloha_transfer_cube import JOINT_NAMES, AlohaTransferCube


def replay(root: Path, seeds: Iterable[int]) -> Iterator[Rollout]:
    """One rollout per seed, as they finish; seed s replays demonstration s modulo their number.

    Raises:
        DatasetError: If the dataset has no episode, or its actions are not those of the simulated ALOHA.
    """
    dataset = LeRobotDataset(root)
    if not dataset.episodes:
        raise DatasetError(f"{root} has no episode to replay")
    env = AlohaTransferCube()
    try:
        for seed in seeds:
            _, actions = dataset.episode(dataset.episodes[seed % len(dataset.episodes)].index)
            if actions.shape[1] != len(JOINT_NAMES):
                raise DatasetError(f"{root} has actions of {actions.shape[1]} joints, expected {len(JOINT_NAMES)}")
            yield roll_out(env, replay_chooser(actions), seed)
    finally:
        env.close()
