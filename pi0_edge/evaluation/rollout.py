"""Plays a policy in the simulated cube transfer and counts how often the cube changes hands.

A rollout asks for a chunk, executes its first `execute` actions and asks again, without firmware or delay: this
measures the policy alone. Every seed fixes both the cube pose and the noise of every chunk, so that two engines meet
the same situations and their successes can be compared in pairs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import sqrt

import numpy as np
from numpy.typing import NDArray

from pi0_edge.policy import Policy
from pi0_edge.processing import Observation
from pi0_edge.sim.aloha_transfer_cube import AlohaTransferCube

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
