"""The memory of Feetech STS servos, as two transcriptions of the vendor's table and LeRobot's driver have it.

Where they differ the vendor's driver decides (sign bit 15 of the current). Emulated is the operating mode 0 (position).
A Feetech servo answers no write with an error of range: it ignores what it cannot take.
"""

from functools import cache

from firmware_bridge.emulator.servo_bus.models import COUNTS, ServoModel
from firmware_bridge.emulator.servo_bus.registers import Register, RegisterTable

BAUD_RATES = (1_000_000, 500_000, 250_000, 128_000, 115_200, 76_800, 57_600, 38_400)
"""By the value of the register."""

KEPT = 40
"""EEPROM lies below."""

SIGN_OF_POSITION, SIGN_OF_OFFSET, SIGN_OF_LOAD = 15, 11, 10
_FIRMWARE_MAJOR = 3


@cache
def memory_table(model: ServoModel) -> RegisterTable:
    """The registers of one model."""
    return RegisterTable([*_eeprom(model), *_ram()], KEPT)


def _eeprom(model: ServoModel) -> list[Register]:
    last = COUNTS - 1
    return [
        Register(0, 1, "firmware_major", _FIRMWARE_MAJOR),
        Register(1, 1, "firmware_minor", model.firmware),
        Register(2, 1, "big_endian", 0),
        Register(3, 2, "model_number", model.number),
        Register(5, 1, "id", 1, 0, 253),
        Register(6, 1, "baud_rate", 0, 0, len(BAUD_RATES) - 1),
        Register(7, 1, "return_delay_time", 0, 0, 254),
        Register(8, 1, "response_status_level", 1, 0, 1),
        Register(9, 2, "min_position_limit", 0, 0, last),
        Register(11, 2, "max_position_limit", last, 0, last),
        Register(13, 1, "max_temperature_limit", model.hottest, 0, 100),
        Register(14, 1, "max_voltage_limit", round(model.highest_volts * 10), 0, 254),
        Register(15, 1, "min_voltage_limit", round(model.lowest_volts * 10), 0, 254),
        Register(16, 2, "max_torque_limit", 1000, 0, 1000),
        Register(18, 1, "phase", 12, 0, 254),
        Register(19, 1, "unloading_condition", 44, 0, 254),
        Register(20, 1, "led_alarm_condition", 47, 0, 254),
        Register(21, 1, "p_coefficient", model.position_gain, 0, 254),
        Register(22, 1, "d_coefficient", 32, 0, 254),
        Register(23, 1, "i_coefficient", 0, 0, 254),
        Register(24, 2, "minimum_startup_force", 16, 0, 1000),
        Register(26, 1, "cw_dead_zone", 1, 0, 32),
        Register(27, 1, "ccw_dead_zone", 1, 0, 32),
        Register(28, 2, "protection_current", model.current_limit, 0, 511),
        Register(30, 1, "angular_resolution", 1, 1, 100),
        Register(31, 2, "homing_offset", 0, 0, 4095),
        Register(33, 1, "operating_mode", 0, 0, 0),
        Register(34, 1, "protective_torque", 20, 0, 254),
        Register(35, 1, "protection_time", 200, 0, 254),
        Register(36, 1, "overload_torque", 80, 0, 254),
        Register(37, 1, "velocity_p_coefficient", 10, 0, 254),
        Register(38, 1, "over_current_time", 200, 0, 254),
        Register(39, 1, "velocity_i_coefficient", 10, 0, 254),
    ]


def _ram() -> list[Register]:
    return [
        Register(40, 1, "torque_enable", 0, 0, 128),
        Register(41, 1, "acceleration", 0, 0, 254),
        Register(42, 2, "goal_position", 0, 0, 65535),
        Register(44, 2, "goal_time", 0, 0, 65535),
        Register(46, 2, "goal_velocity", 0, 0, 65535),
        Register(48, 2, "torque_limit", 1000, 0, 1000),
        Register(55, 1, "lock", 1, 0, 1),
        Register(56, 2, "present_position"),
        Register(58, 2, "present_velocity"),
        Register(60, 2, "present_load"),
        Register(62, 1, "present_voltage"),
        Register(63, 1, "present_temperature"),
        Register(64, 1, "registered_instruction"),
        Register(65, 1, "status"),
        Register(66, 1, "moving"),
        Register(67, 2, "goal_position_echo"),
        Register(69, 2, "present_current"),
        Register(80, 1, "moving_threshold", 1),
        Register(84, 1, "max_velocity_limit", 254),
        Register(85, 1, "max_acceleration", 254, 0, 254),
        Register(86, 1, "acceleration_multiplier", 1),
    ]
