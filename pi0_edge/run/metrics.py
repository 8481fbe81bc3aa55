"""The figures of a run for Prometheus, read at each request for them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from pi0_edge.cameras import CameraHealth
from pi0_edge.errors import CameraError
from pi0_edge.run.figures import RunFigures
from pi0_edge.run.life_cycle import Phase

if TYPE_CHECKING:
    from pi0_edge.run.robot_run import RobotRun


class RunMetrics(Collector):
    """Phase, chunks, latencies, cameras and joints of one run."""

    def __init__(self, run: RobotRun, figures: RunFigures) -> None:
        """Takes what it reads."""
        self._run = run
        self._figures = figures

    def collect(self) -> Iterator[Metric]:
        """What is so at the time of the request."""
        yield _labelled("phase", "1 for the phase of the run.", "phase", self._phases())
        chunks = CounterMetricFamily("pi0_edge_run_chunks", "Chunks by what became of them.", labels=("outcome",))
        for outcome, count in sorted(self._figures.outcomes.items()):
            chunks.add_metric((outcome,), count)
        yield chunks
        median_ms, tail_ms = self._figures.to_chunk_ms()
        to_chunk = {"0.5": 1e-3 * median_ms, "0.99": 1e-3 * tail_ms}
        yield _labelled("to_chunk_seconds", "From an observation to its chunk.", "quantile", to_chunk)
        age = self._figures.age(self._run.tick_period_s)
        ages = {"0.5": age.p50_s, "0.99": age.p99_s}
        yield _labelled("age_of_information_seconds", "Of the ticks that were executed.", "quantile", ages)
        yield from self._of_cameras()
        yield from self._of_joints()

    def _phases(self) -> dict[str, float]:
        return {phase.name: float(phase is self._run.life.phase) for phase in Phase}

    def _of_cameras(self) -> Iterator[Metric]:
        health = camera_health(self._run)
        ages = {name: one.age_s for name, one in health.items() if one.age_s is not None}
        rates = {name: one.rate_hz for name, one in health.items()}
        faults = {name: float(one.fault is not None) for name, one in health.items()}
        yield _labelled("camera_age_seconds", "Age of the newest image.", "camera", ages)
        yield _labelled("camera_rate_hertz", "Images per second.", "camera", rates)
        yield _labelled("camera_fault", "Whether its images cannot be used.", "camera", faults)

    def _of_joints(self) -> Iterator[Metric]:
        tick = self._figures.tick
        if tick is None:
            return
        yield GaugeMetricFamily("pi0_edge_run_ring_level", "Setpoints due after the newest tick.", tick.ring_level)
        for name, values, what in (
            ("joint_commanded", tick.executed, "Commanded position, physical units."),
            ("joint_measured", tick.measured, "Measured position, physical units."),
            ("joint_current_amperes", tick.current, "Measured current."),
        ):
            joints = dict(zip(self._run.joints.names, map(float, values), strict=True))
            yield _labelled(name, what, "joint", joints)


def camera_health(run: RobotRun) -> dict[str, CameraHealth]:
    """How each camera of a run does; empty before they are open and after they were closed."""
    try:
        return {} if run.cameras is None else run.cameras.health()
    except CameraError:
        return {}


def _labelled(name: str, what: str, label: str, values: dict[str, float]) -> GaugeMetricFamily:
    family = GaugeMetricFamily(f"pi0_edge_run_{name}", what, labels=(label,))
    for key, value in values.items():
        family.add_metric((key,), value)
    return family
