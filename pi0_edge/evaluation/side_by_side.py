"""Many scenes at once: their observations share passes of the network, as those of several robots do at one server.

Nothing else changes: scenes, noise and what is executed are those of `pi0_edge.evaluation.rollout.evaluate` and of
`multimodality.draw_paths`, which ask for one chunk at a time. A simulation runs as long as its own chunk lasts, so that
no scene waits for another one's clock. An episode in which the physics breaks down under setpoints that are noise has
failed, and a path under which it does has taken neither way.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pi0_edge.evaluation.multimodality import PATH_TICKS, DrawnPaths, Outcome, outcome_of, rms_jerk
from pi0_edge.evaluation.rollout import observe, prompt_of
from pi0_edge.evaluation.statistics import Rollout
from pi0_edge.policy import Asked, Policy
from pi0_edge.processing import Observation
from pi0_edge.sim.aloha import JOINT_NAMES, PhysicsError, SimulatedAloha
from pi0_edge.sim.aloha_two_ways import AlohaTwoWays
from pi0_edge.sim.tasks import TWO_WAYS, SimulatedTask
from pi0_edge.sim.two_ways_expert import TwoWaysExpert

AT_ONCE = 16
"""Scenes that are played together."""

Answers = Callable[[Sequence[Observation], Sequence[int]], list[NDArray[np.float64]]]
"""Observations and seeds of their noise -> a chunk of setpoints [n, joints] for each, physical units."""


@dataclass(frozen=True)
class PlayedEpisode:
    """One episode, and how the arm moved in it.

    Attributes:
        rollout: Whether and when it succeeded.
        failed: Whether it ended early, because it could not succeed any more.
        jerk: Root mean square third difference of the executed setpoints, arm joints, rad/s³; the start from home
            counts.
        path_error: Root mean square distance, per arm joint in rad, to the nearest point of the expert's nearest way.
        chunks: That were asked for.
    """

    rollout: Rollout
    failed: bool
    jerk: float
    path_error: float
    chunks: int


def answers_of(policy: Policy) -> Answers:
    """What a policy answers to several observations together.

    The function raises what the policy raises for the first observation that it refuses.
    """

    def answer(observations: Sequence[Observation], seeds: Sequence[int]) -> list[NDArray[np.float64]]:
        chunks: list[NDArray[np.float64]] = []
        for made in policy.infer_together([Asked(*each) for each in zip(observations, seeds, strict=True)]):
            if isinstance(made, Exception):
                raise made
            chunks.append(made.actions)
        return chunks

    return answer


def play_together(
    policy: Policy, task: SimulatedTask, seeds: Sequence[int], executed: int, at_once: int = AT_ONCE
) -> list[PlayedEpisode]:
    """Plays one episode per seed, as `rollout.evaluate` does.

    Args:
        policy: For the robot of the task.
        task: What is done.
        seeds: Scene and noise of each episode.
        executed: Actions of a chunk that are executed before the next one is asked for.
        at_once: Simulations that are open at a time.

    Raises:
        ObservationError: If the policy's robot is not the simulated one.
    """
    answer, prompt = answers_of(policy), prompt_of(policy, task)
    size = policy.engine.config.vision.image_size
    waiting, played = list(seeds)[::-1], {}
    environments = [task.environment() for _ in range(min(at_once, len(waiting)))]
    try:
        running = [_Episode(env, task, waiting.pop()) for env in environments]
        while running:
            observations = [observe(episode.env, prompt, size) for episode in running]
            chunks = answer(observations, [episode.seed * 10_000 + episode.tick for episode in running])
            for place, chunk in enumerate(chunks):
                episode = running[place]
                if episode.over_after(chunk[:executed]):
                    played[episode.seed] = episode.result()
                    running[place] = _Episode(episode.env, task, waiting.pop()) if waiting else episode
            running = [episode for episode in running if episode.seed not in played]
    finally:
        for env in environments:
            env.close()
    return [played[seed] for seed in seeds]


class _Episode:
    """One running episode."""

    def __init__(self, env: SimulatedAloha, task: SimulatedTask, seed: int) -> None:
        self.env, self.seed, self.tick = env, seed, 0
        env.reset(seed)
        self._ways = task.expert().ways(env)
        self._limit = task.max_ticks
        self._best = 0.0
        self._chunks = 0
        self._broken = False
        self._setpoints: list[NDArray[np.float64]] = []

    def over_after(self, setpoints: NDArray[np.float64]) -> bool:
        """Executes setpoints until the episode is over; whether it is."""
        self._chunks += 1
        for setpoint in setpoints[: self._limit - self.tick]:
            self._setpoints.append(setpoint)
            self.tick += 1
            self._broken = not _can_step(self.env, setpoint)
            if self._broken:
                return True
            self._best = max(self._best, self.env.reward)
            if self.env.success or self.env.failed:
                return True
        return self.tick >= self._limit

    def result(self) -> PlayedEpisode:
        """What came of it."""
        arm = self.env.arm_joints()
        path = np.array(self._setpoints)[:, arm]
        success = self.env.success and not self._broken
        failed = self.env.failed or self._broken
        return PlayedEpisode(
            rollout=Rollout(self.seed, success, self.tick if success else self._limit, self._best),
            failed=failed,
            jerk=rms_jerk(path[None], np.arange(len(JOINT_NAMES))[self.env.joints][arm].tolist()),
            path_error=path_error(path, [way[:, arm] for way in self._ways]),
            chunks=self._chunks,
        )


def path_error(path: NDArray[np.floating], ways: Sequence[NDArray[np.floating]]) -> float:
    """Root mean square distance of a path [ticks, joints] to the nearest points of the nearest of several ways."""
    squared = [((path[:, None] - way[None]) ** 2).mean(-1).min(1).mean() for way in ways]
    return float(np.sqrt(min(squared)))


def draw_paths_together(
    answer: Answers,
    seeds: Sequence[int],
    draws: int,
    executed: int,
    image_size: int,
    prompt: str = TWO_WAYS.prompt,
    at_once: int = AT_ONCE,
) -> list[DrawnPaths]:
    """Plays `draws` paths from the start of each scene of two ways, as `multimodality.draw_paths` does.

    Args:
        answer: The policy.
        seeds: Of the scenes.
        draws: Paths in each, each with noise of its own.
        executed: Actions of a chunk that are executed before the next one is asked for.
        image_size: Of the policy's camera, pixels.
        prompt: What the policy is told.
        at_once: Paths that are played together.
    """
    environments = [AlohaTwoWays() for _ in range(min(at_once, draws))]
    expert, scenes = TwoWaysExpert(), []
    try:
        for seed in seeds:
            paths: list[NDArray[np.float64]] = []
            outcomes: list[Outcome] = []
            for first in range(0, draws, len(environments)):
                chosen = range(first, min(first + len(environments), draws))
                begun = _BegunPaths(environments[: len(chosen)], seed)
                while (ticks := begun.ticks) < PATH_TICKS:
                    observations = begun.observations(prompt, image_size)
                    chunks = answer(observations, [(seed * draws + draw) * PATH_TICKS + ticks for draw in chosen])
                    begun.play([chunk[: min(executed, PATH_TICKS - ticks)] for chunk in chunks])
                paths += begun.paths()
                outcomes += begun.outcomes()
            environments[0].reset(seed)
            ways = np.stack([way[:PATH_TICKS] for way in expert.ways(environments[0])]).astype(np.float64)
            scenes.append(DrawnPaths(seed, np.stack(paths), tuple(outcomes), ways))
    finally:
        for env in environments:
            env.close()
    return scenes


class _BegunPaths:
    """Paths of one scene; those that were the same so far share one simulation and its images."""

    def __init__(self, environments: Sequence[AlohaTwoWays], seed: int) -> None:
        self._environments, self._seed = environments, seed
        self._so_far = [np.zeros((0, len(JOINT_NAMES))) for _ in environments]
        self._leads = [0] * len(environments)
        self._ended: set[int] = set()
        environments[0].reset(seed)

    @property
    def ticks(self) -> int:
        """Length of every path so far."""
        return len(self._so_far[0])

    def observations(self, prompt: str, size: int) -> list[Observation]:
        """What each path sees now."""
        seen = {lead: observe(self._environments[lead], prompt, size) for lead in set(self._leads)}
        return [seen[lead] for lead in self._leads]

    def play(self, chunks: Sequence[NDArray[np.float64]]) -> None:
        """Continues every path."""
        before, self._so_far = self._leads, [np.concatenate(both) for both in zip(self._so_far, chunks, strict=True)]
        first: dict[bytes, int] = {}
        self._leads = [first.setdefault(path.tobytes(), place) for place, path in enumerate(self._so_far)]
        for lead in set(self._leads):
            env = self._environments[lead]
            if before[lead] != lead:  # it followed another one, whose simulation goes on its own way
                env.reset(self._seed)
                self._ended.discard(lead)
                self._step(lead, self._so_far[lead])
            else:
                self._step(lead, chunks[lead])

    def paths(self) -> list[NDArray[np.float64]]:
        """All of them."""
        return self._so_far

    def outcomes(self) -> list[Outcome]:
        """How each of them ended."""
        return [
            "neither" if lead in self._ended else outcome_of(self._environments[lead])  # it broke down behind the post
            for lead in self._leads
        ]

    def _step(self, lead: int, setpoints: NDArray[np.float64]) -> None:
        """Executes setpoints until the post is touched or the physics breaks down."""
        env = self._environments[lead]
        for setpoint in setpoints:
            if env.failed or lead in self._ended:
                return
            if not _can_step(env, setpoint):
                self._ended.add(lead)


def _can_step(env: SimulatedAloha, setpoint: NDArray[np.float64]) -> bool:
    """Executes a setpoint; False where the physics breaks down under it."""
    try:
        env.step(setpoint)
    except PhysicsError:
        return False
    return True
