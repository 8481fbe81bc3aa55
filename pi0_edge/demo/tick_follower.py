"""The simulation follows the firmware: its joints go where the servos were measured. And the way home, tick by tick."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterator

import numpy as np

from firmware_bridge.client import BridgeClient, ChunkStream, Tick
from firmware_bridge.errors import BridgeError, LinkError
from firmware_bridge.robot import ACTIVE_STATES
from pi0_edge.sim.aloha import CONTROL_HZ, HOME, JOINT_NAMES
from pi0_edge.sim.aloha_transfer_cube import AlohaTransferCube
from pi0_edge.sim.arm_kinematics import minimum_jerk

TICK_LIMIT_S = 3.0
HOMING_TICKS = 110
HOLD_TICKS = 80
HOMING_CHUNK_TICKS = 25


class TickFollower:
    """Steps the simulation with what the servos measured, tick by tick.

    Attributes:
        env: The simulation.
        last: The tick that it followed last; None before the first.
        arrived_s: When that tick came, on the clock of `time.monotonic`.
    """

    def __init__(self, env: AlohaTransferCube, ticks: Iterator[Tick]) -> None:
        self.env = env
        self.last: Tick | None = None
        self.arrived_s = 0.0
        self._ticks: queue.SimpleQueue[tuple[Tick, float] | BaseException] = queue.SimpleQueue()
        threading.Thread(target=self._receive, args=(ticks,), name="telemetry", daemon=True).start()

    def advance(self) -> Tick:
        """Waits for the next tick and moves the simulation to where its joints were measured.

        A tick that was not reported holds the position before it.

        Raises:
            LinkError: If no telemetry arrives for `TICK_LIMIT_S`.
        """
        tick, self.arrived_s = self._next()
        if self.last is not None:
            for _ in range(min(tick.tick - self.last.tick - 1, CONTROL_HZ)):
                self.env.step(self.last.measured)
        self.env.step(tick.measured)
        self.last = tick
        return tick

    @property
    def behind(self) -> int:
        """Ticks that have come and were not followed yet."""
        return self._ticks.qsize()

    @property
    def moving(self) -> bool:
        """Whether the arm was armed at the last tick."""
        return self.last is not None and self.last.state in ACTIVE_STATES

    def _next(self) -> tuple[Tick, float]:
        try:
            received = self._ticks.get(timeout=TICK_LIMIT_S)
        except queue.Empty:
            raise LinkError(f"no telemetry for {TICK_LIMIT_S:g} s: is the bridge connected to the firmware?") from None
        if isinstance(received, BaseException):
            raise received
        return received

    def _receive(self, ticks: Iterator[Tick]) -> None:
        try:
            for tick in ticks:
                self._ticks.put((tick, time.monotonic()))
        except BridgeError as error:
            self._ticks.put(error)


def ready_arm(bridge: BridgeClient, follower: TickFollower) -> None:
    """Clears a latched fault and arms; follows the ticks until they show it, since older ones may be on their way.

    Raises:
        StateError: If somebody else holds the arm or its state forbids it.
    """
    if bridge.status().state in ACTIVE_STATES:
        return
    bridge.clear("a new episode")
    bridge.arm(JOINT_NAMES)
    while follower.advance().state not in ACTIVE_STATES:
        pass


def glide_home(stream: ChunkStream, follower: TickFollower) -> None:
    """Glides the arms home through the firmware, and holds there long enough for an episode to begin."""
    start = follower.advance()
    way = minimum_jerk(start.executed, HOME, HOMING_TICKS).astype(np.float32)
    path = np.concatenate([way, np.tile(HOME, (HOLD_TICKS, 1))])
    done = due = 0
    while follower.moving and done < HOMING_TICKS + HOLD_TICKS // 4:
        if done >= due:
            stream.send(path[done : done + 50], start.tick + done)
            stream.next_report(1.0)
            due = done + HOMING_CHUNK_TICKS
        done = follower.advance().tick - start.tick
