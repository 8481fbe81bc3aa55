"""The servos of a robot file: every mistake has its message, and a bus that is too slow is refused."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import yaml

from firmware_bridge.firmware.joint_table import busy_time_s, joint_table, why_not_in_firmware
from pi0_edge.errors import ConfigError
from pi0_edge.robots import ServoBus, load_robot, parse_robot, robot_file

SO101 = yaml.safe_load(robot_file("so101").read_text())
ALOHA = yaml.safe_load(robot_file("aloha").read_text())

Change = Callable[[dict], object]


def mistake(content: dict, change: Change) -> str:
    """What is said about a robot file after a change."""
    changed = copy.deepcopy(content)
    change(changed)
    with pytest.raises(ConfigError) as refused:
        parse_robot(changed, "my_arm.yaml")
    return str(refused.value)


def put(index: int, **fields: object) -> Change:
    """Changes fields of one servo; None removes a field."""

    def change(content: dict) -> None:
        servo = content["servos"][index] | fields
        content["servos"][index] = {name: value for name, value in servo.items() if value is not None}

    return change


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (put(0, id=2), "ID 2 occurs 2 times on bus 0, expected once"),
        (put(0, id=254), "servos[0] (shoulder_pan, ID 254): id is 254, expected 0 to 253"),
        (put(0, id=True), "id is True, expected 0 to 253"),
        (put(0, bus=2), "bus is 2, expected 0 to 1"),
        (put(0, model="STS9999"), "model is 'STS9999', expected one of STS3215, STS3250 on a feetech bus"),
        (put(0, model="XM430-W350"), "model is 'XM430-W350', expected one of STS3215, STS3250 on a feetech bus"),
        (put(0, joint="shoulder"), "joint is 'shoulder', which the robot does not have"),
        (put(0, zero=None), "zero is None, expected the counts where the joint is at 0"),
        (put(0, zero=float("nan")), "zero is nan, expected the counts where the joint is at 0"),
        (put(0, direction=None), "direction is None, expected 1 or -1"),
        (put(0, direction=2), "direction is 2, expected 1 or -1"),
        (put(0, counts=[1000, 3000]), "gives counts, which a joint in rad does not have: it has zero and direction"),
        (put(5, counts=None), "counts is None, expected those at both position limits, two numbers from 0 to 4095"),
        (put(5, counts=[2048, 2048]), "counts is (2048, 2048), expected those at both position limits"),
        (put(5, counts=[2048, 4096]), "counts is (2048, 4096), expected those at both position limits"),
        (put(1, shadow_of=1), "shadow_of is 1, expected the ID of a Dynamixel on the same bus"),
        (put(0, offset=3), "'offset' is not a field of a servo"),
        (put(0, id=None), "servos[0] lacks id"),
    ],
)
def test_a_mistake_in_a_servo_has_its_message(change: Change, said: str) -> None:
    assert said in mistake(SO101, change)


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("protocol", "canopen", "servo_bus: protocol is 'canopen', expected one of dynamixel, feetech"),
        ("protocol", "dynamixel", "model is 'STS3215', expected one of XM430-W350"),
        ("baud", 9600, "servo_bus: baud is 9600, expected one of 38400"),
        ("baud", 2_000_000, "servo_bus: baud is 2000000, expected one of 38400"),
        ("measure_hz", 0, "servo_bus: measure_hz is 0, expected a whole number of readings per second"),
        ("measure_hz", 62.5, "servo_bus: measure_hz is 62.5, expected a whole number of readings per second"),
        ("volts", [8.4, 6.0], "servo_bus: volts is (8.4, 6.0), expected [lowest, highest] with 0 < lowest < highest"),
        ("return_delay_us", 510, "servo_bus: return_delay_us is 510, expected 0 to 508"),
    ],
)
def test_a_mistake_in_the_bus_has_its_message(name: str, value: object, said: str) -> None:
    assert said in mistake(SO101, lambda content: content["servo_bus"].update({name: value}))


def test_thirteen_of_fourteen_joints_with_servos_are_refused() -> None:
    def without_right_gripper(content: dict) -> None:
        content["servos"] = [servo for servo in content["servos"] if servo["joint"] != "right_gripper"]

    said = mistake(ALOHA, without_right_gripper)
    assert said.startswith("my_arm.yaml: robot aloha: servos: 0 servos are commanded for right_gripper, expected 1")


def test_two_commanded_servos_of_a_joint_are_refused() -> None:
    said = mistake(ALOHA, put(2, shadow_of=None))
    assert "2 servos are commanded for left_shoulder, expected 1" in said


@pytest.mark.parametrize("leader", [3, 4, 17])
def test_a_shadow_follows_a_commanded_servo_of_its_joint(leader: int) -> None:
    said = mistake(ALOHA, put(2, shadow_of=leader))
    assert f"ID 3 is the shadow of ID {leader}, which is no commanded servo of left_shoulder on bus 0" in said


def test_the_same_ids_on_two_buses_are_right() -> None:
    assert len(load_robot("aloha").servos) == 18


@pytest.mark.parametrize("guard", ["following_error", "current", "temperature"])
def test_a_joint_with_servos_needs_its_guards(guard: str) -> None:
    said = mistake(SO101, lambda content: content["joints"][2].pop(guard))
    assert f"elbow_flex has servos, but no {guard}; give a number, or 0 for no guard" in said


def test_servos_and_bus_are_given_together() -> None:
    assert "servos are listed without servo_bus" in mistake(SO101, lambda content: content.pop("servo_bus"))
    assert "servo_bus is given, but no servos" in mistake(SO101, lambda content: content.pop("servos"))


def test_every_mistake_is_listed_at_once() -> None:
    def several(content: dict) -> None:
        put(0, zero=None)(content)
        put(1, id=77, model="STS1")(content)
        content["servo_bus"]["volts"] = 12

    said = mistake(SO101, several)
    assert "3 mistakes" in said and said.count("\n") == 3


def changed_bus(content: dict, **fields: object) -> str | None:
    changed = copy.deepcopy(content)
    changed["servo_bus"].update(fields)
    return why_not_in_firmware(parse_robot(changed, "my_arm.yaml"))


def test_measurements_come_in_whole_servo_steps() -> None:
    assert changed_bus(SO101, measure_hz=50) is None
    assert changed_bus(SO101, measure_hz=100) == (
        "robot so101: measure_hz is 100 at servo_hz 250, expected a divisor of it"
    )


def test_a_bus_that_is_too_slow_is_refused_with_its_figures() -> None:
    """At 115200 baud a byte takes 87 us; goals and readings of six servos have 166 bytes."""
    said = changed_bus(SO101, baud=115_200)
    assert said is not None
    assert "goals and positions of 6 servos take 14.41 ms at 115200 baud with a return delay of 0 us" in said
    assert "leaves room for 2.80 ms" in said and "raise baud, lower servo_hz, or use a second bus" in said


def test_return_delays_of_the_factory_are_too_long_for_aloha() -> None:
    said = changed_bus(ALOHA, return_delay_us=500)
    assert said is not None and "9 servos take" in said and "with a return delay of 500 us" in said


def test_the_time_of_a_bus_is_that_of_its_bytes() -> None:
    """Counted from the packets of the vendors: a Dynamixel's sync write has 14 + 5 n bytes, its status 11 + 10."""
    dynamixel = ServoBus("dynamixel", 1_000_000, 50, (10.5, 14.0), return_delay_us=20)
    assert busy_time_s(dynamixel, 9) == pytest.approx(1e-5 * (14 + 45 + 14 + 9 + 9 * 21) + 9 * 20e-6)
    feetech = ServoBus("feetech", 500_000, 50, (6.0, 8.4))
    assert busy_time_s(feetech, 6) == pytest.approx(2e-5 * (8 + 18 + 8 + 6 + 6 * 21))


@pytest.mark.parametrize("name", ["so101", "aloha"])
def test_the_table_has_every_servo_in_the_order_of_bus_and_id(name: str) -> None:
    robot = load_robot(name)
    table = joint_table(robot)
    assert [(servo.bus, servo.id) for servo in table.servos] == sorted((s.bus, s.id) for s in robot.servos)
    assert [servo.is_shadow for servo in table.servos].count(True) == sum(s.shadow_of is not None for s in robot.servos)
    assert {servo.joint for servo in table.servos} == set(range(len(robot.joints)))


def test_every_number_of_a_servo_is_in_the_hash() -> None:
    """So that bridge and firmware of two calibrations refuse to work together."""
    hashes = {joint_table(load_robot("so101")).limits_hash}
    changes = [put(0, zero=2049), put(0, direction=-1), put(5, counts=[2048, 3481]), put(0, id=7), put(0, bus=1)]
    for change in changes:
        content = copy.deepcopy(SO101)
        change(content)
        hashes.add(joint_table(parse_robot(content, "my_arm.yaml")).limits_hash)
    assert len(hashes) == 1 + len(changes)
