"""A leader arm over emulated servo buses: what it reads, when it may take over, and an arm that follows it."""

from __future__ import annotations

import dataclasses
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from run_system import RunSystem
from watched_run import WatchedRun

from firmware_bridge.emulator.robot_servos import servos_at_home
from firmware_bridge.emulator.servo_bus.child import ServoBusProcess
from firmware_bridge.errors import LinkError, PortError
from firmware_bridge.firmware.joint_table import joint_table
from firmware_bridge.robot import RobotJoints, joints_of
from pi0_edge.errors import ConfigError
from pi0_edge.protos.serial_link import State
from pi0_edge.robots import Robot, load_robot
from pi0_edge.run.interventions import SILENCE_S
from pi0_edge.run.leader_arm import NEAR, LeaderArm
from pi0_edge.run.recording import RunRecording
from pi0_edge.run.recording.tick_replay import replay_ticks

pytestmark = [pytest.mark.real_time, pytest.mark.system]

WAIT_S = 5.0


class Leader:
    """The servos of an arm, and hands that move it."""

    def __init__(self, robot: Robot, process: ServoBusProcess) -> None:
        self.robot = robot
        self.process = process
        self.joints = joints_of(joint_table(robot))

    @property
    def ports(self) -> list[str]:
        return [self.process.paths[bus] for bus in sorted(self.process.paths)]

    def move(self, position: NDArray[np.floating]) -> NDArray[np.float64]:
        """Puts every joint somewhere; returns where that is in whole counts."""
        reached = np.array(position, np.float64)
        for servo in self.robot.servos:
            if servo.shadow_of is not None:
                continue
            place = self.joints.names.index(servo.joint)
            joint = self.robot.joints[place]
            zero, per_unit = servo.scale(joint.unit, joint.position or (0.0, 1.0))
            counts = round(zero + per_unit * float(position[place]))
            self.process.control.move_by_hand(str(servo.bus), servo.id, counts)
            reached[place] = (counts - zero) / per_unit
        return reached


@contextmanager
def powered(robot: Robot) -> Iterator[Leader]:
    with ServoBusProcess(servos_at_home(robot)) as process:
        yield Leader(robot, process)


@contextmanager
def reading(leader: Leader, follower: Robot | None = None) -> Iterator[LeaderArm]:
    robot = follower or leader.robot
    with LeaderArm(leader.robot, leader.ports, robot, joints_of(joint_table(robot))) as arm:
        yield arm


def read(arm: LeaderArm, expected: NDArray[np.float64], joints: RobotJoints) -> None:
    """Waits until the arm is read where it is expected, to two counts of an encoder."""
    deadline, target = time.monotonic() + WAIT_S, None
    while time.monotonic() < deadline:
        target = arm.target()
        if target is not None and (np.abs(target - expected) < 2 / 4096 * 2 * np.pi).all():
            return
        time.sleep(0.02)
    raise AssertionError(f"{target} instead of {expected} of {joints.names}")


@pytest.mark.parametrize("name", ["so101", "aloha"])
def test_a_leader_is_read_where_hands_have_put_it(name: str):
    with powered(load_robot(name)) as leader, reading(leader) as arm:
        joints = leader.joints
        for share in (0.3, 0.6):
            read(arm, leader.move(joints.lower + share * (joints.upper - joints.lower)), joints)


def test_joints_are_matched_by_name_whatever_the_servos_of_the_leader_are():
    follower = load_robot("so101")
    servos = [dataclasses.replace(servo, id=servo.id + 20) for servo in follower.servos]
    servos[1] = dataclasses.replace(servos[1], direction=-1, zero=1900)
    turned = dataclasses.replace(follower, name="leader", joints=follower.joints[::-1], action_names=(),
                                 delta_actions=(-1, 5), servos=tuple(servos))  # fmt: skip
    with powered(turned) as leader, reading(leader, follower) as arm:
        position = np.linspace(0.1, 0.4, 6)
        reached = leader.move(position[::-1])
        read(arm, reached[::-1], leader.joints)


def test_replies_that_are_lost_or_damaged_do_not_move_the_arm():
    with powered(load_robot("so101")) as leader, reading(leader) as arm:
        reached = leader.move(leader.joints.home + 0.2)
        read(arm, reached, leader.joints)
        leader.process.control.corrupt_replies("0", 0.3)
        leader.process.control.drop_replies("0", 0.1)
        seen = []
        for _ in range(100):
            seen.append(arm.target())
            time.sleep(0.01)
        found = np.array([target for target in seen if target is not None])
        assert len(found) > 20 and np.abs(found - reached).max() < 2 / 4096 * 2 * np.pi


def test_a_leader_without_its_plug_holds_the_arm_and_says_so():
    with powered(load_robot("so101")) as leader, reading(leader) as arm:
        read(arm, leader.move(leader.joints.home), leader.joints)
        leader.process.control.connect("0", 3, connected=False)
        time.sleep(SILENCE_S + 0.3)
        assert arm.target() is None
        assert "was not read for 0.3 s" in arm.why_not(leader.joints.home)
        leader.process.control.connect("0", 3, connected=True)
        read(arm, leader.joints.home.copy(), leader.joints)
        leader.process.stop()
        deadline = time.monotonic() + WAIT_S
        while "lost" not in arm.why_not(leader.joints.home) and "closed" not in arm.why_not(leader.joints.home):
            assert time.monotonic() < deadline, arm.why_not(leader.joints.home)
            time.sleep(0.05)
        time.sleep(SILENCE_S)
        assert arm.target() is None


def test_a_leader_that_is_far_from_the_arm_is_refused_with_the_joint_and_the_distance():
    with powered(load_robot("so101")) as leader, reading(leader) as arm:
        joints = leader.joints
        read(arm, leader.move(joints.home), joints)
        near = NEAR * (joints.upper - joints.lower)
        assert arm.why_not(joints.home + 0.9 * near) == ""
        elsewhere = joints.home.copy()
        elsewhere[2] -= 0.5
        said = arm.why_not(elsewhere)
        assert "elbow_flex by +0.5" in said and "at most 0.169" in said and "shoulder" not in said


def test_a_leader_that_does_not_fit_is_refused_in_words():
    so101, aloha = load_robot("so101"), load_robot("aloha")
    with pytest.raises(ConfigError, match=r"leader so101 has shoulder_pan, .*; expected the joint left_waist in rad"):
        LeaderArm(so101, ["/dev/null"], aloha, joints_of(joint_table(aloha)))
    with pytest.raises(ConfigError, match="leader so101 has 1 buses, but 2 ports are given"):
        LeaderArm(so101, ["a", "b"], so101, joints_of(joint_table(so101)))
    with pytest.raises(ConfigError, match="leader aloha_sim: its file lists no servos"):
        LeaderArm("aloha_sim", ["a"], so101, joints_of(joint_table(so101)))
    with pytest.raises(PortError, match="/dev/not-there does not exist"):
        LeaderArm(so101, ["/dev/not-there"], so101, joints_of(joint_table(so101)))
    with powered(so101) as leader:
        leader.process.control.connect("0", 5, connected=False)
        with pytest.raises(LinkError, match=r"the servo of wrist_roll \(ID 5\) does not answer"), reading(leader):
            pass


@pytest.mark.skipif(shutil.which("qemu-system-arm") is None, reason="qemu-system-arm is not installed")
def test_an_arm_follows_its_leader_and_the_run_replays(system: RunSystem, tmp_path: Path):
    pytest.importorskip("gym_aloha", reason="the extra [sim] is not installed")
    with (
        WatchedRun(system, record=tmp_path / "run.mcap") as watched,
        powered(load_robot("aloha")) as leader,
        reading(leader, watched.run.robot) as arm,
    ):
        watched.wait("policy")
        watched.wait_ticks(30)
        watched.run.pause()
        watched.wait("disarmed")
        watched.wait_ticks(60)
        stands = watched.ticks[-1].executed.astype(np.float64)
        away = stands.copy()
        away[3] += 0.5
        read(arm, leader.move(away), leader.joints)
        watched.run.take_over(arm)
        assert f"{leader.joints.names[3]} by +0.5" in watched.wait("not-taken-over").text
        assert watched.ticks[-1].state == State.DISARMED
        read(arm, leader.move(stands), leader.joints)
        watched.run.take_over(arm)
        watched.wait("person")
        reached = leader.move(away)
        deadline = time.monotonic() + WAIT_S
        while np.abs(watched.ticks[-1].executed - reached).max() > 0.01:
            assert time.monotonic() < deadline, watched.ticks[-1].executed - reached
            time.sleep(0.05)
        path = np.array([tick.executed for tick in watched.ticks])
        limit = watched.run.joints.velocity * watched.run.tick_period_s
        assert (np.abs(np.diff(path[-100:], axis=0)) <= limit).all()
        watched.run.hand_back()
        watched.wait("policy", 2)
    replayed = replay_ticks(RunRecording(tmp_path / "run.mcap"))
    assert replayed.difference is None, replayed.difference
    assert replayed.unknown == 0
