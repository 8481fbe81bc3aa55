"""Computes a recorded run again, chunks and ticks, and says whether all of it is the same bit for bit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from pi0_edge.policy import Policy
from pi0_edge.progress import ProgressCallback
from pi0_edge.run.recording.chunk_replay import ChunkReport, replay_chunks
from pi0_edge.run.recording.comparison import Difference, first_other_bits
from pi0_edge.run.recording.file_reader import Damage
from pi0_edge.run.recording.run_recording import RunRecording
from pi0_edge.run.recording.tick_replay import TickReport, replay_ticks


@dataclass(frozen=True)
class ReplayReport:
    """What came of computing a run again.

    Attributes:
        damage: What of the file cannot be trusted.
        records: The first record that contradicts another one of the file; None where none does.
        chunks: Of the policy.
        ticks: Of the firmware.
    """

    damage: tuple[Damage, ...]
    records: Difference | None
    chunks: ChunkReport
    ticks: TickReport

    @property
    def differences(self) -> tuple[Difference, ...]:
        """The first of each kind."""
        found = (self.records, self.chunks.difference, self.ticks.difference)
        return tuple(difference for difference in found if difference is not None)

    @property
    def changed(self) -> tuple[Damage, ...]:
        """Damage other than that the file ends early."""
        return tuple(damage for damage in self.damage if not damage.cut)

    @property
    def same(self) -> bool:
        """Whether all that was computed is the same bit for bit, and no byte of the file was changed."""
        return not self.differences and not self.changed

    @property
    def exact(self) -> bool:
        """Whether chunks and ticks are the same bit for bit."""
        return self.same and not self.chunks.why_not

    def to_dict(self) -> dict[str, Any]:
        """In types that JSON has."""
        return {
            "exact": self.exact,
            "damage": [str(damage) for damage in self.damage],
            "records": None if self.records is None else self.records.to_dict(),
            "chunks": self.chunks.to_dict(),
            "ticks": self.ticks.to_dict(),
        }


def replay(recording: RunRecording, policy: Policy | None, on_progress: ProgressCallback | None = None) -> ReplayReport:
    """Computes a run again.

    Args:
        recording: Of the run.
        policy: The one that played it; the ticks alone are computed where None.
        on_progress: Is called after chunks and ticks.

    Raises:
        RecordingError: If the policy is another one, or something that a chunk answers is missing.
        ConfigError: If the firmware cannot drive the recorded robot.
        EmulatorError: If the core of the firmware does not compile here.
    """
    if policy is None:
        chunks = ChunkReport(len(recording.answers), 0, "the ticks alone were to be computed", None)
    else:
        chunks = replay_chunks(recording, policy, on_progress)
    ticks = replay_ticks(recording, on_progress)
    return ReplayReport(tuple(recording.damage), contradiction(recording), chunks, ticks)


def contradiction(recording: RunRecording) -> Difference | None:
    """The first record that says another thing than a second one about the same, None where there is none.

    An observation shows the joints of its tick, and a chunk carries the tick of its observation.
    """
    ticks = {tick.message.tick: tick for tick in recording.ticks}
    names = recording.description.joint_names
    by_time = {one.message.time_ns: one for one in recording.observations}
    for one in recording.observations:
        message, shown = one.message, ticks.get(one.message.tick)
        if shown is None:
            continue
        state = np.array(message.state, np.float32)
        measured = np.array(shown.message.measured or shown.message.executed, np.float32)
        index = (0,) if state.shape != measured.shape else first_other_bits(state, measured)
        if index is not None:
            joint = index[0]
            where = f"observation of tick {message.tick}, state of joint {names[joint]}"
            hint = f"the tick itself is recorded at {shown.place}"
            return Difference(where, float(state[joint]), float(measured[joint]), one.place, hint)
    for number, answer in enumerate(recording.answers, start=1):
        asked = by_time.get(answer.message.observation_ns)
        if asked is not None and asked.message.tick != answer.message.chunk.clock.tick:
            found, expected = answer.message.chunk.clock.tick, asked.message.tick
            return Difference(f"chunk {number}, tick of its observation", found, expected, answer.place)
    return None
