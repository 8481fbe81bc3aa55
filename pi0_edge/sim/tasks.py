"""The tasks of the simulated ALOHA: for each its scene, its prompt, its expert and how long an episode may take.

Seeds mean the same in all of them: those below 1000 are for evaluation, and the seed fixes where things are, the way
that the expert takes and how its demonstration is disturbed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from pi0_edge.errors import ConfigError
from pi0_edge.sim.aloha_transfer_cube import AlohaTransferCube
from pi0_edge.sim.aloha_two_ways import AlohaTwoWays, AlohaTwoWaysOneArm
from pi0_edge.sim.expert import TransferCubeExpert
from pi0_edge.sim.two_ways_expert import TwoWaysExpert


class Expert(Protocol):
    """Knows every good way to do a task."""

    def ways(self, env: Any) -> tuple[NDArray[np.float32], ...]:
        """Setpoints of an episode, float32 [ticks, joints], for each equally good way, from the scene as reset."""
        ...


@dataclass(frozen=True)
class SimulatedTask:
    """One task.

    Attributes:
        name: As `--task` takes it.
        prompt: What a policy is told.
        environment: Its scene, and the joints of its robot.
        expert: Makes its expert.
        stages: Highest reward; an episode that reaches it has succeeded.
        max_ticks: An episode that has not succeeded by then has failed.
    """

    name: str
    prompt: str
    environment: type[AlohaTransferCube] | type[AlohaTwoWays]
    expert: Callable[[], Expert]
    stages: int
    max_ticks: int


TRANSFER_CUBE = SimulatedTask(
    "transfer-cube", "Transfer cube", AlohaTransferCube, TransferCubeExpert, stages=4, max_ticks=500
)
"""The expert needs 6.8 s."""

TWO_WAYS = SimulatedTask(
    "two-ways", "Reach the target behind the post", AlohaTwoWays, TwoWaysExpert, stages=2, max_ticks=150
)
"""The expert needs 1.06 s."""

TWO_WAYS_ONE_ARM = SimulatedTask(
    "two-ways-one-arm", "Reach behind the post with one arm", AlohaTwoWaysOneArm, TwoWaysExpert, stages=2, max_ticks=150
)
"""The same for the robot layout `aloha_sim_right` of 7 dimensions."""

TASKS = {task.name: task for task in (TRANSFER_CUBE, TWO_WAYS, TWO_WAYS_ONE_ARM)}


def simulated_task(name: str) -> SimulatedTask:
    """The task of this name.

    Raises:
        ConfigError: If there is none.
    """
    if name not in TASKS:
        raise ConfigError(f"task {name!r} is not known; the simulated ALOHA has {', '.join(TASKS)}")
    return TASKS[name]


def way_of(seed: int, ways: int) -> int:
    """Which of so many ways the expert takes in the episode of this seed.

    Neighbouring seeds share out the ways in an order drawn at random, so that each is taken equally often. It is drawn
    apart from everything that the scene is made of, so that nothing that can be observed tells it.
    """
    block, place = divmod(seed, ways)
    return int(np.random.default_rng((block, 0x7761)).permutation(ways)[place])
