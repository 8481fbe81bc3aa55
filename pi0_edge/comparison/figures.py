"""Rows of the table: what the files of all cells say together, pooled over the seeds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pi0_edge.evaluation.statistics import wilson_interval
from pi0_edge.sim.aloha import CONTROL_HZ


@dataclass(frozen=True)
class WaysRow:
    """How the paths of a head share out two ways; of all drawn scenes and seeds.

    Attributes:
        paths: That were drawn.
        collision: Share that touched the post.
        collision_interval: 95 % interval of it, Wilson.
        near: Share of the near way among those that passed; None where none did.
        distance: Sliced Wasserstein distance to both ways in equal shares, rad per setpoint, mean over seeds.
        floor: The same of as many paths of the expert.
        mode_error: Root mean square distance to the nearest way, rad per setpoint, mean over seeds.
        jerk: Root mean square, rad/s³, mean over seeds.
        expert_jerk: The same of the expert.
    """

    paths: int
    collision: float
    collision_interval: tuple[float, float]
    near: float | None
    distance: float
    floor: float
    mode_error: float
    jerk: float
    expert_jerk: float


@dataclass(frozen=True)
class Row:
    """One head with one chunk length and one way of decoding, in one task.

    Attributes:
        task: Name of the task.
        variant: Name of head and chunk.
        decoding: Name of the way of decoding.
        episodes: Of all seeds together.
        successes: Of them.
        interval: 95 % interval of the success rate, Wilson, episodes of all seeds pooled.
        by_seed: Success rate of each seed of training.
        seconds: Mean time to success, s; None where nothing succeeded.
        failed: Share of the episodes that ended in a failure that is final.
        jerk: Mean over episodes of the root mean square jerk of an episode, rad/s³.
        path_error: Mean over episodes of the distance to the expert's path, rad.
        first: Distance of the first action to the expert's, rad, mean over seeds.
        executed: The same of the executed actions.
        ways: On two ways.
    """

    task: str
    variant: str
    decoding: str
    episodes: int
    successes: int
    interval: tuple[float, float]
    by_seed: tuple[float, ...]
    seconds: float | None
    failed: float
    jerk: float
    path_error: float
    first: float
    executed: float
    ways: WaysRow | None

    @property
    def success(self) -> float:
        """Rate over all seeds."""
        return self.successes / self.episodes

    @property
    def name(self) -> str:
        """Head, chunk and decoding."""
        return f"{self.variant}, {self.decoding}"


def row_of(played: Sequence[dict[str, Any]]) -> Row:
    """Pools the results of one way of decoding over the seeds of training.

    Args:
        played: What `playing.play_cell` wrote, one for each seed.
    """
    episodes = [episode for one in played for episode in one["episodes"]]
    successes = [episode for episode in episodes if episode["success"]]
    return Row(
        task=played[0]["task"],
        variant=played[0]["variant"],
        decoding=played[0]["decoding"],
        episodes=len(episodes),
        successes=len(successes),
        interval=wilson_interval(len(successes), len(episodes)),
        by_seed=tuple(_mean([episode["success"] for episode in one["episodes"]]) for one in played),
        seconds=_mean([episode["ticks"] for episode in successes]) / CONTROL_HZ if successes else None,
        failed=_mean([episode["failed"] for episode in episodes]),
        jerk=_mean([episode["jerk"] for episode in episodes]),
        path_error=_mean([episode["path_error"] for episode in episodes]),
        first=_mean([one["precision"]["first"] for one in played]),
        executed=_mean([one["precision"]["executed"] for one in played]),
        ways=_ways([one["ways"] for one in played if "ways" in one]),
    )


def _ways(figures: Sequence[dict[str, Any]]) -> WaysRow | None:
    if not figures:
        return None
    paths, collisions = (sum(one[name] for one in figures) for name in ("paths", "collisions"))
    near, far = (sum(one[name] for one in figures) for name in ("near", "far"))
    return WaysRow(
        paths=paths,
        collision=collisions / paths,
        collision_interval=wilson_interval(collisions, paths),
        near=near / (near + far) if near + far else None,
        distance=_mean([one["distance"] for one in figures]),
        floor=_mean([one["floor"] for one in figures]),
        mode_error=_mean([one["mode_error"] for one in figures]),
        jerk=_mean([one["jerk"] for one in figures]),
        expert_jerk=_mean([one["expert_jerk"] for one in figures]),
    )


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values))
