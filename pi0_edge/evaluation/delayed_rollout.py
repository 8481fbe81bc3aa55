"""Runs a policy whose chunks arrive late, tick by tick and without a wall clock, and measures how the arm moves.

The delay is injected: a chunk that answers the observation of tick T arrives at tick T + delay and can change what is
executed from the tick after that on. A scheduler, which the caller passes, decides what the arm does meanwhile; that of
the robot is `firmware_bridge.replanning.ChunkScheduler`, which this module does not import.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from pi0_edge.evaluation.rollout import observe
from pi0_edge.evaluation.statistics import split_jerk
from pi0_edge.processing import Observation
from pi0_edge.sim.aloha import CONTROL_HZ, HOME, SimulatedAloha
from pi0_edge.sim.tasks import SimulatedTask


class Scheduler(Protocol):
    """As `firmware_bridge.replanning.ChunkScheduler`."""

    def due(self, tick: int) -> bool:
        """Whether the observation of `tick` is to be answered."""
        ...

    def observe(self, tick: int) -> Any:
        """What the chunk that answers the observation of `tick` is to continue."""
        ...

    def entered(self, actions: NDArray[np.floating], first_tick: int) -> None:
        """Takes the chunk that was asked for last, from `first_tick` on."""
        ...

    def setpoint(self, tick: int) -> NDArray[np.float64] | None:
        """What is executed at `tick`; None where nothing is planned."""
        ...


Answer = Callable[[Observation, int, Any], NDArray[np.float64]]
"""The policy: observation, tick and what `Scheduler.observe` gave -> the chunk [horizon, joints], physical units."""


@dataclass(frozen=True)
class DelayedRollout:
    """One episode.

    Attributes:
        seed: Of the scene.
        arm: Which of the joints are in radians.
        ways: The expert's setpoints for this scene, float32 [ticks, joints], for each equally good way.
        success: Whether the task was done.
        executed: float64 [ticks, joints], the setpoints.
        entries: Rows of `executed` at which a chunk was entered; the first one ends the wait at home.
        starved: Ticks after the first chunk for which there was no setpoint; the last one was held.
        delays: Delay of every chunk, ticks.
    """

    seed: int
    arm: list[int]
    ways: tuple[NDArray[np.float32], ...]
    success: bool
    executed: NDArray[np.float64]
    entries: list[int]
    starved: int
    delays: list[int]

    def jerk(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Of the arm joints, across the borders of chunks and inside them, rad/s³: see `split_jerk`."""
        return split_jerk(self.executed[:, self.arm], self.entries, CONTROL_HZ)

    def path_error(self) -> float:
        """Root mean square distance, per arm joint in rad, to the nearest point of the expert's nearest way."""
        executed = self.executed[:, None, self.arm]
        squared = [((executed - way[None, :, self.arm]) ** 2).mean(-1).min(1).mean() for way in self.ways]
        return float(np.sqrt(min(squared)))


def injected_delay(milliseconds: float, extra_share: float, rng: np.random.Generator) -> int:
    """Ticks until a chunk is there: the given time, and a uniform random share of it on top."""
    return round(milliseconds * (1 + extra_share * rng.random()) * CONTROL_HZ / 1e3)


def roll_out_delayed(
    env: SimulatedAloha,
    task: SimulatedTask,
    answer: Answer,
    scheduler: Scheduler,
    delay: Callable[[], int],
    prompt: str,
    image_size: int,
    seed: int,
) -> DelayedRollout:
    """Runs one episode until success, a failure that is final, or the last tick of the task.

    Args:
        env: The simulation of the task.
        task: What is done.
        answer: The policy.
        scheduler: The robot's side, new for every episode.
        delay: Draws the delay of the next chunk, ticks.
        prompt: What the policy shall do.
        image_size: Of the policy's camera, pixels.
        seed: Of the scene.
    """
    env.reset(seed)
    ways = task.expert().ways(env)
    arm = env.arm_joints()
    executed: list[NDArray[np.float64]] = [HOME[env.joints].astype(np.float64)]
    entries, delays, starved = [], [], 0
    arriving: tuple[int, NDArray[np.float64]] | None = None
    for tick in range(task.max_ticks):
        if scheduler.due(tick):
            delays.append(delay())
            arriving = tick + delays[-1], answer(observe(env, prompt, image_size), tick, scheduler.observe(tick))
        if arriving is not None and arriving[0] <= tick:
            scheduler.entered(arriving[1], tick + 1)
            entries.append(tick + 1)
            arriving = None
        setpoint = scheduler.setpoint(tick + 1)
        starved += setpoint is None and bool(entries)
        executed.append(executed[-1] if setpoint is None else setpoint)
        env.step(executed[-1])
        if env.success or env.failed:
            break
    return DelayedRollout(seed, arm, ways, env.success, np.array(executed), entries, starved, delays)
