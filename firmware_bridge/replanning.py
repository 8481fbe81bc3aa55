"""Replanning on the robot: when to observe next, which plan the policy continues, and what the arm executes.

Inference runs while the previous chunk is executed. All times are firmware ticks: a chunk answers the observation of
tick T, its action k is due at T + 1 + k, and if it enters at tick E, its delay is E − T − 1.

    scheduler = ChunkScheduler(RealTimeChunking(), replan_ticks=25)
    every tick:           if scheduler.due(tick): ask the policy with scheduler.observe(tick)
    chunk has entered:    scheduler.entered(actions, first_tick)
    chunk was lost:       scheduler.lost()
"""

from __future__ import annotations

import math
from collections import deque

import numpy as np
from numpy.typing import NDArray

from firmware_bridge.splice import NOTHING, Plan, Splice
from pi0_edge.protos.policy_pb2 import Continuation

WINDOW = 200
"""Delays that are remembered: a policy that has become faster is trusted after so many chunks."""


class DelayWindow:
    """The latest delays from observation to entry, in ticks."""

    def __init__(self, size: int = WINDOW) -> None:
        self._delays: deque[int] = deque(maxlen=size)

    def add(self, delay: int) -> None:
        """Adds one, and removes the oldest of more than `size`."""
        self._delays.append(delay)

    def quantile(self, share: float) -> int:
        """The smallest delay that at least `share` of all did not exceed; 0 where none is known."""
        if not self._delays:
            return 0
        return sorted(self._delays)[math.ceil(share * len(self._delays)) - 1]


class ChunkScheduler:
    """The plan of one arm and the times of its inferences.

    Attributes:
        plan: What the arm executes.
        delays: How long chunks took.
    """

    def __init__(self, splice: Splice, replan_ticks: int) -> None:
        """Starts without a plan.

        Args:
            splice: How chunks enter.
            replan_ticks: Ticks between two observations, if the policy is fast enough.
        """
        self.plan = NOTHING
        self.delays = DelayWindow()
        self._splice = splice
        self._replan_ticks = replan_ticks
        self._observed = 0
        self._next = 0
        self._waiting = False

    @property
    def delay(self) -> int:
        """Ticks that 99 of 100 chunks need from observation to entry."""
        return self.delays.quantile(0.99)

    def setpoint(self, tick: int) -> NDArray[np.float64] | None:
        """What is executed at `tick`, [joints]; None where nothing is planned for it."""
        rest = self.plan.since(tick)
        return rest.setpoints[0] if len(rest.setpoints) and rest.first_tick == tick else None

    def due(self, tick: int) -> bool:
        """Whether the observation of `tick` is to be answered.

        One inference runs at a time. The next one starts `replan_ticks` after the one before, and earlier where 99 of
        100 chunks would otherwise arrive after the end of the plan.
        """
        if self._waiting:
            return False
        return tick >= min(self._next, self.plan.last_tick - self.delay)

    def observe(self, tick: int) -> Continuation | None:
        """Records that an inference for the observation of `tick` starts; returns the plan that its chunk continues."""
        self._observed, self._next, self._waiting = tick, tick + self._replan_ticks, True
        return self._splice.continuation(self.plan, tick, self.delay)

    def entered(self, actions: NDArray[np.floating], first_tick: int) -> None:
        """Enters the last requested chunk into the plan, [horizon, joints] in physical units.

        Args:
            actions: The whole chunk.
            first_tick: First tick at which it is executed; earlier setpoints of the plan stay.
        """
        self._waiting = False
        self.delays.add(first_tick - self._observed - 1)
        chunk = Plan(self._observed + 1, actions.astype(np.float64))
        running = self.plan.since(self._observed + 1)
        self.plan = running.followed_by(self._splice.enter(running, chunk, first_tick).since(first_tick))

    def lost(self) -> None:
        """Records that the last requested chunk was lost; the next observation is due at once."""
        self._waiting, self._next = False, 0
