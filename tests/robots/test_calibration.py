"""A calibration put into a robot file: limits inside of what was reached, comments kept, LeRobot's numbers."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import pytest
import yaml
from cli_runner import run
from hypothesis import given
from hypothesis import strategies as st

from pi0_edge.errors import ConfigError
from pi0_edge.robots import Robot, load_robot, parse_robot, robot_file
from pi0_edge.robots.calibration.joint_calibration import JointCalibration, calibrated
from pi0_edge.robots.calibration.lerobot_file import LeRobotMotor, calibrations_of, read_lerobot_file
from pi0_edge.robots.calibration.robot_text import robot_text, write_robot

SO101 = load_robot("so101")
COUNT = math.tau / 4096
FULL_RANGE = {"shoulder_pan": 1.95, "shoulder_lift": 1.78, "elbow_flex": 1.75, "wrist_flex": 1.7, "wrist_roll": 2.9}


def measured(**changes: JointCalibration) -> list[JointCalibration]:
    """Every joint at zero 2048 through its whole range, but for some."""
    found = {
        name: JointCalibration(name, (2048 - reach / COUNT, 2048 + reach / COUNT), zero=2048, direction=1)
        for name, reach in FULL_RANGE.items()
    }
    found["gripper"] = JointCalibration("gripper", (2048, 3480), counts=(2048, 3480))
    return list((found | changes).values())


def limits(robot: Robot, name: str) -> tuple[float, float]:
    """The position limits of a joint."""
    found = next(joint.position for joint in robot.joints if joint.name == name)
    assert found is not None
    return found


def test_limits_stay_as_they_are_where_more_was_reached() -> None:
    assert calibrated(SO101, measured(), "so101").robot == SO101


def test_limits_end_a_degree_inside_of_what_was_reached() -> None:
    found = JointCalibration("elbow_flex", (1200, 3300), zero=2300, direction=1)
    new = calibrated(SO101, measured(elbow_flex=found), "my_arm").robot
    low, high = limits(new, "elbow_flex")
    assert low == pytest.approx((1200 - 2300) * COUNT + math.radians(1), abs=1e-4)
    assert high == pytest.approx((3300 - 2300) * COUNT - math.radians(1), abs=1e-4)
    assert low > (1200 - 2300) * COUNT + math.radians(1) - 1e-9, "rounded inwards"


def test_with_a_negative_direction_the_ends_change_places() -> None:
    found = JointCalibration("elbow_flex", (1200, 3300), zero=2300, direction=-1)
    low, high = limits(calibrated(SO101, measured(elbow_flex=found), "my_arm").robot, "elbow_flex")
    assert (low, high) == pytest.approx((-1000 * COUNT + math.radians(1), 1100 * COUNT - math.radians(1)), abs=1e-4)


@given(
    zero=st.integers(1400, 2700),
    direction=st.sampled_from((1, -1)),
    low=st.integers(0, 900),
    high=st.integers(3200, 4095),
)
def test_the_new_limits_can_be_commanded_and_were_reached(zero: int, direction: int, low: int, high: int) -> None:
    found = JointCalibration("wrist_roll", (low, high), zero=zero, direction=direction)
    try:
        new = calibrated(SO101, measured(wrist_roll=found), "my_arm", accept_range=["wrist_roll"]).robot
    except ConfigError:
        return
    for position in limits(new, "wrist_roll"):
        assert low <= zero + direction * position / COUNT <= high
        assert -2.74 <= position <= 2.84


def test_limits_become_wider_only_where_that_is_asked_for() -> None:
    found = JointCalibration("elbow_flex", (500, 3596), zero=2048, direction=1)
    given_limits = limits(calibrated(SO101, measured(elbow_flex=found), "a").robot, "elbow_flex")
    widened = limits(calibrated(SO101, measured(elbow_flex=found), "a", widen=True).robot, "elbow_flex")
    assert given_limits == (-1.69, 1.69)
    assert widened == pytest.approx((-1548 * COUNT + math.radians(1), 1548 * COUNT - math.radians(1)), abs=1e-4)


def test_a_range_that_is_too_small_is_refused_unless_accepted() -> None:
    found = JointCalibration("elbow_flex", (2048, 3148), zero=2048, direction=1)
    with pytest.raises(ConfigError, match=r"elbow_flex reached 0\.000 to 1\.687 rad from its zero.*-1\.69 to 1\.69"):
        calibrated(SO101, measured(elbow_flex=found), "my_arm")
    new = calibrated(SO101, measured(elbow_flex=found), "my_arm", accept_range=["elbow_flex"])
    assert limits(new.robot, "elbow_flex") == pytest.approx((0.0175, 1.67), abs=1e-3)
    assert new.notes == ("elbow_flex: home was 0, outside of what it reached, and is 0.0175",)


def test_every_range_that_does_not_fit_is_named() -> None:
    small = {
        name: JointCalibration(name, (2000, 2300), zero=2048, direction=1) for name in ("elbow_flex", "shoulder_pan")
    }
    with pytest.raises(ConfigError, match=r"(?s)shoulder_pan reached.*elbow_flex reached"):
        calibrated(SO101, measured(**small), "my_arm")


def test_a_shadow_gets_what_its_commanded_servo_got() -> None:
    aloha = load_robot("aloha")
    found = [
        JointCalibration(each.name, (0, 4095), zero=2060, direction=-1)
        if each.unit == "rad"
        else JointCalibration(each.name, (1000, 3000), counts=(1000, 3000))
        for each in aloha.joints
    ]
    servos = calibrated(aloha, found, "arms").robot.servos
    assert {(servo.zero, servo.direction) for servo in servos if servo.joint == "left_shoulder"} == {(2060, -1)}
    assert [servo.shadow_of for servo in servos] == [servo.shadow_of for servo in aloha.servos]


def changed(robot: Robot) -> Robot:
    """With another name, zero, direction, counts, limit and home."""
    joints = list(robot.joints)
    joints[1] = dataclasses.replace(joints[1], position=(-1.5, 1.25), home=0.1)
    servos = list(robot.servos)
    servos[1] = dataclasses.replace(servos[1], zero=1911.5, direction=-1)
    servos[-1] = dataclasses.replace(servos[-1], counts=(3021, 1604))
    return dataclasses.replace(robot, name="my_arm", joints=tuple(joints), servos=tuple(servos))


@pytest.mark.parametrize("name", ["so101", "aloha"])
def test_only_what_was_measured_changes_in_the_file(name: str) -> None:
    before = robot_file(name).read_text()
    text = robot_text(before, changed(load_robot(name)), "Calibrated today.")
    assert text.startswith("# Calibrated today.\n#\n# ")
    lines = list(zip(before.splitlines(), text.removeprefix("# Calibrated today.\n#\n").splitlines(), strict=True))
    assert len([1 for old, new in lines if old != new]) == 4, "name, one joint, two servos"
    assert parse_robot(yaml.safe_load(text), "it") == changed(load_robot(name))


LAYOUT = """\
name: arm # of mine
control_hz: 50
joints:
  # the shoulder
  - name: shoulder
    unit: rad
    position:
      - -1.0
      - 1.0   # stops
    velocity: 2.0
    acceleration: 20.0
    home: 0
    resolution: 1.0e-4
    following_error: 0.1
    current: 1
    temperature: 60
cameras: {}
servo_bus: {protocol: feetech, baud: 1000000, measure_hz: 50, volts: [6.0, 8.4]}
servos:
  - joint: shoulder
    id: 1
    model: STS3215
    direction: 1
    zero: 2048 # counts
"""


def test_a_file_in_another_layout_keeps_it() -> None:
    robot = parse_robot(yaml.safe_load(LAYOUT), "it")
    new = dataclasses.replace(
        robot,
        joints=(dataclasses.replace(robot.joints[0], position=(-0.8, 0.9), home=0.05),),
        servos=(dataclasses.replace(robot.servos[0], zero=2100, direction=-1),),
    )
    text = robot_text(LAYOUT, new, "Calibrated.")
    assert parse_robot(yaml.safe_load(text), "it") == new
    for kept in ("name: arm # of mine", "# the shoulder", "zero: 2100 # counts"):
        assert kept in text


def test_joints_of_another_robot_are_written_out() -> None:
    text = robot_file("so101").read_text()
    start, end = text.index("joints:"), text.index("zero_pose:")
    text = text[:start] + "joints: so101\n" + text[end:]
    new = changed(parse_robot(yaml.safe_load(text), "it"))
    assert parse_robot(yaml.safe_load(robot_text(text, new, "Calibrated.")), "it") == new


def test_values_behind_an_anchor_are_not_guessed() -> None:
    text = robot_file("so101").read_text().replace("zero: 2048, direction: 1}", "zero: *middle, direction: 1}")
    text = text.replace("zero: *middle", "zero: &middle 2048", 1)
    with pytest.raises(ConfigError, match="shares values through the anchor 'middle'; write them out"):
        robot_text(text, changed(SO101), "Calibrated.")


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    write_robot(tmp_path / "my_arm.yaml", "name: arm\n")
    assert [path.name for path in tmp_path.iterdir()] == ["my_arm.yaml"]
    with pytest.raises(OSError):
        write_robot(tmp_path / "absent" / "my_arm.yaml", "name: arm\n")


# LeRobot


def lerobot(**changes: dict) -> dict:
    """An SO-101 follower as `lerobot-calibrate` writes it."""
    ranges = [(758, 3250), (830, 3190), (880, 3095), (905, 3205), (0, 4095), (2037, 3511)]
    names = ["shoulder_pan", "shoulder_lift", "elbow_flex", "wrist_flex", "wrist_roll", "gripper"]
    entries = {
        name: {"id": number, "drive_mode": 0, "homing_offset": 120 * number, "range_min": low, "range_max": high}
        for number, (name, (low, high)) in enumerate(zip(names, ranges, strict=True), 1)
    }
    for name, fields in changes.items():
        entries[name] |= fields
    return entries


def written(path: Path, entries: dict) -> Path:
    path.write_text(json.dumps(entries, indent=4))
    return path


def imported(tmp_path: Path, **changes: dict) -> Robot:
    motors = read_lerobot_file(written(tmp_path / "arm.json", lerobot(**changes)))
    return calibrated(SO101, calibrations_of(SO101, motors), "my_arm").robot


def test_zero_is_the_middle_of_the_recorded_range(tmp_path: Path) -> None:
    robot = imported(tmp_path)
    assert [servo.zero for servo in robot.servos] == [2004.0, 2010.0, 1987.5, 2055.0, 2047.5, None]
    assert {servo.direction for servo in robot.servos[:5]} == {1}
    assert robot.servos[5].counts == (2037, 3511)
    assert limits(robot, "wrist_flex") == (-1.65, 1.65)
    low, high = limits(robot, "elbow_flex")
    assert (low, high) == pytest.approx((-1107.5 * COUNT + math.radians(1), 1107.5 * COUNT - math.radians(1)), abs=2e-4)


@given(low=st.integers(0, 1500), span=st.integers(800, 2500), count=st.integers(0, 4095))
def test_lerobots_degrees_are_the_angle_of_the_servo(low: int, span: int, count: int) -> None:
    """LeRobot: (v - (min + max) / 2) * 360 / 4095. Here: (v - zero) * 2 pi / 4096."""
    motor = LeRobotMotor(1, 0, 0, low, low + span)
    degrees = (count - (low + low + span) / 2) * 360 / 4095
    assert motor.rad_of_degrees(degrees) == pytest.approx((count - motor.middle) * COUNT, abs=1e-12)
    assert motor.rad_of_degrees(degrees) == pytest.approx(math.radians(degrees) * 4095 / 4096)


@given(low=st.integers(0, 1500), span=st.integers(800, 2500), share=st.floats(0, 1), drive_mode=st.integers(0, 1))
def test_lerobots_percent_are_the_angle_of_the_servo(low: int, span: int, share: float, drive_mode: int) -> None:
    """LeRobot: 200 (v - min) / (max - min) - 100, negated with drive_mode."""
    motor = LeRobotMotor(1, drive_mode, 0, low, low + span)
    count = low + share * span
    percent = 200 * (count - low) / span - 100
    angle = motor.rad_of_percent(-percent if drive_mode else percent)
    assert angle == pytest.approx((count - motor.middle) * COUNT, abs=1e-9)


def test_a_gripper_with_drive_mode_is_closed_at_its_highest_counts(tmp_path: Path) -> None:
    assert imported(tmp_path, gripper={"drive_mode": 1}).servos[5].counts == (3511, 2037)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"gripper": {"range_min": 3600}}, "gripper: range_min 3600 and range_max 3511, expected 0 to 4095"),
        ({"gripper": {"range_max": 4096}}, "gripper: range_min 2037 and range_max 4096, expected 0 to 4095"),
        ({"gripper": {"drive_mode": 2}}, "gripper: drive_mode is 2, expected 0 or 1"),
        ({"gripper": {"id": "6"}}, "gripper: id must be whole numbers"),
        ({"gripper": {"id": 7}}, "gripper has ID 7; the robot file has others"),
    ],
)
def test_a_mistake_in_lerobots_file_has_its_message(tmp_path: Path, changes: dict, said: str) -> None:
    with pytest.raises(ConfigError) as refused:
        imported(tmp_path, **changes)
    assert said in str(refused.value)


def test_a_file_of_another_arm_is_refused(tmp_path: Path) -> None:
    entries = lerobot()
    entries["wrist"] = entries.pop("wrist_flex")
    motors = read_lerobot_file(written(tmp_path / "arm.json", entries))
    with pytest.raises(ConfigError, match="give the robot file of that arm"):
        calibrations_of(SO101, motors)


def test_the_command_imports_and_says_what_the_numbers_mean(tmp_path: Path) -> None:
    source, output = written(tmp_path / "arm.json", lerobot()), tmp_path / "my_arm.yaml"
    ran = run("robot", "import-calibration", source, "so101", "--output", output, "--json")
    assert ran.code == 0, ran.err
    assert "shoulder_pan: 1 degree is 0.017449 rad, 0 degrees is 0 rad; 100 of -100 to 100 is 1.9113 rad" in ran.err
    assert "gripper: 0 to 100 is 0 to 1 ratio" in ran.err
    assert load_robot(output) == imported(tmp_path)
    assert ran.result["next"][1].endswith("stm32f4 ROBOT=my_arm ACTUATORS=feetech")
    again = run("robot", "import-calibration", source, "so101", "--output", output)
    assert again.code == 2 and "exists already; give a new name" in again.err


@pytest.mark.parametrize(
    ("output", "said"),
    [
        ("my-arm.yaml", "its name becomes the robot's"),
        ("my_arm.json", "ends in .yaml or .yml"),
        ("no/a.yaml", "create it"),
    ],
)
def test_an_output_that_cannot_be_a_robot_file_is_refused_first(tmp_path: Path, output: str, said: str) -> None:
    ran = run("robot", "calibrate", "so101", "--output", tmp_path / output)
    assert ran.code == 2 and said in ran.err


def test_a_robot_without_servos_cannot_be_calibrated(tmp_path: Path) -> None:
    source = written(tmp_path / "arm.json", lerobot())
    ran = run("robot", "import-calibration", source, "ur5e", "--output", tmp_path / "a.yaml")
    assert ran.code == 2 and "the joints of ur5e are" in ran.err
