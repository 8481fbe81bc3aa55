"""Plays chunks: checks them, splices them into the plan, sends them, and reports the result of each.

A chunk takes effect in the firmware only when all of it has arrived and was checked. A policy that answers new
observations with the same moving chunk is refused: a network that samples noise never gives the same floats twice. A
chunk in which no joint moves may repeat without limit. With a workspace, a chunk whose path leaves it is refused.
"""

import math
import threading
import time

import numpy as np
from numpy.typing import NDArray

from firmware_bridge.bridge.schedule import (
    ScheduledChunk,
    check_actions,
    fragments,
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
            earliest = self._earliest_tick(len(actions))
            self._reset_if_stopped()
            try:
                checked = check_actions(actions, self._link.robot)
                self._frozen_output.check(actions, observed_tick, self._link.clock.tick_period_s)
                spliced = self._splice_into_plan(checked, observed_tick, earliest)
                chunk = schedule(spliced.setpoints, observed_tick, earliest, self._link.robot)
                if self._workspace is not None and chunk is not None:
                    now = self._link.clock.tick_at(time.monotonic_ns())
                    self._workspace.check(self._setpoints(chunk), observed_tick, now)
            except ChunkError as error:
                if error.malformed:
                    raise
                return ChunkReport(outcome=ChunkReport.REJECTED, reason=str(error), chunk_id=self._chunk_id)
            if chunk is None:
                return self._late(observed_tick, len(actions))
            transfer = self._link.chunks.send_chunk(
                self._chunk_id, fragments(self._chunk_id, chunk), lambda: self._is_past_due(chunk)
            )
            report = report_of(chunk, transfer, self._link.robot)
            report.follows = self._plan_id
            tell_times(report, transfer, arrived_s)
            if report.outcome == ChunkReport.ACCEPTED:
                self._plan, self._plan_id = spliced.since(report.first_tick), report.chunk_id
                if self._workspace is not None and transfer.reply is not None:
                    self._workspace.accepted(self._setpoints(chunk).since(report.first_tick), transfer.reply.tick)
            return report

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

    def _earliest_tick(self, horizon: int) -> int:
        """The first tick whose setpoint can still be changed by a chunk sent now."""
        clock = self._link.clock
        on_wire = wire_ticks(horizon, self._link.robot.count, self._link.baud, clock.tick_period_s)
        return math.ceil(clock.tick_at(time.monotonic_ns()) + on_wire) + GUARD_TICKS

    def _is_past_due(self, chunk: ScheduledChunk) -> bool:
        return self._link.clock.tick_at(time.monotonic_ns()) >= chunk.last_tick

    def _late(self, observed_tick: int, horizon: int) -> ChunkReport:
        reason = f"its last action was due at tick {observed_tick + horizon}, which is past or too close"
        return ChunkReport(outcome=ChunkReport.LATE, reason=reason, chunk_id=self._chunk_id, skipped=horizon)


def tell_times(report: ChunkReport, transfer: Transfer, arrived_s: float) -> None:
    """What the bridge and the line took for a chunk; times that did not come stay 0."""
    if transfer.began_s is None:
        return
    report.splice_ms = 1e3 * (transfer.began_s - arrived_s)
    if transfer.decided_s is not None:
        report.serial_ms = 1e3 * (transfer.decided_s - transfer.began_s)
        report.decided_time_s = transfer.decided_s


def report_of(chunk: ScheduledChunk, transfer: Transfer, robot: RobotJoints) -> ChunkReport:
    """What became of a chunk whose transfer has ended."""
    report = ChunkReport(
        chunk_id=transfer.chunk_id,
        first_tick=chunk.first_tick,
        skipped=chunk.skipped,
        retransmissions=transfer.retransmissions,
        sent_tick=chunk.first_tick,
    )
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
        overtaken = max(0, reply.tick + GUARD_TICKS - chunk.first_tick)  # while fragments were sent again
        report.first_tick += overtaken
        report.skipped += overtaken
    elif reply.result == ChunkResult.LATE:
        report.outcome = ChunkReport.LATE
        report.reason = f"it arrived at tick {reply.tick}, after its last action was due"
    else:
        report.outcome = ChunkReport.REJECTED
        joint = robot.joint_name(reply.joint)
        reason = _REFUSALS.get(ChunkResult(reply.result), "no reason given")
        report.reason = f"the firmware refused it: {f'{joint}: ' if joint else ''}{reason}"
    return report
