"""Plays chunks: checks them, splices them into the plan, sends them, and reports the result of each.

All of a chunk is checked before any of it is sent. To an arm that moves, its first setpoints, the head, are sent ahead
of the rest, so that the arm turns to them while the rest is on its way: for the firmware both are whole chunks, and the
head replaces all that it held. Without its rest, the head ends as every chunk does: the arm brakes.

A policy that answers new observations with the same moving chunk is refused: a network that samples noise never gives
the same floats twice. A chunk in which no joint moves may repeat without limit. With a workspace, a chunk whose path
leaves it is refused.
"""

from __future__ import annotations

import math
import threading
import time
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from firmware_bridge.bridge.schedule import (
    ScheduledChunk,
    check_actions,
    chunk_of,
    fragments,
    head_steps,
    link_number,
    schedule,
    wire_ticks,
)
from firmware_bridge.bridge.workspace.workspace import Workspace
from firmware_bridge.errors import ChunkError
from firmware_bridge.link.link import FirmwareLink
from firmware_bridge.link.transfer import Transfer
from firmware_bridge.robot import RobotJoints
from firmware_bridge.splice import GUARD_TICKS, NOTHING, HoldSwap, Plan, Splice
from pi0_edge.protos.bridge_pb2 import ChunkReport
from pi0_edge.protos.serial_link import ChunkResult, State

FROZEN_S = 1.0
"""How much newer an observation must be than the first that was answered with the same chunk."""

_FORGET = 0.9
"""Of the slowest rest of a chunk, with each further one: a line that was slow once is trusted again later."""


class FrozenOutput:
    """The last chunk, and the first observation that it answered."""

    def __init__(self) -> None:
        self._actions: NDArray[np.floating] | None = None
        self._first_observed = 0

    def check(self, actions: NDArray[np.floating], observed_tick: int, tick_period_s: float) -> None:
        """Checks the next chunk, [horizon, joints] in physical units, that answers the observation of a tick.

        Raises:
            ChunkError: The same chunk, in which joints move, has answered observations for longer than `FROZEN_S`.
        """
        if self._actions is None or not np.array_equal(actions, self._actions):
            self._actions, self._first_observed = actions.copy(), observed_tick
            return
        frozen_s = (observed_tick - self._first_observed) * tick_period_s
        if frozen_s > FROZEN_S and (actions != actions[0]).any():
            raise ChunkError(
                f"the policy answers with the same moving chunk since {frozen_s:.1f} s, whatever it observes: "
                "its output is frozen; restart it"
            )


_REFUSALS = {
    ChunkResult.STALE: "a newer chunk was played already",
    ChunkResult.TOO_FAR_AHEAD: "it reaches further ahead than the ring of setpoints",
    ChunkResult.NOT_ARMED: "the arm is not armed",
    ChunkResult.WRONG_SHAPE: "the firmware expects another number of joints or steps",
    ChunkResult.OUT_OF_RANGE: "a setpoint is beyond the position limits",
    ChunkResult.OUT_OF_REACH: "its first setpoint is farther from the measured position than it can move by then; "
    "begin where the arm is",
}


class ChunkPlayer:
    """Fills the firmware's ring of setpoints. One chunk is sent at a time."""

    def __init__(self, link: FirmwareLink, splice: Splice | None = None, workspace: Workspace | None = None) -> None:
        """Plays chunks on one link; the splice policy is `hold-swap` unless `splice` is given."""
        self._link = link
        self._splice = HoldSwap() if splice is None else splice
        self._workspace = workspace
        self._plan = NOTHING
        self._plan_id = 0  # of the chunk that the plan is the rest of
        self._frozen_output = FrozenOutput()
        self._lock = threading.Lock()
        self._chunk_id = 0
        self._rest_s = 0.0  # the slowest of the last rests
        self._check_s = 0.0  # what the last check of the workspace took

    @property
    def splice(self) -> str:
        """Name of the splice policy."""
        return self._splice.name

    def play(self, actions: NDArray[np.floating], observed_tick: int, arrived_s: float | None = None) -> ChunkReport:
        """Enters a chunk into the ring at the action that is due now.

        Args:
            actions: [horizon, joints], physical units.
            observed_tick: Tick T of the observation that the chunk answers; action k is due at T + 1 + k.
            arrived_s: When the chunk arrived, on the clock of `time.monotonic`; now where None.

        Raises:
            ChunkError: The chunk is malformed.
            LinkError: The firmware's clock is not known.
        """
        arrived_s = time.monotonic() if arrived_s is None else arrived_s
        self._link.chunks.yield_to_newer()
        with self._lock:
            self._chunk_id += 1
            moves = self._moves()
            head = self._head_steps(len(actions)) if moves else 0
            earliest = self._earliest_tick(head or len(actions)) + (0 if moves else 1)
            self._reset_if_stopped()
            try:
                checked = check_actions(actions, self._link.robot)
                self._frozen_output.check(actions, observed_tick, self._link.clock.tick_period_s)
                spliced = self._splice_into_plan(checked, observed_tick, earliest)
                chunk = schedule(spliced.setpoints, observed_tick, earliest, self._link.robot)
                if chunk is not None:
                    self._check_workspace(chunk, observed_tick, earliest - GUARD_TICKS)
            except ChunkError as error:
                if error.malformed:
                    raise
                return ChunkReport(outcome=ChunkReport.REJECTED, reason=str(error), chunk_id=self._chunk_id)
            if chunk is None:
                return self._late(observed_tick, len(actions))
            sent = self._send(chunk, head if head < len(chunk.counts) else 0)
            report = report_of(chunk, sent, self._link.robot)
            report.follows = self._plan_id
            tell_times(report, sent, arrived_s)
            if report.outcome == ChunkReport.ACCEPTED or report.head_tick:
                self._enter(spliced, chunk, report)
            return report

    def _check_workspace(self, chunk: ScheduledChunk, observed_tick: int, arrival: int) -> None:
        """Passes a chunk that stays in the workspace, if there is one; raises `ChunkError` for another."""
        if self._workspace is not None:
            began_ns = time.monotonic_ns()
            now = self._link.clock.tick_at(began_ns)
            try:
                self._workspace.check(self._setpoints(chunk), observed_tick, now, arrival)
            finally:
                self._check_s = 1e-9 * (time.monotonic_ns() - began_ns)

    def _send(self, chunk: ScheduledChunk, head_steps: int) -> SentChunk:
        """Sends a chunk in one piece, or its head and then its rest."""
        chunks, tick_at = self._link.chunks, self._link.clock.tick_at
        if not head_steps:
            number = link_number(self._chunk_id)
            return SentChunk(
                chunks.send_chunk(
                    number, fragments(number, chunk), lambda _: tick_at(time.monotonic_ns()) >= chunk.last_tick
                )
            )
        head, rest = chunk.split(head_steps)
        number = link_number(self._chunk_id, is_head=True)
        first = chunks.send_chunk(
            number, fragments(number, head), lambda _: tick_at(time.monotonic_ns()) >= head.last_tick
        )
        if not may_follow(first):
            return SentChunk(first, head_steps=head_steps)

        def is_past_due(transfer: Transfer) -> bool:
            """Once the head was executed, a newer chunk is worth more than the rest of this one."""
            now = tick_at(time.monotonic_ns())
            return now >= rest.last_tick or (transfer.blocks_newer and now >= head.last_tick)

        number = link_number(self._chunk_id)
        second = chunks.send_chunk(number, fragments(number, rest), is_past_due, first if is_accepted(first) else None)
        if first.decided_s is not None and second.decided_s is not None:
            self._rest_s = max(second.decided_s - first.decided_s, _FORGET * self._rest_s)
        return SentChunk(second, first, head_steps)

    def _enter(self, spliced: Plan, chunk: ScheduledChunk, report: ChunkReport) -> None:
        """Takes what the firmware holds of a chunk as the plan: all of it, or its head alone."""
        is_whole = report.outcome == ChunkReport.ACCEPTED
        end = chunk.last_tick if is_whole else chunk.first_tick + report.head_steps - 1
        self._plan, self._plan_id = spliced.since(report.first_tick).until(end), report.chunk_id
        if self._workspace is not None:
            held = self._setpoints(chunk).since(report.first_tick).until(end)
            self._workspace.accepted(held, report.head_tick or report.decided_tick)

    def _moves(self) -> bool:
        """Whether the arm is executing a plan.

        One that stands gets a chunk in one piece, and a tick more: the firmware checks that it can reach the first
        setpoint of whatever it gets by the time at which that is due.
        """
        telemetry = self._link.telemetry
        return telemetry is not None and telemetry.state in (State.RUNNING, State.STARVED)

    def _head_steps(self, steps: int) -> int:
        """Setpoints of a chunk that go ahead of the rest; 0 where all of it is sent together."""
        robot, tick_s = self._link.robot, self._link.clock.tick_period_s
        rest_s = max(self._rest_s, wire_ticks(steps, robot.count, self._link.baud, tick_s) * tick_s)
        return head_steps(steps, robot.count, rest_s, tick_s)

    def _setpoints(self, chunk: ScheduledChunk) -> Plan:
        """The positions that the firmware makes of a chunk."""
        return Plan(chunk.first_tick, self._link.robot.of_counts(chunk.counts))

    def _reset_if_stopped(self) -> None:
        """Resets the plan if the arm has stopped since the last chunk, or never moved."""
        telemetry = self._link.telemetry
        if telemetry is None or telemetry.state != State.RUNNING:
            self._plan, self._plan_id = NOTHING, 0
            self._frozen_output = FrozenOutput()

    def _splice_into_plan(self, actions: NDArray[np.float64], observed_tick: int, earliest: int) -> Plan:
        """The chunk as it is to be executed."""
        chunk, entry = Plan(observed_tick + 1, actions), max(observed_tick + 1, earliest)
        return self._splice.enter(self._plan, chunk, entry) if entry <= chunk.last_tick else chunk

    def _earliest_tick(self, steps: int) -> int:
        """The first tick whose setpoint can still be changed by so many steps sent now.

        It is `GUARD_TICKS` after the tick that is under way when they arrive.
        """
        clock = self._link.clock
        on_wire = wire_ticks(steps, self._link.robot.count, self._link.baud, clock.tick_period_s)
        before = (self._check_s + 0.5 * clock.round_trip_s) / clock.tick_period_s
        return math.floor(clock.tick_at(time.monotonic_ns()) + before + on_wire) + GUARD_TICKS

    def _late(self, observed_tick: int, horizon: int) -> ChunkReport:
        reason = f"its last action was due at tick {observed_tick + horizon}, which is past or too close"
        return ChunkReport(outcome=ChunkReport.LATE, reason=reason, chunk_id=self._chunk_id, skipped=horizon)


class SentChunk(NamedTuple):
    """How a chunk went to the firmware.

    Attributes:
        transfer: Of the whole chunk, or of its rest; of its head where the rest was not sent.
        head: The transfer of the head, where the rest was sent after it.
        head_steps: Setpoints of the head; 0 where all were sent together.
    """

    transfer: Transfer
    head: Transfer | None = None
    head_steps: int = 0

    @property
    def entered(self) -> Transfer:
        """The transfer with which its first setpoints entered the ring, or by which it was refused."""
        return self.head if self.head is not None and is_accepted(self.head) else self.transfer


def is_accepted(transfer: Transfer) -> bool:
    """Whether the firmware has said that it holds these setpoints."""
    return transfer.reply is not None and transfer.reply.result == ChunkResult.ACCEPTED


def may_follow(head: Transfer) -> bool:
    """Whether the rest is worth sending: the head was accepted, or only came too late."""
    if head.reply is None:
        return not head.superseded
    return head.reply.result in (ChunkResult.ACCEPTED, ChunkResult.LATE)


def tell_times(report: ChunkReport, sent: SentChunk, arrived_s: float) -> None:
    """What the bridge and the line took for a chunk; times that did not come stay 0."""
    began_s = sent.transfer.began_s if sent.head is None or sent.head.began_s is None else sent.head.began_s
    if began_s is None:
        return
    report.splice_ms = 1e3 * (began_s - arrived_s)
    decided_s = sent.entered.decided_s
    if decided_s is not None:
        report.serial_ms = 1e3 * (decided_s - began_s)
        report.decided_time_s = decided_s
        if sent.head is not None and sent.transfer.decided_s is not None:
            report.rest_ms = 1e3 * (sent.transfer.decided_s - decided_s)


def report_of(chunk: ScheduledChunk, sent: SentChunk, robot: RobotJoints) -> ChunkReport:
    """What became of a chunk whose transfers have ended."""
    transfer, head = sent.transfer, sent.head
    report = ChunkReport(
        chunk_id=chunk_of(transfer.chunk_id),
        first_tick=chunk.first_tick,
        skipped=chunk.skipped,
        retransmissions=transfer.retransmissions + (0 if head is None else head.retransmissions),
        sent_tick=chunk.first_tick,
        head_steps=sent.head_steps,
    )
    if head is not None and is_accepted(head) and head.reply is not None:
        report.head_tick = head.reply.tick
    _tell_outcome(report, transfer, robot)
    if report.head_tick and report.outcome != ChunkReport.ACCEPTED:
        report.reason = (
            f"the arm has its first {sent.head_steps} setpoints alone, and brakes after them: {report.reason}"
        )
    entered = sent.entered.reply
    if entered is not None and (report.head_tick or report.outcome == ChunkReport.ACCEPTED):
        is_late = head is not None and not report.head_tick  # then the rest alone is executed
        begin = chunk.first_tick + (sent.head_steps if is_late else 0)
        report.first_tick = max(begin, entered.tick + GUARD_TICKS)  # later than planned where something took longer
        report.skipped += report.first_tick - chunk.first_tick
    return report


def _tell_outcome(report: ChunkReport, transfer: Transfer, robot: RobotJoints) -> None:
    """What became of the whole chunk, or of its rest."""
    reply = transfer.reply
    if reply is not None:
        report.decided_tick = reply.tick
    if transfer.superseded and reply is None:
        report.outcome = ChunkReport.REJECTED
        report.reason = "a newer chunk came before all of it had arrived"
    elif reply is None:
        report.outcome = ChunkReport.LOST
        report.reason = "the firmware did not confirm it before it was past due"
    elif reply.result == ChunkResult.ACCEPTED:
        report.outcome = ChunkReport.ACCEPTED
    elif reply.result == ChunkResult.LATE:
        report.outcome = ChunkReport.LATE
        report.reason = f"it arrived at tick {reply.tick}, after its last action was due"
    else:
        report.outcome = ChunkReport.REJECTED
        joint = robot.joint_name(reply.joint)
        reason = _REFUSALS.get(ChunkResult(reply.result), "no reason given")
        report.reason = f"the firmware refused it: {f'{joint}: ' if joint else ''}{reason}"
