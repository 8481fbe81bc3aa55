"""One demonstration: the expert's setpoints played in the simulation while the camera looks on.

In most episodes the executed setpoint is the expert's plus a smooth random disturbance, while the stored action
stays the expert's own (Laskey et al. 2017, DART): the policy is trained on states off the ideal path together with the
setpoints that lead back to it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pi0_edge.sim.aloha import SimulatedAloha
from pi0_edge.sim.tasks import Expert, way_of

IMAGE_SIZE = 112
"""Height and width of the recorded images, pixels."""

CLEAN_SHARE = 0.25
"""Share of the episodes that are not disturbed."""

DISTURBANCE_STD = 0.015
"""Largest stationary standard deviation of the disturbance per arm joint, rad; drawn uniformly per episode."""

DISTURBANCE_TICKS = 15.0
"""Correlation time of the disturbance."""

GRIPPERS = (6, 13)


@dataclass(frozen=True)
class Demonstration:
    """What was seen and commanded at each of T ticks.

    Attributes:
        images: uint8 (T, height, width, 3), seen before the action of the same tick is executed.
        state: float32 (T, joints), as measured.
        action: float32 (T, joints), the expert's setpoints.
        success: Whether the task was done at the end.
    """

    images: NDArray[np.uint8]
    state: NDArray[np.float32]
    action: NDArray[np.float32]
    success: bool


def smooth_disturbance(ticks: int, std: float, rng: np.random.Generator) -> NDArray[np.float64]:
    """Twice low-passed white noise starting at zero, shape (ticks, 14), grippers undisturbed."""
    keep = np.exp(-1 / DISTURBANCE_TICKS)
    noise = rng.standard_normal((ticks, 14))
    once, twice = np.zeros(14), np.zeros(14)
    path = np.zeros((ticks, 14))
    for tick in range(ticks):
        once = keep * once + noise[tick]
        twice = keep * twice + once
        path[tick] = twice
    path *= std * np.sqrt((1 - keep**2) ** 3 / (1 + keep**2))
    path[:, GRIPPERS] = 0.0
    return path


def disturbance_of(seed: int, ticks: int) -> NDArray[np.float64]:
    """The disturbance of the episode with this seed, rad, shape (ticks, 14); zero in clean episodes."""
    rng = np.random.default_rng(seed)
    std = 0.0 if rng.random() < CLEAN_SHARE else rng.uniform(0.0, DISTURBANCE_STD)
    return smooth_disturbance(ticks, std, rng)


def demonstrate(env: SimulatedAloha, expert: Expert, seed: int) -> Demonstration:
    """Play one episode; the scene, the expert's way and the disturbance follow from the seed."""
    env.reset(seed)
    ways = expert.ways(env)
    actions = ways[way_of(seed, len(ways))]
    executed = actions + disturbance_of(seed, len(actions))[:, env.joints]
    images = np.empty((len(actions), IMAGE_SIZE, IMAGE_SIZE, 3), np.uint8)
    states = np.empty_like(actions)
    for tick, setpoint in enumerate(executed):
        states[tick] = env.state
        images[tick] = env.render("top", IMAGE_SIZE, IMAGE_SIZE)
        env.step(setpoint)
    return Demonstration(images, states, actions, env.success)
