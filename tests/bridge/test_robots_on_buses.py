"""SO-101 and ALOHA on their buses: where they stand is measured, they move as told, and what is wrong has a name."""

from __future__ import annotations

import dataclasses
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from servo_arm import ServoArm, build_image, buses_at, commanded, counts_at, running_arm

from firmware_bridge.client import Tick
from firmware_bridge.emulator.servo_bus.settings import BusSettings, ServoSettings
from firmware_bridge.errors import StateError
from pi0_edge.protos.bridge_pb2 import ChunkReport
from pi0_edge.protos.serial_link import Fault, JointFlag, State
from pi0_edge.robots import Robot, Servo, load_robot

pytestmark = [pytest.mark.real_time, pytest.mark.system]

EXAMPLE = Path(__file__).parents[2] / "examples" / "python" / "first_motion.py"
ROBOTS = ("so101", "aloha")
MOTION_TICKS = 60
PAST_TICKS = 8  # of which the measurement may be, on a busy machine


def standing(robot: Robot) -> np.ndarray:
    """Where the joints are when the power comes on: within the limits, and not at home."""
    lower, upper = np.array([joint.position for joint in robot.joints]).T
    share = 0.5 + 0.1 * np.cos(np.arange(len(robot.joints)))
    return lower + share * (upper - lower)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The image of a robot, built once."""
    built: dict[str, Path] = {}

    def image(name: str) -> Path:
        if name not in built:
            built[name] = build_image(load_robot(name), tmp_path_factory.mktemp(name))
        return built[name]

    return image


@pytest.fixture(params=ROBOTS)
def robot(request: pytest.FixtureRequest) -> Robot:
    return load_robot(request.param)


@pytest.fixture
def arm(robot: Robot, images: Callable[[str], Path]) -> Iterator[ServoArm]:
    with running_arm(images(robot.name), robot.name, buses_at(robot, standing(robot).tolist())) as arm:
        yield arm


def play(arm: ServoArm, robot: Robot, path: np.ndarray) -> list[Tick]:
    """Every tick while the arm follows a path of at most 64 setpoints."""
    arm.client.arm(robot.action_names)
    with arm.client.telemetry() as ticks, arm.client.play() as stream:
        first = next(ticks)
        stream.send(path, first.tick)
        report = stream.next_report(2.0)
        assert report is not None and report.outcome == ChunkReport.ACCEPTED, report
        return [next(ticks) for _ in range(len(path))]


def there_and_back(robot: Robot, start: np.ndarray) -> np.ndarray:
    """Every joint by a tenth of its range and back, at about a third of its velocity limit."""
    lower, upper = np.array([joint.position for joint in robot.joints]).T
    swing = 0.5 * (1.0 - np.cos(np.linspace(0.0, 2.0 * np.pi, MOTION_TICKS)))
    return (start + swing[:, None] * 0.1 * (upper - lower)).astype(np.float32)


def following_error(executed: np.ndarray, measured: np.ndarray) -> np.ndarray:
    """Distance to the nearest of the commanded positions of the last ticks, as the firmware's guard takes it."""
    ticks = range(PAST_TICKS, len(executed))
    return np.array([np.abs(executed[tick - PAST_TICKS : tick + 1] - measured[tick]).min(axis=0) for tick in ticks])


def test_it_is_where_its_servos_are_and_moves_as_told(robot: Robot, arm: ServoArm) -> None:
    start = standing(robot)
    tick = arm.settled()
    assert (tick.joint_flags & JointFlag.MEASURED).all() and not (tick.joint_flags & JointFlag.TORQUE).any()
    np.testing.assert_allclose(tick.measured, start, atol=2e-3)
    np.testing.assert_allclose(tick.executed, tick.measured, atol=2e-3)

    ticks = play(arm, robot, there_and_back(robot, start))
    assert {tick.state for tick in ticks} <= {State.ARMED, State.RUNNING, State.STARVED}
    executed, measured = (np.array([getattr(tick, name) for tick in ticks]) for name in ("executed", "measured"))
    ranges = np.array([joint.position[1] - joint.position[0] for joint in robot.joints if joint.position])
    assert (np.ptp(executed, axis=0) > 0.09 * ranges).all()
    assert (np.ptp(measured, axis=0) > 0.08 * ranges).all()
    error = following_error(executed, measured)
    assert (error.max(axis=0) < 0.02 * ranges).all(), error.max(axis=0) / ranges
    still = arm.ticks(10)[-1]
    np.testing.assert_allclose(still.measured, still.executed, atol=0.01)


def test_a_released_arm_follows_the_hand_and_the_next_arm_holds_it_there(robot: Robot, arm: ServoArm) -> None:
    start = standing(robot)
    arm.settled()
    arm.client.arm(robot.action_names)
    arm.client.disarm()
    arm.until(lambda tick: bool((tick.joint_flags & JointFlag.TORQUE).all()), "a disarmed arm holds")
    arm.client.release()
    arm.until(lambda tick: not (tick.joint_flags & JointFlag.TORQUE).any(), "a released arm is limp")
    servo = commanded(robot)[1]
    arm.board.servos.move_by_hand(str(servo.bus), servo.id, round(counts_at(robot, servo, start[1] + 0.3)))
    moved = arm.until(lambda tick: abs(tick.measured[1] - start[1] - 0.3) < 2e-3, "the firmware sees the hand")
    assert moved.executed[1] == pytest.approx(moved.measured[1], abs=2e-3)
    arm.client.arm(robot.action_names)
    held = arm.ticks(30)[-1]
    assert held.measured[1] == pytest.approx(start[1] + 0.3, abs=1e-2), "ARM does not pull it back"


def changed(fault: str, joint: str) -> Callable[[Servo, ServoSettings], ServoSettings]:
    """One servo that is not as the robot file says."""

    def change(servo: Servo, settings: ServoSettings) -> ServoSettings:
        if servo.joint != joint or servo.shadow_of is not None:
            return settings
        fields = {"another id": {"id": 77}, "another baud": {"baud": 115_200 if servo.model == "STS3215" else 57_600}}
        return dataclasses.replace(settings, **fields.get(fault, {}))

    return change


@pytest.mark.parametrize("fault", ["silent", "another id", "another baud"])
def test_a_servo_that_does_not_answer_is_named(robot: Robot, images: Callable[[str], Path], fault: str) -> None:
    servo = commanded(robot)[2]
    buses = buses_at(robot, standing(robot).tolist(), changed(fault, servo.joint))
    with running_arm(images(robot.name), robot.name, buses) as arm:
        if fault == "silent":
            arm.board.servos.connect(str(servo.bus), servo.id, False)
        arm.ticks(50)
        with pytest.raises(StateError, match=rf"NOT_MEASURED.*{servo.joint} is not measured.*ID and baud rate"):
            arm.client.arm(robot.action_names)
        others = [place for place, other in enumerate(commanded(robot)) if other is not servo]
        assert np.isfinite(arm.ticks(1)[0].measurement_age_s[others]).all(), "the others are measured all the same"


def test_a_joint_outside_its_limits_is_named(robot: Robot, images: Callable[[str], Path]) -> None:
    joint = robot.joints[1]
    assert joint.position is not None
    at = standing(robot)
    at[1] = joint.position[1] + 0.1
    with running_arm(images(robot.name), robot.name, buses_at(robot, at.tolist())) as arm:
        arm.settled()
        with pytest.raises(StateError, match=f"OUTSIDE_LIMITS.*{joint.name} lies outside its position limits"):
            arm.client.arm(robot.action_names)


def test_the_wrong_supply_stops_an_arm_at_once(images: Callable[[str], Path]) -> None:
    """7.4 V servos on 12 V: the emulated ones survive it, and the guard acts."""
    robot = load_robot("so101")
    buses: list[BusSettings] = [
        dataclasses.replace(bus, volts=12.0) for bus in buses_at(robot, standing(robot).tolist())
    ]
    with running_arm(images("so101"), "so101", buses) as arm:
        arm.settled()
        arm.client.arm(robot.action_names)
        stopped = arm.until(lambda tick: tick.state == State.SAFE, "the guard acts")
        assert stopped.faults & Fault.VOLTAGE


def test_the_example_of_a_first_motion_moves_one_joint(images: Callable[[str], Path]) -> None:
    robot = load_robot("so101")
    with running_arm(images("so101"), "so101", buses_at(robot, standing(robot).tolist())) as arm:
        arm.settled()
        argv = [sys.executable, str(EXAMPLE), arm.bridge, "shoulder_pan", "0.1"]
        ran = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    assert ran.returncode == 0, ran.stderr
    assert re.fullmatch(r"shoulder_pan moved by 0\.1 and back; following error at most 0\.0\d+\n", ran.stdout), (
        ran.stdout
    )
