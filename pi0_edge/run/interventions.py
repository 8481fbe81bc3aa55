"""A person moves the arm: where the setpoints come from, and how they become chunks that the firmware plays.

The run keeps the lease of the bridge. A source names a target for every joint; the path goes there at a quarter of the
velocity limits, and a short chunk of it is sent ten times a second. Without the run, or with a source that is silent,
the arm stops: the run holds its position, and a chunk lasts 300 ms.

A second client of the bridge needs nothing of this: pause the run, which ends its lease, and arm with the other client
(docs/run.md).
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Sequence
from typing import Protocol

import numpy as np
from google.protobuf import json_format
from numpy.typing import NDArray

from firmware_bridge.robot import RobotJoints
from firmware_bridge.splice import Plan
from pi0_edge.errors import ConfigError
from pi0_edge.protos import bridge_pb2

SPEED = 0.25
"""Share of the velocity limits at which a person moves the arm."""

CHUNK_TICKS = 15
EVERY_TICKS = 5

LEAD_TICKS = 5
"""Rows of a new chunk that repeat the path before it: they cover the way to the firmware, and its guard."""

HAND_BACK_TICKS = 50
"""The position is held for so long while the policy makes its first chunk."""

SILENCE_S = 0.3


class SetpointSource(Protocol):
    """What a person moves.

    Attributes:
        name: What it is, in words.
    """

    name: str

    def why_not(self, position: NDArray[np.floating]) -> str:
        """Why the arm cannot be taken over while it is there, [joints], in words; empty where it can."""
        ...

    def begin(self, position: NDArray[np.floating]) -> None:
        """The person has the arm from now on; it is at this position, [joints] in physical units."""
        ...

    def target(self) -> NDArray[np.floating] | None:
        """Where the joints shall go, [joints] in physical units; None while nobody says, which holds the arm."""
        ...


class StreamedSetpoints:
    """Targets that another thread puts in again and again, such as one that reads a leader arm."""

    def __init__(self, name: str, joints: RobotJoints) -> None:
        """Starts without a target.

        Args:
            name: What it is, in words.
            joints: Of the robot.
        """
        self.name = name
        self._joints = joints
        self._newest: tuple[NDArray[np.float64], float] | None = None

    def why_not(self, position: NDArray[np.floating]) -> str:
        """Nothing: the arm is held until there is a target, and goes there slowly."""
        return ""

    def begin(self, position: NDArray[np.floating]) -> None:
        """Older targets no longer count."""
        self._newest = None

    def put(self, target: Sequence[float] | NDArray[np.floating]) -> None:
        """Takes a target, [joints] in physical units; it counts for `SILENCE_S`.

        Raises:
            ConfigError: It has another number of joints, or is not finite.
        """
        values = np.array(target, np.float64)
        if values.shape != (self._joints.count,) or not np.isfinite(values).all():
            raise ConfigError(f"the target has shape {values.shape}; expected {self._joints.count} finite positions")
        self._newest = values, time.monotonic()

    def target(self) -> NDArray[np.floating] | None:
        """The newest target, if it is new enough."""
        newest = self._newest
        return None if newest is None or time.monotonic() - newest[1] > SILENCE_S else newest[0]


class KeyboardJog:
    """Single joints, moved by key presses.

    Attributes:
        selected: Number of the joint that the next press moves.
    """

    name = "keyboard"

    def __init__(self, joints: RobotJoints, step: float = 0.02) -> None:
        """Starts without a target.

        Args:
            joints: Of the robot.
            step: What one press moves, as a share of the joint's range.
        """
        self.selected = 0
        self._joints = joints
        self._step = step * (joints.upper - joints.lower)
        self._target: NDArray[np.float64] | None = None
        self._lock = threading.Lock()

    def why_not(self, position: NDArray[np.floating]) -> str:
        """Nothing: the presses begin where the arm is."""
        return ""

    def begin(self, position: NDArray[np.floating]) -> None:
        """Starts at a position, [joints] in physical units."""
        with self._lock:
            self._target = position.astype(np.float64)

    def select(self, change: int) -> None:
        """Goes on to another joint."""
        self.selected = (self.selected + change) % self._joints.count

    def jog(self, direction: int) -> None:
        """Moves the selected joint's target by one step, within its limits."""
        with self._lock:
            if self._target is not None:
                moved = self._target[self.selected] + direction * self._step[self.selected]
                lower, upper = self._joints.lower[self.selected], self._joints.upper[self.selected]
                self._target[self.selected] = min(max(moved, lower), upper)

    def target(self) -> NDArray[np.floating] | None:
        """Where the presses have led."""
        with self._lock:
            return None if self._target is None else self._target.copy()


class PersonPath:
    """Setpoints from where the arm is to where a person wants it, and on, as chunks that continue each other."""

    def __init__(self, joints: RobotJoints, tick_period_s: float, before: Plan, position: NDArray[np.floating]) -> None:
        """Begins where the arm is.

        Args:
            joints: Of the robot.
            tick_period_s: Seconds.
            before: What the arm is executing; its next rows are kept until the path can take effect.
            position: Where the arm is, [joints] in physical units; the path begins there where `before` has ended.
        """
        self._joints = joints
        self._step = SPEED * joints.velocity * tick_period_s
        self._plan = before
        self._position = position.astype(np.float64)
        self._next = 0

    def due(self, tick: int) -> bool:
        """Whether the next chunk is to be sent at this tick."""
        return tick >= self._next

    def chunk(self, tick: int, target: NDArray[np.floating] | None, rows: int = CHUNK_TICKS) -> NDArray[np.float64]:
        """Setpoints [rows, joints] from `tick` + 1 on; the position is held where there is no target."""
        self._next = tick + EVERY_TICKS
        path = np.empty((rows, self._joints.count))
        for row in range(rows):
            self._position = self._kept(tick + 1 + row) if row < LEAD_TICKS else self._moved(target)
            path[row] = self._position
        self._plan = Plan(tick + 1, path)
        return path

    def _kept(self, tick: int) -> NDArray[np.float64]:
        rest = self._plan.since(tick).setpoints
        if len(rest):
            return rest[0]
        return self._plan.setpoints[-1] if len(self._plan.setpoints) else self._position

    def _moved(self, target: NDArray[np.floating] | None) -> NDArray[np.float64]:
        if target is None:
            return self._position
        wanted = np.clip(target.astype(np.float64), self._joints.lower, self._joints.upper)
        return self._position + np.clip(wanted - self._position, -self._step, self._step)


def setpoints_text(tick: int, setpoints: NDArray[np.float64], report: bridge_pb2.ChunkReport) -> str:
    """A chunk of a person and what became of it, as the text of an event: row k is due at `tick` + 1 + k."""
    said = json_format.MessageToDict(report, preserving_proto_field_name=True)
    return json.dumps({"tick": tick, "setpoints": setpoints.tolist(), "report": said})
