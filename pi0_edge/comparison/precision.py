"""How near a head comes to the expert's setpoints from the same observation, in scenes that no training saw.

The expert plays undisturbed; every so many ticks its observation is kept with the setpoints that follow, of each of its
ways at the start and of the way it has taken from then on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pi0_edge.evaluation.rollout import observe
from pi0_edge.evaluation.side_by_side import Answers
from pi0_edge.processing import Observation
from pi0_edge.sim.tasks import SimulatedTask, way_of

EVERY_TICKS = 10
DRAWS = 4
"""Chunks of each observation, each from noise of its own."""


@dataclass(frozen=True)
class Seen:
    """One observation of the expert, and what it does next.

    Attributes:
        observation: As a policy gets it.
        ways: float32 [ways, ticks, joints], setpoints from this tick on.
    """

    observation: Observation
    ways: NDArray[np.float32]


@dataclass(frozen=True)
class Precision:
    """Root mean square distances to the expert's nearest way, per arm joint in rad.

    Attributes:
        first: Of the first action, which every head gives.
        executed: Of the actions that are executed before the next chunk.
        observations: How many were asked.
    """

    first: float
    executed: float
    observations: int


def seen_by_expert(task: SimulatedTask, seeds: Sequence[int], image_size: int) -> list[Seen]:
    """Observations of the expert in some scenes; its way in each is that of the demonstrations of the seed."""
    env, seen = task.environment(), []
    try:
        for seed in seeds:
            env.reset(seed)
            ways = np.stack(task.expert().ways(env))
            taken = way_of(seed, len(ways))
            for tick, setpoint in enumerate(ways[taken]):
                if tick % EVERY_TICKS == 0:
                    following = ways if tick == 0 else ways[taken : taken + 1]
                    seen.append(Seen(observe(env, task.prompt, image_size), following[:, tick:]))
                env.step(setpoint)
    finally:
        env.close()
    return seen


def precision_of(answer: Answers, seen: Sequence[Seen], executed: int, arm: Sequence[int]) -> Precision:
    """Asks for chunks from the expert's observations.

    Args:
        answer: The policy.
        seen: Of the expert.
        executed: Actions of a chunk that are executed.
        arm: The joints in radians.
    """
    asked = [one for one in seen for _ in range(DRAWS)]
    chunks = answer([one.observation for one in asked], range(len(asked)))
    first, whole = [], []
    for one, chunk in zip(asked, chunks, strict=True):
        compared = min(executed, one.ways.shape[1], len(chunk))
        squared = (chunk[None, :compared, arm] - one.ways[:, :compared, arm]) ** 2
        nearest = int(squared.mean((1, 2)).argmin())
        first.append(squared[nearest, 0].mean())
        whole.append(squared[nearest].mean())
    return Precision(float(np.sqrt(np.mean(first))), float(np.sqrt(np.mean(whole))), len(seen))
