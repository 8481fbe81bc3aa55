"""Every fault that can be injected, and what a host sees of it."""

from __future__ import annotations

import json

import pytest
from servo_bus_host import Host, one_servo

from firmware_bridge.emulator.servo_bus.arms import aloha_bus, so101_bus
from firmware_bridge.emulator.servo_bus.control import handle_command
from firmware_bridge.emulator.servo_bus.dynamixel_packets import ALERT, Instruction
from firmware_bridge.emulator.servo_bus.models import MODELS

ARM = list(range(1, 10))
READS = 300

D_TORQUE, D_HARDWARE_ERROR, D_GOAL, D_CURRENT, D_POSITION, D_VOLTS, D_CELSIUS = (
    (64, 1),
    (70, 1),
    (116, 4),
    (126, 2),
    (132, 4),
    (144, 2),
    (146, 1),
)
F_TORQUE, F_GOAL, F_TORQUE_LIMIT, F_POSITION, F_VOLTS, F_CELSIUS = (40, 1), (42, 2), (48, 2), (56, 2), (62, 1), (63, 1)
VOLTAGE, HEAT, CURRENT, OVERLOAD = 0x01, 0x04, 0x08, 0x20


@pytest.fixture
def arm() -> Host:
    return Host(aloha_bus("arm"))


def test_replies_are_dropped_at_their_rate(arm: Host) -> None:
    arm.command("drop_replies", rate=0.2)
    heard = sum(len(arm.sync_read(ARM, *D_POSITION)) for _ in range(READS))
    assert heard == pytest.approx(0.8 * READS * len(ARM), rel=0.05)
    assert arm.bus.state()["counters"]["dropped"] == READS * len(ARM) - heard
    arm.command("drop_replies", rate=0.0)
    assert len(arm.sync_read(ARM, *D_POSITION)) == len(ARM)


def test_only_the_replies_of_one_servo_are_dropped(arm: Host) -> None:
    arm.command("drop_replies", rate=1.0, servo=4)
    assert [said.id for said in arm.sync_read(ARM, *D_POSITION)] == [1, 2, 3, 5, 6, 7, 8, 9]


def test_damaged_replies_fail_their_checksum(arm: Host) -> None:
    arm.command("corrupt_replies", rate=1.0, servo=4)
    for _ in range(20):
        said = arm.sync_read(ARM, *D_POSITION)
        assert 4 not in {one.id for one in said}
        assert {one.word for one in said} == {2048}
    assert arm.bus.state()["counters"]["corrupted"] == 20


def test_a_damaged_piece_spoils_a_fast_answer(arm: Host) -> None:
    assert len(arm.sync_read(ARM, *D_POSITION, Instruction.FAST_SYNC_READ)) == 1
    arm.command("corrupt_replies", rate=1.0, servo=4)
    assert arm.sync_read(ARM, *D_POSITION, Instruction.FAST_SYNC_READ) == []


@pytest.mark.parametrize("bus", [aloha_bus("arm"), so101_bus("arm")], ids=["dynamixel", "feetech"])
def test_two_servos_with_one_id_garble_each_other(bus: object) -> None:
    host = Host(bus)  # pyright: ignore[reportArgumentType]
    host.command("duplicate_id", servo=2, present=True)
    assert host.ask(2, Instruction.PING) == []
    assert len(host.ask(1, Instruction.PING)) == 1
    host.command("duplicate_id", servo=2, present=False)
    assert len(host.ask(2, Instruction.PING)) == 1


def test_a_servo_without_plug_is_silent_and_holds_its_goal(arm: Host) -> None:
    arm.sync_write(*D_TORQUE, dict.fromkeys(ARM, 1))
    arm.command("connect", servo=6, connected=False)
    assert arm.ask(6, Instruction.PING) == []
    arm.sync_write(*D_GOAL, dict.fromkeys(ARM, 2100))
    arm.wait(1.0)
    arm.command("connect", servo=6, connected=True)
    assert arm.read(6, *D_POSITION).word == 2048
    assert arm.read(6, *D_TORQUE).word == 1
    assert arm.read(1, *D_POSITION).word == pytest.approx(2100, abs=1)


def test_a_brown_out_restarts_dynamixel_servos(arm: Host) -> None:
    arm.sync_write(*D_TORQUE, dict.fromkeys(ARM, 1))
    arm.write(1, 84, 2, 400)
    arm.command("supply", volts=3.0, seconds=0.1)
    arm.wait(0.05)
    assert arm.sync_read(ARM, *D_POSITION) == []
    arm.wait(0.5)
    said = arm.sync_read(ARM, *D_TORQUE)
    assert [one.id for one in said] == ARM
    assert {one.word for one in said} == {0}
    assert {one.error for one in said} == {ALERT}
    assert arm.read(1, 84, 2).word == 800
    assert arm.read(1, *D_HARDWARE_ERROR).word == VOLTAGE
    arm.ask(1, Instruction.REBOOT)
    arm.wait(0.3)
    assert arm.read(1, *D_POSITION).error == 0


def test_a_low_supply_raises_the_alert_and_leaves_torque_on(arm: Host) -> None:
    arm.sync_write(*D_TORQUE, dict.fromkeys(ARM, 1))
    arm.command("supply", volts=9.0)
    arm.wait(0.05)
    said = arm.read(1, *D_VOLTS)
    assert said.error == ALERT
    assert said.word == pytest.approx(90, abs=2)
    assert arm.read(1, *D_TORQUE).word == 1


def test_a_brown_out_restarts_feetech_servos() -> None:
    host = one_servo("STS3215")
    host.write(1, *F_TORQUE, 1)
    host.write(1, *F_TORQUE_LIMIT, 300)
    host.command("supply", volts=2.0, seconds=0.1)
    host.wait(0.5)
    assert host.read(1, *F_TORQUE).word == 0
    assert host.read(1, *F_TORQUE_LIMIT).word == 1000


def test_a_wrong_supply_is_in_every_answer_of_a_feetech_servo() -> None:
    host = one_servo("STS3215")
    host.command("supply", volts=15.0)
    host.wait(0.05)
    said = host.read(1, *F_VOLTS)
    assert (said.error, said.word) == (VOLTAGE, pytest.approx(-256 + 150, abs=1))
    host.command("supply", volts=12.0)
    host.wait(0.05)
    assert host.read(1, *F_VOLTS).error == 0


def test_many_stalled_servos_pull_the_supply_down(arm: Host) -> None:
    idle = arm.read(1, *D_VOLTS).word
    arm.sync_write(*D_TORQUE, dict.fromkeys(ARM, 1))
    for servo in (1, 2, 4, 6, 7):
        arm.command("obstacle", servo=servo, counts=2060)
    arm.sync_write(*D_GOAL, dict.fromkeys(ARM, 2600))
    arm.wait(0.5)
    assert idle >= 119
    assert arm.read(1, *D_VOLTS).word < idle - 10


def test_a_stalled_joint_stays_and_draws_current_until_it_shuts_down() -> None:
    host = one_servo("XM430-W350")
    host.write(1, *D_TORQUE, 1)
    host.command("obstacle", servo=1, counts=2200)
    host.write(1, *D_GOAL, 3000)
    host.wait(1.0)
    assert host.read(1, *D_POSITION).word == pytest.approx(2200, abs=1)
    stall = MODELS["XM430-W350"].stall_amperes / 2.69e-3
    assert host.read(1, *D_CURRENT).word == pytest.approx(stall, rel=0.03)
    assert host.read(1, *D_HARDWARE_ERROR).word == 0
    host.wait(2.0)
    assert host.read(1, *D_HARDWARE_ERROR).word == OVERLOAD
    assert host.read(1, *D_TORQUE).word == 0
    assert host.read(1, *D_CURRENT).word == 0
    host.command("obstacle", servo=1, counts=None)
    assert host.write(1, *D_TORQUE, 1) == ALERT
    assert host.read(1, *D_TORQUE).word == 0, "only a reboot ends a shutdown"
    host.ask(1, Instruction.REBOOT)
    host.wait(0.3)
    assert host.write(1, *D_TORQUE, 1) == 0
    assert host.read(1, *D_TORQUE).word == 1


def test_an_overload_shuts_a_dynamixel_servo_down() -> None:
    host = one_servo("XM430-W350")
    host.write(1, *D_TORQUE, 1)
    host.command("overload", servo=1)
    assert host.read(1, *D_TORQUE).word == 0
    assert host.read(1, *D_HARDWARE_ERROR).word == OVERLOAD


def test_a_hot_dynamixel_servo_shuts_down() -> None:
    host = one_servo("XM430-W350")
    host.write(1, *D_TORQUE, 1)
    host.command("temperature", servo=1, celsius=79.0)
    host.wait(0.1)
    assert host.read(1, *D_CELSIUS).word == 79
    assert host.read(1, *D_TORQUE).word == 1
    host.command("temperature", servo=1, celsius=85.0)
    host.wait(0.1)
    said = host.read(1, *D_HARDWARE_ERROR)
    assert (said.word, said.error) == (HEAT, ALERT)
    assert host.read(1, *D_TORQUE).word == 0


def test_a_hot_feetech_servo_lets_go_and_says_so_while_it_is_hot() -> None:
    host = one_servo("STS3215")
    host.write(1, *F_TORQUE, 1)
    host.command("temperature", servo=1, celsius=75.0)
    host.wait(0.1)
    assert host.read(1, *F_CELSIUS).error == HEAT
    assert host.read(1, *F_TORQUE).word == 0
    host.write(1, *F_TORQUE, 1)
    assert host.read(1, *F_TORQUE).word == 0, "too hot to drive"
    host.command("temperature", servo=1, celsius=60.0)
    host.wait(0.1)
    assert host.read(1, *F_CELSIUS).error == 0
    host.write(1, *F_TORQUE, 1)
    assert host.read(1, *F_TORQUE).word == 1


def test_current_over_its_limit_makes_a_feetech_servo_let_go() -> None:
    host = one_servo("STS3215")
    host.write(1, 28, 2, 250)
    host.write(1, 36, 1, 254)  # no overload before
    host.write(1, *F_TORQUE, 1)
    host.command("obstacle", servo=1, counts=2100)
    host.write(1, *F_GOAL, 3000)
    host.wait(1.9)
    assert host.read(1, *F_POSITION).error == 0
    host.wait(0.4)
    assert host.read(1, *F_POSITION).error == CURRENT
    assert host.read(1, *F_TORQUE).word == 0


def test_holding_a_load_warms_a_servo_slowly() -> None:
    """Half the stall torque for ten minutes, as in the published measurement of this servo."""
    model = MODELS["STS3215"]
    host = one_servo("STS3215")
    host.write(1, *F_TORQUE, 1)
    host.command("push", servo=1, torque=-model.stall_torque / 2)
    temperatures = []
    for _ in range(20):
        for _ in range(60):
            host.now += 0.5
            host.bus.advance(host.now)
        temperatures.append(host.read(1, *F_CELSIUS).word)
    assert temperatures[0] < 32
    assert temperatures[-1] == pytest.approx(47, abs=2)
    assert temperatures[-1] - temperatures[-4] <= 1


def test_torque_is_lost_without_a_word(arm: Host) -> None:
    arm.sync_write(*D_TORQUE, dict.fromkeys(ARM, 1))
    arm.command("lose_torque", servo=6)
    said = arm.read(6, *D_TORQUE)
    assert (said.word, said.error) == (0, 0)
    arm.sync_write(*D_GOAL, {6: 2200})
    arm.wait(0.5)
    assert arm.read(6, *D_POSITION).word == 2048


def test_a_joint_without_torque_is_moved_by_hand_with_all_its_servos(arm: Host) -> None:
    arm.command("move_by_hand", servo=2, counts=1500)
    assert arm.read(2, *D_POSITION).word == 1500
    assert arm.read(3, *D_POSITION).word == 1500


def refusal(host: Host, **command: object) -> str:
    line = json.dumps({"bus": "arm", **command}).encode()
    return json.loads(handle_command(line, {"arm": host.bus}, host.now))["error"]


def test_what_cannot_be_done_is_refused_with_the_reason(arm: Host) -> None:
    arm.write(1, *D_TORQUE, 1)
    assert "holds its joint" in refusal(arm, command="move_by_hand", servo=1, counts=1500)
    assert "has no servo 12; it has [1, 2" in refusal(arm, command="connect", servo=12, connected=True)
    assert "known are arm" in refusal(arm, command="supply", bus="leg", volts=1)
    assert "command 'melt' is not known" in refusal(arm, command="melt")
    assert "probability" in refusal(arm, command="drop_replies", rate=2)
    assert "needs 'volts'" in refusal(arm, command="supply")
    assert "finite" in refusal(arm, command="temperature", servo=1, celsius=float("nan"))
    assert json.loads(handle_command(b"{nonsense", {"arm": arm.bus}, arm.now))["error"]


def test_the_state_tells_what_a_host_cannot_see(arm: Host) -> None:
    arm.sync_read(ARM, *D_POSITION)
    state = arm.bus.state()
    assert json.loads(json.dumps(state)) == state
    assert state["counters"]["instructions"] == {str(int(Instruction.SYNC_READ)): 1}
    assert state["counters"]["replies"] == 9
    assert state["servos"]["2"]["position"] == 2048
    assert not state["servos"]["2"]["torque_on"]
