"""The observations of a policy in its simulated task, as a source of observations."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import count

from pi0_edge.evaluation.rollout import observe, prompt_of, task_of
from pi0_edge.policy import Policy
from pi0_edge.processing import Observation
from pi0_edge.progress import ProgressCallback, Stage
from pi0_edge.sim.aloha import SimulatedAloha
from pi0_edge.sim.tasks import SimulatedTask

EXECUTED = 25
"""Ticks between two observations."""

FIRST_SEED = 50_000
"""Scenes that neither evaluation (0 to 999) nor training (from 100,000 on) has."""


class SimulatedObservations:
    """Whole episodes in closed loop, kept in memory: 38 kB per observation of the shipped policy.

    Attributes:
        kind: "simulation".
        path: Empty.
        lengths: Observations per episode.
        cameras: The only camera of the simulation.
    """

    kind: str = "simulation"
    path: str = ""
    cameras: tuple[str, ...] = ("top",)

    def __init__(self, policy: Policy, least: int, on_progress: ProgressCallback | None = None) -> None:
        """Runs pairs of episodes to their end until either half of `split_frames` has enough observations.

        Args:
            policy: Acts; its noise is fixed by episode and tick.
            least: How many observations either half needs.
            on_progress: Is called after every pair; it counts the observations of either half.
        """
        self._episodes: list[list[Observation]] = []
        seeds, task = count(FIRST_SEED), task_of(policy)
        stage = Stage("simulating", least, on_progress)
        env = task.environment()
        try:
            while stage.done < least:
                pair = [list(_episode(env, policy, task, next(seeds))) for _ in range(2)]
                self._episodes += pair
                gained = min(map(len, pair))
                stage.set(min(stage.done + gained, least))
        finally:
            env.close()
        self.lengths = tuple(map(len, self._episodes))

    def read(self, episode: int, frames: Sequence[int]) -> Iterator[Observation]:
        """The observations of one episode at `frames`."""
        return (self._episodes[episode][frame] for frame in frames)


def _episode(env: SimulatedAloha, policy: Policy, task: SimulatedTask, seed: int) -> Iterator[Observation]:
    size, prompt = policy.engine.config.vision.image_size, prompt_of(policy, task)
    env.reset(seed)
    for tick in range(0, task.max_ticks, EXECUTED):
        observation = observe(env, prompt, size)
        yield observation
        for setpoint in policy.infer(observation, noise_seed=seed * 10_000 + tick).actions[:EXECUTED]:
            env.step(setpoint)
        if env.success or env.failed:
            return
