"""Where the time of a chunk goes: its stages one after another, with the estimate beside the measurement."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from pi0_edge.bench.figures import RunFigures
from pi0_edge.latency.percentiles import Latency
from pi0_edge.latency.stages import NETWORK, WHOLE_NETWORK, Stage

REST = "not in a stage"
BOTH = "stages with an estimate"


@dataclass(frozen=True)
class Part:
    """One row of the breakdown.

    Attributes:
        name: Of the stage.
        begin_ms: Where it begins, if every stage takes its median.
        median_ms: What it took; None where it was not measured by itself.
        latency: All its figures; None where there are none.
        estimate_ms: What `pi0-edge estimate` expects; None where it says nothing.
        is_sum: Whether the row adds others up.
    """

    name: str
    begin_ms: float
    median_ms: float | None
    latency: Latency | None
    estimate_ms: float | None
    is_sum: bool = False

    @property
    def ratio(self) -> float | None:
        """Measurement over estimate; None where one is missing."""
        if self.median_ms is None or not self.estimate_ms or self.estimate_ms <= 0:
            return None
        return self.median_ms / self.estimate_ms


def breakdown(figures: RunFigures, estimate_ms: Mapping[str, float]) -> tuple[Part, ...]:
    """The stages in the order of the way, what lies between them, and a sum to compare with the estimate.

    Args:
        figures: Of a run.
        estimate_ms: Stage -> estimate; an engine that runs the network as one graph is compared with the sum of its
            stages.

    Returns:
        Empty where neither a stage was measured nor one estimated.
    """
    stages = figures.stages
    parts: list[Part] = []
    begin = 0.0
    one_graph = not any(stage in stages for stage in NETWORK)
    network = sum(estimate_ms[stage] for stage in NETWORK if stage in estimate_ms) if one_graph else 0.0
    for stage in _on_the_way(one_graph):
        measured, expected = stages.get(stage), estimate_ms.get(stage)
        if stage == WHOLE_NETWORK:
            expected = network or None
        if measured is None and (expected is None or stage == WHOLE_NETWORK):
            continue
        median = measured.p50_ms if measured else None
        parts.append(Part(stage, begin, median, measured, expected))
        begin += median or 0.0
    rest = figures.latency.p50_ms - begin
    if parts:
        parts.append(Part(REST, begin, rest, None, None))
    compared = [part for part in parts if part.ratio is not None]
    if len(compared) > 1:
        measured_ms = sum(part.median_ms or 0.0 for part in compared)
        estimated_ms = sum(part.estimate_ms or 0.0 for part in compared)
        parts.append(Part(BOTH, 0.0, measured_ms, None, estimated_ms, is_sum=True))
    return tuple(parts)


def _on_the_way(one_graph: bool) -> Iterator[str]:
    """Names of stages in order; where the network was timed as a whole, it stands in place of its stages."""
    for stage in Stage:
        if stage not in NETWORK or not one_graph:
            yield stage.value
        elif stage is NETWORK[0]:
            yield WHOLE_NETWORK
