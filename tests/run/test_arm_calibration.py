"""Calibration end to end: an arm whose zeros differ from its file's is moved by hand, and the file has its zeros."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from servo_arm import Hand, ServoArm, build_image, buses_at, commanded, counts_at, running_arm

from firmware_bridge.bridge.server import BridgeServer
from firmware_bridge.client import BridgeClient
from firmware_bridge.emulator.board import EmulatedBoard
from firmware_bridge.errors import CalibrationError, ProtocolError, StateError
from pi0_edge.protos.bridge_pb2 import ChunkReport
from pi0_edge.robots import Robot, load_robot
from pi0_edge.robots.calibration.joint_calibration import MARGIN_RAD, calibrated
from pi0_edge.run.calibration.procedure import JointRange, Step, StepKind, calibrate_arm

pytestmark = [pytest.mark.real_time, pytest.mark.system]

SO101 = load_robot("so101")
ALOHA = load_robot("aloha")


def with_truth(robot: Robot, truth: dict[str, dict]) -> Robot:
    """The robot as an arm is whose servos were mounted otherwise."""
    return dataclasses.replace(
        robot, servos=tuple(dataclasses.replace(servo, **truth.get(servo.joint, {})) for servo in robot.servos)
    )


TRUE_SO101 = with_truth(
    SO101,
    {
        "shoulder_pan": {"zero": 2300, "direction": -1},
        "shoulder_lift": {"zero": 1911},
        "elbow_flex": {"zero": 2103, "direction": -1},
        "wrist_flex": {"zero": 1850},
        "wrist_roll": {"zero": 2020},
        "gripper": {"counts": (2611, 1207)},
    },
)
REACH = {
    "shoulder_pan": (-1.95, 1.80),  # its upper stop comes before the limit of the file
    "shoulder_lift": (-1.75, 1.75),
    "elbow_flex": (-1.70, 1.70),
    "wrist_flex": (-1.66, 1.66),
    "wrist_roll": (-2.80, 2.90),
    "gripper": (0.0, 1.0),
}


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_image(SO101, tmp_path_factory.mktemp("so101"))


@pytest.fixture
def arm(image: Path) -> Iterator[ServoArm]:
    with running_arm(image, "so101", buses_at(TRUE_SO101, [0.2, -0.3, 0.4, 0.1, -0.2, 0.3])) as arm:
        yield arm


def steps_of(robot: Robot) -> Iterator[Step]:
    """What is asked for, in order, of a robot with one arm and a gripper."""
    yield Step(StepKind.RELEASE, "", robot.action_names)
    yield Step(StepKind.ZERO_POSE, "", robot.action_names)
    yield Step(StepKind.OTHER_END, "", robot.action_names[-1:])
    for joint in robot.action_names[:-1]:
        yield Step(StepKind.DIRECTION, "", (joint,))
    yield Step(StepKind.RANGE, "", robot.action_names)


def test_calibrate_recovers_an_arm_and_its_file_drives_it(arm: ServoArm, tmp_path: Path) -> None:
    output = tmp_path / "my_arm.yaml"
    hand = Hand(arm.board.servos, TRUE_SO101, REACH)
    argv = [sys.executable, "-m", "pi0_edge.cli", "robot", "calibrate", "so101", "--json"]
    argv += ["--bridge", arm.bridge, "--output", str(output)]
    pipe = subprocess.PIPE
    with subprocess.Popen(argv, text=True, bufsize=1, stdin=pipe, stdout=pipe, stderr=pipe) as command:
        assert command.stdin and command.stdout and command.stderr
        for step in steps_of(SO101):
            said = []
            while not said or said[-1] != "Then press Enter.\n":
                said.append(command.stderr.readline())
                assert said[-1], "".join(said)
            assert step.kind is not StepKind.DIRECTION or "".join(step.joints) in "".join(said)
            assert step.kind is not StepKind.ZERO_POSE or SO101.zero_pose in "".join(said)
            hand.do(step)
            command.stdin.write("\n")
        rest, errors = command.communicate(timeout=30)
    assert command.returncode == 0, errors
    result = json.loads(rest.splitlines()[-1])
    assert result["next"][0] == f"python -m firmware_bridge.firmware.generate_joints {output}"

    found = load_robot(output)
    assert found.name == "my_arm"
    for servo, true in zip(commanded(found), commanded(TRUE_SO101), strict=True):
        if true.counts is not None:
            assert servo.counts == true.counts
        else:
            assert (servo.zero, servo.direction) == (true.zero, true.direction)
    for joint, before in zip(found.joints, SO101.joints, strict=True):
        assert joint.position and before.position
        if joint.unit == "rad":
            low, high = REACH[joint.name]
            wanted = (max(before.position[0], low + MARGIN_RAD), min(before.position[1], high - MARGIN_RAD))
            assert joint.position == pytest.approx(wanted, abs=2e-3), joint.name
        assert dataclasses.replace(joint, position=before.position) == before
    text = output.read_text()
    assert "# description (so101_new_calib), rounded inwards" in text and "by `pi0-edge robot calibrate`" in text


def test_until_the_board_is_flashed_the_bridge_refuses_it(image: Path, tmp_path: Path) -> None:
    """Firmware of the old file, bridge with the calibrated one."""
    path = tmp_path / "my_arm.yaml"
    write_truth(path, dataclasses.replace(TRUE_SO101, name="my_arm"))
    with EmulatedBoard(image) as board, pytest.raises(ProtocolError, match="another joint table"):
        BridgeServer(board.port, "127.0.0.1:0", str(path)).start()


def test_the_calibrated_file_moves_the_arm_to_where_it_says(image: Path, tmp_path: Path) -> None:
    """The arm that `calibrate` measured, with firmware and bridge of the file that it wrote."""
    robot = dataclasses.replace(TRUE_SO101, name="my_arm")
    start = [0.2, -0.3, 0.4, 0.1, -0.2, 0.3]
    path = tmp_path / "my_arm.yaml"
    write_truth(path, robot)
    with running_arm(build_image(robot, tmp_path), path, buses_at(robot, start)) as arm:
        np.testing.assert_allclose(arm.settled().measured, start, atol=2e-3)
        goal = np.array([-0.3, 0.2, -0.1, 0.4, 0.5, 0.8], np.float32)
        arm.client.arm(robot.action_names)
        with arm.client.play() as stream:
            way = np.linspace(0, 1, 40)[:, None] * (goal - start) + start
            stream.send(np.concatenate([way, np.tile(goal, (20, 1))]), arm.client.status().tick)
            report = stream.next_report(2.0)
            assert report is not None and report.outcome == ChunkReport.ACCEPTED, report
            arm.ticks(58)
        servos = arm.board.servos.state()["0"]["servos"]
        for servo, position in zip(commanded(robot), goal, strict=True):
            assert servos[str(servo.id)]["position"] == pytest.approx(counts_at(robot, servo, position), abs=12)


def write_truth(path: Path, robot: Robot) -> None:
    from pi0_edge.robots import robot_file
    from pi0_edge.robots.calibration.robot_text import robot_text, write_robot

    write_robot(path, robot_text(robot_file("so101").read_text(), robot, "What is true of the arm."))


TRUE_ALOHA = with_truth(
    ALOHA,
    {
        joint.name: {"zero": 2048 + 11 * (-1) ** place * (place % 5), "direction": 1 - 2 * (place % 2)}
        for place, joint in enumerate(ALOHA.joints)
        if joint.unit == "rad"
    }
    | {"left_gripper": {"counts": (1702, 2955)}, "right_gripper": {"counts": (2801, 1533)}},
)


@pytest.mark.slow
def test_both_arms_of_aloha_are_calibrated_with_their_shadows(tmp_path: Path) -> None:
    reach = {
        joint.name: (0.97 * joint.position[0], 0.97 * joint.position[1]) for joint in ALOHA.joints if joint.position
    }
    with running_arm(build_image(ALOHA, tmp_path), "aloha", buses_at(TRUE_ALOHA, [0.1] * 14)) as arm:
        found = calibrate_arm(arm.client, ALOHA, Hand(arm.board.servos, TRUE_ALOHA, reach))
    new = calibrated(ALOHA, found, "aloha").robot
    assert [(s.zero, s.direction, s.counts) for s in new.servos] == [
        (s.zero, s.direction, s.counts) for s in TRUE_ALOHA.servos
    ]


class ForgetfulHand(Hand):
    """Leaves out some steps."""

    def __init__(self, arm: ServoArm, leaves_out: Callable[[Step], bool]) -> None:
        super().__init__(arm.board.servos, TRUE_SO101, REACH)
        self._leaves_out = leaves_out

    def do(self, step: Step, ranges: Callable[[], Sequence[JointRange]] | None = None) -> None:
        if not self._leaves_out(step):
            super().do(step, ranges)


def test_a_joint_that_was_not_moved_is_named(arm: ServoArm) -> None:
    with pytest.raises(CalibrationError, match=r"^shoulder_lift is 0\.0 degrees from its zero pose; move it farther"):
        calibrate_arm(arm.client, SO101, ForgetfulHand(arm, lambda step: step.joints == ("shoulder_lift",)))


def test_a_gripper_that_stays_closed_is_named(arm: ServoArm) -> None:
    with pytest.raises(CalibrationError, match="gripper did not move from one end to the other"):
        calibrate_arm(arm.client, SO101, ForgetfulHand(arm, lambda step: step.kind is StepKind.OTHER_END))


def test_a_servo_that_falls_silent_is_named(arm: ServoArm) -> None:
    class Unplugging(Hand):
        def do(self, step: Step, ranges: Callable[[], Sequence[JointRange]] | None = None) -> None:
            super().do(step, ranges)
            if step.kind is StepKind.ZERO_POSE:
                arm.board.servos.connect("0", 3, False)
                time.sleep(0.8)

    with pytest.raises(CalibrationError, match=r"nothing is measured of elbow_flex \(servo 3 on bus 0\)"):
        calibrate_arm(arm.client, SO101, Unplugging(arm.board.servos, TRUE_SO101, REACH))


def test_an_arm_that_somebody_arms_meanwhile_ends_it(arm: ServoArm) -> None:
    class Arming(Hand):
        def do(self, step: Step, ranges: Callable[[], Sequence[JointRange]] | None = None) -> None:
            super().do(step, ranges)
            if step.kind is StepKind.ZERO_POSE:
                with BridgeClient(arm.bridge, name="another") as other:
                    other.arm(SO101.action_names)

    with pytest.raises(StateError, match="another client armed it"):
        calibrate_arm(arm.client, SO101, Arming(arm.board.servos, TRUE_SO101, REACH))


def test_an_arm_that_is_held_or_of_another_file_is_not_released(arm: ServoArm) -> None:
    hand = Hand(arm.board.servos, TRUE_SO101, REACH)
    with pytest.raises(ProtocolError, match="runs with another robot file than other"):
        calibrate_arm(arm.client, dataclasses.replace(TRUE_SO101, name="other"), hand)
    arm.settled()
    arm.client.arm(SO101.action_names)
    with pytest.raises(StateError, match="held by test; it must be disarmed first"):
        calibrate_arm(arm.client, SO101, hand)
    arm.client.estop()
    with pytest.raises(StateError, match="the arm is ESTOP; clear it first"):
        calibrate_arm(arm.client, SO101, hand)
    assert hand.asked == []
