"""What the firmware's core was told in a recorded run, as far as it has to be told again.

Telemetry says what the firmware did; what it was told is found from that and from the chunks. The setpoints of a chunk
are made again by the bridge's own code from the recorded actions. When a chunk was committed, and at which servo step a
command or the e-stop acted, is not on the wire: all possibilities within one tick are tried, and the recorded ticks say
which one it was. They leave no room for chance: a tick has the 32 bits of every joint.

Guards and heartbeat look at what only the robot knew. Their verdict is taken from the recording: the same fault is
provoked, so that it acts at the same tick.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from firmware_bridge.bridge.schedule import check_actions, fragments, schedule
from firmware_bridge.errors import ChunkError
from firmware_bridge.firmware.joint_table import JointTable
from firmware_bridge.robot import RobotJoints
from firmware_bridge.splice import GUARD_TICKS, NOTHING, Plan, Splice
from pi0_edge.protos import recording_pb2
from pi0_edge.protos.bridge_pb2 import ChunkReport
from pi0_edge.protos.serial_link import Fault, Fragment, State
from pi0_edge.run.recording.run_recording import Recorded, RunRecording

RecordedTicks = Sequence[Recorded[recording_pb2.RecordedTick]]

_HEARTBEAT_MS = 200
_GUARDS_MS = {
    Fault.FOLLOWING_ERROR: 200,
    Fault.CONTACT: 100,
    Fault.TEMPERATURE: 1000,
    Fault.VOLTAGE: 200,
    Fault.SERVO_ERROR: 100,
    Fault.BUS_SILENT: 0,
}
"""For how long the condition of a guard has to hold, in `core/guards.h`; a silent bus acts at once."""

RELIEVED = Fault.CONTACT | Fault.FOLLOWING_ERROR
"""After these faults, the arm moves to where it was measured when it had come to rest."""


SETPOINTS = "setpoints"
"""Event whose text is what a person commanded: JSON with `tick`, `first_tick` and `setpoints`."""


@dataclass(frozen=True)
class PersonSetpoints:
    """What a person commanded.

    Attributes:
        tick: Row k is due at tick + 1 + k.
        first_tick: First tick at which it is executed.
        actions: float32 [rows, joints], physical units, as the bridge was given them.
    """

    tick: int
    first_tick: int
    actions: NDArray[np.float32]

    @classmethod
    def of(cls, event: recording_pb2.RecordedEvent) -> PersonSetpoints | None:
        """What an event says; None for another event, or a text that does not say it."""
        if event.name != SETPOINTS:
            return None
        try:
            said = json.loads(event.text)
            actions = np.array(said["setpoints"], np.float64).astype(np.float32)
            return cls(int(said["tick"]), int(said["first_tick"]), actions) if actions.ndim == 2 else None
        except (ValueError, KeyError, TypeError):
            return None


@dataclass(frozen=True)
class PlayedChunk:
    """A chunk that the bridge sent or may have sent to the firmware.

    Attributes:
        chunk_id: Its number on the serial link.
        observed_tick: Of the observation that it answers.
        first_tick: First tick at which it is executed.
        actions: float32 [horizon, joints], as the bridge was given them.
        surely: Whether the firmware said that it had taken it.
    """

    chunk_id: int
    observed_tick: int
    first_tick: int
    actions: NDArray[np.float32]
    surely: bool

    @classmethod
    def of(cls, answer: recording_pb2.RecordedAnswer) -> PlayedChunk | None:
        """The chunk of an answer; None where none of it can have reached the firmware."""
        report = answer.report
        if not report.first_tick:
            return None
        chunk = answer.chunk
        actions = np.array(chunk.actions, np.float32).reshape(chunk.horizon, chunk.action_dim)
        surely = report.outcome == ChunkReport.ACCEPTED
        return cls(report.chunk_id, chunk.clock.tick, report.first_tick, actions, surely)

    @classmethod
    def of_person(cls, setpoints: PersonSetpoints, chunk_id: int) -> PlayedChunk:
        """Setpoints of a person, which the bridge plays as it plays a chunk."""
        return cls(chunk_id, setpoints.tick, setpoints.first_tick, setpoints.actions, surely=True)

    @property
    def last_tick(self) -> int:
        """Tick of its last action."""
        return self.observed_tick + len(self.actions)

    @property
    def deadline(self) -> int:
        """The last tick after which it can have been committed."""
        return (self.first_tick if self.surely else self.last_tick) - GUARD_TICKS


@dataclass
class Foreseen:
    """What is to happen at a tick because of what the recording says of it or of later ones.

    Attributes:
        heartbeat: Whether the firmware hears one before it.
        guards: Faults of guards whose condition holds.
        relief: Where the joints are measured and go to, float32 [joints]; None where that plays no part.
    """

    heartbeat: bool = True
    guards: Fault = field(default_factory=lambda: Fault(0))
    relief: NDArray[np.float32] | None = None


def foresee(ticks: RecordedTicks, table: JointTable) -> list[Foreseen]:
    """What each recorded tick needs so that later ones can come out as they did."""
    found = [Foreseen() for _ in ticks]
    for place, (before, after) in enumerate(pairwise(ticks), start=1):
        new = Fault(after.message.faults) & ~Fault(before.message.faults)
        if after.message.state == State.DISARMED and before.message.faults & Fault.SERVO_ERROR:
            # Its servos lost their torque, and with CLEAR the joints are where their encoders are.
            found[place].relief = np.array(after.message.executed, np.float32)
        if after.message.state != State.SAFE or not new:
            continue
        if new & Fault.HEARTBEAT:
            for one in _last(found, ticks, place, _periods(_HEARTBEAT_MS, table)):
                one.heartbeat = False
        for fault, ms in _GUARDS_MS.items():
            if new & fault:
                for one in _last(found, ticks, place, max(1, _periods(ms, table))):
                    one.guards |= fault
        if new & RELIEVED:
            _foresee_relief(found, ticks, place)
    return found


def _periods(ms: int, table: JointTable) -> int:
    return -(-ms * table.control_hz // 1000)


def _last(found: list[Foreseen], ticks: RecordedTicks, place: int, count: int) -> list[Foreseen]:
    """Those of the last `count` ticks of the firmware up to `place`."""
    first = ticks[place].message.tick - count + 1
    start = place
    while start > 0 and first <= ticks[start - 1].message.tick < ticks[start].message.tick:
        start -= 1
    return found[start : place + 1]


def _foresee_relief(found: list[Foreseen], ticks: RecordedTicks, place: int) -> None:
    end = place
    while end + 1 < len(ticks) and ticks[end + 1].message.state == State.SAFE:
        end += 1
    relief = np.array(ticks[end].message.executed, np.float32)
    for one in found[place + 1 : end + 1]:
        one.relief = relief


def played_chunks(recording: RunRecording) -> list[PlayedChunk]:
    """The chunks of policy and persons, in the order in which the bridge sent them.

    The number of a person's chunk is in the ticks that executed it; where there is none, it is the one after the last.
    """
    chunks = [chunk for answer in recording.answers if (chunk := PlayedChunk.of(answer.message)) is not None]
    own = {chunk.chunk_id for chunk in chunks}
    numbers = {
        tick.message.observed_tick: tick.message.chunk_id
        for tick in recording.ticks
        if tick.message.chunk_id and tick.message.chunk_id not in own
    }
    last = 0
    for event in recording.events:
        if (setpoints := PersonSetpoints.of(event.message)) is not None:
            last = numbers.get(setpoints.tick, last + 1)
            chunks.append(PlayedChunk.of_person(setpoints, last))
    return sorted(chunks, key=lambda chunk: chunk.chunk_id)


class PlanState(NamedTuple):
    """What the bridge remembers: how many chunks it has behind it, its plan, and its splice policy."""

    next: int
    plan: Plan
    splice: Splice


class BridgePlan:
    """The chunks of a recording in the order in which the bridge sent them, and its plan meanwhile.

    Attributes:
        numbers: Of the chunks.
        state: What the bridge remembers; may be set back to what it was.
    """

    def __init__(self, chunks: Sequence[PlayedChunk], robot: RobotJoints, splice: Splice) -> None:
        self._robot = robot
        self._chunks = list(chunks)
        self.numbers = {chunk.chunk_id for chunk in chunks}
        self.state = PlanState(0, NOTHING, splice)

    def waiting(self, first: int, last: int) -> list[PlayedChunk]:
        """The chunks that can have been committed after one of the ticks `first` to `last`, the oldest first."""
        later = self._chunks[self.state.next :]
        return [chunk for chunk in later if chunk.observed_tick <= last and chunk.deadline >= first]

    def restart(self) -> None:
        """The arm has stopped: the next chunk follows nothing."""
        self.state = self.state._replace(plan=NOTHING)

    def fragments(self, chunk: PlayedChunk) -> list[Fragment]:
        """What the bridge sent of a chunk, which it has behind it then; empty where it would not send this chunk."""
        splice = copy.deepcopy(self.state.splice)  # some keep older chunks
        try:
            checked = check_actions(chunk.actions, self._robot)
            spliced = splice.enter(self.state.plan, Plan(chunk.observed_tick + 1, checked), chunk.first_tick)
            scheduled = schedule(spliced.setpoints, chunk.observed_tick, chunk.first_tick, self._robot)
        except ChunkError:  # the recorded actions are not those that were accepted
            return []
        if scheduled is None:
            return []
        self.state = PlanState(self._chunks.index(chunk) + 1, spliced.since(chunk.first_tick), splice)
        return fragments(chunk.chunk_id, scheduled)
