"""When each action of a chunk is due, which actions can still be played, and the fragments of the chunk.

A chunk answers an observation taken at tick T; its action k is due at tick T + 1 + k. A chunk that arrives late
is entered at the first action that is not past due, never at its first. The first setpoints of a chunk, its head, may
go ahead of its rest: for the firmware each of the two is a whole chunk. Pure functions of their arguments.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from firmware_bridge.errors import ChunkError
from firmware_bridge.link.framing import ENCODED_OVERHEAD
from firmware_bridge.robot import RobotJoints
from firmware_bridge.splice import GUARD_TICKS
from pi0_edge.protos.serial_link import MAX_HORIZON, RING_DEPTH, Fragment

RESERVE_S = 0.06
"""By how much longer the head of a chunk is executed than its rest usually takes: time to send a fragment again after a
timeout (25 ms), and for a thread that has to wait."""

_BITS_PER_BYTE = 10
_FRAGMENT_HEADER = struct.calcsize(Fragment.LAYOUT)


@dataclass(frozen=True)
class ScheduledChunk:
    """The actions of a chunk that are not past due, in the units of the serial messages.

    Attributes:
        first_tick: Tick at which row 0 is due.
        skipped: Actions that were past due.
        counts: int16 [steps, joints], counts of each joint's resolution.
    """

    first_tick: int
    skipped: int
    counts: NDArray[np.int16]

    @property
    def observed_tick(self) -> int:
        """Tick of the observation that the chunk answers."""
        return self.first_tick - self.skipped - 1

    @property
    def last_tick(self) -> int:
        """Tick at which the last row is due."""
        return self.first_tick + len(self.counts) - 1

    def split(self, steps: int) -> tuple[ScheduledChunk, ScheduledChunk]:
        """The first `steps` rows, and the others; there are some of both."""
        head = ScheduledChunk(self.first_tick, self.skipped, self.counts[:steps])
        return head, ScheduledChunk(self.first_tick + steps, self.skipped + steps, self.counts[steps:])


def check_actions(actions: NDArray[np.floating], robot: RobotJoints) -> NDArray[np.float64]:
    """Actions that the joints can take, [horizon, joints], in physical units.

    Values beyond a position limit by no more than the joint's margin are brought back to the limit.

    Raises:
        ChunkError: Wrong shape (malformed), not finite, or beyond a limit by more than the margin.
    """
    if actions.ndim != 2 or actions.shape[1] != robot.count:
        raise ChunkError(
            f"actions have shape {actions.shape}; robot {robot.name!r} takes [horizon, {robot.count}]", malformed=True
        )
    if not 1 <= len(actions) <= MAX_HORIZON:
        raise ChunkError(f"horizon is {len(actions)}; expected 1 to {MAX_HORIZON} actions", malformed=True)
    values = actions.astype(np.float64)
    _refuse_first(~np.isfinite(values), values, robot, "is not a finite number")
    beyond = (values < robot.lower - robot.margin) | (values > robot.upper + robot.margin)
    _refuse_first(beyond, values, robot, "is beyond the position limits")
    return np.clip(values, robot.lower, robot.upper)


def _refuse_first(wrong: NDArray[np.bool_], values: NDArray[np.float64], robot: RobotJoints, what: str) -> None:
    if wrong.any():
        step, joint = (int(index) for index in np.argwhere(wrong)[0])
        raise ChunkError(
            f"actions[{step}, {joint}] ({robot.names[joint]}) is {values[step, joint]:g} and {what}; "
            f"expected {robot.lower[joint]:g} to {robot.upper[joint]:g}"
        )


def head_steps(steps: int, joints: int, rest_s: float, tick_period_s: float) -> int:
    """How many setpoints of a chunk are sent ahead of the others; 0 where all of them are sent together.

    The curve of a tick depends on the setpoints of the next two. So that the head moves the arm as the whole chunk
    would, the rest has to be there at the interrupt of its last tick but one, which comes at least as many ticks after
    its acceptance as it has setpoints, less one.

    Args:
        steps: Of the whole chunk.
        joints: Numbers of a setpoint.
        rest_s: How long the rest usually takes after the head was accepted, seconds.
        tick_period_s: Of the firmware, seconds.
    """
    head = math.ceil((rest_s + RESERVE_S) / tick_period_s) + 1
    return head if head < steps and fragment_count(head, joints) < fragment_count(steps, joints) else 0


def link_number(chunk_id: int, *, is_head: bool = False) -> int:
    """Number on the serial link of a chunk, or of its head: the firmware takes only numbers that grow."""
    return (2 * chunk_id + (0 if is_head else 1)) & 0xFFFFFFFF


def chunk_of(number: int) -> int:
    """The chunk that a number on the serial link belongs to; 0, which is none, for 0."""
    return number >> 1


def wire_ticks(horizon: int, joints: int, baud: int, tick_period_s: float) -> float:
    """How many ticks a chunk spends on the wire, fragment headers included."""
    fragments = fragment_count(horizon, joints)
    size = horizon * joints * 2 + fragments * (_FRAGMENT_HEADER + ENCODED_OVERHEAD)
    return size * _BITS_PER_BYTE / baud / tick_period_s


def link_ticks(horizon: int, joints: int, baud: int, rate: float) -> float:
    """Ticks from the end of `served` to the first one that a chunk can change: the l of `pi0_edge.latency.certificate`.

    Args:
        horizon: Actions of the chunk.
        joints: Numbers of an action.
        baud: Bits per second of the serial line.
        rate: Ticks per second.
    """
    return 1 + wire_ticks(horizon, joints, baud, 1 / rate) + GUARD_TICKS


def fragment_count(horizon: int, joints: int) -> int:
    """Number of fragments of a chunk."""
    return math.ceil(horizon / steps_per_fragment(joints))


def steps_per_fragment(joints: int) -> int:
    """How many whole steps fit in one fragment."""
    return Fragment.CAPACITY // joints


def schedule(
    actions: NDArray[np.float64], observed_tick: int, earliest_tick: int, robot: RobotJoints
) -> ScheduledChunk | None:
    """Removes the actions that are past due, and quantises the others.

    Args:
        actions: Checked actions, [horizon, joints], physical units.
        observed_tick: Tick T of the observation that the chunk answers.
        earliest_tick: First tick that a setpoint sent now can still reach.
        robot: The joints.

    Returns:
        The rest of the chunk; None where every action is past due.

    Raises:
        ChunkError: The observation lies further in the future than the firmware holds setpoints.
    """
    if observed_tick > earliest_tick + RING_DEPTH:
        raise ChunkError(
            f"clock.tick is {observed_tick}, but the arm is only at tick {earliest_tick}: "
            "copy the clock of the observation that the chunk answers"
        )
    skipped = max(0, earliest_tick - (observed_tick + 1))
    if skipped >= len(actions):
        return None
    return ScheduledChunk(observed_tick + 1 + skipped, skipped, robot.to_counts(actions[skipped:]))


def fragments(number: int, chunk: ScheduledChunk) -> list[Fragment]:
    """The fragments of a chunk, each of whole steps; `number` is its `link_number`."""
    steps, joints = chunk.counts.shape
    per_fragment = steps_per_fragment(joints)
    starts = range(0, steps, per_fragment)
    return [
        _fragment(number, chunk, index, len(starts), slice(start, start + per_fragment))
        for index, start in enumerate(starts)
    ]


def _fragment(number: int, chunk: ScheduledChunk, index: int, count: int, rows: slice) -> Fragment:
    values = chunk.counts[rows]
    return Fragment(
        chunk_id=number,
        first_tick=chunk.first_tick,
        observed_tick=chunk.observed_tick & 0xFFFFFFFF,
        step_count=len(chunk.counts),
        fragment_index=index,
        fragment_count=count,
        first_step=rows.start,
        steps=len(values),
        joints=values.shape[1],
        values=tuple(values.ravel().tolist()),
    )
