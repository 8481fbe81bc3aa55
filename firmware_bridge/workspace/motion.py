"""What the firmware will make of setpoints: the commanded position of every joint after every servo step.

It follows `core/setpoint_curve.c` and `core/control.c` tick by tick, in float64. Where a joint can follow its curve the
steps of a tick are computed for all joints at once; where it is held back by a limit, by the limiter of this package.
Docs: docs/motion.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from firmware_bridge.robot import RobotJoints
from firmware_bridge.splice import Plan
from firmware_bridge.workspace.limiter import JointLimits, Target

Rows = NDArray[np.float64]


class ArmState(NamedTuple):
    """Where the joints are after the first servo step of a tick, as telemetry reports it.

    Attributes:
        tick: The tick.
        position: float64 [joints], units.
        velocity: float64 [joints], units per servo step.
    """

    tick: int
    position: Rows
    velocity: Rows


class Motion(NamedTuple):
    """Commanded positions, and the velocities from which the joints would brake.

    Attributes:
        first_tick: Rows 1 to S belong to this tick, the next S to the one after it, with S servo steps in a tick; row 0
            is the last servo step before.
        positions: float64 [1 + ticks * S, joints], units.
        velocities: The same, units per servo step.
    """

    first_tick: int
    positions: Rows
    velocities: Rows

    def since(self, tick: int, servo_steps: int) -> Motion:
        """The motion from a tick on."""
        start = (tick - self.first_tick) * servo_steps
        return Motion(tick, self.positions[start:], self.velocities[start:])


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
        return self.slope + s * (2.0 * self.bend + 3.0 * s * self.twist)


def _curve_through(here: Rows, slope: Rows, following: Rows, after: Rows, max_turn: Rows) -> _Curve:
    """`setpoint_curve_through` for all joints."""
    way, end_slope = following - here, 0.5 * (after - here)
    bend, twist = 3.0 * way - 2.0 * slope - end_slope, slope + end_slope - 2.0 * way
    at_start, at_end = 2.0 * bend, 2.0 * bend + 6.0 * twist
    corner = (np.abs(at_start) > max_turn) | (np.abs(at_end) > max_turn)
    beyond = after - following
    slower = np.where(np.abs(way) < np.abs(beyond), way, beyond)
    slower = np.where((way < 0.0) != (beyond < 0.0), 0.0, slower)
    return _Curve(
        here,
        np.where(corner, way, slope),
        np.where(corner, 0.0, bend),
        np.where(corner, 0.0, twist),
        following,
        np.where(corner, slower, end_slope),
        corner,
    )


class MotionPredictor:
    """Computes the motion of one robot.

    Attributes:
        servo_steps: Servo steps in a tick.
        max_step: Largest velocity, float64 [joints], units per servo step.
        max_change: Largest change of velocity, float64 [joints], units per servo step squared.
    """

    def __init__(self, robot: RobotJoints) -> None:
        self.servo_steps = robot.servo_hz // robot.control_hz
        self.max_step = robot.velocity / robot.servo_hz
        self.max_change = robot.acceleration / robot.servo_hz**2
        self.lower, self.upper = robot.lower, robot.upper
        of_joints = zip(robot.lower, robot.upper, self.max_step, self.max_change, strict=True)
        self.limits = [JointLimits(*map(float, numbers)) for numbers in of_joints]

    def predict(self, start: ArmState, plan: Plan, chunk: Plan) -> Motion:
        """The motion from the tick after `start` to the last tick of a chunk.

        Args:
            start: The newest state that telemetry reported.
            plan: The setpoints that the firmware holds; `NOTHING` where it holds none.
            chunk: The setpoints that replace those of the plan from their first tick on. It is taken to arrive as late
                as it may (`GUARD_TICKS`): the curve to the tick before its first still looks ahead at the plan.
        """
        merged = plan.followed_by(chunk)
        walk = _Walk(self, start)
        walk.finish(plan if start.tick + 1 < chunk.first_tick else merged, start.tick)
        positions, velocities = [walk.position[None]], [walk.velocity[None]]
        for tick in range(start.tick + 1, chunk.last_tick + 1):
            before = walk.position[None]
            steps = walk.advance(plan if tick + 1 < chunk.first_tick else merged, tick)
            positions.append(steps)
            velocities.append(np.diff(np.concatenate([before, steps]), axis=0))
        return Motion(start.tick + 1, np.concatenate(positions), np.concatenate(velocities))


class _Walk:
    """The joints on their way, tick by tick; `position` and `velocity` are those after the last step, [joints]."""

    def __init__(self, predictor: MotionPredictor, start: ArmState) -> None:
        self.position, self.velocity = start.position, start.velocity
        self._predictor = predictor
        self._steps = predictor.servo_steps
        self._max_turn = predictor.max_change * self._steps**2
        self._slope: Rows | None = None  # at the end of the last curve; None where the joints follow none

    def finish(self, plan: Plan, tick: int) -> None:
        """Executes the steps of a tick behind its first one.

        The slope with which the curve of this tick began is that at the end of the curve before, as far as the plan
        shows it: two corners in a row would need the curve before that one too.
        """
        rows = [_setpoint(plan, tick + offset) for offset in (-2, -1, 0, 1)]
        if all(row is not None for row in rows):
            earlier, before, here, following = rows
            slope = 0.5 * (here - earlier)
            self._slope = _curve_through(before, slope, here, following, self._max_turn).end_slope
        self._advance(plan, tick, 1)

    def advance(self, plan: Plan, tick: int) -> Rows:
        """Executes a tick; returns the positions after each of its steps, [steps, joints]."""
        return self._advance(plan, tick, 0)

    def _advance(self, plan: Plan, tick: int, first_step: int) -> Rows:
        here, following = _setpoint(plan, tick), _setpoint(plan, tick + 1)
        if here is None:
            self._slope = None
            return self._brake(self._steps - first_step)
        slope = self.velocity * self._steps if self._slope is None else self._slope
        ahead = here + slope if following is None else following
        beyond = None if following is None else _setpoint(plan, tick + 2)
        curve = _curve_through(here, slope, ahead, 2.0 * ahead - here if beyond is None else beyond, self._max_turn)
        if following is not None:
            self._slope = curve.end_slope
            return self._follow(curve, first_step, self._steps)
        self._slope = None
        reached = self._follow(curve, first_step, 1)
        return np.concatenate([reached, self._brake(self._steps - max(first_step, 1))])

    def _follow(self, curve: _Curve, first_step: int, end: int) -> Rows:
        """Executes the steps `first_step` to `end` (excluded) of a curve."""
        times = np.arange(first_step, end) / self._steps
        path = curve.positions(times)
        aims = curve.velocities(times + 0.5 / self._steps) / self._steps
        for joint in np.flatnonzero(~self._can_follow(curve, path, aims)):
            path[:, joint] = self._track(curve, int(joint), times, aims[:, joint])
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

    def _track(self, curve: _Curve, joint: int, times: Rows, aims: Rows) -> list[float]:
        limits, step = self._predictor.limits[joint], 1.0 / self._steps
        position, velocity = float(self.position[joint]), float(self.velocity[joint])
        targets = curve.positions(times)[:, joint].tolist()
        slope, end_slope = float(curve.slope[joint]), float(curve.end_slope[joint])
        ahead, is_corner = float(curve.next[joint]), bool(curve.is_corner[joint])
        change = (end_slope - slope) * step * step
        path = []
        for here, target, aim in zip(times.tolist(), targets, aims.tolist(), strict=True):
            corner = Target(ahead - (1.0 - here) * end_slope, end_slope * step) if is_corner else None
            moved = limits.track(position, velocity, Target(target, aim, change), corner)
            position, velocity = moved, moved - position
            path.append(moved)
        return path

    def _brake(self, steps: int) -> Rows:
        """Executes some steps without a setpoint."""
        path = np.empty((steps, len(self.position)))
        for row in path:
            slower = np.maximum(np.abs(self.velocity) - self._predictor.max_change, 0.0)
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


def _setpoint(plan: Plan, tick: int) -> Rows | None:
    row = tick - plan.first_tick
    return plan.setpoints[row] if 0 <= row < len(plan.setpoints) else None
