"""What the simulated robot records, and the file that carries it to the summary and the plots.

One `.npz` of plain arrays. Rows of `tick_*` are ticks that the firmware reported, rows of `chunk_*` are chunks that
were sent; `episode` numbers both, −1 between episodes.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class RunRecord:
    """One run of the demo.

    Attributes:
        tick: uint32 [ticks], firmware tick.
        tick_episode: int32 [ticks].
        tick_counter_s: float64 [ticks], the firmware's hardware counter when its timer interrupt ran, seconds.
        tick_state: uint8 [ticks], `State` of the firmware.
        tick_flags: uint8 [ticks], `TickFlag`.
        tick_faults: uint16 [ticks], `Fault`.
        tick_ring_level: uint16 [ticks].
        tick_chunk: uint32 [ticks], chunk that the setpoint came from; 0 where none was executed.
        tick_observed: uint32 [ticks], tick of the observation that this chunk answers.
        executed: float32 [ticks, joints], physical units.
        measured: float32 [ticks, joints], where the servos were when the tick began, physical units.
        measurement_age_ms: float64 [ticks], of the joint that was measured longest ago.
        chunk_episode: int32 [chunks].
        chunk_tick: uint32 [chunks], tick of the observation that the chunk answers.
        chunk_first_tick: uint32 [chunks], due tick of the first action that was entered; 0 where none was.
        chunk_begin_ns: int64 [chunks], when the observation was taken, on the clock of `time.monotonic_ns`.
        chunk_received_ns: int64 [chunks], when the chunk was received.
        chunk_confirmed_ns: int64 [chunks], when the bridge's report of it came.
        chunk_stages_ms: float64 [chunks, 5], what policy server and bridge tell of it, see `chunk_times`.
        chunk_outcome: uint8 [chunks], `ChunkReport.Outcome`.
        actions: float32 [chunks, horizon, joints], as the policy sent them.
        image: uint8 [chunks, height, width, 3], camera image that the policy got.
        state: float32 [chunks, joints], proprioceptive state that the policy got.
        film: uint8 [frames, height, width, 3], a wider view of the scene.
        film_tick: uint32 [frames].
        film_episode: int32 [frames].
        seed: int64 [episodes].
        success: bool [episodes].
        episode_ticks: int32 [episodes], ticks until success or until the episode was given up.
        lag_ms: float64 [ticks], how long a tick's telemetry waited until the simulation had executed it.
        bus_errors: int64 [1], packets of servos that were damaged or did not come; empty where the run was cut short.
    """

    tick: NDArray[np.uint32]
    tick_episode: NDArray[np.int32]
    tick_counter_s: NDArray[np.float64]
    tick_state: NDArray[np.uint8]
    tick_flags: NDArray[np.uint8]
    tick_faults: NDArray[np.uint16]
    tick_ring_level: NDArray[np.uint16]
    tick_chunk: NDArray[np.uint32]
    tick_observed: NDArray[np.uint32]
    executed: NDArray[np.float32]
    measured: NDArray[np.float32]
    measurement_age_ms: NDArray[np.float64]
    chunk_episode: NDArray[np.int32]
    chunk_tick: NDArray[np.uint32]
    chunk_first_tick: NDArray[np.uint32]
    chunk_begin_ns: NDArray[np.int64]
    chunk_received_ns: NDArray[np.int64]
    chunk_confirmed_ns: NDArray[np.int64]
    chunk_stages_ms: NDArray[np.float64]
    chunk_outcome: NDArray[np.uint8]
    actions: NDArray[np.float32]
    image: NDArray[np.uint8]
    state: NDArray[np.float32]
    film: NDArray[np.uint8]
    film_tick: NDArray[np.uint32]
    film_episode: NDArray[np.int32]
    seed: NDArray[np.int64]
    success: NDArray[np.bool_]
    episode_ticks: NDArray[np.int32]
    lag_ms: NDArray[np.float64]
    bus_errors: NDArray[np.int64]

    def save(self, path: Path) -> None:
        """Writes the record."""
        np.savez_compressed(path, allow_pickle=False, **{f.name: getattr(self, f.name) for f in fields(self)})

    @classmethod
    def load(cls, path: Path) -> RunRecord:
        """Reads a record."""
        with np.load(path, allow_pickle=False) as file:
            return cls(**{f.name: file[f.name] for f in fields(cls)})

    def commanded(self, episode: int) -> tuple[NDArray[np.uint32], NDArray[np.float32]]:
        """What the policy wanted executed in an episode, tick by tick.

        Returns:
            ticks uint32 [n] and setpoints float32 [n, joints]; NaN before the first chunk was entered.
        """
        ticks, chunk = self.tick[self.tick_episode == episode], self.executed_chunk(episode)
        wanted = np.full((len(ticks), self.executed.shape[1]), np.nan, np.float32)
        known = chunk >= 0
        rows = ticks[known].astype(np.int64) - self.chunk_tick[chunk[known]].astype(np.int64) - 1
        wanted[known] = self.actions[chunk[known], rows]
        return ticks, wanted

    def executed_chunk(self, episode: int) -> NDArray[np.int64]:
        """Which chunk was executed at each tick of an episode, int64 [n]; −1 where none was."""
        ticks = self.tick[self.tick_episode == episode].astype(np.int64)
        executed = np.full(len(ticks), -1)
        for chunk in np.flatnonzero((self.chunk_episode == episode) & (self.chunk_first_tick > 0)):
            last_tick = int(self.chunk_tick[chunk]) + self.actions.shape[1]
            executed[(ticks >= self.chunk_first_tick[chunk]) & (ticks <= last_tick)] = chunk
        return executed


class RecordBuilder:
    """Collects rows while the robot runs."""

    def __init__(self) -> None:
        self._columns: dict[str, list[Any]] = {f.name: [] for f in fields(RunRecord)}

    def add(self, **values: object) -> None:
        """Appends one value to each named column."""
        for name, value in values.items():
            self._columns[name].append(value)

    def build(self) -> RunRecord:
        """The record so far."""
        types = {f.name: str(f.type).removeprefix("NDArray[np.").removesuffix("]") for f in fields(RunRecord)}
        return RunRecord(
            **{name: np.array(rows, dtype=types[name].rstrip("_")) for name, rows in self._columns.items()}
        )
