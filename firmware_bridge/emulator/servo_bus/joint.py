"""The joint behind one servo, or behind several that turn the same shaft.

A joint is an inertia with friction that motors turn through gears with backlash. Positions are radians of the output,
torques N·m at the output. Time advances in steps of `STEP_S`, so that the same commands at the same steps give the same
motion, however often somebody asks.

The position controller of a motor is a cascade: the position error times `POSITION_GAIN` is the wanted velocity; a
proportional-integral controller turns the velocity error into torque, and this into current. Its gains are chosen, not
the vendor's: with factory gains and no feed-forward, a Dynamixel lags some 70 ms behind a moving goal. This one lags by
1 / `POSITION_GAIN` = 12.5 ms, which a policy that was trained on a simulated arm expects. The gain registers scale it.

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
_BRAKING_SHARE = 0.5  # of the largest torque that braking before the goal counts on
_REST_STEPS = 50  # without any change, after which a joint needs no steps
_STILL = 1e-9


class Motor:
    """One motor with its controller.

    Attributes:
        torque_on: Whether it drives.
        damping: Feetech: its windings are short-circuited while it does not drive.
        goal: In radians of the joint.
        current: In ampere, positive towards larger positions.
        duty: Share of the supply voltage over the motor, -1 to 1.
        current_limit: In ampere.
        duty_limit: Largest duty.
        speed_limit: Of the profile, in rad/s.
        acceleration_limit: Of the profile, in rad/s².
        gain_scale: Position gain in relation to the factory's.
        heat: Integral of current² since it was last taken, in A²s.
    """

    __slots__ = (
        "acceleration_limit",
        "current",
        "current_limit",
        "damping",
        "duty",
        "duty_limit",
        "gain_scale",
        "goal",
        "heat",
        "inertia",
        "integral",
        "model",
        "resistance",
        "speed_limit",
        "torque_constant",
        "torque_on",
        "voltage_constant",
        "wanted",
    )

    def __init__(self, model: ServoModel, inertia: float, goal: float) -> None:
        self.model = model
        self.inertia = inertia
        self.goal = goal
        self.torque_on = False
        self.damping = False
        self.current = 0.0
        self.duty = 0.0
        self.current_limit = math.inf
        self.duty_limit = 1.0
        self.speed_limit = math.inf
        self.acceleration_limit = math.inf
        self.gain_scale = 1.0
        self.heat = 0.0
        self.integral = 0.0
        self.wanted = 0.0
        self.torque_constant = model.torque_constant
        self.voltage_constant = model.voltage_constant
        self.resistance = model.resistance

    def drive(self, position: float, velocity: float, volts: float) -> float:
        """The torque of one step, in N·m."""
        back = self.voltage_constant * velocity
        if not self.torque_on:
            self.duty = self.wanted = self.integral = 0.0
            self.current = -back / self.resistance if self.damping else 0.0
            self.heat += self.current * self.current * STEP_S
            return self.torque_constant * self.current
        effort = self.inertia / _VELOCITY_S * (self._wanted_velocity(position, velocity) - velocity)
        current = (effort + self.integral) / self.torque_constant
        most = volts * self.duty_limit
        high = min(self.current_limit, (most - back) / self.resistance)
        low = max(-self.current_limit, (-most - back) / self.resistance)
        if current > high:
            current = high
            self.integral += min(0.0, effort) * (STEP_S / _INTEGRAL_S)
        elif current < low:
            current = low
            self.integral += max(0.0, effort) * (STEP_S / _INTEGRAL_S)
        else:
            self.integral += effort * (STEP_S / _INTEGRAL_S)
        self.current = current
        self.duty = (current * self.resistance + back) / volts if volts > 0.0 else 0.0
        self.heat += current * current * STEP_S
        return self.torque_constant * current

    def _wanted_velocity(self, position: float, velocity: float) -> float:
        """Proportional near the goal, and not faster than it can brake from farther away."""
        error = self.goal - position
        distance = abs(error)
        if distance < _DEAD_ZONE and abs(velocity) < _DEAD_ZONE * POSITION_GAIN:
            self.wanted = 0.0
            return 0.0
        gain = POSITION_GAIN * self.gain_scale
        braking = _BRAKING_SHARE * self.torque_constant * min(self.current_limit, self.model.stall_amperes)
        braking = min(self.acceleration_limit, braking / self.inertia)
        speed = gain * distance
        if speed * gain > braking:
            speed = math.sqrt(braking * max(0.0, 2.0 * distance - braking / (gain * gain)))
        speed = min(speed, self.speed_limit)
        wanted = speed if error > 0.0 else -speed
        step = self.acceleration_limit * STEP_S
        self.wanted = min(max(wanted, self.wanted - step), self.wanted + step)
        return self.wanted


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
    _still_steps: int = 0

    @property
    def output_velocity(self) -> float:
        """In rad/s; 0 while the gears cross the gap."""
        slack = self.backlash / 2.0 - _STILL
        engaged = self.gears - self.output >= slack if self.velocity > 0.0 else self.output - self.gears >= slack
        return self.velocity if engaged or self.backlash == 0.0 else 0.0

    def wake(self) -> None:
        """To be called when something about the joint or its motors has changed."""
        self._still_steps = 0

    def place(self, position: float) -> None:
        """Puts the output somewhere, as a hand does; the gears follow."""
        self.output = self.gears = min(max(position, self.lowest), self.highest)
        self.velocity = 0.0
        self.wake()

    def run(self, steps: int, volts: float) -> None:
        """Advances by some steps at one supply voltage."""
        if self._still_steps >= _REST_STEPS:
            for motor in self.motors:
                motor.heat += motor.current * motor.current * STEP_S * steps
            return
        before = (self.gears, self.motors[0].integral)
        for _ in range(steps):
            self._step(volts)
        moved = abs(self.gears - before[0]) > _STILL or abs(self.motors[0].integral - before[1]) > _STILL
        self._still_steps = 0 if moved or self.velocity else self._still_steps + steps

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
        output = min(max(output, gears - half), gears + half)
        if output > self.highest or output < self.lowest:
            output = self.highest if output > self.highest else self.lowest
            gears = min(max(gears, output - half), output + half)
            velocity = 0.0
        self.gears, self.output, self.velocity = gears, output, velocity
