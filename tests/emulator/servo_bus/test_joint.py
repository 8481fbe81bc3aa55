"""The joint behind a servo: it follows, settles, stalls and has play as its data sheet and its settings say."""

from __future__ import annotations

import math

import numpy as np
import pytest

from firmware_bridge.emulator.servo_bus.joint import COUNT, STEP_S, Joint, Load, Motor
from firmware_bridge.emulator.servo_bus.models import MODELS, ServoModel

GOAL_STEPS = 4  # milliseconds between goals


def joint_of(model: ServoModel, motors: int = 1, backlash: float | None = None) -> Joint:
    drives = [Motor(model, model.inertia / motors) for _ in range(motors)]
    for motor in drives:
        motor.switch(True)
    slack = model.backlash if backlash is None else backlash
    return Joint(drives, model.inertia, motors * model.friction, slack)


def run(joint: Joint, seconds: float, volts: float = 12.0) -> np.ndarray:
    """Output position after every step, in rad."""
    positions = []
    for _ in range(round(seconds / STEP_S)):
        joint.run(1, volts)
        positions.append(joint.output)
    return np.array(positions)


def aim(joint: Joint, goal: float) -> None:
    for motor in joint.motors:
        motor.goal = goal
    joint.wake()


POSITION_SERVOS = [MODELS["XM540-W270"], MODELS["XM430-W350"], MODELS["STS3215"]]


@pytest.mark.parametrize("model", POSITION_SERVOS, ids=lambda model: model.name)
@pytest.mark.parametrize("counts", [5, 100, 700, -700])
def test_a_step_settles_within_one_count_and_overshoots_little(model: ServoModel, counts: int) -> None:
    joint = joint_of(model)
    aim(joint, counts * COUNT)
    positions = run(joint, 1.0) / COUNT
    assert positions[-200:] == pytest.approx(counts, abs=1.0)
    overshoot = (positions * math.copysign(1, counts)).max() - abs(counts)
    assert overshoot <= 2.0 + 0.02 * abs(counts)


@pytest.mark.parametrize("model", POSITION_SERVOS, ids=lambda model: model.name)
def test_a_stream_of_goals_is_followed_with_a_lag_of_10_to_20_ms(model: ServoModel) -> None:
    """A swing with the largest speed and acceleration of the ALOHA demonstrations: 1.9 rad/s, 5.8 rad/s²."""
    omega = 5.8 / 1.9
    joint = joint_of(model)
    times, positions = [], []
    for step in range(6000):
        if step % GOAL_STEPS == 0:
            aim(joint, 1.9 / omega * math.sin(omega * step * STEP_S))
        joint.run(1, 12.0)
        times.append((step + 1) * STEP_S)
        positions.append(joint.output)
    settled = slice(2000, None)
    phase = omega * np.array(times)[settled]
    basis = np.stack([np.sin(phase), np.cos(phase)], axis=1)
    (sine, cosine), *_ = np.linalg.lstsq(basis, np.array(positions)[settled], rcond=None)
    lag_ms = 1e3 * math.atan2(-cosine, sine) / omega
    assert 10.0 <= lag_ms <= 20.0
    assert math.hypot(sine, cosine) == pytest.approx(1.9 / omega, rel=0.03)


@pytest.mark.parametrize("model", POSITION_SERVOS, ids=lambda model: model.name)
def test_without_load_it_turns_as_fast_as_the_data_sheet_says(model: ServoModel) -> None:
    joint = joint_of(model)
    aim(joint, 100.0)
    run(joint, 1.0, model.volts)
    assert joint.velocity == pytest.approx(model.no_load_speed, rel=0.02)
    before = joint.velocity
    run(joint, 1.0, model.volts * 0.8)
    assert joint.velocity == pytest.approx(0.8 * before, rel=0.03)


@pytest.mark.parametrize("model", POSITION_SERVOS, ids=lambda model: model.name)
def test_against_an_obstacle_it_draws_the_stall_current(model: ServoModel) -> None:
    joint = joint_of(model)
    joint.highest = 100 * COUNT
    aim(joint, 1000 * COUNT)
    positions = run(joint, 1.0, model.volts)
    assert positions.max() == pytest.approx(100 * COUNT)
    assert joint.motors[0].current == pytest.approx(model.stall_amperes, rel=0.01)
    assert joint.motors[0].duty == pytest.approx(1.0)
    aim(joint, 0.0)
    assert run(joint, 1.0, model.volts)[-1] / COUNT == pytest.approx(0.0, abs=1.0)


def test_a_limit_of_current_holds_against_an_obstacle() -> None:
    joint = joint_of(MODELS["XM430-W350"])
    joint.motors[0].limit(current=0.5)
    joint.highest = 100 * COUNT
    aim(joint, 1000 * COUNT)
    run(joint, 2.0)
    assert joint.motors[0].current == pytest.approx(0.5)


def test_current_holds_a_load() -> None:
    model = MODELS["XM540-W270"]
    joint = joint_of(model)
    joint.load = Load(gravity=2.0)
    joint.wake()
    positions = run(joint, 2.0)
    assert positions[-1] / COUNT == pytest.approx(0.0, abs=1.0)
    held = joint.motors[0].current * model.torque_constant
    assert held == pytest.approx(2.0, abs=1.01 * model.friction)


def test_two_motors_share_a_load() -> None:
    model = MODELS["XM540-W270"]
    joint = joint_of(model, motors=2)
    joint.load = Load(gravity=4.0)
    joint.wake()
    run(joint, 2.0)
    first, second = (motor.current for motor in joint.motors)
    assert first == pytest.approx(second)
    assert (first + second) * model.torque_constant == pytest.approx(4.0, abs=2 * model.friction)


def test_two_motors_with_different_goals_work_against_each_other() -> None:
    joint = joint_of(MODELS["XM540-W270"], motors=2)
    joint.motors[0].goal, joint.motors[1].goal = 5 * COUNT, -5 * COUNT
    joint.wake()
    run(joint, 1.0)
    assert joint.motors[0].current > 1.0
    assert joint.motors[1].current < -1.0
    assert abs(joint.output) < 5 * COUNT


def test_after_a_reversal_the_gears_turn_by_the_backlash_before_the_output_moves() -> None:
    joint = joint_of(MODELS["STS3215"], backlash=10 * COUNT)
    aim(joint, 300 * COUNT)
    run(joint, 1.0)
    gears, output = joint.gears, joint.output
    aim(joint, 200 * COUNT)
    while joint.output == output:
        assert joint.output_velocity == 0.0
        joint.run(1, 12.0)
    crossed = (gears - joint.gears) / COUNT
    assert crossed == pytest.approx(10.0, abs=1.0)
    run(joint, 1.0)
    assert joint.output - joint.gears == pytest.approx(5 * COUNT)


def test_without_torque_only_a_load_moves_it() -> None:
    model = MODELS["XM430-W350"]
    joint = joint_of(model)
    joint.motors[0].switch(False)
    aim(joint, 1.0)
    assert run(joint, 0.5)[-1] == 0.0
    joint.load = Load(push=0.5 * model.friction)
    joint.wake()
    assert run(joint, 0.5)[-1] == 0.0
    joint.load = Load(push=2.0 * model.friction)
    joint.wake()
    assert run(joint, 0.5)[-1] > 10 * COUNT


def test_a_profile_limits_speed_and_acceleration() -> None:
    joint = joint_of(MODELS["XM430-W350"], backlash=0.0)
    joint.motors[0].limit(speed=1.0, acceleration=4.0)
    aim(joint, 1.0)
    velocities = np.diff(run(joint, 3.0)) / STEP_S
    assert velocities.max() == pytest.approx(1.0, rel=0.02)
    assert velocities[:200].max() == pytest.approx(0.8, rel=0.05)
    assert joint.output / COUNT == pytest.approx(1.0 / COUNT, abs=1.0)


def test_a_joint_at_rest_needs_no_steps_and_still_warms() -> None:
    joint = joint_of(MODELS["XM540-W270"])
    joint.load = Load(gravity=2.0)
    joint.wake()
    run(joint, 2.0)
    motor = joint.motors[0]
    motor.heat = 0.0
    joint.run(10_000, 12.0)
    assert motor.heat == pytest.approx(motor.current**2 * 10.0, rel=1e-6)


def test_the_same_commands_at_the_same_steps_give_the_same_motion() -> None:
    one, other = joint_of(MODELS["STS3215"]), joint_of(MODELS["STS3215"])
    for goal in (0.3, -0.1, 0.2):
        aim(one, goal)
        aim(other, goal)
        for _ in range(40):
            one.run(1, 12.0)
        other.run(7, 12.0)
        other.run(33, 12.0)
    assert (one.output, one.velocity) == (other.output, other.velocity)
