"""What moves the arm between ARM and DISARM: one stream of chunks, their schedule, and the reports they wait for."""

from __future__ import annotations

from collections import deque
from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from firmware_bridge.client import BridgeClient
from firmware_bridge.replanning import ChunkScheduler
from firmware_bridge.splice import Plan, Splice
from pi0_edge.protos import bridge_pb2, policy_pb2
from pi0_edge.run.events import Answered, Observed
from pi0_edge.run.inbox import Inbox


@dataclass(frozen=True)
class PolicyChunkSent:
    """A chunk of the policy on its way to the firmware."""

    observed: Observed
    chunk: policy_pb2.Chunk
    actions: NDArray[np.float32]
    arrived_ns: int
    scheduler: ChunkScheduler

    def answered(self, report: bridge_pb2.ChunkReport, time_ns: int) -> Answered:
        """The event for its report."""
        return Answered(
            observed=self.observed,
            time_ns=time_ns,
            chunk=self.actions,
            overrides=tuple(self.chunk.overrides),
            infer_ms=self.chunk.timing.infer_ms,
            to_chunk_ms=(self.arrived_ns - self.observed.time_ns) * 1e-6,
            report=report,
            preprocess_ms=self.chunk.timing.preprocess_ms,
            postprocess_ms=self.chunk.timing.postprocess_ms,
        )


@dataclass(frozen=True)
class PersonChunkSent:
    """Setpoints of a person on their way to the firmware.

    Attributes:
        tick: Row k is due at tick + 1 + k.
        setpoints: float64 [rows, joints], physical units.
    """

    tick: int
    setpoints: NDArray[np.float64]


Sent = PolicyChunkSent | PersonChunkSent


class Motion:
    """One span in which the arm is armed.

    Attributes:
        scheduler: The plan of the policy and the times of its inferences.
        stream: To the bridge.
        asked: The observation that the policy works on for this motion; None where it works on none.
    """

    def __init__(self, bridge: BridgeClient, inbox: Inbox, splice: Splice, replan_ticks: int) -> None:
        """Opens the stream; the arm is armed already."""
        self._new_scheduler = lambda: ChunkScheduler(splice, replan_ticks)
        self.scheduler = self._new_scheduler()
        self.asked: Observed | None = None
        self._without_report: deque[Sent] = deque()
        self._stack = ExitStack()
        self.stream = self._stack.enter_context(bridge.play())
        inbox.collect(self.stream)

    def send_policy_chunk(self, observed: Observed, chunk: policy_pb2.Chunk, arrived_ns: int) -> None:
        """Passes a chunk of the policy on to the bridge."""
        actions = np.array(chunk.actions, np.float32).reshape(chunk.horizon, chunk.action_dim)
        self._without_report.append(PolicyChunkSent(observed, chunk, actions, arrived_ns, self.scheduler))
        self.stream.send_message(chunk)

    def send_person_chunk(self, setpoints: NDArray[np.float64], tick: int) -> None:
        """Sends setpoints of a person, [rows, joints]; row k is due at `tick` + 1 + k."""
        self._without_report.append(PersonChunkSent(tick, setpoints))
        self.stream.send(setpoints, tick)

    def reported(self) -> Sent:
        """The chunk that the next report belongs to: reports come in the order of the chunks."""
        return self._without_report.popleft()

    def enter(self, sent: PolicyChunkSent, report: bridge_pb2.ChunkReport) -> None:
        """Enters what the firmware took of a chunk of the policy into the plan: all, its head alone, or nothing."""
        if sent.scheduler is not self.scheduler:  # a person had the arm meanwhile
            return
        accepted = report.outcome == bridge_pb2.ChunkReport.ACCEPTED
        if accepted or report.head_tick:
            taken = None if accepted else report.sent_tick + report.head_steps - sent.observed.tick - 1
            self.scheduler.entered(sent.actions[:taken], report.first_tick)
        if not accepted:
            self.scheduler.lost()

    def hold_plan(self, plan: Plan) -> None:
        """Begins a new schedule with what the arm executes until the policy's next chunk, which is due at once."""
        self.scheduler = self._new_scheduler()
        self.scheduler.plan = plan

    def close(self) -> None:
        """Ends the stream."""
        self._stack.close()
