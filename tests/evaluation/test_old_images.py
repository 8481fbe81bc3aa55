"""Images older than the state: each chunk is planned from those of so many ticks before, and from its own state."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from pi0_edge.errors import ConfigError
from pi0_edge.evaluation.rollout import evaluate, policy_controller, roll_out
from pi0_edge.policy import Policy
from pi0_edge.processing import Observation
from pi0_edge.sim.aloha import SimulatedAloha

HORIZON = 50


class CountingArm:
    """A scene whose image and state are the tick."""

    success = failed = False
    reward = 0.0

    def __init__(self) -> None:
        self.tick = 0
        self.done: list[float] = []

    def reset(self, seed: int) -> None:
        self.tick = 0

    def render(self, camera: str, height: int, width: int) -> np.ndarray:
        return np.full((height, width, 3), self.tick, np.uint8)

    @property
    def state(self) -> np.ndarray:
        return np.full(14, self.tick, np.float32)

    def step(self, setpoint: np.ndarray) -> None:
        self.done.append(float(setpoint[0]))
        self.tick += 1


class Asked:
    """A policy whose actions are the tick of its state plus their number; keeps image and state of every chunk."""

    def __init__(self) -> None:
        self.engine = SimpleNamespace(config=SimpleNamespace(vision=SimpleNamespace(image_size=4)))
        self.seen: list[tuple[int, int]] = []

    def infer(self, observation: Observation, noise_seed: int) -> Any:
        tick = int(np.asarray(observation.state)[0])
        assert noise_seed == 7 * 10_000 + tick
        self.seen.append((int(np.asarray(observation.images["top"])[0, 0, 0]), tick))
        return SimpleNamespace(actions=np.tile(tick + np.arange(HORIZON)[:, None], (1, 14)).astype(np.float64))


@pytest.mark.parametrize("age", [0, 1, 10, 24, 25])
def test_every_chunk_but_the_first_sees_images_of_that_age(age: int) -> None:
    policy, env = Asked(), CountingArm()
    controller = policy_controller(cast(Policy, policy), "lift", 25, 7, age)
    roll_out(cast(SimulatedAloha, env), controller, 7, 100)
    assert policy.seen == [(max(0, tick - age), tick) for tick in (0, 25, 50, 75)]
    assert env.done == [float(tick) for tick in range(100)]  # what is executed, and when, does not change


@pytest.mark.parametrize("age_s", [0.52, -0.1])
def test_images_older_than_the_chunk_before_are_refused(age_s: float) -> None:
    with pytest.raises(ConfigError, match=r"images are .* ms old; expected 0 to 500"):
        evaluate(cast(Policy, Asked()), range(1), task="transfer-cube", prompt="lift", image_age_s=age_s)
