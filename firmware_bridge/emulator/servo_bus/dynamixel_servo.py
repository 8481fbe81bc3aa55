"""A Dynamixel X servo: what its registers do.

As the vendor documents it, and where it does not:

* A supply that comes back leaves the input voltage error (bit 0) until the next reboot, as it passes the range below
  the limit. (Chosen.)
* Overload is more than `_OVERLOAD_SHARE` of the stall current for `_OVERLOAD_S`. (Chosen.)
* In reverse mode a position is 4096 minus that of normal mode. (From the use of servos in pairs.)
* A goal that was not written anew survives torque off: torque on then moves there.
"""

import math
import struct

from firmware_bridge.emulator.servo_bus.dynamixel_packets import ALERT, ErrorNumber
from firmware_bridge.emulator.servo_bus.dynamixel_registers import BAUD_RATES, KEPT, MOST_TURNS, control_table
from firmware_bridge.emulator.servo_bus.joint import COUNT, Joint, Motor
from firmware_bridge.emulator.servo_bus.models import COUNTS
from firmware_bridge.emulator.servo_bus.registers import value_of
from firmware_bridge.emulator.servo_bus.servo import Servo
from firmware_bridge.emulator.servo_bus.settings import ServoSettings

GOAL_POSITION, GOAL_SIZE = 116, 4
PRESENT, PRESENT_END = 124, 136
POSITION_MODE, TURNS_MODE, CURRENT_MODE = 3, 4, 5
VOLTAGE_ERROR, HEAT_ERROR, OVERLOAD_ERROR = 0x01, 0x04, 0x20
_DRIVE_MODE, _BUS_WATCHDOG = 10, 98
VELOCITY_UNIT = 0.229 * 2.0 * math.pi / 60.0
"""rad/s in one unit of velocity."""

_ACCELERATION_UNIT = 214.577 * 2.0 * math.pi / 3600.0
_REVERSE, _TIME_PROFILE, _TORQUE_ON_BY_GOAL = 0x01, 0x04, 0x08
_WATCHDOG_S = 0.020
_WATCHDOG_TRIPPED = 0xFF
_WATCHDOG_FIRMWARE, _TORQUE_ON_BY_GOAL_FIRMWARE = 38, 45
_MOST_HOMING = 1024  # counts that position mode takes into account
_FULL_PWM, _FULL_LOAD = 885, 1000
_OVERLOAD_SHARE, _OVERLOAD_S = 0.6, 2.0
_WATCHED = ("goal_pwm", "goal_current", "goal_velocity", "goal_position")
_MOST_COUNTS = MOST_TURNS * COUNTS
_GOAL = struct.Struct("<i")


class DynamixelServo(Servo):
    """One servo of the X series."""

    def __init__(self, settings: ServoSettings, joint: Joint, motor: Motor) -> None:
        super().__init__(settings, control_table(settings.servo_model), joint, motor)
        self.secondary_id = settings.secondary_id
        self._heard_at = 0.0
        self._overloaded_s = 0.0
        self._registered: tuple[int, bytes] | None = None
        self._indirect = {
            register.address: self.table.registers["indirect_address_" + name.rpartition("_")[2]].address
            for name, register in self.table.registers.items()
            if name.startswith("indirect_data_")
        }
        self._first_indirect = min(self._indirect)
        self._offset = 0
        self._goals = (0, 0)
        self._written = {
            "torque_enable": self._torque_written,
            "operating_mode": self._turns_lost,
            "drive_mode": self._drive_mode_written,
            "goal_current": self._limits_written,
            "goal_pwm": self._limits_written,
            "position_p_gain": self._limits_written,
            "profile_velocity": self._profile_written,
            "profile_acceleration": self._profile_written,
            "id": self._address_written,
            "baud_rate": self._address_written,
            "secondary_id": self._address_written,
        }
        self._set_up()

    def _set_up(self) -> None:
        given = self.settings
        self.store("id", given.id)
        self.store("secondary_id", 255 if given.secondary_id is None else given.secondary_id)
        if given.baud in BAUD_RATES:
            self.store("baud_rate", BAUD_RATES.index(given.baud))
        self.store("return_delay_time", given.return_delay_us // 2)
        self.store("firmware_version", self.firmware)
        self.store("drive_mode", given.drive_mode)
        self.store("operating_mode", given.operating_mode or POSITION_MODE)
        self.store("homing_offset", given.homing_offset)
        self.store("max_position_limit", given.highest)
        self.store("min_position_limit", given.lowest)
        if given.current_limit is not None and self.model.ampere_unit:
            self.store("current_limit", given.current_limit)
            self.store("goal_current", given.current_limit)
        self.keep_registers()
        self._limits_written()
        self._base = given.position - self._offset - self.joint.output / COUNT
        self._start()

    @property
    def firmware(self) -> int:
        """Its version."""
        return self.model.firmware if self.settings.firmware is None else self.settings.firmware

    def reported(self) -> int:
        """The position that it reports, in counts."""
        return math.floor(self.angle + self._offset + 0.5)

    def joint_position(self, counts: float) -> float:
        """Where the joint is in rad when the servo reports so many counts."""
        return (counts - self._offset - self._base) * self._sign * COUNT

    def _start(self) -> None:
        self.id = self.value("id")
        if self.baud in BAUD_RATES:
            self.baud = BAUD_RATES[self.value("baud_rate")]
        self._registered = None
        self._overloaded_s = 0.0
        if "current_limit" in self.table.registers:
            self.store("goal_current", self.value("current_limit"))
        self.store("goal_pwm", self.value("pwm_limit"))
        self.store("goal_position", self.reported())
        self._limits_written()
        self._profile_written()

    def power(self, now: float, volts: float) -> bool:
        """Takes the voltage at its plug; returns whether this starts it."""
        if starts := super().power(now, volts):
            self._set_hardware_error(VOLTAGE_ERROR)
        return starts

    # What a host does

    def read(self, now: float, address: int, size: int) -> bytes | None:
        """Registers as bytes; None where there are none."""
        end = address + size
        if size == 0 or end > self.table.size:
            return None
        if end > self._first_indirect and address >= KEPT:
            places = [self._place(at) for at in range(address, end)]
            self.refresh(now, min(places), max(places) + 1)
            return bytes([self.memory[place] for place in places])
        self.refresh(now, address, end)
        return bytes(self.memory[address:end])

    def write(self, address: int, data: bytes) -> ErrorNumber:
        """Writes registers, all or none of them."""
        if address == GOAL_POSITION and len(data) == GOAL_SIZE:
            return self._write_goal(int.from_bytes(data, "little", signed=True))
        if address + len(data) > self.table.size or not data:
            return ErrorNumber.ACCESS
        if address + len(data) > self._first_indirect:
            return self._write_indirect(address, data)
        return self._write_registers(address, data)

    def register_write(self, address: int, data: bytes) -> ErrorNumber:
        """Keeps a write for the next action."""
        if (error := self._refusal(address, data)) is ErrorNumber.NONE:
            self._registered = (address, data)
            self.store("registered_instruction", 1)
        return error

    def act(self) -> ErrorNumber:
        """Carries out what `register_write` kept."""
        if self._registered is None:
            return ErrorNumber.INSTRUCTION
        address, data = self._registered
        self._registered = None
        self.store("registered_instruction", 0)
        return self.write(address, data)

    def _place(self, address: int) -> int:
        """Where an address leads: indirect data lie elsewhere."""
        at = self._indirect.get(address)
        return address if at is None else self.memory[at] | self.memory[at + 1] << 8

    def _write_indirect(self, address: int, data: bytes) -> ErrorNumber:
        places = [self._place(address + k) for k in range(len(data))]
        first = 0
        for k in range(1, len(data) + 1):
            if k == len(data) or places[k] != places[k - 1] + 1:
                part = data[first:k]
                goal = places[first] == GOAL_POSITION and len(part) == GOAL_SIZE
                error = (self.write if goal else self._write_registers)(places[first], part)
                if error is not ErrorNumber.NONE:
                    return error
                first = k
        return ErrorNumber.NONE

    def _refusal(self, address: int, data: bytes) -> ErrorNumber:
        """Why these bytes cannot be written; NONE where they can."""
        at, end = address, address + len(data)
        if at >= end:
            return ErrorNumber.LENGTH
        while at < end:
            register = self.table.starting_at.get(at)
            if register is None or not register.writable or (at < KEPT and self.motor.torque_on):
                return ErrorNumber.ACCESS
            if at + register.size > end:
                return ErrorNumber.LENGTH
            value = value_of(register, data[at - address : at - address + register.size])
            if not register.takes(value) or (register.name in _WATCHED and self._watchdog_has_tripped):
                return ErrorNumber.RANGE
            if self._beyond_limit(register.name, value):
                return ErrorNumber.LIMIT
            at += register.size
        return ErrorNumber.NONE

    def _write_registers(self, address: int, data: bytes) -> ErrorNumber:
        if (error := self._refusal(address, data)) is not ErrorNumber.NONE:
            return error
        at, end = address, address + len(data)
        while at < end:
            size = self.table.starting_at[at].size
            if at == GOAL_POSITION:
                self._write_goal(int.from_bytes(data[at - address :][:size], "little", signed=True))
            else:
                self._put_written(at, data[at - address : at - address + size])
            at += size
        if address < KEPT:
            self.keep_registers()
            self._limits_written()
        return ErrorNumber.NONE

    def _beyond_limit(self, name: str, value: int) -> bool:
        if name == "goal_position":
            return not self._goals[0] <= value <= self._goals[1]
        if name == "goal_current":
            return abs(value) > self.value("current_limit")
        return False

    def _write_goal(self, value: int) -> ErrorNumber:
        """What comes 250 times a second needs no look at the table."""
        memory = self.memory
        if memory[_BUS_WATCHDOG] == _WATCHDOG_TRIPPED or not -_MOST_COUNTS <= value <= _MOST_COUNTS:
            return ErrorNumber.RANGE
        if not self._goals[0] <= value <= self._goals[1]:
            return ErrorNumber.LIMIT
        _GOAL.pack_into(memory, GOAL_POSITION, value)
        drive_mode = memory[_DRIVE_MODE]
        if drive_mode & _TORQUE_ON_BY_GOAL and self.firmware >= _TORQUE_ON_BY_GOAL_FIRMWARE:
            self.store("torque_enable", 1)
            self._torque_written()
        goal = self.joint_position(value)
        if goal != self.motor.goal:
            self.motor.goal = goal
            self.joint.wake()
            if drive_mode & _TIME_PROFILE:
                self._profile_written()
        return ErrorNumber.NONE

    # What registers do

    def _torque_written(self) -> None:
        on = bool(self.value("torque_enable")) and not self._is_shut_down
        if on and not self.motor.torque_on:
            self._turns_lost()
            self.motor.goal = self.joint_position(self.value("goal_position"))
        if on != self.motor.torque_on:
            self.set_torque(on)
        self.store("torque_enable", int(on))

    def _turns_lost(self) -> None:
        """Position mode knows one turn."""
        if self.value("operating_mode") == POSITION_MODE:
            self.lose_turns()
        self._limits_written()

    def _drive_mode_written(self) -> None:
        reverse = -1.0 if (self.value("drive_mode") ^ self.settings.drive_mode) & _REVERSE else 1.0
        if reverse != self._sign:
            angle, self._sign = self.angle, reverse
            self._base += COUNTS - angle - self.angle
        self._turns_lost()

    def _limits_written(self) -> None:
        mode = self.value("operating_mode")
        self._goals = (-_MOST_COUNTS, _MOST_COUNTS)
        if mode == POSITION_MODE:
            self._goals = (self.value("min_position_limit"), self.value("max_position_limit"))
        self._offset = self.value("homing_offset")
        if mode == POSITION_MODE and abs(self._offset) > _MOST_HOMING:
            self._offset = 0
        limited = mode == CURRENT_MODE
        self.motor.limit(
            current=abs(self.value("goal_current")) * self.model.ampere_unit if limited else math.inf,
            duty=min(self.value("pwm_limit"), abs(self.value("goal_pwm"))) / _FULL_PWM,
            gain_scale=self.value("position_p_gain") / self.model.position_gain,
        )
        self.joint.wake()

    def _profile_written(self) -> None:
        """By velocity, or by time: then the two registers are the milliseconds of the whole move and of its ends."""
        velocity, acceleration = self.value("profile_velocity"), self.value("profile_acceleration")
        speed_limit = acceleration_limit = math.inf
        if velocity and self.value("drive_mode") & _TIME_PROFILE:
            ends_s = 1e-3 * min(acceleration, velocity / 2.0)
            speed_limit = abs(self.motor.goal - self.joint.output) / (1e-3 * velocity - ends_s)
            acceleration_limit = speed_limit / ends_s if ends_s and speed_limit else math.inf
        elif velocity:
            speed_limit = velocity * VELOCITY_UNIT
            acceleration_limit = acceleration * _ACCELERATION_UNIT if acceleration else math.inf
        self.motor.limit(speed=speed_limit, acceleration=acceleration_limit)
        self.joint.wake()

    def _address_written(self) -> None:
        self.id = self.value("id")
        self.baud = BAUD_RATES[self.value("baud_rate")]
        secondary = self.value("secondary_id")
        self.secondary_id = secondary if secondary <= 252 else None

    # What it measures and how it protects itself

    def refresh(self, now: float, address: int, end: int) -> None:
        """Brings what it measures up to date in registers from `address` to before `end`."""
        if end <= 69 or address > 146:
            return
        motor, joint = self.motor, self.joint
        current = motor.current / self.model.ampere_unit if self.model.ampere_unit else motor.duty * _FULL_LOAD
        velocity = self._sign * joint.output_velocity / VELOCITY_UNIT
        struct.pack_into(
            "<hhii",
            self.memory,
            PRESENT,
            round(self._sign * motor.duty * _FULL_PWM),
            round(self._sign * current),
            round(velocity),
            self.reported(),
        )
        if address >= PRESENT and end <= PRESENT_END:
            return
        self.store("realtime_tick", int(now * 1e3) % 32768)
        moving = abs(velocity) > self.value("moving_threshold")
        self.store("moving", int(moving))
        self.store("moving_status", int(abs(motor.goal - joint.output) < 2 * COUNT) | int(moving) << 1)
        self.store("velocity_trajectory", round(self._sign * motor.wanted / VELOCITY_UNIT))
        self.store("position_trajectory", self.value("goal_position"))
        self.store("present_input_voltage", round(self._volts * 10))
        self.store("present_temperature", max(0, min(255, round(self.temperature))))

    @property
    def return_delay_s(self) -> float:
        """Between an instruction and the answer."""
        return self.memory[9] * 2e-6

    def protect(self, now: float, seconds: float, heard_at: float) -> None:
        """Looks after itself every few milliseconds."""
        if not self._has_power:
            return
        if self.connected:
            self._heard_at = heard_at
        if self.temperature > self.value("temperature_limit"):
            self._set_hardware_error(HEAT_ERROR)
        volts = round(self._volts * 10)
        if not self.value("min_voltage_limit") <= volts <= self.value("max_voltage_limit"):
            self._set_hardware_error(VOLTAGE_ERROR)
        loaded = abs(self.motor.current) > _OVERLOAD_SHARE * self.model.stall_amperes
        self._overloaded_s = self._overloaded_s + seconds if loaded else 0.0
        if self._overloaded_s >= _OVERLOAD_S:
            self.trip_overload()
        watchdog = self.memory[_BUS_WATCHDOG]
        counts = 0 < watchdog < _WATCHDOG_TRIPPED and self.motor.torque_on and self.firmware >= _WATCHDOG_FIRMWARE
        if counts and now - self._heard_at > watchdog * _WATCHDOG_S:
            self.memory[_BUS_WATCHDOG] = _WATCHDOG_TRIPPED
            self.motor.goal = self.joint.output
            self.joint.wake()

    def trip_overload(self) -> None:
        """What an overload of long duration does."""
        self._set_hardware_error(OVERLOAD_ERROR)

    @property
    def _watchdog_has_tripped(self) -> bool:
        return self.memory[_BUS_WATCHDOG] == _WATCHDOG_TRIPPED

    @property
    def _is_shut_down(self) -> bool:
        return bool(self.value("hardware_error_status") & self.value("shutdown"))

    def _set_hardware_error(self, bit: int) -> None:
        self.store("hardware_error_status", self.value("hardware_error_status") | bit)
        self.error = ALERT
        if self._is_shut_down and self.motor.torque_on:
            self.set_torque(False)
