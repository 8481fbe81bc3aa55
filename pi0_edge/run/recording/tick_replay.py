"""Computes the ticks of a recorded run again, with the firmware's core in this process, and compares every bit.

An armed span begins where ARM acted on an arm at rest, and ends where the arm rests disarmed: in between, every
position follows from the setpoints of the chunks, and is computed again. Outside of such spans, nothing commands the
arm.
"""

from __future__ import annotations

import bisect
import itertools
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from firmware_bridge.bridge.schedule import chunk_of
from firmware_bridge.firmware.joint_table import JointTable, joint_table
from firmware_bridge.lockstep.host_firmware import HostFirmware, SavedFirmware
from firmware_bridge.robot import ACTIVE_STATES, joints_of
from firmware_bridge.splice import chunk_splice
from pi0_edge.errors import RecordingError
from pi0_edge.progress import ProgressCallback, Stage
from pi0_edge.protos import recording_pb2
from pi0_edge.protos.serial_link import (
    RING_DEPTH,
    SCHEMA_HASH,
    Command,
    Fault,
    Hello,
    JointFlag,
    State,
    Telemetry,
    TickFlag,
)
from pi0_edge.run.recording.comparison import Difference
from pi0_edge.run.recording.run_recording import Recorded, RunRecording
from pi0_edge.run.recording.tick_inputs import Foreseen, SentChunk, foresee, sent_chunks

_MOST_COMMITS = 2
"""Chunks of which the bridge did not hear whether they were committed that are tried within one tick."""

_REMEMBERED = 12
"""Ticks of which the other possibilities are tried where a later tick does not come out as recorded."""

_MOST_ATTEMPTS = 3000
"""For one tick that does not come out as recorded."""

_FIELDS = ("state", "faults", "ring_level", "observed_tick", "flags")
_REPORT_EVERY = 50
_STRONG = 1e6  # of any unit that a guard watches


@dataclass(frozen=True)
class TickReport:
    """What came of computing ticks again.

    Attributes:
        ticks: Recorded ticks.
        computed: Those that were computed and are the same bit for bit.
        resting: Those in which the arm rested disarmed or stopped; nothing commanded it.
        unknown: Those that executed setpoints that the recording does not have: of another client, or from before it
            began.
        difference: The first that is not the same; no tick after it was computed.
    """

    ticks: int
    computed: int
    resting: int
    unknown: int
    difference: Difference | None

    def to_dict(self) -> dict[str, Any]:
        """In types that JSON has."""
        return {**vars(self), "difference": None if self.difference is None else self.difference.to_dict()}


class _Attempt(NamedTuple):
    """One possibility of what happened between two recorded ticks."""

    commits: tuple[tuple[int, SentChunk], ...] = ()
    """Chunks, each with the ticks without telemetry that were over when it was committed."""
    command: Command | None = None
    pressed: bool = False
    step: int = 0
    """Servo steps of the old tick that were over when command or e-stop acted."""
    lost: int = 0
    """Ticks without telemetry that were over when command or e-stop acted."""


@dataclass
class _Decision:
    """What can have happened between the tick `before` and that of a place, and the moment of `before`.

    `newest` is the number on the serial link of the newest chunk that was committed by then.
    """

    place: int
    before: int
    firmware: SavedFirmware
    newest: int
    attempts: Iterator[_Attempt]
    computed: int


class _Span:
    """The core in an armed span."""

    def __init__(self, table: JointTable, first: recording_pb2.RecordedTick) -> None:
        """Rests where the arm rests in the first tick that is ARMED, one tick before it."""
        self.firmware = HostFirmware(table)
        self._positions = [float(position) for position in first.executed]
        self._measure(JointFlag.MEASURED)  # a servo without torque is where its encoder says
        self.firmware.tick(elapsed=(first.tick - 1) & 0xFFFFFFFF)
        self._measure(JointFlag(0))
        self.firmware.send(Hello(SCHEMA_HASH))

    @property
    def rests(self) -> bool:
        """Whether no joint moves."""
        return not self.firmware.motion_array()[:, 1].any()

    def run(self, before: int, tick: recording_pb2.RecordedTick, attempt: _Attempt, foreseen: Foreseen) -> Telemetry:
        """Runs from the tick `before` to `tick`, with what the attempt says."""
        elapsed = (tick.tick - before) & 0xFFFFFFFF
        if tick.flags & TickFlag.TICKS_MISSED:
            return self._tick(attempt, foreseen, 0, elapsed)
        for over in range(elapsed - 1):  # their telemetry was lost
            self._tick(attempt, foreseen, over)
        return self._tick(attempt, foreseen, max(0, elapsed - 1))

    def _tick(self, attempt: _Attempt, foreseen: Foreseen, over: int, elapsed: int = 1) -> Telemetry:
        """Runs one tick; `over`: how many are over since the last recorded one."""
        for after, chunk in attempt.commits:
            if after == over:
                self._commit(chunk)
        if over == attempt.lost:
            self._act(attempt)
        if over >= attempt.lost:
            self._foresee(foreseen)
        report = self.firmware.tick(elapsed, heartbeat=foreseen.heartbeat)
        self.firmware.library.host_press_estop(False)
        return report

    def _act(self, attempt: _Attempt) -> None:
        for step in range(1, attempt.step + 1):
            self.firmware.servo(step)
        if attempt.command is not None:
            self.firmware.command(attempt.command)
        if attempt.pressed:
            self.firmware.library.host_press_estop(True)
            if attempt.step + 1 < self.firmware.servo_steps:
                self.firmware.servo(attempt.step + 1)
                self.firmware.library.host_press_estop(False)

    def _commit(self, chunk: SentChunk) -> None:
        """A first setpoint out of reach would have been refused; that it was not is known."""
        self._positions = [float(position) for position in chunk.first]
        self._measure(JointFlag(0))
        self.firmware.send(*chunk.fragments)

    def _measure(self, flags: JointFlag, **values: Any) -> None:
        for joint, position in enumerate(self._positions):
            self.firmware.measure(joint, position, flags=flags, **values)

    def _foresee(self, foreseen: Foreseen) -> None:
        if foreseen.relief is not None:
            self._positions = [float(position) for position in foreseen.relief]
            self._measure(JointFlag.MEASURED | JointFlag.TORQUE)
            return
        flags = JointFlag.MEASURED | JointFlag.TORQUE if foreseen.guards else JointFlag(0)
        values: dict[str, float | int] = {}
        if foreseen.guards:
            motion = self.firmware.motion_array()[:, 0]
            self._positions = [float(position) for position in motion]
        if foreseen.guards & Fault.FOLLOWING_ERROR:
            self._positions = [_STRONG for _ in self._positions]
        if foreseen.guards & Fault.CONTACT:
            values["current"] = _STRONG
        if foreseen.guards & Fault.TEMPERATURE:
            values["temperature"] = 255
        if foreseen.guards & Fault.VOLTAGE:
            values["volts"] = _STRONG
        if foreseen.guards & Fault.SERVO_ERROR:
            flags |= JointFlag.OVERLOADED
        if foreseen.guards & Fault.BUS_SILENT:
            values["age"] = 255
        self._measure(flags, **values)


def replay_ticks(recording: RunRecording, on_progress: ProgressCallback | None = None) -> TickReport:
    """Computes all ticks of a recording again that its chunks explain.

    Raises:
        ConfigError: If the firmware cannot drive the recorded robot, or its splice policy is not known here.
        RecordingError: If the bridge did not say how it enters chunks.
        EmulatorError: If the core does not compile here.
    """
    return _Replay(recording).run(on_progress)


class _Replay:
    def __init__(self, recording: RunRecording) -> None:
        self._table = joint_table(recording.description.robot)
        self._ticks = recording.ticks
        self._names = recording.description.joint_names
        splice = recording.description.bridge_splice
        if not splice:
            raise RecordingError(
                f"the bridge of {recording.path} did not say how it enters chunks: it is older than this version; "
                "update it, and record again"
            )
        self._sent = sent_chunks(recording, joints_of(self._table), chunk_splice(splice))
        self._chunks = {chunk_of(chunk.number) for chunk in self._sent}
        self._newest = 0
        self._foreseen = foresee(self._ticks, self._table)
        self._span: _Span | None = None
        self._trail: deque[_Decision] = deque(maxlen=_REMEMBERED)
        self._computed = self._resting = self._unknown = self._attempted = 0

    def run(self, on_progress: ProgressCallback | None) -> TickReport:
        stage = Stage("ticks", len(self._ticks), on_progress)
        place = furthest = 0
        difference: Difference | None = None
        while place < len(self._ticks):
            found = self._advance(place)
            if found is None:
                place += 1
                if place % _REPORT_EVERY == 0 or place == len(self._ticks):
                    stage.set(place)
                continue
            if difference is None or place > furthest:
                difference, furthest, self._attempted = found, place, 0
            again = self._decide_otherwise()
            if again is not None:
                place = again + 1
            elif self._executes_unknown(furthest):
                self._span, difference = None, None
                self._unknown += 1
                place = furthest + 1
            else:
                return TickReport(len(self._ticks), self._computed, self._resting, self._unknown, difference)
        return TickReport(len(self._ticks), self._computed, self._resting, self._unknown, None)

    def _advance(self, place: int) -> Difference | None:
        """Computes a tick, where it can be; returns what differs."""
        tick = self._ticks[place].message
        if self._span is None and not self._begins(place):
            self._count_outside(place)
            return None
        if self._span is None:
            self._trail.clear()
            self._newest = 0
            self._span, before = _Span(self._table, tick), (tick.tick - 1) & 0xFFFFFFFF
            attempts: Iterator[_Attempt] = iter([_Attempt(command=Command.ARM)])
        else:
            before, attempts = self._ticks[place - 1].message.tick, self._attempts(place)
        decision = _Decision(place, before, self._span.firmware.save(), self._newest, attempts, self._computed)
        return self._try(decision)

    def _decide_otherwise(self) -> int | None:
        """Goes back to the latest tick that can have come about otherwise; its place, None where there is none."""
        while self._trail and self._attempted < _MOST_ATTEMPTS:
            decision = self._trail.pop()
            if self._try(decision) is None:
                return decision.place
        return None

    def _try(self, decision: _Decision) -> Difference | None:
        """Runs attempts until one comes out as recorded; returns what differs in the one that came nearest."""
        assert self._span is not None  # noqa: S101 - a decision belongs to a span
        recorded = self._ticks[decision.place]
        nearest: tuple[int, Difference] | None = None
        for attempt in decision.attempts:
            self._attempted += 1
            self._span.firmware.restore(decision.firmware)
            self._newest = max([decision.newest, *(chunk.number for _, chunk in attempt.commits)])
            report = self._span.run(decision.before, recorded.message, attempt, self._foreseen[decision.place])
            found = _differences(report, recorded, self._names)
            if not found:
                self._trail.append(decision)
                self._computed = decision.computed + 1
                if recorded.message.state == State.DISARMED and self._span.rests:
                    self._span = None
                return None
            if nearest is None or len(found) < nearest[0]:
                nearest = len(found), found[0]
        if nearest is None:
            return Difference(f"tick {recorded.message.tick}", "executed", "impossible", recorded.place)
        return nearest[1]

    def _begins(self, place: int) -> bool:
        """Whether ARM acted on an arm at rest just before this tick."""
        tick = self._ticks[place].message
        before = self._ticks[place - 1].message if place else None
        return tick.state == State.ARMED and (before is None or before.state == State.DISARMED)

    def _count_outside(self, place: int) -> None:
        if self._ticks[place].message.state in ACTIVE_STATES:
            self._unknown += 1
        else:
            self._resting += 1

    def _executes_unknown(self, place: int) -> bool:
        """Whether a chunk that is not in the recording is executed within what the firmware can hold ahead."""
        for later in self._ticks[place : place + RING_DEPTH]:
            if later.message.state not in ACTIVE_STATES:
                return False
            if later.message.chunk_id and later.message.chunk_id not in self._chunks:
                return True
        return False

    def _attempts(self, place: int) -> Iterator[_Attempt]:
        """What can have happened since the tick before, the most likely first."""
        before, tick = self._ticks[place - 1].message, self._ticks[place].message
        elapsed = (tick.tick - before.tick) & 0xFFFFFFFF
        gaps = range(1 if tick.flags & TickFlag.TICKS_MISSED else min(elapsed, RING_DEPTH))
        steps = range(self._table.servo_hz // self._table.control_hz)
        command = _command_between(before, tick)
        pressed = command is None and tick.state == State.ESTOP and before.state != State.ESTOP
        acts = command is not None or pressed
        for commits in self._commits(before.tick, gaps):
            for lost in gaps if acts else (0,):
                for step in steps if acts else (0,):
                    yield _Attempt(commits, command, pressed, step, lost)

    def _commits(self, before: int, gaps: range) -> Iterator[tuple[tuple[int, SentChunk], ...]]:
        """Which chunks can have been committed in the ticks before + gap, the most likely first."""
        newer = self._sent[bisect.bisect(self._sent, self._newest, key=lambda chunk: chunk.number) :]
        near = itertools.takewhile(lambda chunk: chunk.observed_tick <= before + len(gaps) + RING_DEPTH, newer)
        possible = [(gap, chunk) for chunk in near for gap in gaps if chunk.may_follow(before + gap)]
        known = tuple(one for one in possible if one[1].committed_after is not None)
        unheard = [one for one in possible if one[1].committed_after is None]
        for count in range(_MOST_COMMITS + 1):
            for others in itertools.combinations(unheard, count):
                yield tuple(sorted((*known, *others), key=lambda one: (one[0], one[1].number)))


def _command_between(before: recording_pb2.RecordedTick, tick: recording_pb2.RecordedTick) -> Command | None:
    """The command that explains the change of the state between two ticks; None where none is needed."""
    if before.state == tick.state:
        return None
    if tick.state == State.DISARMED:
        return Command.CLEAR if before.state in (State.SAFE, State.ESTOP) else Command.DISARM
    if tick.state == State.ESTOP and tick.faults & Fault.ESTOP_COMMAND:
        return Command.ESTOP
    if before.state == State.DISARMED and tick.state in ACTIVE_STATES:
        return Command.ARM
    return None


def _differences(
    report: Telemetry, recorded: Recorded[recording_pb2.RecordedTick], names: tuple[str, ...]
) -> list[Difference]:
    """What of a tick is not as recorded, the joints first."""
    tick, place = recorded.message, recorded.place
    found = []
    theirs, ours = np.array(tick.executed, np.float32), np.array(report.executed, np.float32)
    if theirs.shape != ours.shape:
        return [Difference(f"tick {tick.tick}, number of joints", len(theirs), len(ours), place)]
    other = np.flatnonzero(theirs.view(np.uint32) != ours.view(np.uint32))
    found += [
        Difference(f"tick {tick.tick}, joint {names[joint]}", float(theirs[joint]), float(ours[joint]), place)
        for joint in other
    ]
    for name in _FIELDS:
        if getattr(tick, name) != getattr(report, name):
            values = _readable(name, getattr(tick, name)), _readable(name, getattr(report, name))
            found.append(Difference(f"tick {tick.tick}, {name.replace('_', ' ')}", *values, place))
    if tick.chunk_id != chunk_of(report.chunk_id):
        found.append(Difference(f"tick {tick.tick}, chunk id", tick.chunk_id, chunk_of(report.chunk_id), place))
    return found


def _readable(name: str, value: int) -> int | str:
    kinds = {"state": State, "faults": Fault, "flags": TickFlag}
    if name not in kinds:
        return value
    return kinds[name](value).name or str(value)
