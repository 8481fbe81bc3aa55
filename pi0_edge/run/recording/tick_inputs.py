"""What the firmware's core was told in a recorded run, as far as it has to be told again.

Telemetry says what the firmware did; what it was told is found from that and from the chunks. The setpoints of a chunk
are made again by the bridge's own code from the recorded actions. When a chunk was committed, and at which servo step a
command or the e-stop acted, is not on the wire: all possibilities within one tick are tried, and the recorded ticks say
which one it was. They leave no room for chance: a tick has the 32 bits of every joint.

Guards and heartbeat look at what only the robot knew. Their verdict is taken from the recording: the same fault is
provoked, so that it acts at the same tick.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from firmware_bridge.bridge.schedule import GUARD_TICKS, check_actions, fragments, schedule
from firmware_bridge.errors import ChunkError
from firmware_bridge.firmware.joint_table import JointTable
from firmware_bridge.robot import RobotJoints
from firmware_bridge.splice import NOTHING, Plan, Splice
from pi0_edge.protos import recording_pb2
from pi0_edge.protos.bridge_pb2 import ChunkReport
from pi0_edge.protos.serial_link import Fault, Fragment, State
from pi0_edge.run.recording.run_recording import Recorded

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

    @property
    def last_tick(self) -> int:
        """Tick of its last action."""
        return self.observed_tick + len(self.actions)

    def may_be_committed_after(self, tick: int) -> bool:
        """Whether it can have been committed between `tick` and the next one."""
        latest = self.first_tick if self.surely else self.last_tick
        return self.observed_tick <= tick <= latest - GUARD_TICKS

    def fragments(self, robot: RobotJoints, splice: Splice, plan: Plan) -> tuple[list[Fragment], Plan]:
        """What was sent to the firmware, and the plan of the bridge after it.

        Args:
            robot: The joints.
            splice: How the bridge enters chunks.
            plan: Of the bridge before it.
        """
        try:
            checked = check_actions(self.actions, robot)
            spliced = splice.enter(plan, Plan(self.observed_tick + 1, checked), self.first_tick)
            scheduled = schedule(spliced.setpoints, self.observed_tick, self.first_tick, robot)
        except ChunkError:  # the recorded actions are not those that were accepted
            return [], plan
        if scheduled is None:
            return [], plan
        return fragments(self.chunk_id, scheduled), spliced.since(self.first_tick)


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
    for place, (before, after) in enumerate(zip(ticks, ticks[1:], strict=False), start=1):
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


class BridgePlan:
    """The chunks of a recording in the order in which the bridge sent them, and its plan meanwhile."""

    def __init__(self, answers: Sequence[recording_pb2.RecordedAnswer], robot: RobotJoints, splice: Splice) -> None:
        self._robot = robot
        self._splice = splice
        self._chunks = [chunk for answer in answers if (chunk := PlayedChunk.of(answer)) is not None]
        self._next = 0
        self._plan = NOTHING
        self.numbers = {chunk.chunk_id for chunk in self._chunks}

    def waiting(self, tick: int) -> list[PlayedChunk]:
        """The chunks that can have been committed between `tick` and the next one, the oldest first."""
        return [chunk for chunk in self._chunks[self._next :] if chunk.may_be_committed_after(tick)]

    def restart(self) -> None:
        """The arm has stopped: the next chunk follows nothing."""
        self._plan = NOTHING

    def fragments(self, chunk: PlayedChunk) -> list[Fragment]:
        """What the bridge sent of a chunk."""
        return chunk.fragments(self._robot, self._splice, self._plan)[0]

    def committed(self, chunk: PlayedChunk) -> None:
        """The firmware has taken it; older ones come no more."""
        self._plan = chunk.fragments(self._robot, self._splice, self._plan)[1]
        self._next = self._chunks.index(chunk) + 1
