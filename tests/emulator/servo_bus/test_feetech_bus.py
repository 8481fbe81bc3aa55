"""A bus of Feetech servos answers and moves as the vendor's tables and LeRobot's driver have it."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from servo_bus_host import ALL, Host, one_servo

from firmware_bridge.emulator.servo_bus.arms import so101_bus
from firmware_bridge.emulator.servo_bus.feetech_packets import Instruction, packet, to_signed
from firmware_bridge.emulator.servo_bus.settings import BusSettings, ServoSettings

ID, BAUD_RATE, ANSWERS, LOWEST, HIGHEST, PHASE, P_GAIN, HOMING = (
    (5, 1),
    (6, 1),
    (8, 1),
    (9, 2),
    (11, 2),
    (18, 1),
    (21, 1),
    (31, 2),
)
TORQUE, ACCELERATION, GOAL, GOAL_SPEED, TORQUE_LIMIT, LOCK = (40, 1), (41, 1), (42, 2), (46, 2), (48, 2), (55, 1)
POSITION, SPEED, LOAD, CURRENT = (56, 2), (58, 2), (60, 2), (69, 2)
OVERLOAD = 0x20


@pytest.fixture
def host() -> Host:
    return one_servo("STS3215")


def unsigned(host: Host, address: int, size: int) -> int:
    return int.from_bytes(host.read(1, address, size).data, "little")


def move(host: Host, counts: int, seconds: float = 1.5) -> int:
    """Torque on and a goal; the position after a while."""
    host.write(1, *TORQUE, 1)
    host.write(1, *GOAL, counts)
    host.wait(seconds)
    return unsigned(host, *POSITION)


def test_ping_and_read_get_the_bytes_of_the_examples() -> None:
    host = one_servo("STS3215", position=2047)
    assert host.send(bytes.fromhex("FF FF 01 02 01 FB")) == bytes.fromhex("FF FF 01 02 00 FC")
    assert host.send(bytes.fromhex("FF FF 01 04 02 38 02 BE")) == bytes.fromhex("FF FF 01 04 00 FF 07 F4")
    assert len(host.send(bytes.fromhex("FF FF 01 04 02 38 0F B1"))) == 21


def test_sync_read_gets_the_bytes_of_the_example() -> None:
    servos = tuple(ServoSettings(number, "STS3215", position=at) for number, at in ((1, 1304), (2, 2048)))
    host = Host(BusSettings("bus", servos))
    answer = host.send(bytes.fromhex("FF FF FE 06 82 38 02 01 02 3C"))
    assert answer == bytes.fromhex("FF FF 01 04 00 18 05 DD FF FF 02 04 00 00 08 F1")


def test_the_sync_write_of_the_example_moves_both_servos() -> None:
    servos = tuple(ServoSettings(number, "STS3215", position=1900) for number in (1, 2))
    host = Host(BusSettings("bus", servos))
    host.sync_write(*TORQUE, {1: 1, 2: 1})
    assert host.send(bytes.fromhex("FF FF FE 0A 83 2A 02 01 00 08 02 FF 07 37")) == b""
    host.wait(1.0)
    positions = [said.word for said in host.sync_read([1, 2], *POSITION)]
    assert positions == pytest.approx([2048, 2047], abs=1)


def test_an_overloaded_servo_answers_with_valid_data_and_a_flag() -> None:
    host = Host(BusSettings("bus", (ServoSettings(6, "STS3215", position=2047),)))
    host.command("overload", servo=6)
    assert host.send(packet(6, Instruction.READ, bytes(POSITION))) == bytes.fromhex("FF FF 06 04 20 FF 07 CF")


def test_all_answer_a_ping_to_all() -> None:
    host = Host(so101_bus("arm"))
    assert [said.id for said in host.ask(ALL, Instruction.PING)] == list(range(1, 7))


def test_the_block_of_15_bytes_has_all_feedback(host: Host) -> None:
    host.write(1, *TORQUE, 1)
    host.write(1, *GOAL, 1000)
    host.wait(0.2)
    position, speed, load, decivolts, celsius, _, error, moving, goal, current = struct.unpack(
        "<HHHBBBBBHH", host.read(1, 56, 15).data
    )
    assert 1000 < position < 2048
    assert to_signed(speed, 15) == pytest.approx(-45 / 60 * 4096, rel=0.2)
    assert to_signed(load, 10) < -500
    assert to_signed(current, 15) < 0
    assert (decivolts, celsius, error, moving, goal) == (pytest.approx(120, abs=3), 25, 0, 1, 1000)


def test_goal_speed_and_acceleration_are_kept(host: Host) -> None:
    host.write(1, *TORQUE, 1)
    acceleration, speed = 20, 1000
    host.ask(1, Instruction.WRITE, struct.pack("<BBHHH", 41, acceleration, 4000, 0, speed))
    host.wait(0.25)
    assert unsigned(host, *SPEED) == pytest.approx(500, rel=0.1)
    host.wait(0.75)
    assert unsigned(host, *SPEED) == pytest.approx(1000, abs=20)


def test_goals_are_held_to_the_limits(host: Host) -> None:
    host.write(1, *LOWEST, 1500)
    host.write(1, *HIGHEST, 2500)
    assert move(host, 3000) == pytest.approx(2500, abs=1)
    assert move(host, 100) == pytest.approx(1500, abs=1)


def test_a_lower_gain_lags_more(host: Host) -> None:
    def moved(gain: int) -> int:
        other = one_servo("STS3215")
        other.write(1, *P_GAIN, gain)
        return move(other, 2078, seconds=0.03)

    assert moved(32) > moved(16) > 2048


def test_128_makes_this_place_2048_and_survives_a_restart(host: Host) -> None:
    host.command("move_by_hand", servo=1, counts=3000)
    host.write(1, *TORQUE, 128)
    assert unsigned(host, *POSITION) == 2048
    assert to_signed(unsigned(host, *HOMING), 11) == 952
    assert unsigned(host, *TORQUE) == 0
    host.ask(1, Instruction.REBOOT)
    host.wait(0.3)
    assert unsigned(host, *POSITION) == 2048
    assert move(host, 1900) == pytest.approx(1900, abs=1)


@pytest.mark.parametrize(("offset", "shown"), [(-100, 2148), (100, 1948), (2047, 1), (-2047, 4095)])
def test_present_is_actual_minus_offset(offset: int, shown: int) -> None:
    host = one_servo("STS3215")
    host.write(1, *HOMING, abs(offset) | (0x800 if offset < 0 else 0))
    assert unsigned(host, *POSITION) == shown


def test_the_position_turns_over_unless_phase_bit_4_is_set() -> None:
    host = one_servo("STS3215", position=10)
    host.command("move_by_hand", servo=1, counts=-20)
    assert unsigned(host, *POSITION) == 4076
    host.write(1, *PHASE, 12 | 0x10)
    assert to_signed(unsigned(host, *POSITION), 15) == -20


def test_eeprom_writes_are_lost_by_a_restart_while_the_lock_is_1(host: Host) -> None:
    assert unsigned(host, *LOCK) == 1
    host.write(1, *P_GAIN, 16)
    assert unsigned(host, *P_GAIN) == 16
    host.ask(1, Instruction.REBOOT)
    host.wait(0.3)
    assert unsigned(host, *P_GAIN) == 32
    host.write(1, *LOCK, 0)
    host.write(1, *P_GAIN, 16)
    host.ask(1, Instruction.REBOOT)
    host.wait(0.3)
    assert unsigned(host, *P_GAIN) == 16


def test_the_torque_limit_comes_from_its_eeprom_value_at_power_on(host: Host) -> None:
    host.write(1, *LOCK, 0)
    host.write(1, 16, 2, 500)
    assert unsigned(host, *TORQUE_LIMIT) == 1000
    host.ask(1, Instruction.REBOOT)
    host.wait(0.3)
    assert unsigned(host, *TORQUE_LIMIT) == 500
    host.command("obstacle", servo=1, counts=2100)
    move(host, 3000, seconds=0.3)
    assert unsigned(host, *LOAD) == pytest.approx(500, abs=2)


def test_a_blocked_servo_falls_to_the_protective_torque_until_the_goal_changes_sides(host: Host) -> None:
    host.command("obstacle", servo=1, counts=2200)
    move(host, 3000, seconds=1.5)
    assert unsigned(host, *LOAD) == pytest.approx(1000, abs=5)
    assert host.read(1, *POSITION).error == 0
    host.wait(1.0)
    said = host.read(1, *POSITION)
    assert (said.error, said.word) == (OVERLOAD, pytest.approx(2200, abs=1))
    assert unsigned(host, *LOAD) == pytest.approx(200, abs=2)
    host.write(1, *GOAL, 2800)
    host.wait(0.1)
    assert host.read(1, *POSITION).error == OVERLOAD
    assert move(host, 2000) == pytest.approx(2000, abs=1)
    assert host.read(1, *POSITION).error == 0


def test_torque_off_ends_an_overload(host: Host) -> None:
    host.command("overload", servo=1)
    host.wait(0.05)
    assert host.read(1, *POSITION).error == OVERLOAD
    host.write(1, *TORQUE, 0)
    host.wait(0.05)
    assert host.read(1, *POSITION).error == 0


def test_damping_slows_a_joint_that_is_pushed() -> None:
    def moved(torque: int) -> int:
        host = one_servo("STS3215", position=500)
        host.write(1, *TORQUE, torque)
        host.command("push", servo=1, torque=0.5)
        host.wait(0.3)
        return unsigned(host, *POSITION) - 500

    assert 0 < moved(2) < 0.5 * moved(0)


def test_address_8_switches_answers_to_writes_off(host: Host) -> None:
    assert host.write(1, *ANSWERS, 0) == -1
    assert host.write(1, *TORQUE, 1) == -1
    assert unsigned(host, *TORQUE) == 1


def test_what_cannot_be_written_is_ignored_and_counted(host: Host) -> None:
    assert host.write(1, 33, 1, 1) == 0
    assert host.write(1, *POSITION, 5) == 0
    assert unsigned(host, 33, 1) == 0
    assert unsigned(host, *POSITION) == 2048
    assert host.bus.state()["counters"]["refused"] == 2


def test_unknown_instructions_and_damaged_packets_get_no_answer(host: Host) -> None:
    assert host.ask(1, 0x77) == []
    assert host.send(bytes.fromhex("FF FF 01 02 01 FA")) == b""
    assert host.bus.state()["counters"]["bad_packets"] == 1


def test_a_registered_write_waits_for_the_action(host: Host) -> None:
    host.write(1, *TORQUE, 1)
    assert len(host.ask(1, Instruction.REG_WRITE, struct.pack("<BH", 42, 2500))) == 1
    assert unsigned(host, 64, 1) == 1
    host.wait(0.3)
    assert unsigned(host, *POSITION) == 2048
    assert host.ask(ALL, Instruction.ACTION) == []
    host.wait(1.0)
    assert unsigned(host, *POSITION) == pytest.approx(2500, abs=1)


def test_after_a_silent_servo_a_sync_read_gets_no_more() -> None:
    host = Host(so101_bus("arm"))
    host.command("connect", servo=3, connected=False)
    assert [said.id for said in host.sync_read([1, 2, 3, 4, 5, 6], *POSITION)] == [1, 2]
    host.command("connect", servo=3, connected=True)
    assert [said.id for said in host.sync_read([6, 3, 1], *POSITION)] == [6, 3, 1]


def test_id_and_baud_rate_can_be_changed(host: Host) -> None:
    assert host.write(1, *ID, 9) == 0
    assert [said.id for said in host.ask(9, Instruction.PING)] == [9]
    host.write(9, *BAUD_RATE, 1)
    assert host.ask(9, Instruction.PING) == []
    host.baud = 500_000
    assert len(host.ask(9, Instruction.PING)) == 1


def test_it_has_no_watchdog(host: Host) -> None:
    assert move(host, 2500) == pytest.approx(2500, abs=1)
    host.wait(5.0)
    assert unsigned(host, *TORQUE) == 1
    assert unsigned(host, *POSITION) == pytest.approx(2500, abs=1)


@settings(max_examples=60)
@given(st.integers(0, 0xFE), st.integers(0, 0xFF), st.binary(max_size=40))
def test_no_instruction_breaks_the_bus(number: int, instruction: int, parameters: bytes) -> None:
    host = Host(so101_bus("arm"))
    host.send(packet(number, instruction, parameters))
    host.wait(0.02)


@settings(max_examples=30)
@given(st.lists(st.tuples(st.integers(0, 100), st.binary(min_size=1, max_size=12)), max_size=12))
def test_no_write_breaks_a_servo(writes: list[tuple[int, bytes]]) -> None:
    host = one_servo("STS3215")
    for address, data in writes:
        host.ask(ALL, Instruction.WRITE, bytes((address,)) + data)
        host.wait(0.02)
    host.bus.state()
