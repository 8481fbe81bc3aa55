"""What the firmware's core was told in a recorded run, as far as it has to be told again.

Telemetry says what the firmware did; what it was told is found from that and from the chunks. The setpoints of a chunk
are made again by the bridge's own code from the recorded actions and its report, which says into which plan it spliced
the chunk, and in which tick the firmware committed it. Where the bridge did not hear that, and at which servo step a
command or the e-stop acted, is not on the wire: all possibilities are tried, and the recorded ticks say which one it
was. They leave no room for chance: a tick has the 32 bits of every joint.

Guards and heartbeat look at what only the robot knew. Their verdict is taken from the recording: the same fault is
provoked, so that it acts at the same tick.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
from google.protobuf import json_format
from numpy.typing import NDArray

from firmware_bridge.bridge.schedule import ScheduledChunk, check_actions, fragments, link_number, schedule
from firmware_bridge.errors import ChunkError
from firmware_bridge.firmware.joint_table import JointTable
from firmware_bridge.robot import RobotJoints
from firmware_bridge.splice import GUARD_TICKS, NOTHING, HoldSwap, Plan, Splice
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
"""Event whose text is what a person commanded: JSON with `tick`, `setpoints` and the report of the bridge."""


@dataclass(frozen=True)
class PlayedChunk:
    """A chunk of the policy or of a person that the bridge was given, and what it says of it.

    Attributes:
        observed_tick: Tick T of the observation that it answers; row k is due at T + 1 + k.
        actions: float32 [horizon, joints], physical units, as the bridge was given them.
        report: Of the bridge.
    """

    observed_tick: int
    actions: NDArray[np.float32]
    report: ChunkReport

    @classmethod
    def of_answer(cls, answer: recording_pb2.RecordedAnswer) -> PlayedChunk:
        """The chunk of the policy."""
        chunk = answer.chunk
        actions = np.array(chunk.actions, np.float32).reshape(chunk.horizon, chunk.action_dim)
        return cls(chunk.clock.tick, actions, answer.report)

    @classmethod
    def of_event(cls, event: recording_pb2.RecordedEvent) -> PlayedChunk | None:
        """The setpoints of a person; None for another event, or a text that does not say them."""
        if event.name != SETPOINTS:
            return None
        try:
            said = json.loads(event.text)
            actions = np.array(said["setpoints"], np.float64).astype(np.float32)
            report = json_format.ParseDict(said["report"], ChunkReport())
            return cls(int(said["tick"]), actions, report) if actions.ndim == 2 else None
        except (ValueError, KeyError, TypeError, json_format.ParseError):
            return None


@dataclass(frozen=True)
class SentChunk:
    """A chunk as it was sent to the firmware, or its head or its rest.

    Attributes:
        number: On the serial link.
        observed_tick: Tick of the observation that it answers.
        last_tick: Tick at which its last setpoint is due.
        committed_after: Tick after which the firmware committed it; None where the bridge did not hear whether it did.
        first: float32 [joints], its first setpoint.
        fragments: Of the serial link.
    """

    number: int
    observed_tick: int
    last_tick: int
    committed_after: int | None
    first: NDArray[np.float32]
    fragments: tuple[Fragment, ...]

    def may_follow(self, tick: int) -> bool:
        """Whether it can have been committed after this tick and before the next one."""
        if self.committed_after is not None:
            return self.committed_after == tick
        return self.observed_tick <= tick <= self.last_tick - GUARD_TICKS


def sent_chunks(recording: RunRecording, robot: RobotJoints, splice: Splice) -> list[SentChunk]:
    """What the bridge sent to the firmware, in its order, made again by the bridge's own code.

    A chunk that was spliced into a plan that the recording does not have is left out, unless the splice policy leaves
    chunks as they are.
    """
    played = [PlayedChunk.of_answer(answer.message) for answer in recording.answers]
    played += [chunk for event in recording.events if (chunk := PlayedChunk.of_event(event.message)) is not None]
    plans = {0: NOTHING}
    found = []
    for chunk in sorted(played, key=lambda chunk: chunk.report.chunk_id):
        report = chunk.report
        if not report.sent_tick:
            continue  # the bridge refused it, or it was late
        plan = plans.get(report.follows, NOTHING if splice.name == HoldSwap.name else None)
        if plan is None:
            continue
        try:
            whole = Plan(chunk.observed_tick + 1, check_actions(chunk.actions, robot))
            spliced = splice.enter(plan, whole, report.sent_tick)
            scheduled = schedule(spliced.setpoints, chunk.observed_tick, report.sent_tick, robot)
        except ChunkError:  # the recorded actions are not those that were accepted
            continue
        if scheduled is None:
            continue
        accepted = report.outcome == ChunkReport.ACCEPTED
        if accepted:
            plans[report.chunk_id] = spliced.since(report.first_tick)
        elif report.head_tick:
            plans[report.chunk_id] = spliced.since(report.first_tick).until(report.sent_tick + report.head_steps - 1)
        found += _pieces(chunk, scheduled)
    return found


def _pieces(chunk: PlayedChunk, scheduled: ScheduledChunk) -> Iterator[SentChunk]:
    """The chunk, or its head and its rest, without what the firmware refused."""
    report = chunk.report
    rest = scheduled
    if report.head_steps:
        head, rest = scheduled.split(report.head_steps)
        yield _piece(chunk, head, link_number(report.chunk_id, is_head=True), report.head_tick or None)
    if report.outcome == ChunkReport.ACCEPTED or not report.decided_tick:
        yield _piece(chunk, rest, link_number(report.chunk_id), report.decided_tick or None)


def _piece(chunk: PlayedChunk, piece: ScheduledChunk, number: int, committed_after: int | None) -> SentChunk:
    return SentChunk(
        number=number,
        observed_tick=chunk.observed_tick,
        last_tick=piece.last_tick,
        committed_after=committed_after,
        first=chunk.actions[piece.skipped],
        fragments=tuple(fragments(number, piece)),
    )


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
