"""What the firmware will make of setpoints: the commanded position of every joint after every servo step.

It follows `core/setpoint_curve.c` and `core/control.c` tick by tick, in their float32 arithmetic, so that the result
is the firmware's bit for bit where the start is known (docs/motion.md). Where joints can follow their curves, the steps
of a tick are computed for all of them at once; a joint that a limit holds back goes through the limiter, step by step.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from firmware_bridge.bridge.workspace.limiter import JointLimits, Target
from firmware_bridge.robot import RobotJoints
from firmware_bridge.splice import GUARD_TICKS, Plan

PAST_TICKS = 8
"""Ticks before the newest telemetry whose setpoints say more about the present curve."""

Rows: TypeAlias = NDArray[np.floating[Any]]  # float32


class ArmState(NamedTuple):
    """Where the joints are after the first servo step of a tick, as telemetry reports it.

    Attributes:
        tick: The tick.
        position: float32 [joints], units.
        velocity: float32 [joints], units per servo step.
    """

    tick: int
    position: Rows
    velocity: Rows


@dataclass(frozen=True)
class Setpoints:
    """What the firmware's ring holds: each chunk replaces all older ones from its first tick on.

    Attributes:
        chunks: In the order of their arrival.
    """

    chunks: tuple[Plan, ...] = ()

    def at(self, tick: int) -> Rows | None:
        """The setpoint of a tick, [joints]; None where there is none."""
        chunk = next((chunk for chunk in reversed(self.chunks) if chunk.first_tick <= tick), None)
        if chunk is None or tick > chunk.last_tick:
            return None
        return chunk.setpoints[tick - chunk.first_tick].astype(np.float32)

    def replaced_by(self, chunk: Plan, now: int) -> Setpoints:
        """With a newer chunk, and without what no longer says anything about the ticks from `now` - PAST_TICKS on."""
        begun = [index for index, old in enumerate(self.chunks) if old.first_tick <= now - PAST_TICKS]
        return Setpoints((*self.chunks[max(begun, default=0) :], chunk))


class Motion(NamedTuple):
    """Commanded positions, and the velocities from which the joints would brake.

    Attributes:
        first_tick: Rows 1 to S belong to this tick, the next S to the one after it, with S servo steps in a tick; row 0
            is the last servo step before.
        positions: float32 [1 + ticks * S, joints], units.
        velocities: The same, units per servo step.
        servo_steps: S.
    """

    first_tick: int
    positions: Rows
    velocities: Rows
    servo_steps: int

    def between(self, tick: int, last_tick: int) -> Motion:
        """The motion from a tick to another, both included."""
        start, end = ((at - self.first_tick) * self.servo_steps for at in (tick, last_tick + 1))
        return Motion(tick, self.positions[start : end + 1], self.velocities[start : end + 1], self.servo_steps)

    def row_of(self, tick: int) -> int:
        """The row of the first servo step of a tick; the last row for a tick after the end."""
        return min(1 + (tick - self.first_tick) * self.servo_steps, len(self.positions) - 1)


@dataclass(frozen=True)
class _Curve:
    """The cubics of all joints in one tick; as `struct setpoint_curve`, arrays [joints]."""

    here: Rows
    slope: Rows
    bend: Rows
    twist: Rows
    next: Rows
    end_slope: Rows
    is_corner: NDArray[np.bool_]

    def positions(self, s: Rows) -> Rows:
        """[len(s), joints] at times `s` in ticks."""
        s = s[:, None]
        return self.here + s * (self.slope + s * (self.bend + s * self.twist))

    def velocities(self, s: Rows) -> Rows:
        """[len(s), joints], units per tick."""
        s = s[:, None]
        return self.slope + s * (2 * self.bend + 3 * s * self.twist)


def _curve_through(here: Rows, slope: Rows, following: Rows, after: Rows, max_turn: Rows) -> _Curve:
    """`setpoint_curve_through` for all joints."""
    way, end_slope = following - here, np.float32(0.5) * (after - here)
    bend, twist = 3 * way - 2 * slope - end_slope, slope + end_slope - 2 * way
    at_start, at_end = 2 * bend, 2 * bend + 6 * twist
    corner = (np.abs(at_start) > max_turn) | (np.abs(at_end) > max_turn)
    beyond = after - following
    slower = np.where(np.abs(way) < np.abs(beyond), way, beyond)
    zero = np.float32(0.0)
    slower = np.where((way < 0.0) != (beyond < 0.0), zero, slower)
    return _Curve(
        here,
        np.where(corner, way, slope),
        np.where(corner, zero, bend),
        np.where(corner, zero, twist),
        following,
        np.where(corner, slower, end_slope),
        corner,
    )


class MotionPredictor:
    """Computes the motion of one robot.

    Attributes:
        servo_steps: Servo steps in a tick.
        max_step: Largest velocity, float32 [joints], units per servo step.
        max_change: Largest change of velocity, float32 [joints], units per servo step squared.
    """

    def __init__(self, robot: RobotJoints) -> None:
        self.servo_steps = robot.servo_hz // robot.control_hz
        hz = np.float32(robot.servo_hz)
        self.max_step = robot.velocity.astype(np.float32) / hz
        self.max_change = robot.acceleration.astype(np.float32) / (hz * hz)
        self.lower, self.upper = robot.lower.astype(np.float32), robot.upper.astype(np.float32)
        of_joints = zip(self.lower, self.upper, self.max_step, self.max_change, strict=True)
        self.limits = [JointLimits(*numbers) for numbers in of_joints]

    def predict(self, start: ArmState, held: Setpoints, chunk: Plan, arrival: int | None = None) -> Motion:
        """The motion from the tick after `start` until the joints are at rest behind the last tick of a chunk.

        Args:
            start: The newest state that telemetry reported.
            held: The setpoints that the firmware holds.
            chunk: Those that it is to get.
            arrival: The tick in which it gets them. This matters where it is two ticks before their first, as late as
                it may be: the curve of this tick still looks ahead at what was held. Without it they arrive earlier.
        """
        later = held.replaced_by(chunk, start.tick)
        arrival = chunk.first_tick - GUARD_TICKS - 1 if arrival is None else arrival
        walk = _Walk(self, start)
        walk.finish(held if start.tick <= arrival else later, start.tick)
        positions, velocities = [walk.position[None]], [walk.velocity[None]]
        tick = start.tick
        while tick < chunk.last_tick or walk.velocity.any():
            tick += 1
            before = walk.position[None]
            steps = walk.advance(held if tick <= arrival else later, tick)
            positions.append(steps)
            velocities.append(np.diff(np.concatenate([before, steps]), axis=0))
        return Motion(start.tick + 1, np.concatenate(positions), np.concatenate(velocities), self.servo_steps)


class _Walk:
    """The joints on their way, tick by tick; `position` and `velocity` are those after the last step, [joints]."""

    def __init__(self, predictor: MotionPredictor, start: ArmState) -> None:
        self.position, self.velocity = start.position, start.velocity
        self._predictor = predictor
        self._steps = predictor.servo_steps
        self._max_turn = predictor.max_change * self._steps * self._steps
        self._slope: Rows | None = None  # at the end of the last curve; None where the joints follow none

    def finish(self, setpoints: Setpoints, tick: int) -> None:
        """Executes the steps of a tick behind its first one.

        The slope with which its curve began follows from the curves before. Where the setpoints began within them, the
        arm is taken to have been at rest.
        """
        self._slope = np.zeros_like(self.position)
        for past in range(tick - PAST_TICKS, tick):
            curve, follows = self._curve(setpoints, past)
            self._slope = curve.end_slope if curve is not None and follows else np.zeros_like(self.position)
        self._advance(setpoints, tick, 1)

    def advance(self, setpoints: Setpoints, tick: int) -> Rows:
        """Executes a tick; returns the positions after each of its steps, [steps, joints]."""
        return self._advance(setpoints, tick, 0)

    def _advance(self, setpoints: Setpoints, tick: int, first_step: int) -> Rows:
        curve, follows = self._curve(setpoints, tick)
        self._slope = curve.end_slope if curve is not None and follows else None
        if curve is None:
            return self._brake(self._steps - first_step)
        if follows:
            return self._follow(curve, first_step, self._steps)
        reached = self._follow(curve, first_step, 1)
        return np.concatenate([reached, self._brake(self._steps - max(first_step, 1))])

    def _curve(self, setpoints: Setpoints, tick: int) -> tuple[_Curve | None, bool]:
        """The curve of a tick, and whether the joints follow it behind its first step: another setpoint must follow."""
        here, following = setpoints.at(tick), setpoints.at(tick + 1)
        if here is None:
            return None, False
        slope = self.velocity * self._steps if self._slope is None else self._slope
        ahead = here + slope if following is None else following
        after = None if following is None else setpoints.at(tick + 2)
        beyond = ahead + (ahead - here) if after is None else after
        return _curve_through(here, slope, ahead, beyond, self._max_turn), following is not None

    def _follow(self, curve: _Curve, first_step: int, end: int) -> Rows:
        """Executes the steps `first_step` to `end` (excluded) of a curve."""
        step = np.float32(1.0) / np.float32(self._steps)
        times = np.arange(first_step, end, dtype=np.float32) / np.float32(self._steps)
        path = curve.positions(times)
        aims = curve.velocities(times + np.float32(0.5) * step) * step
        for joint in np.flatnonzero(~self._can_follow(curve, path, aims)):
            path[:, joint] = self._track(curve, joint, times, path[:, joint].copy(), aims[:, joint])
        self._move(path)
        return path

    def _can_follow(self, curve: _Curve, path: Rows, aims: Rows) -> NDArray[np.bool_]:
        """Whether no limit holds a joint back in any of these steps, [joints]; False where it is not certain."""
        most = self._predictor
        steps = np.diff(path, axis=0, prepend=self.position[None])
        changes = np.diff(steps, axis=0, prepend=self.velocity[None])
        speed = np.abs(steps)
        stop = speed * speed / most.max_change + speed + most.max_change  # more than stopping takes
        free = (speed <= most.max_step) & (np.abs(changes) <= most.max_change)
        free &= (np.abs(aims) <= most.max_step) & (np.abs(steps - aims) <= most.max_change)
        free &= (path - stop >= most.lower) & (path + stop <= most.upper)
        return free.all(axis=0) & ~curve.is_corner

    def _track(self, curve: _Curve, joint: np.intp, times: Rows, targets: Rows, aims: Rows) -> Rows:
        """The positions of one joint, step by step, [steps]."""
        limits, one = self._predictor.limits[joint], np.float32(1.0)
        step = one / np.float32(self._steps)
        position, velocity = self.position[joint], self.velocity[joint]
        ahead, end_slope = curve.next[joint], curve.end_slope[joint]
        change = (end_slope - curve.slope[joint]) * step * step
        path = np.empty_like(targets)
        for i, here in enumerate(times):
            corner = Target(ahead - (one - here) * end_slope, end_slope * step) if curve.is_corner[joint] else None
            moved = limits.track(position, velocity, Target(targets[i], aims[i], change), corner)
            position, velocity = moved, moved - position
            path[i] = moved
        return path

    def _brake(self, steps: int) -> Rows:
        """Executes some steps without a setpoint."""
        path = np.empty((steps, len(self.position)), np.float32)
        for row in path:
            slower = np.maximum(np.abs(self.velocity) - self._predictor.max_change, np.float32(0.0))
            row[:] = np.clip(
                self.position + np.copysign(slower, self.velocity), self._predictor.lower, self._predictor.upper
            )
            self._move(row[None])
        return path

    def _move(self, path: Rows) -> None:
        if len(path):
            before = path[-2] if len(path) > 1 else self.position
            self.velocity = path[-1] - before
            self.position = path[-1].copy()
