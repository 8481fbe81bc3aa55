"""A bus of Dynamixel servos answers, refuses and moves as the vendor's manual says."""

from __future__ import annotations

import struct

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from servo_bus_host import ALL, BAUD, Host, one_servo

from firmware_bridge.emulator.servo_bus.arms import aloha_bus
from firmware_bridge.emulator.servo_bus.dynamixel_packets import Instruction, packet
from firmware_bridge.emulator.servo_bus.settings import BusSettings, ServoSettings

ID, BAUD_RATE, DELAY, DRIVE_MODE, MODE, SECONDARY, HOMING = (7, 1), (8, 1), (9, 1), (10, 1), (11, 1), (12, 1), (20, 4)
TORQUE, STATUS_LEVEL, HARDWARE_ERROR = (64, 1), (68, 1), (70, 1)
WATCHDOG, GOAL_CURRENT, PROFILE_VELOCITY, GOAL = (98, 1), (102, 2), (112, 4), (116, 4)
CURRENT, VELOCITY, POSITION, VOLTS, CELSIUS = (126, 2), (128, 4), (132, 4), (144, 2), (146, 1)
RANGE, LENGTH, LIMIT, ACCESS, WRONG_INSTRUCTION = 4, 5, 6, 7, 2


@pytest.fixture
def host() -> Host:
    return one_servo("XM430-W350")


@pytest.fixture
def arm() -> Host:
    return Host(aloha_bus("arm"))


def move(host: Host, counts: int, seconds: float = 1.0) -> int:
    """Torque on and a goal; the position after a while."""
    assert host.write(1, *TORQUE, 1) == 0
    assert host.write(1, *GOAL, counts) == 0
    host.wait(seconds)
    return host.read(1, *POSITION).word


def test_the_printed_fast_sync_read_gets_the_printed_answer() -> None:
    servos = [ServoSettings(number, "XM430-W350", position=at) for number, at in ((3, 166), (7, 2079), (4, 1023))]
    host = Host(BusSettings("bus", tuple(servos)))
    answer = host.send(bytes.fromhex("FF FF FD 00 FE 0A 00 8A 84 00 04 00 03 07 04 20 F2"))
    assert answer == bytes.fromhex(
        "FF FF FD 00 FE 19 00 55 00 03 A6 00 00 00 84 08 00 07 1F 08 00 00 16 CA 00 04 FF 03 00 00 D1 9E"
    )


def test_the_printed_read_gets_the_printed_answer() -> None:
    host = one_servo("XM430-W350", position=166)
    answer = host.send(bytes.fromhex("FF FF FD 00 01 07 00 02 84 00 04 00 1D 15"))
    assert answer == bytes.fromhex("FF FF FD 00 01 08 00 55 00 A6 00 00 00 8C C0")


def test_ping_tells_model_and_firmware(host: Host) -> None:
    (said,) = host.ask(1, Instruction.PING)
    assert (said.id, said.error, said.data) == (1, 0, struct.pack("<HB", 1020, 47))
    assert host.ask(2, Instruction.PING) == []


def test_all_answer_a_ping_to_all_in_the_order_of_their_ids(arm: Host) -> None:
    assert [said.id for said in arm.ask(ALL, Instruction.PING)] == list(range(1, 10))


def test_it_moves_to_a_goal_and_tells_velocity_and_current_on_the_way(host: Host) -> None:
    assert host.write(1, *TORQUE, 1) == 0
    assert host.write(1, *GOAL, 3000) == 0
    host.wait(0.15)
    current, velocity, position = struct.unpack("<hii", host.read(1, 126, 10).data)
    assert 2048 < position < 3000
    assert velocity * 0.229 == pytest.approx(46, rel=0.2)  # rpm
    assert current > 0
    host.wait(1.0)
    assert host.read(1, *POSITION).word == pytest.approx(3000, abs=1)
    assert host.read(1, *VELOCITY).word == 0


def test_velocity_and_current_are_negative_backwards(host: Host) -> None:
    host.write(1, *TORQUE, 1)
    host.write(1, *GOAL, 1000)
    host.wait(0.1)
    current, velocity, _ = struct.unpack("<hii", host.read(1, 126, 10).data)
    assert velocity < 0
    assert current < 0


def test_without_torque_it_stays(host: Host) -> None:
    assert host.write(1, *GOAL, 3000) == 0
    host.wait(0.5)
    assert host.read(1, *POSITION).word == 2048


@pytest.mark.parametrize(
    ("address", "size", "value", "error"),
    [
        (*GOAL, 3001, LIMIT),
        (*GOAL, 999, LIMIT),
        (*TORQUE, 2, RANGE),
        (*POSITION, 100, ACCESS),
        (0, 2, 5, ACCESS),
        (147, 1, 1, ACCESS),
        (116, 2, 2000, LENGTH),
        (2000, 1, 1, ACCESS),
        (*MODE, 1, RANGE),
    ],
)
def test_impossible_writes_are_refused(address: int, size: int, value: int, error: int) -> None:
    host = one_servo("XM430-W350", lowest=1000, highest=3000)
    before = host.read(1, 0, 146).data[:64]
    assert host.write(1, address, size, value) == error
    assert host.read(1, 0, 146).data[:64] == before
    assert host.read(1, *GOAL).word == 2048


def test_eeprom_is_closed_while_torque_is_on(host: Host) -> None:
    assert host.write(1, *HOMING, 10) == 0
    assert host.write(1, *TORQUE, 1) == 0
    assert host.write(1, *HOMING, 20) == ACCESS
    assert host.read(1, *HOMING).word == 10


def test_reads_beyond_the_memory_are_refused(host: Host) -> None:
    assert host.read(1, 660, 4).error == ACCESS
    assert host.read(1, 0, 0).error == ACCESS


def test_unknown_instructions_are_refused(host: Host) -> None:
    assert [said.error for said in host.ask(1, 0x77)] == [WRONG_INSTRUCTION]
    assert [said.error for said in host.ask(1, Instruction.ACTION)] == [WRONG_INSTRUCTION]
    assert host.ask(ALL, 0x77) == []


def test_a_damaged_packet_is_not_answered(host: Host) -> None:
    damaged = bytearray(packet(1, Instruction.PING, b""))
    damaged[-1] ^= 1
    assert host.send(bytes(damaged)) == b""
    assert host.bus.state()["counters"]["bad_packets"] == 1
    assert len(host.ask(1, Instruction.PING)) == 1


def test_half_a_packet_is_given_up_after_a_pause(host: Host) -> None:
    assert host.send(packet(1, Instruction.PING, b"")[:7]) == b""
    host.wait(0.2)
    assert len(host.ask(1, Instruction.PING)) == 1


@pytest.mark.parametrize(("level", "answered"), [(0, (True, False, False)), (1, (True, True, False))])
def test_the_status_return_level_says_what_is_answered(host: Host, level: int, answered: tuple[bool, ...]) -> None:
    host.write(1, *STATUS_LEVEL, level)
    read = struct.pack("<HH", *POSITION)
    asked = [(Instruction.PING, b""), (Instruction.READ, read), (Instruction.WRITE, struct.pack("<HB", 65, 1))]
    assert tuple(bool(host.ask(1, instruction, parameters)) for instruction, parameters in asked) == answered


def test_a_registered_write_waits_for_the_action(host: Host) -> None:
    host.write(1, *TORQUE, 1)
    host.ask(1, Instruction.REG_WRITE, struct.pack("<Hi", 116, 2500))
    assert host.read(1, 69, 1).word == 1
    host.wait(0.5)
    assert host.read(1, *POSITION).word == 2048
    assert host.ask(ALL, Instruction.ACTION) == []
    host.wait(1.0)
    assert host.read(1, *POSITION).word == pytest.approx(2500, abs=1)
    assert host.read(1, 69, 1).word == 0


def test_sync_write_and_sync_read_reach_every_servo(arm: Host) -> None:
    arm.sync_write(*TORQUE, dict.fromkeys(range(1, 10), 1))
    goals = {number: 2000 + 10 * number for number in (1, 2, 4, 6, 7, 8, 9)}
    arm.sync_write(*GOAL, goals)
    arm.wait(1.0)
    said = arm.sync_read(list(range(1, 10)), *POSITION)
    assert [one.id for one in said] == list(range(1, 10))
    positions = {one.id: one.word for one in said}
    assert positions == pytest.approx({**goals, 3: goals[2], 5: goals[4]}, abs=1)


def test_a_shadow_executes_what_is_written_to_its_secondary_id_and_never_answers_under_it(arm: Host) -> None:
    assert [said.id for said in arm.ask(2, Instruction.PING)] == [2]
    assert arm.write(2, *TORQUE, 1) == 0
    assert arm.read(3, *TORQUE).word == 1
    arm.write(2, *GOAL, 2100)
    assert arm.read(3, *GOAL).word == 2100
    arm.write(2, *TORQUE, 0)
    arm.write(2, *HOMING, 5)
    assert arm.read(3, *HOMING).word == 0, "only RAM is shared"


def test_a_shadow_with_another_zero_works_against_its_main_servo(arm: Host) -> None:
    arm.write(3, *HOMING, 20)
    arm.write(2, *TORQUE, 1)
    arm.write(2, *GOAL, 2048)
    arm.wait(1.0)
    main, shadow = arm.read(2, *CURRENT).word, arm.read(3, *CURRENT).word
    assert main > 200
    assert shadow < -200


@pytest.mark.parametrize("missing", [1, 4, 9])
def test_after_a_silent_servo_a_sync_read_gets_no_more(arm: Host, missing: int) -> None:
    arm.command("connect", servo=missing, connected=False)
    for instruction in (Instruction.SYNC_READ, Instruction.FAST_SYNC_READ):
        said = arm.sync_read(list(range(1, 10)), *POSITION, instruction)
        expected = list(range(1, missing)) if instruction == Instruction.SYNC_READ else []
        assert [one.id for one in said] == expected


def test_fast_sync_read_needs_firmware_45() -> None:
    ask = packet(ALL, Instruction.FAST_SYNC_READ, struct.pack("<HHB", *POSITION, 1))
    assert one_servo("XM430-W350", firmware=45).send(ask) != b""
    assert one_servo("XM430-W350", firmware=44).send(ask) == b""
    assert one_servo("XL330-M288", firmware=45).send(ask) == b""


def test_reverse_mode_mirrors_positions_about_the_middle() -> None:
    host = one_servo("XM430-W350", position=2048)
    host.command("move_by_hand", servo=1, counts=2348)
    assert host.write(1, *DRIVE_MODE, 1) == 0
    assert host.read(1, *POSITION).word == 4096 - 2348
    assert move(host, 1900) == pytest.approx(1900, abs=1)
    host.write(1, *TORQUE, 0)
    host.write(1, *DRIVE_MODE, 0)
    assert host.read(1, *POSITION).word == pytest.approx(4096 - 1900, abs=1)


@pytest.mark.parametrize(("offset", "shown"), [(100, 2148), (-1024, 1024), (1025, 2048)])
def test_position_mode_counts_a_homing_offset_of_at_most_1024(offset: int, shown: int) -> None:
    host = one_servo("XM430-W350")
    assert host.write(1, *HOMING, offset) == 0
    assert host.read(1, *POSITION).word == shown
    assert move(host, 2200) == pytest.approx(2200, abs=1)


def test_several_turns_count_in_mode_4_and_are_lost_by_a_reboot(host: Host) -> None:
    assert host.write(1, *MODE, 4) == 0
    assert move(host, 6000, seconds=2.0) == pytest.approx(6000, abs=1)
    host.ask(1, Instruction.REBOOT)
    host.wait(0.5)
    assert host.read(1, *POSITION).word == pytest.approx(6000 - 4096, abs=1)


def test_the_goal_current_limits_the_gripper_against_an_object() -> None:
    host = one_servo("XM430-W350", operating_mode=5, current_limit=200)
    assert host.write(1, *GOAL_CURRENT, 201) == LIMIT
    assert host.write(1, *GOAL_CURRENT, 150) == 0
    host.command("obstacle", servo=1, counts=2300)
    assert move(host, 2800) == pytest.approx(2300, abs=1)
    assert host.read(1, *CURRENT).word == 150


def test_a_load_is_held_and_falls_when_torque_goes_off() -> None:
    host = one_servo("XM430-W350", gravity_torque=1.0, level_position=2048)
    assert move(host, 2048) == pytest.approx(2048, abs=1)
    assert host.read(1, *CURRENT).word * 2.69e-3 == pytest.approx(1.0 / (4.1 / 2.3), abs=0.1)
    host.write(1, *TORQUE, 0)
    host.wait(1.0)
    assert host.read(1, *POSITION).word < 1800


def test_a_profile_velocity_is_kept(host: Host) -> None:
    host.write(1, *PROFILE_VELOCITY, 44)  # 10 rpm
    host.write(1, *TORQUE, 1)
    host.write(1, *GOAL, 3000)
    host.wait(0.3)
    assert host.read(1, *VELOCITY).word == pytest.approx(44, abs=1)


def test_a_profile_by_time_takes_its_time() -> None:
    host = one_servo("XM430-W350", drive_mode=4)
    host.write(1, *PROFILE_VELOCITY, 1000)
    host.write(1, *TORQUE, 1)
    host.write(1, *GOAL, 2748)
    host.wait(0.5)
    assert host.read(1, *POSITION).word == pytest.approx(2398, abs=20)
    host.wait(0.6)
    assert host.read(1, *POSITION).word == pytest.approx(2748, abs=3)


def test_the_bus_watchdog_stops_the_servo_and_refuses_goals_until_it_is_cleared(host: Host) -> None:
    host.write(1, *PROFILE_VELOCITY, 44)
    host.write(1, *TORQUE, 1)
    host.write(1, *WATCHDOG, 5)
    host.write(1, *GOAL, 4000)
    for _ in range(4):
        host.wait(0.08)
        assert host.read(1, *WATCHDOG).word == 5, "any instruction feeds it"
    host.wait(0.15)
    assert host.read(1, *WATCHDOG).data == b"\xff"
    stopped = host.read(1, *POSITION).word
    host.wait(0.2)
    assert host.read(1, *POSITION).word == pytest.approx(stopped, abs=2)
    assert host.write(1, *GOAL, 3000) == RANGE
    assert host.write(1, *WATCHDOG, 0) == 0
    assert host.write(1, *GOAL, 3000) == 0


def test_indirect_data_read_and_write_what_their_addresses_name(host: Host) -> None:
    block = [*range(126, 136), 144, 145, 146, 70]
    for k, address in enumerate(block):
        assert host.write(1, 168 + 2 * k, 2, address) == 0
    for k in range(4):
        assert host.write(1, 168 + 2 * (14 + k), 2, 116 + k) == 0
    current, velocity, position, decivolts, celsius, error = struct.unpack("<hiiHBB", host.read(1, 224, 14).data)
    assert (current, velocity, position, celsius, error) == (0, 0, 2048, 25, 0)
    assert decivolts == pytest.approx(120, abs=1)
    assert host.write(1, 224 + 14, 4, 2300) == 0
    assert host.read(1, *GOAL).word == 2300
    assert host.write(1, 224 + 14, 4, 5000) == LIMIT


def test_an_answer_that_contains_a_header_is_stuffed(host: Host) -> None:
    """As present current -1 before a velocity that begins with FD: such answers are longer."""
    assert host.write(1, 224, 1, 0xFF) == host.write(1, 225, 1, 0xFF) == host.write(1, 226, 1, 0xFD) == 0
    ask = packet(1, Instruction.READ, struct.pack("<HH", 224, 4))
    assert bytes.fromhex("FF FF FD FD 00") in host.send(ask)
    assert host.read(1, 224, 4).data == bytes.fromhex("FF FF FD 00")


def test_a_servo_without_current_sensor_reports_load() -> None:
    host = one_servo("XL430-W250")
    assert host.write(1, *MODE, 5) == RANGE
    assert host.write(1, *GOAL_CURRENT, 10) == ACCESS
    host.command("obstacle", servo=1, counts=2100)
    move(host, 3000, seconds=0.5)
    assert host.read(1, *CURRENT).word == pytest.approx(1000, abs=10)


def test_an_id_can_be_changed(host: Host) -> None:
    assert host.write(1, *ID, 5) == 0
    assert host.ask(1, Instruction.PING) == []
    assert [said.id for said in host.ask(5, Instruction.PING)] == [5]


def test_a_baud_rate_can_be_changed_and_another_one_is_not_understood(host: Host) -> None:
    host.write(1, *BAUD_RATE, 6)
    assert host.ask(1, Instruction.PING) == []
    assert host.bus.state()["counters"]["unheard_bytes"] == 10
    host.baud = 4_000_000
    assert len(host.ask(1, Instruction.PING)) == 1


def test_an_answer_comes_after_the_bytes_and_the_return_delay() -> None:
    host = one_servo("XM430-W350", return_delay_us=500)
    asked = packet(1, Instruction.READ, struct.pack("<HH", *POSITION))
    (answer,) = host.bus.receive(host.now, asked, BAUD)
    assert answer.due - host.now == pytest.approx((len(asked) + len(answer.data)) * 10 / BAUD + 500e-6)
    host.now = answer.due
    assert host.write(1, *DELAY, 0) == 0
    (answer,) = host.bus.receive(host.now, asked, BAUD)
    assert answer.due - host.now == pytest.approx((len(asked) + len(answer.data)) * 10 / BAUD)


def test_a_sync_read_of_nine_servos_takes_the_time_of_its_bytes(arm: Host) -> None:
    ask = packet(ALL, Instruction.SYNC_READ, struct.pack("<HH", 126, 10) + bytes(range(1, 10)))
    (answer,) = arm.bus.receive(arm.now, ask, BAUD)
    assert len(answer.data) == 9 * 21
    assert answer.due - arm.now == pytest.approx(2.12e-3, abs=0.01e-3)


def test_talking_before_the_answer_has_come_is_counted(host: Host) -> None:
    ask = packet(1, Instruction.PING, b"")
    host.bus.receive(host.now, ask, BAUD)
    host.bus.receive(host.now, ask, BAUD)
    assert host.bus.state()["counters"]["overlapped"] == 1


def test_a_single_wire_returns_the_bytes_of_the_host() -> None:
    servo = ServoSettings(1, "XM430-W350")
    host = Host(BusSettings("bus", (servo,), echo=True))
    ask = packet(1, Instruction.PING, b"")
    assert host.send(ask).startswith(ask)
    assert len(host.send(ask)) == len(ask) + 14


def test_a_reboot_forgets_ram_and_keeps_eeprom(host: Host) -> None:
    host.write(1, *HOMING, 7)
    host.write(1, *TORQUE, 1)
    host.write(1, 84, 2, 400)
    assert [said.error for said in host.ask(1, Instruction.REBOOT)] == [0]
    assert host.ask(1, Instruction.PING) == [], "it starts"
    host.wait(0.3)
    assert (host.read(1, *TORQUE).word, host.read(1, 84, 2).word, host.read(1, *HOMING).word) == (0, 800, 7)


def test_torque_on_by_goal_is_a_drive_mode() -> None:
    host = one_servo("XM430-W350", drive_mode=8)
    host.write(1, *GOAL, 2100)
    assert host.read(1, *TORQUE).word == 1


@settings(max_examples=60)
@given(st.integers(0, 0xFE), st.sampled_from(list(Instruction)), st.binary(max_size=40))
@example(0xFE, Instruction.FAST_SYNC_READ, bytes((0, 0, 0, 0x80, 0, 0)))
@example(0xFE, Instruction.FAST_SYNC_READ, bytes((0, 0, 0xFF, 0xFF, 1)))
@example(0xFE, Instruction.FAST_SYNC_READ, bytes(4))
@example(1, Instruction.READ, bytes((0, 0, 0xFF, 0xFF)))
def test_no_instruction_breaks_the_bus(number: int, instruction: int, parameters: bytes) -> None:
    host = Host(aloha_bus("arm"))
    host.send(packet(number, instruction, parameters))
    host.wait(0.02)


@settings(max_examples=30)
@given(st.lists(st.tuples(st.integers(0, 660), st.binary(min_size=1, max_size=12)), max_size=12))
def test_no_write_breaks_a_servo(writes: list[tuple[int, bytes]]) -> None:
    host = one_servo("XM430-W350")
    for address, data in writes:
        host.ask(ALL, Instruction.WRITE, struct.pack("<H", address) + data)
        host.wait(0.02)
    host.bus.state()
