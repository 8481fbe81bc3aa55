"""A Feetech STS servo: what its registers do.

As LeRobot and two transcriptions of the vendor's table have it, and where these say nothing:

* A write that it cannot take is ignored.
* A protection that unloads (temperature, current) lets go while the cause lasts and the flag is set in register 19.
* An overload ends with torque off, or with a goal on the other side.
* Its return delay register counts 2 us, as one transcription says; another says that STS servos ignore it.
"""

import math
import struct

from firmware_bridge.emulator.servo_bus.feetech_packets import ErrorBit, from_signed, to_signed
from firmware_bridge.emulator.servo_bus.feetech_registers import (
    BAUD_RATES,
    KEPT,
    SIGN_OF_LOAD,
    SIGN_OF_OFFSET,
    SIGN_OF_POSITION,
    memory_table,
)
from firmware_bridge.emulator.servo_bus.joint import COUNT, Joint, Motor
from firmware_bridge.emulator.servo_bus.models import COUNTS
from firmware_bridge.emulator.servo_bus.registers import value_of
from firmware_bridge.emulator.servo_bus.servo import Servo
from firmware_bridge.emulator.servo_bus.settings import ServoSettings

GOAL_POSITION, GOAL_SIZE = 42, 2
TORQUE_OFF, TORQUE_ON, TORQUE_DAMPING, TORQUE_CALIBRATE = 0, 1, 2, 128
PRESENT, PRESENT_END = 56, 71

_FINE_SPEED, _ZERO_SPEED_IS_MOST, _MANY_TURNS = 0x04, 0x08, 0x10  # bits of the phase
_COARSE_COUNTS = 50  # per second in one unit of speed without `_FINE_SPEED`
_ACCELERATION_COUNTS = 100  # per second² in one unit
_FULL_LOAD = 1000
_TIMER_UNIT_S = 0.01


class FeetechServo(Servo):
    """One servo of the STS series."""

    def __init__(self, settings: ServoSettings, joint: Joint, motor: Motor) -> None:
        super().__init__(settings, memory_table(settings.servo_model), joint, motor)
        self._overloaded_s = 0.0
        self._over_current_s = 0.0
        self._over_current = False  # until torque is written
        self._overload_side = 0.0  # where the goal was when overload began; 0 without one
        self._unloaded = False
        self._offset = 0
        self._many_turns = False
        self._speed_unit = COUNT
        self._registered: tuple[int, bytes] | None = None
        self._written = {
            "torque_enable": self._torque_written,
            "goal_position": self._goal_written,
            "goal_velocity": self._goal_written,
            "acceleration": self._goal_written,
            "torque_limit": self._limits_written,
            "id": self._address_written,
            "baud_rate": self._address_written,
        }
        self._set_up()

    def _set_up(self) -> None:
        given = self.settings
        self.store("id", given.id)
        if given.baud in BAUD_RATES:
            self.store("baud_rate", BAUD_RATES.index(given.baud))
        self.store("return_delay_time", given.return_delay_us // 2)
        self.store("firmware_minor", self.model.firmware if given.firmware is None else given.firmware)
        self.store("homing_offset", from_signed(given.homing_offset, SIGN_OF_OFFSET))
        self.store("min_position_limit", given.lowest)
        self.store("max_position_limit", given.highest)
        if given.current_limit is not None:
            self.store("protection_current", given.current_limit)
        self.keep_registers()
        self._limits_written()
        self._base = given.position + self._offset - self.joint.output / COUNT
        if not self._many_turns:
            self.lose_turns()
        self._start()

    def reported(self) -> int:
        """The position that it reports, in counts."""
        counts = math.floor(self.angle - self._offset + 0.5)
        return counts if self._many_turns else counts % COUNTS

    def joint_position(self, counts: float) -> float:
        """Where the joint is in rad when the servo reports so many counts."""
        angle = self.angle
        now = angle - self._offset
        if not self._many_turns:
            now %= COUNTS
        return self.joint.output + (counts - now) * COUNT

    def _start(self) -> None:
        self.id = self.value("id")
        if self.baud in BAUD_RATES:
            self.baud = BAUD_RATES[self.value("baud_rate")]
        self._registered = None
        self._overloaded_s = self._over_current_s = self._overload_side = 0.0
        self._unloaded = self._over_current = False
        self.motor.damping = False
        self.store("torque_limit", self.value("max_torque_limit"))
        self._limits_written()
        self.store("goal_position", from_signed(self.reported(), SIGN_OF_POSITION))
        self._goal_written()

    # What a host does

    def read(self, now: float, address: int, size: int) -> bytes:
        """Registers as bytes; zeros where there are none."""
        self.refresh(now, address, address + size)
        return bytes(self.memory[address : address + size]).ljust(size, b"\0")

    def write(self, address: int, data: bytes) -> bool:
        """Writes registers; returns whether it took all of them."""
        if address == GOAL_POSITION and len(data) == GOAL_SIZE:
            self.memory[GOAL_POSITION : GOAL_POSITION + GOAL_SIZE] = data
            self._goal_written()
            return True
        at, end, took_all = address, address + len(data), True
        values = []
        while at < end:
            register = self.table.starting_at.get(at)
            if register is None or at + register.size > end:
                took_all = False
                at += 1
                continue
            part = data[at - address : at - address + register.size]
            if register.takes(value_of(register, part)):
                values.append((at, part))
            else:
                took_all = False
            at += register.size
        for at, part in values:
            self.table.put(self.memory, self.table.starting_at[at], int.from_bytes(part, "little"))
        if address < KEPT:
            if self.value("lock") == 0:
                self.keep_registers()
            self._limits_written()
        acts = (self._written.get(self.table.starting_at[at].name) for at, _ in values)
        for act in dict.fromkeys(act for act in acts if act is not None):
            act()
        return took_all

    def register_write(self, address: int, data: bytes) -> bool:
        """Keeps a write for the next action."""
        self._registered = (address, data)
        self.store("registered_instruction", 1)
        return True

    def act(self) -> bool:
        """Carries out what `register_write` kept."""
        if self._registered is None:
            return False
        address, data = self._registered
        self._registered = None
        self.store("registered_instruction", 0)
        return self.write(address, data)

    def calibrate(self, counts: int = COUNTS // 2) -> None:
        """Where it stands is from now on so many counts: rewrites the homing offset, as far as that can be stored."""
        offset = math.floor(self.angle % COUNTS + 0.5) - counts
        self.store("homing_offset", from_signed(offset, SIGN_OF_OFFSET))
        self.keep_registers()
        self._limits_written()

    # What registers do

    def _torque_written(self) -> None:
        value = self.value("torque_enable")
        if value == TORQUE_CALIBRATE:
            self.store("torque_enable", TORQUE_ON if self.motor.torque_on else TORQUE_OFF)
            self.calibrate()
            return
        if value == TORQUE_OFF:
            self._overload_side = 0.0
            self._over_current = self._unloaded = False
            self._limits_written()
        self.motor.damping = value == TORQUE_DAMPING
        on = value == TORQUE_ON and not self._unloaded
        if value == TORQUE_ON and not on:
            self.store("torque_enable", TORQUE_OFF)
        if on != self.motor.torque_on:
            self._goal_written()
            self.motor.switch(on)
        self.joint.wake()

    def _goal_written(self) -> None:
        counts = to_signed(self.value("goal_position"), SIGN_OF_POSITION)
        lowest, highest = self.value("min_position_limit"), self.value("max_position_limit")
        if lowest or highest:
            counts = min(max(counts, lowest), highest)
        motor = self.motor
        goal = self.joint_position(counts)
        if self._overload_side and (goal - self.joint.output) * self._overload_side < 0.0:
            self._overload_side = 0.0
            self._limits_written()
        speed = abs(to_signed(self.value("goal_velocity"), SIGN_OF_POSITION)) * self._speed_unit
        phase = self.value("phase")
        acceleration = self.value("acceleration")
        motor.limit(
            speed=speed if speed or not phase & _ZERO_SPEED_IS_MOST else math.inf,
            acceleration=acceleration * _ACCELERATION_COUNTS * COUNT if acceleration else math.inf,
        )
        motor.goal = goal
        self.joint.wake()

    def _limits_written(self) -> None:
        phase = self.value("phase")
        self._many_turns = bool(phase & _MANY_TURNS)
        self._speed_unit = COUNT if phase & _FINE_SPEED else _COARSE_COUNTS * COUNT
        self._offset = to_signed(self.value("homing_offset"), SIGN_OF_OFFSET)
        limit = self.value("torque_limit") / _FULL_LOAD
        if self._overload_side:
            limit = min(limit, self.value("protective_torque") / 100.0)
        self.motor.limit(duty=limit, gain_scale=self.value("p_coefficient") / self.model.position_gain)
        self.joint.wake()

    def _address_written(self) -> None:
        self.id = self.value("id")
        self.baud = BAUD_RATES[self.value("baud_rate")]

    # What it measures and how it protects itself

    def refresh(self, now: float, address: int, end: int) -> None:
        """Brings what it measures up to date in registers from `address` to before `end`."""
        if end <= PRESENT or address >= PRESENT_END:
            return
        motor, joint = self.motor, self.joint
        velocity = round(joint.output_velocity / self._speed_unit)
        current = round(motor.current / self.model.ampere_unit)
        struct.pack_into(
            "<HHHBB",
            self.memory,
            PRESENT,
            from_signed(self.reported(), SIGN_OF_POSITION),
            from_signed(velocity, SIGN_OF_POSITION),
            from_signed(round(motor.duty * _FULL_LOAD), SIGN_OF_LOAD),
            max(0, min(255, round(self._volts * 10))),
            max(0, min(255, round(self.temperature))),
        )
        struct.pack_into(
            "<BBHH",
            self.memory,
            65,
            self.error,
            int(abs(velocity) * self._speed_unit > COUNT * _COARSE_COUNTS),
            self.value("goal_position"),
            from_signed(current, SIGN_OF_POSITION),
        )

    @property
    def return_delay_s(self) -> float:
        """Between an instruction and the answer."""
        return self.memory[7] * 2e-6

    def protect(self, now: float, seconds: float, heard_at: float) -> None:
        """Looks after itself every few milliseconds."""
        if not self._has_power:
            return
        motor = self.motor
        volts = round(self._volts * 10)
        error = 0
        if not self.value("min_voltage_limit") <= volts <= self.value("max_voltage_limit"):
            error |= ErrorBit.VOLTAGE
        if self.temperature > self.value("max_temperature_limit"):
            error |= ErrorBit.TEMPERATURE
        loaded = abs(motor.duty) * 100.0 > self.value("overload_torque")
        self._overloaded_s = self._overloaded_s + seconds if loaded and motor.torque_on else 0.0
        if self._overloaded_s > self.value("protection_time") * _TIMER_UNIT_S:
            self.trip_overload()
        flows = abs(motor.current) > self.value("protection_current") * self.model.ampere_unit
        self._over_current_s = self._over_current_s + seconds if flows else 0.0
        self._over_current |= self._over_current_s > self.value("over_current_time") * _TIMER_UNIT_S
        if self._over_current:
            error |= ErrorBit.CURRENT
        if self._overload_side:
            error |= ErrorBit.OVERLOAD
        self.error = error
        unloading = error & self.value("unloading_condition") & ~ErrorBit.OVERLOAD
        if unloading and not self._unloaded:
            self._unloaded = True
            self.set_torque(False)
        elif not unloading:
            self._unloaded = False

    def trip_overload(self) -> None:
        """What an overload of long duration does: little torque is left until the goal changes sides."""
        self._overload_side = math.copysign(1.0, self.motor.goal - self.joint.output)
        self.error |= ErrorBit.OVERLOAD
        self._limits_written()
