"""The figures of a run."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from firmware_bridge.bridge.telemetry import ages_s
from pi0_edge.demo.chunk_times import chunk_figures
from pi0_edge.demo.run_record import RunRecord
from pi0_edge.evaluation.statistics import split_jerk
from pi0_edge.latency.percentiles import Latency, fewest_samples
from pi0_edge.protos.bridge_pb2 import ChunkReport
from pi0_edge.protos.serial_link import Fault, TickFlag


@dataclass(frozen=True)
class Percentiles:
    """Median, tail and worst of one figure, by the rules of `pi0-edge bench`.

    Attributes:
        count: How many values there are.
        p50: Median.
        p90: None where the values are too few for it, as the following.
        p99: By `pi0_edge.latency.percentiles.early_stopping_percentile`.
        max: The largest.
    """

    count: int
    p50: float
    p90: float | None
    p99: float | None
    max: float

    @classmethod
    def of(cls, values: NDArray[np.floating]) -> Percentiles:
        """Of a non-empty array."""
        return cls.told(Latency.of(values.tolist()))

    @classmethod
    def told(cls, found: Latency) -> Percentiles:
        """As a bench tells them."""
        return cls(found.count, found.p50_ms, found.p90_ms, found.p99_ms, found.max_ms)

    def __str__(self) -> str:
        tail = (
            f"{value:.4g}" if value is not None else f"not enough ({self.count} of {fewest_samples(share)})"
            for share, value in ((0.9, self.p90), (0.99, self.p99))
        )
        return " / ".join((f"{self.p50:.4g}", *tail, f"{self.max:.4g}"))


@dataclass(frozen=True)
class SchemeAccuracy:
    """The scheme of the run against fp32, same observations and same noise.

    Attributes:
        scheme: Name of the scheme that was compared.
        chunks: How many observations of the run were compared.
        cosine_mean: Mean cosine between whole chunks.
        cosine_worst: Smallest of them.
        max_error_rad: Largest difference of an arm joint.
        max_error_gripper: Largest difference of a gripper, 0 closed to 1 open.
    """

    scheme: str
    chunks: int
    cosine_mean: float
    cosine_worst: float
    max_error_rad: float
    max_error_gripper: float


@dataclass(frozen=True)
class DemoSummary:
    """What a run of the demo showed.

    Attributes:
        episodes: Episodes played.
        successes: Episodes in which the cube changed hands.
        episode_seconds: Seconds until success, per episode; the limit where there was none.
        chunks: Chunks that the policy made.
        chunks_entered: Chunks that the firmware confirmed.
        chunk_ms: Observation taken to chunk received.
        ring_ms: Observation taken to the firmware's confirmation, of the chunks that it confirmed;
            None where there were none.
        late_chunks: Of those, that took longer than the time between two observations.
        stages_ms: Where the time until the confirmation goes, by the stages of `pi0-edge bench`.
        ticks: Ticks that the firmware reported.
        tick_period_ms: Mean period by the firmware's own counter.
        tick_jitter_ms: Absolute deviation of single periods from 20 ms, by the firmware's own counter.
        ticks_lost: Ticks of which no telemetry arrived.
        ticks_missed: Ticks that the firmware itself reports as not executed.
        starved_ticks: Ticks without a setpoint.
        limited_ticks: Ticks in which the firmware held a joint back.
        faults: Names of faults that the firmware raised during episodes.
        simulation_lag_ms: How long a tick waited until the simulation had executed it.
        age_of_information_ms: Age of the observation behind each executed tick of an episode.
        border_jerk_rms: Third difference of the commanded arm joints where one chunk follows another, rad/s³, RMS.
        inner_jerk_rms: The same inside the chunks.
        tracking_error_rad: Largest difference between the policy's setpoint and the executed one, arm joints.
        following_error_rad: Largest difference between the executed setpoint and the measured position, arm joints.
        measurement_age_ms: From the measurement to the begin of the tick, of the joint that was measured longest ago.
        bus_errors: Packets of servos that were damaged or did not come.
        quantization: The scheme against fp32.
    """

    episodes: int
    successes: int
    episode_seconds: list[float]
    chunks: int
    chunks_entered: int
    chunk_ms: Percentiles
    ring_ms: Percentiles | None
    late_chunks: int
    stages_ms: dict[str, Percentiles]
    ticks: int
    tick_period_ms: float
    tick_jitter_ms: Percentiles
    ticks_lost: int
    ticks_missed: int
    starved_ticks: int
    limited_ticks: int
    faults: list[str]
    simulation_lag_ms: Percentiles
    age_of_information_ms: Percentiles
    border_jerk_rms: float
    inner_jerk_rms: float
    tracking_error_rad: Percentiles
    following_error_rad: Percentiles
    measurement_age_ms: Percentiles
    bus_errors: int
    quantization: SchemeAccuracy


def summarize(
    record: RunRecord, quantization: SchemeAccuracy, control_hz: float, arm: list[int], replan_ticks: int
) -> DemoSummary:
    """Computes the figures of a run.

    Args:
        record: Of it.
        quantization: The scheme against fp32.
        control_hz: Ticks per second.
        arm: The joints in radians.
        replan_ticks: Ticks between two observations.
    """
    during = record.tick_episode >= 0
    steps = np.diff(record.tick.astype(np.int64))
    periods = 1e3 * np.diff(record.tick_counter_s)[steps == 1]
    border_jerk, inner_jerk = _jerk(record, control_hz, arm)
    confirmed = chunk_figures(record, 1e3 * replan_ticks / control_hz)
    return DemoSummary(
        episodes=len(record.seed),
        successes=int(record.success.sum()),
        episode_seconds=[round(float(ticks) / control_hz, 2) for ticks in record.episode_ticks],
        chunks=len(record.chunk_tick),
        chunks_entered=int((record.chunk_outcome == ChunkReport.ACCEPTED).sum()),
        chunk_ms=Percentiles.of((record.chunk_received_ns - record.chunk_begin_ns) * 1e-6),
        ring_ms=None if confirmed is None else Percentiles.told(confirmed.latency),
        late_chunks=0 if confirmed is None or confirmed.misses is None else confirmed.misses.count,
        stages_ms={} if confirmed is None else {n: Percentiles.told(one) for n, one in confirmed.stages.items()},
        ticks=len(record.tick),
        tick_period_ms=float(periods.mean()),
        tick_jitter_ms=Percentiles.of(np.abs(periods - 1e3 / control_hz)),
        ticks_lost=int((steps - 1).sum()),
        ticks_missed=_count(record.tick_flags, TickFlag.TICKS_MISSED),
        starved_ticks=_count(record.tick_flags[during], TickFlag.STARVED),
        limited_ticks=_count(
            record.tick_flags[during],
            TickFlag.POSITION_LIMITED | TickFlag.VELOCITY_LIMITED | TickFlag.ACCELERATION_LIMITED,
        ),
        faults=[fault.name or "" for fault in Fault if (record.tick_faults[during] & fault.value).any()],
        simulation_lag_ms=Percentiles.of(record.lag_ms[during]),
        age_of_information_ms=Percentiles.of(_ages_ms(record, control_hz)),
        border_jerk_rms=border_jerk,
        inner_jerk_rms=inner_jerk,
        tracking_error_rad=Percentiles.of(_tracking_errors(record, arm)),
        following_error_rad=Percentiles.of(np.abs(record.executed - record.measured)[during][:, arm].max(axis=1)),
        measurement_age_ms=Percentiles.of(record.measurement_age_ms[during]),
        bus_errors=int(record.bus_errors.sum()),
        quantization=quantization,
    )


def _count(flags: NDArray[np.uint8], wanted: TickFlag) -> int:
    return int((flags & wanted.value != 0).sum())


def _ages_ms(record: RunRecord, control_hz: float) -> NDArray[np.floating]:
    during = record.tick_episode >= 0
    tick, observed, chunk = record.tick[during], record.tick_observed[during], record.tick_chunk[during]
    return 1e3 * ages_s(tick, observed, chunk, 1.0 / control_hz)


def _jerk(record: RunRecord, control_hz: float, arm: list[int]) -> tuple[float, float]:
    """Root mean squares across the borders of chunks and inside them."""
    border, inside = [], []
    for episode in range(len(record.seed)):
        chunk = record.executed_chunk(episode)
        _, wanted = record.commanded(episode)
        first = int(np.argmax(chunk >= 0))
        entries = np.flatnonzero(np.diff(chunk[first:])) + 1
        at_border, elsewhere = split_jerk(wanted[first:, arm], [0, *entries.tolist()], control_hz)
        border.append(at_border)
        inside.append(elsewhere)
    return _rms(border), _rms(inside)


def _rms(parts: list[NDArray[np.float64]]) -> float:
    values = np.concatenate(parts)
    values = values[np.isfinite(values)]
    return float(np.sqrt(np.mean(np.square(values)))) if values.size else 0.0


def _tracking_errors(record: RunRecord, arm: list[int]) -> NDArray[np.float64]:
    errors = []
    for episode in range(len(record.seed)):
        _, wanted = record.commanded(episode)
        executed = record.executed[record.tick_episode == episode]
        difference = np.abs(executed - wanted)[:, arm]
        errors.append(difference[np.isfinite(difference)])
    return np.concatenate(errors).astype(np.float64)
