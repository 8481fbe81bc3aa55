"""The joint behind one servo, or behind several that turn the same shaft.

A joint is an inertia with friction that motors turn through gears with backlash. Positions are radians of the output,
torques N·m at the output. Time advances in steps of `STEP_S`, so that the same commands at the same steps give the same
motion, however often somebody asks.

The position controller of a motor is a cascade: the position error times `POSITION_GAIN` is the wanted velocity; a
proportional-integral controller turns the velocity error into torque, and this into current. Its gains are chosen, not
the vendor's. A Dynamixel with the factory's gain of 800 / 128 drives with 6.25 of 885 steps of its voltage per count of
error, so that it is behind a moving goal by 885 / 6.25 counts at full speed: 69 ms for an XM540-W270. This one lags by
1 / `POSITION_GAIN` = 12.5 ms, near what a policy that was trained on a simulated arm has seen. The gain registers scale
it.

Limits act on the current: by the register, and by the voltage that is left over the motor's back electromotive force.

Backlash is play between gears and output, without mass: the output stands still until the gears have crossed the gap.
The encoder is on the output. Friction and load act on the gears, also within the gap, where a real load would move
freely.
"""

import math
from dataclasses import dataclass, field

from firmware_bridge.emulator.servo_bus.models import COUNTS, ServoModel

STEPS_PER_S = 1000
STEP_S = 1.0 / STEPS_PER_S
COUNT = 2.0 * math.pi / COUNTS
"""One count in radians."""

POSITION_GAIN = 80.0
"""Wanted velocity by position error, in 1/s."""

_VELOCITY_S = 0.004  # time constant of the velocity controller
_INTEGRAL_S = 0.020  # of its integral
_DEAD_ZONE = COUNT / 2.0  # a smaller error is not corrected
_SLOW = _DEAD_ZONE * POSITION_GAIN  # rad/s
_BRAKING_SHARE = 0.5  # of the largest torque that braking before the goal counts on
_ROUNDING = 1e-9  # rad


class Motor:
    """One motor with its controller.

    Attributes:
        torque_on: Whether it drives.
        damping: Feetech: its windings are short-circuited while it does not drive.
        goal: In radians of the joint.
        current: In ampere, positive towards larger positions.
        duty: Share of the supply voltage over the motor, -1 to 1.
        wanted: Velocity that the position controller wants, in rad/s.
        heat: Integral of current² since it was last taken, in A²s.
    """

    __slots__ = (
        "_acceleration_limit",
        "_braking",
        "_current_limit",
        "_duty_limit",
        "_effort_gain",
        "_gain",
        "_inertia",
        "_integral",
        "_resistance",
        "_speed_limit",
        "_stall_amperes",
        "_torque_constant",
        "_voltage_constant",
        "current",
        "damping",
        "duty",
        "goal",
        "heat",
        "torque_on",
        "wanted",
    )

    def __init__(self, model: ServoModel, inertia: float) -> None:
        """A motor at rest, without torque and limits.

        Args:
            model: Of the servo.
            inertia: Its part of the inertia of the joint, in kg·m².
        """
        self.goal = 0.0
        self.torque_on = False
        self.damping = False
        self.current = 0.0
        self.duty = 0.0
        self.heat = 0.0
        self.wanted = 0.0
        self._integral = 0.0  # N·m
        self._inertia = inertia
        self._effort_gain = inertia / _VELOCITY_S
        self._torque_constant = model.torque_constant
        self._voltage_constant = model.voltage_constant
        self._resistance = model.resistance
        self._stall_amperes = model.stall_amperes
        self._current_limit = self._speed_limit = self._acceleration_limit = math.inf
        self._duty_limit = 1.0
        self._gain = POSITION_GAIN
        self._braking = 0.0  # rad/s² before the goal that the controller counts on
        self.limit()

    def limit(
        self,
        *,
        current: float | None = None,
        duty: float | None = None,
        speed: float | None = None,
        acceleration: float | None = None,
        gain_scale: float | None = None,
    ) -> None:
        """Sets limits; those that are None stay.

        Args:
            current: In ampere.
            duty: Share of the supply voltage.
            speed: Of the profile, in rad/s.
            acceleration: Of the profile, in rad/s².
            gain_scale: Position gain in relation to the factory's.
        """
        self._current_limit = self._current_limit if current is None else current
        self._duty_limit = self._duty_limit if duty is None else duty
        self._speed_limit = self._speed_limit if speed is None else speed
        self._acceleration_limit = self._acceleration_limit if acceleration is None else acceleration
        self._gain = self._gain if gain_scale is None else gain_scale * POSITION_GAIN
        torque = self._torque_constant * min(self._current_limit, self._stall_amperes)
        self._braking = min(self._acceleration_limit, _BRAKING_SHARE * torque / self._inertia)

    def switch(self, on: bool) -> None:
        """Starts or ends to drive."""
        self.torque_on = on
        self._integral = self.wanted = 0.0

    @property
    def settled_torque(self) -> float:
        """What the controller holds without an error, in N·m."""
        return self._integral

    def drive(self, position: float, velocity: float, volts: float) -> float:
        """The torque of one step, in N·m."""
        back = self._voltage_constant * velocity
        if not self.torque_on:
            self.duty = 0.0
            self.current = current = -back / self._resistance if self.damping else 0.0
            self.heat += current * current * STEP_S
            return self._torque_constant * current
        effort = self._effort_gain * (self._wanted_velocity(position, velocity) - velocity)
        current = (effort + self._integral) / self._torque_constant
        most = volts * self._duty_limit
        high = (most - back) / self._resistance
        low = (-most - back) / self._resistance
        limit = self._current_limit
        if high > limit:
            high = limit
        if low < -limit:
            low = -limit
        if current > high:
            current = high
            grows = effort < 0.0  # the integral only leaves the limit
        elif current < low:
            current = low
            grows = effort > 0.0
        else:
            grows = True
        if grows:
            self._integral += effort * (STEP_S / _INTEGRAL_S)
        self.current = current
        self.duty = (current * self._resistance + back) / volts if volts > 0.0 else 0.0
        self.heat += current * current * STEP_S
        return self._torque_constant * current

    def _wanted_velocity(self, position: float, velocity: float) -> float:
        """Proportional near the goal, and not faster than it can brake from farther away."""
        error = self.goal - position
        distance = error if error > 0.0 else -error
        if distance < _DEAD_ZONE and -_SLOW < velocity < _SLOW:
            self.wanted = 0.0
            return 0.0
        gain, braking = self._gain, self._braking
        speed = gain * distance
        if speed * gain > braking:
            reserve = 2.0 * distance - braking / (gain * gain)
            speed = math.sqrt(braking * reserve) if reserve > 0.0 else 0.0
        if speed > self._speed_limit:
            speed = self._speed_limit
        wanted = speed if error > 0.0 else -speed
        if self._acceleration_limit < math.inf:
            step = self._acceleration_limit * STEP_S
            wanted = min(max(wanted, self.wanted - step), self.wanted + step)
        self.wanted = wanted
        return wanted


@dataclass(frozen=True)
class Load:
    """What pulls on a joint.

    Attributes:
        gravity: Torque of the load when it is level, in N·m, positive towards smaller positions.
        level: Position where it is level, in rad.
        push: Torque from outside, in N·m, positive towards larger positions.
    """

    gravity: float = 0.0
    level: float = 0.0
    push: float = 0.0


@dataclass
class Joint:
    """Motors on one shaft, and what that shaft moves.

    Attributes:
        motors: At least one.
        inertia: In kg·m².
        friction: Of gears and bearings, in N·m.
        backlash: In rad.
        output: Position of the output, in rad.
        gears: Position of the gears, in rad.
        velocity: Of the gears, in rad/s.
        load: What pulls on it.
        lowest: An obstacle: the output cannot get below.
        highest: An obstacle: the output cannot get above.
    """

    motors: list[Motor]
    inertia: float
    friction: float
    backlash: float
    output: float = 0.0
    gears: float = 0.0
    velocity: float = 0.0
    load: Load = field(default_factory=Load)
    lowest: float = -math.inf
    highest: float = math.inf
    _rests: bool = False

    @property
    def output_velocity(self) -> float:
        """In rad/s; 0 while the gears cross the gap."""
        slack = self.backlash / 2.0 - _ROUNDING
        engaged = self.gears - self.output >= slack if self.velocity > 0.0 else self.output - self.gears >= slack
        return self.velocity if engaged or self.backlash == 0.0 else 0.0

    def wake(self) -> None:
        """To be called when something about the joint or its motors has changed."""
        self._rests = False

    def place(self, position: float) -> None:
        """Puts the output somewhere, as a hand does; the gears follow."""
        self.output = self.gears = min(max(position, self.lowest), self.highest)
        self.velocity = 0.0
        self.wake()

    def run(self, steps: int, volts: float) -> None:
        """Advances by some steps at one supply voltage."""
        if self._rests:
            for motor in self.motors:
                motor.heat += motor.current * motor.current * STEP_S * steps
            return
        before = self._controlled()
        for _ in range(steps):
            self._step(volts)
        self._rests = self.velocity == 0.0 and self._controlled() == before

    def _controlled(self) -> list[float]:
        """What one step hands to the next; where nothing of it changes, no later step changes anything."""
        return [self.gears, *(motor.settled_torque for motor in self.motors), *(motor.wanted for motor in self.motors)]

    def _step(self, volts: float) -> None:
        velocity, output = self.velocity, self.output
        torque = 0.0
        for motor in self.motors:
            torque += motor.drive(output, velocity, volts)
        load = self.load
        torque += load.push
        if load.gravity:
            torque -= load.gravity * math.cos(output - load.level)
        friction = self.friction
        if velocity == 0.0:
            if -friction <= torque <= friction:
                return
            velocity = (torque - math.copysign(friction, torque)) / self.inertia * STEP_S
        else:
            slowed = velocity + (torque - math.copysign(friction, velocity)) / self.inertia * STEP_S
            velocity = 0.0 if slowed * velocity < 0.0 and -friction <= torque <= friction else slowed
        gears = self.gears + velocity * STEP_S
        half = self.backlash / 2.0
        if output < gears - half:
            output = gears - half
        elif output > gears + half:
            output = gears + half
        if output > self.highest or output < self.lowest:
            output = self.highest if output > self.highest else self.lowest
            gears = min(max(gears, output - half), output + half)
            velocity = 0.0
        self.gears, self.output, self.velocity = gears, output, velocity
