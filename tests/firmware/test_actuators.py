"""The back ends of the Raspberry Pi Pico, seen at its pins: servo pulses, and servos of both families on its bus."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from firmware_library import FIRMWARE, ROOT, make, require
from rp2040_board import Run, Script, require_emulator

from firmware_bridge.firmware.board_sizes import BOARDS, measure
from firmware_bridge.firmware.generate_joints import write_table
from firmware_bridge.firmware.joint_table import JointTable, load_joint_table
from firmware_bridge.lockstep.host_firmware import HostFirmware, only
from pi0_edge.protos.serial_link import (
    SCHEMA_HASH,
    Command,
    CommandReply,
    CommandRequest,
    Counters,
    Fault,
    Health,
    Hello,
    JointFlag,
    Measured,
    Ping,
    State,
)

pytestmark = [
    pytest.mark.real_time,
    pytest.mark.system,
]  # a busy machine emulates too slowly for the test's own time limit

SO101 = load_joint_table("so101")
ONE_ARM = load_joint_table(ROOT / "tests" / "firmware" / "one_arm_robot.yaml")
BACK_ENDS = [pytest.param(SO101, id="6 Feetech"), pytest.param(ONE_ARM, id="9 Dynamixel")]
TICKS = 60
CORE_HZ = 125_000_000
HELD = JointFlag.MEASURED | JointFlag.TORQUE


@cache
def image_of(table: JointTable, actuators: str) -> Path:
    require_emulator()
    build = Path("build") / f"{actuators}_{table.robot}"
    (FIRMWARE / build).mkdir(parents=True, exist_ok=True)
    (FIRMWARE / build / f"{table.robot}.c").write_text(write_table(table))
    names = (f"ROBOT={table.robot}", f"ROBOTS={build}", f"ACTUATORS={actuators}", f"BUILD={build}")
    built = make("-s", "rp2040", *names)
    assert built.returncode == 0, built.stderr
    return FIRMWARE / build / "rp2040" / "firmware.uf2"


def servos_at_home(table: JointTable, **options: Any) -> dict[str, Any]:
    """Servos for the emulator: at the home of their joints, with a supply that the table allows."""
    volts = round(10 * (table.bus.lowest_volts + table.bus.highest_volts) / 2)
    registers, shadows = {}, {}
    for servo in table.servos:
        count = round(servo.zero + servo.per_unit * table.joints[servo.joint].home)
        if table.bus.protocol == "feetech":
            registers[servo.id] = {56: count.to_bytes(2, "little").hex(), 62: bytes([volts, 31]).hex()}
        else:
            registers[servo.id] = {
                0: (1120).to_bytes(2, "little").hex(),
                6: bytes([45]).hex(),
                132: count.to_bytes(4, "little").hex(),
                144: bytes([volts, 0, 31]).hex(),
            }
        if servo.is_shadow:
            shadows[servo.id] = next(
                other.id for other in table.servos if other.joint == servo.joint and not other.is_shadow
            )
    return {"protocol": table.bus.protocol, "registers": registers, "shadows": shadows, **options}


def rows(table: JointTable, steps: int = 15) -> list[list[int]]:
    """Each joint moves slowly to a different position."""
    return [
        [round(j.home / j.resolution) + 40 * step * (number + 1) for number, j in enumerate(table.joints)]
        for step in range(steps)
    ]


def moving(table: JointTable, ticks: int = TICKS, steps: int = 15) -> Script:
    script = Script().send(2.5, Hello(SCHEMA_HASH))
    for tick in range(3, ticks, 2):
        script.send(tick + 0.3, Ping(tick, 0))
    chunk = HostFirmware(table).fragments(12, rows(table, steps), per_fragment=15)
    return script.send(5.5, CommandRequest(1, Command.ARM)).send(7.5, *chunk)


def measured_in(run: Run) -> list[np.ndarray]:
    """Position, current, condition of the joints [3, joints], of every tick."""
    return [np.array(message.values).reshape(message.rows, -1) for message in only(Measured, run.messages)]


@pytest.mark.parametrize("table", BACK_ENDS)
def test_the_arm_is_measured_while_it_moves_and_nothing_is_lost(
    table: JointTable, capsys: pytest.CaptureFixture[str]
) -> None:
    run = moving(table).event(0, servos=servos_at_home(table)).run(image_of(table, table.bus.protocol), TICKS)
    figures = run.figures
    assert figures["bus_baud"] == pytest.approx(table.bus.baud, rel=0.001)
    assert only(CommandReply, run.messages)[0].result == 0
    running = [tick for tick in run.ticks if tick.state == State.RUNNING]
    assert len(running) >= 14 and all(tick.faults == 0 for tick in running)
    executed = {tick.tick: tick.executed for tick in run.ticks}
    for message, values in zip(only(Measured, run.messages), measured_in(run), strict=True):
        flags, age = values[2] >> 8, values[2] & 0xFF
        if message.tick >= 3:
            assert np.all(flags & JointFlag.MEASURED)
            assert np.all(age <= table.bus.measure_steps + 3)
        if message.tick in range(10, 25):
            assert np.all(flags == HELD)
            position = values[0] * [joint.resolution for joint in table.joints]
            assert position == pytest.approx(executed[message.tick], abs=0.05)
    assert (figures["overruns"], figures["bus_overruns"], figures["bus_collisions"]) == (0, 0, 0)
    assert figures["bus_answers"] > 0.9 * TICKS * 5 / table.bus.measure_steps
    counters = only(Counters, run.messages)
    assert counters and counters[-1].bus_errors == 0
    cycles = figures["worst_servo_cycles"]
    with capsys.disabled():
        print(f"\nRP2040, {table.robot}: longest servo interrupt {cycles} cycles ({1e6 * cycles / CORE_HZ:.0f} us)")
    assert cycles < 0.75 * CORE_HZ / table.servo_hz


@pytest.mark.parametrize("table", BACK_ENDS)
def test_a_servo_that_restarts_stops_the_arm(table: JointTable) -> None:
    torque = {"feetech": 40, "dynamixel": 64}[table.bus.protocol]
    script = moving(table, ticks=60, steps=45).event(0, servos=servos_at_home(table))
    script.event(20, registers={1: {torque: "00"}})
    run = script.run(image_of(table, table.bus.protocol), 60)
    stopped = next(tick for tick in run.ticks if tick.faults)
    assert stopped.faults == Fault.SERVO_ERROR and stopped.fault_joint == 0
    assert 20 < stopped.tick < 20 + 25 + 6  # read in turn, five times a second, and then for 100 ms
    assert measured_in(run)[-1][2][0] >> 8 & JointFlag.RESTARTED


@pytest.mark.parametrize("table", BACK_ENDS)
def test_a_servo_that_is_unplugged_stops_the_arm_and_not_the_others(table: JointTable) -> None:
    script = moving(table, ticks=60, steps=45).event(0, servos=servos_at_home(table)).event(20, unplug=[1])
    run = script.run(image_of(table, table.bus.protocol), 60)
    stopped = next(tick for tick in run.ticks if tick.faults)
    assert stopped.faults == Fault.BUS_SILENT and stopped.fault_joint == 0
    assert stopped.tick in range(29, 33)  # after 200 ms
    ages = measured_in(run)[-1][2] & 0xFF
    assert ages[0] > 100 and np.all(ages[1:] <= 8)


@pytest.mark.parametrize("options", [{"echo": True}, {"delay_us": 100}], ids=["echo", "return delay"])
def test_echo_and_return_delay_change_nothing(options: dict[str, Any]) -> None:
    script = moving(SO101).event(0, servos=servos_at_home(SO101, **options))
    run = script.run(image_of(SO101, "feetech"), TICKS)
    assert (run.figures["bus_overruns"], run.figures["bus_collisions"]) == (0, 0)
    assert only(Counters, run.messages)[-1].bus_errors == 0
    assert np.all(measured_in(run)[20][2] >> 8 == HELD)


def test_voltage_and_temperature_are_reported() -> None:
    script = Script().send(2.5, Hello(SCHEMA_HASH)).event(0, servos=servos_at_home(ONE_ARM))
    for tick in range(3, 120, 2):
        script.send(tick + 0.3, Ping(tick, 0))
    run = script.run(image_of(ONE_ARM, "dynamixel"), 120)
    health = only(Health, run.messages)[-1]
    assert health.values == (31,) * 7 + (122,) * 7


@pytest.mark.parametrize(
    ("name", "robot", "actuators"),
    [("lm3s6965evb", "aloha", "dynamixel"), ("stm32f4", "aloha", "dynamixel"), ("rp2040", "so101", "feetech")],
)
def test_an_image_with_servo_buses_fits(name: str, robot: str, actuators: str) -> None:
    require("make", "arm-none-eabi-gcc", "python3")
    board = next(board for board in BOARDS if board.name == name)
    sizes = measure(board, robot, actuators)
    assert sizes.flash < board.flash * 1024 and sizes.ram + 4096 < board.ram * 1024
    assert 1024 < sizes.stack < 4096


def test_a_robot_with_two_buses_is_refused_by_a_board_with_one() -> None:
    require("make", "arm-none-eabi-gcc")
    built = make("-s", "rp2040", "ROBOT=aloha", "ACTUATORS=dynamixel", "BUILD=build/dynamixel_aloha")
    assert built.returncode != 0
    assert "aloha has 2 servo buses, this board has fewer" in built.stderr


def test_pulses_follow_the_joints() -> None:
    run = moving(SO101).run(image_of(SO101, "pwm_servo"), TICKS)
    pulses = [value for word in run.figures["pwm"][1:4] for value in (word & 0xFFFF, word >> 16)]
    rest = zip(SO101.joints, run.ticks[-1].executed, strict=True)
    expected = [1000 + 1000 * (place - joint.minimum) / (joint.maximum - joint.minimum) for joint, place in rest]
    assert pulses == pytest.approx(expected, abs=1)
    assert pulses[0] > 1500
