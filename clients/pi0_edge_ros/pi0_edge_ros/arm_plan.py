"""What the arm executes, when to observe next, and what the next chunk is to continue.

The counterpart of `firmware_bridge.replanning` for a robot without a firmware tick: times are nanoseconds of the clock
of the messages. A trajectory controller moves in a straight line from point to point, so that the plan between two
points is known too.
"""

from __future__ import annotations

import math

import numpy as np

from firmware_bridge.replanning import DelayWindow
from firmware_bridge.splice import Plan, Splice
from pi0_edge.protos.policy_pb2 import Continuation
from pi0_edge_ros.trajectories import NANOSECONDS, DuePositions

_TRUSTED_SHARE = 0.99
"""Of all chunks that shall have arrived before the plan ends."""


class ArmPlan:
    """The plan of one arm. Not for several threads at once."""

    def __init__(self, splice: Splice, control_hz: float, replan_s: float) -> None:
        """Starts without a plan.

        Args:
            splice: How a chunk continues the plan.
            control_hz: Actions per second.
            replan_s: Seconds between two observations, if the policy is fast enough.
        """
        self._splice = splice
        self._period_ns = NANOSECONDS / control_hz
        self._replan_ns = round(replan_s * NANOSECONDS)
        self._delays = DelayWindow()
        self._plan: DuePositions | None = None
        self._next_ns = 0
        self._not_before_ns = 0

    @property
    def delay(self) -> int:
        """Control periods that 99 of 100 chunks need from their observation until they enter."""
        return self._delays.quantile(_TRUSTED_SHARE)

    @property
    def ends_ns(self) -> int:
        """When the last position of the plan is due; 0 where there is no plan."""
        return 0 if self._plan is None else int(self._plan.due_ns[-1])

    def is_due(self, now_ns: int) -> bool:
        """Whether it is time for an observation.

        It is `replan_s` after the one before, and earlier where 99 of 100 chunks would otherwise come after the end of
        the plan.
        """
        if now_ns < self._not_before_ns:
            return False
        return now_ns >= min(self._next_ns, self.ends_ns - round(self.delay * self._period_ns))

    def observed(self, observed_ns: int, now_ns: int) -> Continuation | None:
        """Records that an inference starts.

        Args:
            observed_ns: Time of its observation.
            now_ns: The time now.

        Returns:
            The plan that its chunk continues; None where there is none, or the splice asks for none.
        """
        self._next_ns = now_ns + self._replan_ns
        return self._splice.continuation(self._rest(observed_ns), 0, self.delay)

    def entered(self, due: DuePositions) -> None:
        """Takes the positions that were sent, at least one: they replace what was planned from their first one on."""
        self._delays.add(math.ceil((int(due.due_ns[0]) - due.observed_ns) / self._period_ns - 1e-6) - 1)
        running = self._plan
        if running is not None and running.due_ns[0] < due.due_ns[0]:
            # One period before the observation: the position between two points needs both.
            kept = (running.due_ns < due.due_ns[0]) & (running.due_ns >= due.observed_ns - self._period_ns)
            due = DuePositions(
                due.observed_ns,
                np.concatenate([running.due_ns[kept], due.due_ns]),
                np.concatenate([running.positions[kept], due.positions]),
            )
        self._plan = due

    def lost(self, not_before_ns: int) -> None:
        """Records that the last inference gave nothing to execute: the next one is due, but not before this time."""
        self._next_ns, self._not_before_ns = 0, not_before_ns

    def stopped(self) -> None:
        """Forgets the plan: the arm executes nothing that is known."""
        self._plan, self._next_ns, self._not_before_ns = None, 0, 0

    def _rest(self, observed_ns: int) -> Plan:
        """The plan at the times of the next chunk's actions: row k is due k + 1 periods after its observation."""
        nothing = Plan(0, np.zeros((0, 0)))
        if self._plan is None:
            return nothing
        due_ns = self._plan.due_ns
        rows = int((int(due_ns[-1]) - observed_ns) / self._period_ns + 1e-6)
        if rows < 1 or observed_ns + self._period_ns < due_ns[0]:
            return nothing
        times = np.arange(1, rows + 1) * self._period_ns
        offsets = (due_ns - observed_ns).astype(np.float64)
        columns = [np.interp(times, offsets, column) for column in self._plan.positions.T]
        return Plan(1, np.stack(columns, axis=1))
