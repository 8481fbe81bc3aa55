"""The times that a chunk passes on its way from the image to the servo command, and the stages between them.

    image -> observation -> chunk -> bridge -> first byte -> decision -> timer interrupt -> command has left
      capture        |  policy and  |    |  splice  |    serial   |     tick       |   servo command
                     |  transport   | transport

Every time is one of `time.monotonic` on one machine, where all processes share that clock. The interrupt alone is a
time of the microcontroller, which the bridge translates, with a bound of its error. Each stage ends where the next
begins, so that they add up to the whole. Pure arithmetic: what listens to a run is in `path_listening`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pi0_edge.bench.samples import Samples
from pi0_edge.errors import BenchError
from pi0_edge.latency.stages import WHOLE_NETWORK, Stage

_SECONDS = 1e-9
_SAME_CLOCK_MS = 1.0
"""Threads of two processes read one clock; what lies farther back than this was read on two."""


@dataclass(frozen=True)
class PassedChunk:
    """An accepted chunk, as policy, run and bridge saw it.

    Attributes:
        chunk_id: That the bridge gave it.
        observed_tick: Of the observation that it answers.
        image_ns: When the oldest of its images was taken, on the clock of `time.monotonic_ns`.
        observed_ns: When the observation was put together.
        chunk_ns: When the chunk was there.
        reported_ns: When the report of the bridge was there.
        preprocess_ms: Observation to model inputs.
        network_ms: Model inputs to normalized actions.
        postprocess_ms: Normalized actions to physical units.
        splice_ms: From its arrival at the bridge to its first byte on the line.
        serial_ms: From that byte to the firmware's confirmation of its first setpoints.
        decided_s: When that came, on the clock of `time.monotonic`.
    """

    chunk_id: int
    observed_tick: int
    image_ns: int
    observed_ns: int
    chunk_ns: int
    reported_ns: int
    preprocess_ms: float
    network_ms: float
    postprocess_ms: float
    splice_ms: float
    serial_ms: float
    decided_s: float

    @property
    def arrived_s(self) -> float:
        """When it came to the bridge."""
        return self.decided_s - 1e-3 * (self.splice_ms + self.serial_ms)

    def check_clock(self) -> None:
        """Returns if its times follow each other, as those of one clock do.

        Raises:
            BenchError: If the bridge says no times, or says times of another clock.
        """
        if not self.decided_s:
            raise BenchError(
                "the bridge does not say what it took for a chunk: it is older than this program; start a bridge of "
                "this version"
            )
        before_ms = 1e3 * (self.chunk_ns * _SECONDS - self.arrived_s)
        after_ms = 1e3 * (self.decided_s - self.reported_ns * _SECONDS)
        if max(before_ms, after_ms) > _SAME_CLOCK_MS:
            raise BenchError(
                f"by the clock of the bridge, a chunk came to it {before_ms:.1f} ms before it was sent, or was decided "
                f"{after_ms:.1f} ms after that was reported: it runs on another machine, expected one clock for the "
                "whole path; run the bench on the machine of the bridge"
            )


@dataclass(frozen=True)
class PassedTicks:
    """The ticks of a run, in columns; ticks that were not reported are missing.

    Attributes:
        tick: int64 [n].
        counter: int64 [n], the board's counter when the timer interrupt ran.
        chunk_id: int64 [n], of the chunk that was executed; 0 where none was.
        begin_s: float64 [n], begin of the tick by the bridge's estimate, on the clock of `time.monotonic`.
        uncertainty_ms: float64 [n], bound of the error of that estimate.
        counter_hz: Of the counter.
        tick_period_s: Between two ticks.
    """

    tick: NDArray[np.int64]
    counter: NDArray[np.int64]
    chunk_id: NDArray[np.int64]
    begin_s: NDArray[np.float64]
    uncertainty_ms: NDArray[np.float64]
    counter_hz: int
    tick_period_s: float

    @property
    def late_ms(self) -> NDArray[np.float64]:
        """float64 [n], how late each interrupt ran by the board's own counter.

        An interrupt is never early, so that the earliest of the run is on time (see `firmware_bridge.link.clock`).
        """
        if not len(self.tick):
            return np.zeros(0)
        period = self.counter_hz * round(1e6 * self.tick_period_s) // 1_000_000  # as the firmware rounds it
        offset = self.counter - self.tick * period
        return 1e3 * (offset - offset.min()) / self.counter_hz

    @property
    def interrupt_s(self) -> NDArray[np.float64]:
        """float64 [n], when each interrupt ran, on the clock of `time.monotonic`."""
        return self.begin_s + 1e-3 * self.late_ms


@dataclass(frozen=True)
class PathTimes:
    """The chunks of a run that were executed, stage by stage.

    Attributes:
        samples: One row for each; due is the image, begin the observation, end the servo command, or where that is not
            known the interrupt.
        uncertainty_ms: float64 [n], bound of the error of the interrupt's time: it is in the stages `tick` and `servo
            command`, with opposite signs, and where the servo command is not known in the whole.
        transport_ms: `to the policy and back` and `to the bridge` -> float64 [n]: the parts of the stage `transport`.
        ages_ms: float64 [m], for each tick that executed a chunk the age of the image behind it at the interrupt.
        not_executed: Accepted chunks that a newer one replaced before their first tick.
    """

    samples: Samples
    uncertainty_ms: NDArray[np.float64]
    transport_ms: Mapping[str, NDArray[np.float64]]
    ages_ms: NDArray[np.float64]
    not_executed: int


def path_times(
    chunks: Sequence[PassedChunk],
    ticks: PassedTicks,
    commands_left_s: Sequence[NDArray[np.float64]] | None,
    replan_ticks: int,
) -> PathTimes:
    """The stages of every chunk that was executed.

    Args:
        chunks: In the order in which they were sent.
        ticks: Of the same run.
        commands_left_s: For each servo bus float64 [k], when commands had left, rising; None where that is not known.
        replan_ticks: Ticks between two observations, if the policy is fast enough.

    Raises:
        BenchError: If no chunk was executed, or the bridge runs by another clock.
    """
    for chunk in chunks:
        chunk.check_clock()
    first = _first_places(ticks.chunk_id)
    executed = [chunk for chunk in chunks if chunk.chunk_id in first]
    if not executed:
        raise BenchError(f"none of {len(chunks)} accepted chunks was executed; run for longer")
    places = np.array([first[chunk.chunk_id] for chunk in executed])
    interrupt_s = ticks.interrupt_s[places]
    left_s = np.full(len(executed), np.nan) if commands_left_s is None else _left_s(interrupt_s, commands_left_s)
    stages, transport = _stages(executed, interrupt_s, left_s)
    end_s = np.where(np.isnan(left_s), interrupt_s, left_s)
    image_ns = np.array([chunk.image_ns for chunk in executed], np.int64)
    observed = np.array([chunk.observed_tick for chunk in executed], np.int64)
    periods = np.diff(observed, prepend=observed[:1] - replan_ticks) / replan_ticks
    samples = Samples(
        due_ns=image_ns,
        begin_ns=np.array([chunk.observed_ns for chunk in executed], np.int64),
        end_ns=np.round(end_s * 1e9).astype(np.int64),
        skipped=np.maximum(0, np.round(periods).astype(np.int64) - 1),
        stages_ms=stages,
    )
    image_s = {chunk.chunk_id: chunk.image_ns * _SECONDS for chunk in executed}
    ages = [
        1e3 * (at_s - image_s[chunk_id])
        for at_s, chunk_id in zip(ticks.interrupt_s.tolist(), ticks.chunk_id.tolist(), strict=True)
        if chunk_id in image_s
    ]
    return PathTimes(samples, ticks.uncertainty_ms[places], transport, np.array(ages), len(chunks) - len(executed))


def _first_places(chunk_id: NDArray[np.int64]) -> dict[int, int]:
    """Chunk -> where its first tick is."""
    found, places = np.unique(chunk_id, return_index=True)
    return {int(one): int(place) for one, place in zip(found, places, strict=True) if one}


def _left_s(interrupt_s: NDArray[np.float64], commands_left_s: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
    """float64 [n], when the first command after each interrupt had left on every bus; NaN where one did not."""
    left = np.full((len(commands_left_s), len(interrupt_s)), np.nan)
    for row, of_bus in zip(left, commands_left_s, strict=True):
        place = np.searchsorted(of_bus, interrupt_s)
        known = place < len(of_bus)
        row[known] = of_bus[place[known]]
    return left.max(axis=0) if len(left) else np.full(len(interrupt_s), np.nan)


def _stages(
    chunks: Sequence[PassedChunk], interrupt_s: NDArray[np.float64], left_s: NDArray[np.float64]
) -> tuple[dict[str, NDArray[np.float64]], dict[str, NDArray[np.float64]]]:
    """Stages, and the parts of the transport, in milliseconds."""

    def of(name: str) -> NDArray[np.float64]:
        return np.array([getattr(chunk, name) for chunk in chunks], np.float64)

    def between(begin: str, end: str) -> NDArray[np.float64]:
        return np.array([1e-6 * (getattr(chunk, end) - getattr(chunk, begin)) for chunk in chunks])

    policy_ms = of("preprocess_ms") + of("network_ms") + of("postprocess_ms")
    chunk_s = np.array([chunk.chunk_ns * _SECONDS for chunk in chunks])
    transport = {
        "to the policy and back": between("observed_ns", "chunk_ns") - policy_ms,
        "to the bridge": 1e3 * (of("arrived_s") - chunk_s),
    }
    stages = {
        Stage.CAPTURE.value: between("image_ns", "observed_ns"),
        Stage.PREPROCESS.value: of("preprocess_ms"),
        WHOLE_NETWORK: of("network_ms"),
        Stage.POSTPROCESS.value: of("postprocess_ms"),
        Stage.TRANSPORT.value: transport["to the policy and back"] + transport["to the bridge"],
        Stage.SPLICE.value: of("splice_ms"),
        Stage.SERIAL.value: of("serial_ms"),
        Stage.TICK.value: 1e3 * (interrupt_s - of("decided_s")),
        Stage.SERVO.value: 1e3 * (left_s - interrupt_s),
    }
    return {name: values for name, values in stages.items() if not np.isnan(values).all()}, transport
