"""The control table of Dynamixel X servos: addresses, ranges and factory values of the vendor's e-manual.

Emulated are the operating modes 3 (position), 4 (several turns) and 5 (position with limited current, not on servos
that measure no current). Another mode is out of range here.
"""

from functools import cache

from firmware_bridge.emulator.servo_bus.models import COUNTS, ServoModel
from firmware_bridge.emulator.servo_bus.registers import Register, RegisterTable

BAUD_RATES = (9_600, 57_600, 115_200, 1_000_000, 2_000_000, 3_000_000, 4_000_000, 4_500_000)
"""By the value of the register."""

KEPT = 64
"""EEPROM lies below."""

INDIRECT_ADDRESS, INDIRECT_DATA = 168, 224
MORE_INDIRECT_ADDRESS, MORE_INDIRECT_DATA = 578, 634
MOST_TURNS = 256
SHUTDOWN_FACTORY = 0b0011_0100  # overheating, shock, overload


@cache
def control_table(model: ServoModel) -> RegisterTable:
    """The registers of one model."""
    has_current = model.ampere_unit > 0.0
    is_small = model.name.startswith("XL330")
    registers = [*_eeprom(model), *_ram(model)]
    if not has_current:
        registers = [register for register in registers if register.name not in ("current_limit", "goal_current")]
    count, data = (20, 208) if is_small else (28, INDIRECT_DATA)
    registers += _indirect(INDIRECT_ADDRESS, data, count, 1)
    if not is_small:
        registers += _indirect(MORE_INDIRECT_ADDRESS, MORE_INDIRECT_DATA, 28, 29)
    return RegisterTable(registers, KEPT)


def _eeprom(model: ServoModel) -> list[Register]:
    volts = range(round(model.lowest_volts * 10), round(model.highest_volts * 10) + 1)
    turns = MOST_TURNS * COUNTS
    return [
        Register(0, 2, "model_number", model.number),
        Register(2, 4, "model_information"),
        Register(6, 1, "firmware_version", model.firmware),
        Register(7, 1, "id", 1, 0, 252),
        Register(8, 1, "baud_rate", 1, 0, len(BAUD_RATES) - 1),
        Register(9, 1, "return_delay_time", 250, 0, 254),
        Register(10, 1, "drive_mode", 0, 0, 13),
        Register(11, 1, "operating_mode", 3, 3, 5 if model.ampere_unit else 4),
        Register(12, 1, "secondary_id", 255, 0, 255),
        Register(13, 1, "protocol_type", 2, 2, 2),
        Register(20, 4, "homing_offset", 0, -turns, turns, signed=True),
        Register(24, 4, "moving_threshold", 10, 0, 1023),
        Register(31, 1, "temperature_limit", model.hottest, 0, 100),
        Register(32, 2, "max_voltage_limit", volts[-1], volts[0], volts[-1]),
        Register(34, 2, "min_voltage_limit", volts[0], volts[0], volts[-1]),
        Register(36, 2, "pwm_limit", 885, 0, 885),
        Register(38, 2, "current_limit", model.current_limit, 0, model.current_limit),
        Register(44, 4, "velocity_limit", 350, 0, 1023),
        Register(48, 4, "max_position_limit", COUNTS - 1, 0, COUNTS - 1),
        Register(52, 4, "min_position_limit", 0, 0, COUNTS - 1),
        Register(60, 1, "startup_configuration", 0, 0, 3),
        Register(63, 1, "shutdown", SHUTDOWN_FACTORY, 0, 0b0011_1111),
    ]


def _ram(model: ServoModel) -> list[Register]:
    turns = MOST_TURNS * COUNTS
    current = model.current_limit
    return [
        Register(64, 1, "torque_enable", 0, 0, 1),
        Register(65, 1, "led", 0, 0, 1),
        Register(68, 1, "status_return_level", 2, 0, 2),
        Register(69, 1, "registered_instruction"),
        Register(70, 1, "hardware_error_status"),
        Register(76, 2, "velocity_i_gain", 1920, 0, 16383),
        Register(78, 2, "velocity_p_gain", 100, 0, 16383),
        Register(80, 2, "position_d_gain", 0, 0, 16383),
        Register(82, 2, "position_i_gain", 0, 0, 16383),
        Register(84, 2, "position_p_gain", model.position_gain, 0, 16383),
        Register(88, 2, "feedforward_2nd_gain", 0, 0, 16383),
        Register(90, 2, "feedforward_1st_gain", 0, 0, 16383),
        Register(98, 1, "bus_watchdog", 0, 0, 127),
        Register(100, 2, "goal_pwm", 885, -885, 885, signed=True),
        Register(102, 2, "goal_current", current, -current, current, signed=True),
        Register(104, 4, "goal_velocity", 0, -1023, 1023, signed=True),
        Register(108, 4, "profile_acceleration", 0, 0, 32767),
        Register(112, 4, "profile_velocity", 0, 0, 32767),
        Register(116, 4, "goal_position", 0, -turns, turns, signed=True),
        Register(120, 2, "realtime_tick"),
        Register(122, 1, "moving"),
        Register(123, 1, "moving_status"),
        Register(124, 2, "present_pwm", signed=True),
        Register(126, 2, "present_current", signed=True),
        Register(128, 4, "present_velocity", signed=True),
        Register(132, 4, "present_position", signed=True),
        Register(136, 4, "velocity_trajectory", signed=True),
        Register(140, 4, "position_trajectory", signed=True),
        Register(144, 2, "present_input_voltage"),
        Register(146, 1, "present_temperature"),
    ]


def _indirect(address: int, data: int, count: int, first: int) -> list[Register]:
    addresses = [
        Register(address + 2 * k, 2, f"indirect_address_{first + k}", data + k, KEPT, 661) for k in range(count)
    ]
    return addresses + [Register(data + k, 1, f"indirect_data_{first + k}", 0, 0, 255) for k in range(count)]
