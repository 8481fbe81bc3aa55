"""Plays a policy in the simulated cube transfer and counts how often the cube changes hands.

A rollout asks for a chunk, executes its first `execute` actions and asks again, without firmware or delay: this
measures the policy alone. Every seed fixes both the cube pose and the noise of every chunk, so that two engines meet
the same situations and their successes can be compared in pairs.

MERGED: How roughly setpoints change where one chunk follows another, against how they change inside the chunks.

MERGED: The baseline: demonstrations replayed open-loop, whatever the cameras show.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from math import sqrt
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pi0_edge.datasets.lerobot_reader import LeRobotDataset
from pi0_edge.errors import DatasetError
from pi0_edge.policy import Policy
from pi0_edge.processing import Observation
from pi0_edge.sim.aloha_transfer_cube import JOINT_NAMES, AlohaTransferCube


def split_jerk(
    setpoints: NDArray[np.floating], entries: Iterable[int], control_hz: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Third differences of setpoints, per second³.

    Args:
        setpoints: [ticks, joints].
        entries: Rows at which a chunk was entered. Before the first of them there was none, so that its border belongs
            to neither of both results.
        control_hz: Ticks per second.

    Returns:
        Those across a border, three for each, and those inside a chunk, each float64 [rows, joints].
    """
    jerk = np.diff(setpoints.astype(np.float64), n=3, axis=0) * control_hz**3
    crossing, inside = np.zeros(len(jerk), bool), np.ones(len(jerk), bool)
    for number, entry in enumerate(entries):
        rows = slice(max(0, entry - 3), max(0, entry))
        crossing[rows], inside[rows] = number > 0, False
    return jerk[crossing], jerk[inside]


MAX_TICKS = 500
"""An episode that has not succeeded after 10 s has failed; the expert needs 6.8 s."""

Chooser = Callable[[AlohaTransferCube, int], NDArray[np.float64]]
"""Gives the setpoints [n, 14] to execute from this tick on."""


@dataclass(frozen=True)
class Rollout:
    """One episode.

    Attributes:
        seed: Of cube pose and noise.
        success: Whether the left gripper held the cube off the table.
        ticks: Ticks until success, or `MAX_TICKS`.
        best_reward: Highest stage of the task that was reached, 0 to 4.
    """

    seed: int
    success: bool
    ticks: int
    best_reward: float


def observe(env: AlohaTransferCube, prompt: str, picture_size: int) -> Observation:
    """What the policy sees of the simulation now."""
    return Observation({"top": env.render("top", picture_size, picture_size)}, env.state, prompt)


def policy_chooser(policy: Policy, prompt: str, execute: int, seed: int) -> Chooser:
    """Asks the policy for a chunk and executes its first `execute` actions."""
    size = policy.engine.config.vision.image_size

    def choose(env: AlohaTransferCube, tick: int) -> NDArray[np.float64]:
        chunk = policy.infer(observe(env, prompt, size), noise_seed=seed * 10_000 + tick)
        return chunk.actions[:execute]

    return choose


def replay_chooser(actions: NDArray[np.float32]) -> Chooser:
    """Executes a recorded episode whatever the cameras show: the baseline that closed-loop control must beat."""

    def choose(env: AlohaTransferCube, tick: int) -> NDArray[np.float64]:
        return actions[min(tick, len(actions) - 1) :].astype(np.float64)

    return choose


def roll_out(env: AlohaTransferCube, chooser: Chooser, seed: int) -> Rollout:
    """Plays one episode until success or `MAX_TICKS`."""
    env.reset(seed)
    tick, best = 0, 0.0
    while tick < MAX_TICKS:
        for setpoint in chooser(env, tick)[: MAX_TICKS - tick]:
            env.step(setpoint)
            tick += 1
            best = max(best, env.reward)
            if env.success:
                return Rollout(seed, True, tick, best)
    return Rollout(seed, False, MAX_TICKS, best)


def evaluate(policy: Policy, prompt: str, seeds: range, execute: int) -> Iterator[Rollout]:
    """One rollout per seed, as they finish."""
    env = AlohaTransferCube()
    try:
        for seed in seeds:
            yield roll_out(env, policy_chooser(policy, prompt, execute, seed), seed)
    finally:
        env.close()


def wilson_interval(successes: int, trials: int, z: float = 1.96) -> tuple[float, float]:
    """95 % confidence interval of a success rate (Wilson 1927), which stays inside [0, 1] near its ends."""
    if trials < 1:
        raise ValueError(f"an interval needs at least one trial, found {trials}")
    rate = successes / trials
    centre = (rate + z * z / (2 * trials)) / (1 + z * z / trials)
    half = z * sqrt(rate * (1 - rate) / trials + z * z / (4 * trials * trials)) / (1 + z * z / trials)
    return max(0.0, centre - half), min(1.0, centre + half)


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
