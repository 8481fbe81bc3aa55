"""What a policy meets in the simulated cube transfer, as a source of observations."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import count

from pi0_edge.evaluation.rollout import MAX_TICKS, observe
from pi0_edge.policy import Policy
from pi0_edge.processing import Observation
from pi0_edge.sim.aloha_transfer_cube import AlohaTransferCube

EXECUTED = 25
"""Ticks between two observations."""

FIRST_SEED = 50_000
"""Cube poses that neither evaluation (0 to 999) nor training (from 100,000 on) has."""


class SimulatedObservations:
    """Whole episodes in closed loop, kept in memory: 38 kB per observation of the demo policy.

    Attributes:
        kind: "simulation".
        path: Empty.
        lengths: Observations of each episode.
        cameras: The one camera of the simulation.
    """

    kind: str = "simulation"
    path: str = ""
    cameras: tuple[str, ...] = ("top",)

    def __init__(
        self, policy: Policy, prompt: str, least: int, on_observation: Callable[[int], object] = lambda done: None
    ) -> None:
        """Plays pairs of episodes to their end until either half of `split_frames` has enough observations.

        Args:
            policy: Acts; its noise is fixed by episode and tick.
            prompt: What it is told.
            least: How many observations either half needs.
            on_observation: Told how many either half has so far.
        """
        self._episodes: list[list[Observation]] = []
        seeds = count(FIRST_SEED)
        done = 0
        env = AlohaTransferCube()
        try:
            while done < least:
                pair = [list(_episode(env, policy, prompt, next(seeds))) for _ in range(2)]
                self._episodes += pair
                done += min(map(len, pair))
                on_observation(min(done, least))
        finally:
            env.close()
        self.lengths = tuple(map(len, self._episodes))

    def read(self, episode: int, frames: Sequence[int]) -> Iterator[Observation]:
        """The observations of one episode at `frames`."""
        return (self._episodes[episode][frame] for frame in frames)


def _episode(env: AlohaTransferCube, policy: Policy, prompt: str, seed: int) -> Iterator[Observation]:
    size = policy.engine.config.vision.image_size
    env.reset(seed)
    for tick in range(0, MAX_TICKS, EXECUTED):
        observation = observe(env, prompt, size)
        yield observation
        for setpoint in policy.infer(observation, noise_seed=seed * 10_000 + tick).actions[:EXECUTED]:
            env.step(setpoint)
        if env.success:
            return
