"""The whole path as something that is timed: the policy warms up and is judged alone, then plays on the arm."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from pi0_edge.bench.path.measurement import PathMeasurement, PathRequest, measure_path
from pi0_edge.bench.result import PathFigures
from pi0_edge.bench.targets import PolicyTarget, ServedTarget
from pi0_edge.latency.percentiles import Latency
from pi0_edge.latency.stages import Boundary
from pi0_edge.processing import Observation


class PathTarget:
    """A policy on an arm, real or emulated."""

    boundary = Boundary.PATH

    def __init__(self, policy: PolicyTarget | ServedTarget, request: PathRequest) -> None:
        """Takes a policy that is ready.

        Args:
            policy: Warms up and answers the vectors.
            request: How it is played; its seconds and its replanning interval are those of the bench.
        """
        self.policy = policy.policy
        self.config = policy.config
        self.load_s = policy.load_s
        self._policy = policy
        self._request = request

    def ask(self, number: int) -> Mapping[str, float]:
        """A chunk of the policy alone, to warm it up."""
        return self._policy.ask(number)

    def chunk(self, observation: Observation, noise_seed: int) -> NDArray[np.float64]:
        """As `Target.chunk`."""
        return self._policy.chunk(observation, noise_seed)

    def play(self, seconds: float, replan_ticks: int) -> PathMeasurement:
        """Plays, and measures every chunk on its way; raises as `measure_path`."""
        return measure_path(replace(self._request, seconds=seconds, replan_ticks=replan_ticks))


def path_figures(measured: PathMeasurement) -> PathFigures:
    """What stands in a result besides the samples."""
    ages, late = Latency.of(measured.ages_ms.tolist()), Latency.of(measured.tick_late_ms.tolist())
    return PathFigures(
        uncertainty_ms=float(measured.uncertainty_ms.max()),
        age_p50_ms=ages.p50_ms,
        age_p99_ms=ages.p99_ms,
        age_max_ms=ages.max_ms,
        tick_late_p99_ms=late.p99_ms,
        tick_late_max_ms=late.max_ms,
        starved_ticks=measured.starved_ticks,
        missed_ticks=measured.missed_ticks,
        not_executed=measured.not_executed,
        replan_ticks=measured.replan_ticks,
        emulated=measured.emulated,
        held=measured.held,
        remarks=measured.remarks,
    )
