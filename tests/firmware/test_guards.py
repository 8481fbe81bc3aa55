"""Where the joints are measured: what starts an arm, what stops it, and how soon."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from firmware_library import require

from firmware_bridge.firmware.joint_table import load_joint_table
from firmware_bridge.lockstep.host_firmware import HostFirmware, only
from pi0_edge.protos.serial_link import (
    NO_JOINT,
    SCHEMA_HASH,
    ChunkResult,
    Command,
    CommandResult,
    Fault,
    Health,
    HealthRow,
    Hello,
    JointFlag,
    Measured,
    MeasuredRow,
    ResetCause,
    State,
    Telemetry,
)

SO101 = load_joint_table("so101")
JOINTS = SO101.joints
ELBOW, GRIPPER = 2, 5
TICK_MS = 1000 // SO101.control_hz
GOOD = JointFlag.MEASURED | JointFlag.TORQUE
REST: dict[str, Any] = {"current": 0.2, "volts": 7.4, "temperature": 40, "flags": GOOD}


class Arm(HostFirmware):
    """The core with the servos of an SO-101, which are where they are commanded unless a test says otherwise."""

    def __init__(self, cause: ResetCause = ResetCause.POWER_ON) -> None:
        require("make", "gcc")
        super().__init__(SO101, cause)
        self.wrong: dict[int, dict[str, Any]] = {}
        self.place(dict.fromkeys(range(len(JOINTS)), 0.0))

    def place(self, positions: dict[int, float]) -> None:
        """Puts joints somewhere; the others follow their commands."""
        self.placed = positions

    def step(self, ticks: int = 1) -> Telemetry:
        """Measures and runs; the last report."""
        return [self._step() for _ in range(ticks)][-1]

    def _step(self) -> Telemetry:
        for number, motion in enumerate(self.motion()):
            measured = {**REST, **self.wrong.get(number, {})}
            position = self.placed.get(number, motion.position) + measured.pop("offset", 0.0)
            self.measure(number, position, **measured)
        return self.tick()


def ready() -> Arm:
    """Armed at home, and every joint follows."""
    arm = Arm()
    arm.send(Hello(SCHEMA_HASH))
    arm.step()
    assert arm.command(Command.ARM).result == CommandResult.OK
    arm.place({})
    assert arm.step().state == State.ARMED
    return arm


GUARDS = {
    Fault.FOLLOWING_ERROR: ({"offset": 0.41}, 200),
    Fault.CONTACT: ({"current": -1.6}, 100),
    Fault.TEMPERATURE: ({"temperature": 66}, 1000),
    Fault.VOLTAGE: ({"volts": 5.9}, 200),
    Fault.SERVO_ERROR: ({"flags": GOOD | JointFlag.OVERLOADED}, 100),
    Fault.BUS_SILENT: ({"age": 50}, TICK_MS),  # the last measurement is 200 ms old already
}
"""What an elbow measures, and after how many milliseconds the arm stops."""

WITHIN = {
    Fault.FOLLOWING_ERROR: {"offset": 0.39},
    Fault.CONTACT: {"current": -1.4},
    Fault.TEMPERATURE: {"temperature": 65},
    Fault.VOLTAGE: {"volts": 6.1},
    Fault.SERVO_ERROR: {},
    Fault.BUS_SILENT: {"age": 49},
}


@pytest.mark.parametrize("fault", GUARDS, ids=lambda fault: fault.name)
def test_each_guard_stops_the_arm_in_its_time_and_names_the_joint(fault: Fault) -> None:
    wrong, limit_ms = GUARDS[fault]
    arm = ready()
    arm.wrong = {ELBOW: wrong}
    ticks = limit_ms // TICK_MS
    if ticks > 1:
        report = arm.step(ticks - 1)
        assert (report.state, report.faults, report.fault_joint) == (State.ARMED, 0, NO_JOINT)
    report = arm.step()
    assert (report.state, report.faults, report.fault_joint) == (State.SAFE, fault, ELBOW)
    arm.wrong = {}
    report = arm.step(50)
    assert (report.state, report.faults, report.fault_joint) == (State.SAFE, fault, ELBOW)
    assert arm.command(Command.CLEAR).result == CommandResult.OK
    assert arm.step().fault_joint == NO_JOINT
    assert arm.command(Command.ARM).result == CommandResult.OK


@pytest.mark.parametrize("fault", WITHIN, ids=lambda fault: fault.name)
def test_no_guard_acts_within_its_limit(fault: Fault) -> None:
    arm = ready()
    arm.wrong = {ELBOW: WITHIN[fault]}
    report = arm.step(150)
    assert (report.state, report.faults) == (State.ARMED, 0)


@pytest.mark.parametrize("fault", [fault for fault, (_, limit_ms) in GUARDS.items() if limit_ms > TICK_MS])
def test_a_condition_that_ends_in_time_starts_anew(fault: Fault) -> None:
    wrong, limit_ms = GUARDS[fault]
    arm = ready()
    for _ in range(3):
        arm.wrong = {ELBOW: wrong}
        arm.step(limit_ms // TICK_MS - 1)
        arm.wrong = {}
        assert arm.step().state == State.ARMED


def test_a_gripper_may_close_on_things() -> None:
    arm = ready()
    arm.wrong = {GRIPPER: {"offset": 0.6}}
    assert arm.step(100).state == State.ARMED


def test_a_servo_without_torque_a_second_after_arm_stops_the_arm() -> None:
    arm = ready()
    arm.wrong = {ELBOW: {"flags": JointFlag.MEASURED}}
    reports = [arm.step() for _ in range(70)]
    stopped = next(number for number, report in enumerate(reports) if report.state == State.SAFE)
    assert reports[stopped].faults == Fault.SERVO_ERROR
    assert 48 <= stopped <= 55


def test_a_servo_that_lags_by_some_ticks_is_not_blamed() -> None:
    """At 4 rad/s a joint is 0.24 rad behind after three ticks, and 0.4 after five."""
    arm = ready()
    rows = [[round(joint.home / joint.resolution) for joint in JOINTS] for _ in range(40)]
    for step, row in enumerate(rows):
        row[ELBOW] += round(min(step, 20) * 0.06 / JOINTS[ELBOW].resolution)
    assert arm.play(arm.tick_number + 3, rows).result == ChunkResult.ACCEPTED
    behind = [0.0] * 4
    states = []
    for _ in range(40):
        arm.place({ELBOW: behind[0]})
        report = arm.step()
        states.append(report.state)
        behind = [*behind[1:], report.executed[ELBOW]]
    assert State.SAFE not in states


def test_after_a_reset_the_arm_is_where_its_encoders_say() -> None:
    arm = Arm(ResetCause.WATCHDOG)
    where = {number: 0.3 * (joint.maximum - joint.minimum) + joint.minimum for number, joint in enumerate(JOINTS)}
    arm.place(where)
    arm.send(Hello(SCHEMA_HASH))
    report = arm.step(2)
    np.testing.assert_allclose(report.executed, list(where.values()), atol=1e-6)
    assert arm.command(Command.CLEAR).result == CommandResult.OK
    assert arm.command(Command.ARM).result == CommandResult.OK
    np.testing.assert_allclose(arm.step(3).executed, list(where.values()), atol=1e-6)


def test_arm_needs_fresh_measurements_of_every_joint() -> None:
    arm = Arm()
    arm.send(Hello(SCHEMA_HASH))
    arm.wrong = {ELBOW: {"age": 50}}
    arm.step()
    reply = arm.command(Command.ARM)
    assert (reply.result, reply.state, reply.joint) == (CommandResult.NOT_MEASURED, State.DISARMED, ELBOW)
    arm.wrong = {ELBOW: {"age": 49}}
    arm.step()
    assert arm.command(Command.ARM).result == CommandResult.OK


@pytest.mark.parametrize(("position", "result"), [(1.75, CommandResult.OK), (1.77, CommandResult.OUTSIDE_LIMITS)])
def test_arm_needs_joints_within_their_limits(position: float, result: CommandResult) -> None:
    """The elbow's limit is 1.69 rad; 2 % of its range, 0.068 rad, may be missing."""
    arm = Arm()
    arm.send(Hello(SCHEMA_HASH))
    arm.place({ELBOW: position})
    arm.step()
    reply = arm.command(Command.ARM)
    assert reply.result == result
    assert reply.joint == (NO_JOINT if result == CommandResult.OK else ELBOW)
    if result == CommandResult.OK:
        assert arm.step().executed[ELBOW] == pytest.approx(JOINTS[ELBOW].maximum)


@pytest.mark.parametrize(("ticks", "reach"), [(3, 0.5 * 60 * 0.06**2), (12, 4 * (0.24 - 4 / 60 / 2))])
def test_a_first_setpoint_out_of_reach_is_refused_with_its_joint(ticks: int, reach: float) -> None:
    """In 3 ticks the elbow is still speeding up; in 12 it has had its velocity. 0.4 rad is its following error."""
    for share, result in ((0.999, ChunkResult.ACCEPTED), (1.001, ChunkResult.OUT_OF_REACH)):
        arm = ready()
        row = [round(joint.home / joint.resolution) for joint in JOINTS]
        row[ELBOW] = round(share * (reach + 0.4) / JOINTS[ELBOW].resolution)
        reply = arm.play(arm.tick_number + ticks, [row] * 10)
        assert (reply.result, reply.joint) == (result, NO_JOINT if result == ChunkResult.ACCEPTED else ELBOW)


def test_only_the_first_chunk_after_arm_has_to_begin_where_the_arm_is() -> None:
    arm = ready()
    here = [round(joint.home / joint.resolution) for joint in JOINTS]
    there = [*here]
    there[ELBOW] = round(1.6 / JOINTS[ELBOW].resolution)
    assert arm.play(arm.tick_number + 3, [here] * 20).result == ChunkResult.ACCEPTED
    assert arm.step(5).state == State.RUNNING
    assert arm.play(arm.tick_number + 3, [there] * 20).result == ChunkResult.ACCEPTED


def test_after_a_contact_the_arm_goes_where_it_is_and_stays_there() -> None:
    arm = ready()
    arm.wrong = {ELBOW: {"offset": -0.3, "current": 2.0}}
    while arm.step().state != State.SAFE:
        pass
    arm.place({ELBOW: -0.3})
    arm.wrong = {}
    path = [0.0, *(arm.step().executed[ELBOW] for _ in range(40))]
    assert path[-1] == pytest.approx(-0.3, abs=1e-6)
    assert np.all(np.diff(path) <= 1e-7)
    assert np.abs(np.diff(path)).max() <= JOINTS[ELBOW].velocity / SO101.control_hz + 1e-6
    assert arm.command(Command.CLEAR).result == CommandResult.OK


def test_released_servos_are_moved_by_hand_and_held_again_with_arm() -> None:
    arm = ready()
    assert arm.command(Command.RELEASE).result == CommandResult.WRONG_STATE
    assert arm.command(Command.DISARM).result == CommandResult.OK
    assert arm.command(Command.RELEASE).result == CommandResult.OK
    for position in (0.2, 0.9, -0.4):
        arm.place({ELBOW: position})
        assert arm.step().executed[ELBOW] == pytest.approx(position)
    assert arm.command(Command.ARM).result == CommandResult.OK
    arm.place({})
    assert arm.step(10).executed[ELBOW] == pytest.approx(-0.4)


def test_a_servo_that_restarted_gets_its_torque_back_only_where_it_is() -> None:
    arm = ready()
    arm.place({ELBOW: -0.7})
    arm.wrong = {ELBOW: {"flags": JointFlag.MEASURED | JointFlag.RESTARTED}}
    while arm.step().state != State.SAFE:
        pass
    assert arm.command(Command.CLEAR).result == CommandResult.OK
    assert arm.step().executed[ELBOW] == pytest.approx(-0.7)
    assert arm.command(Command.ARM).result == CommandResult.OK
    arm.wrong = {}
    assert arm.step(3).executed[ELBOW] == pytest.approx(-0.7)


def test_every_tick_reports_what_was_measured_before_its_telemetry() -> None:
    arm = ready()
    arm.wrong = {ELBOW: {"offset": 0.1, "current": -0.123, "age": 7, "flags": GOOD | JointFlag.OVERHEATED}}
    arm.step()
    for number, motion in enumerate(arm.motion()):
        arm.measure(number, motion.position, **REST)
    arm.measure(ELBOW, 0.1, current=-0.123, age=7, flags=GOOD | JointFlag.OVERHEATED, volts=7.2, temperature=51)
    arm.tick_number += 1
    arm.library.host_servo(arm.tick_number, 0)
    messages = arm.poll()
    kinds = [type(message) for message in messages if isinstance(message, (Measured, Telemetry))]
    assert kinds == [Measured, Telemetry]
    (measured,) = only(Measured, messages)
    rows = np.array(measured.values).reshape(measured.rows, measured.joints)
    assert (measured.tick, measured.joints) == (arm.tick_number, len(JOINTS))
    assert rows[MeasuredRow.POSITION, ELBOW] == round(0.1 / JOINTS[ELBOW].resolution)
    assert rows[MeasuredRow.CURRENT, ELBOW] == -123
    assert rows[MeasuredRow.CONDITION, ELBOW] == 7 + 256 * (GOOD | JointFlag.OVERHEATED)


def test_temperature_and_supply_are_reported_every_second() -> None:
    arm = ready()
    arm.wrong = {ELBOW: {"temperature": 55, "volts": 7.15}}
    reports = []
    for _ in range(100):
        for number, motion in enumerate(arm.motion()):
            arm.measure(number, motion.position, **{**REST, **arm.wrong.get(number, {})})
        arm.tick_number += 1
        arm.library.host_servo(arm.tick_number, 0)
        reports += only(Health, arm.poll())
    assert len(reports) == 2
    rows = np.array(reports[-1].values).reshape(reports[-1].rows, reports[-1].joints)
    assert rows[HealthRow.TEMPERATURE].tolist() == [40, 40, 55, 40, 40, 40]
    assert rows[HealthRow.VOLTAGE].tolist() == [74, 74, 72, 74, 74, 74]
