"""Between setpoints: the motion passes through each of them, is smooth, and keeps every limit at each servo step."""

from __future__ import annotations

import dataclasses
import math
from itertools import accumulate, pairwise

import numpy as np
import pytest
from firmware_library import bench, home, moved, require
from hypothesis import given, settings
from hypothesis import strategies as st

from firmware_bridge.firmware.joint_table import JointTable
from firmware_bridge.lockstep.host_firmware import HostFirmware
from pi0_edge.protos.serial_link import ChunkResult, Command, Ping, State, Telemetry, TickFlag

RATES = [(50, 250), (10, 200), (200, 1000)]
MORE_RATES = [pytest.param(*rates, marks=pytest.mark.slow) for rates in [(25, 500), (100, 500), (50, 1000)]]
SWING = [moved(round(3000 * (1 - math.cos(0.1 * tick)))) for tick in range(60)]  # up to 1.5 rad/s and 7.5 rad/s^2


def at_rates(control_hz: int, servo_hz: int) -> JointTable:
    return dataclasses.replace(bench(), control_hz=control_hz, servo_hz=servo_hz)


def started(rows: list[list[int]], table: JointTable | None = None) -> HostFirmware:
    """Armed, with the first of these setpoints due in the third tick from now."""
    require("make", "gcc")
    firmware = HostFirmware(table or bench()).armed()
    assert firmware.play(firmware.tick_number + 3, rows).result == ChunkResult.ACCEPTED
    firmware.tick()
    firmware.tick()
    return firmware


def positions(firmware: HostFirmware) -> list[float]:
    return [motion.position for motion in firmware.motion()]


def walk(firmware: HostFirmware, ticks: int) -> tuple[list[Telemetry], np.ndarray]:
    """Runs every servo step of some ticks; returns the reports and the positions [ticks * steps, joints]."""
    reports, path = [], []
    for _ in range(ticks):
        reports.append(firmware.tick())
        path.append(positions(firmware))
        for step in range(1, firmware.servo_steps):
            firmware.servo(step)
            path.append(positions(firmware))
    return reports, np.array(path)


def reference_curve(counts: list[int], resolution: float, steps: int, start_slope: float = 0.0) -> np.ndarray:
    """Catmull-Rom through these counts from rest, in the float32 operations of the firmware."""
    f = np.float32
    points = [f(count) * f(resolution) for count in counts]
    slope, path = f(start_slope), []
    for here, there, beyond in zip(points, points[1:], points[2:], strict=False):
        way, end = there - here, f(0.5) * (beyond - here)
        bend, twist = f(3) * way - f(2) * slope - end, slope + end - f(2) * way
        s = np.arange(steps, dtype=f) / f(steps)
        path += list(here + s * (slope + s * (bend + s * twist)))
        slope = end
    return np.array(path, np.float32)


@pytest.mark.parametrize(("control_hz", "servo_hz"), [*RATES, *MORE_RATES])
def test_the_motion_is_the_documented_curve_bit_for_bit(control_hz: int, servo_hz: int) -> None:
    firmware = started(SWING, at_rates(control_hz, servo_hz))
    if control_hz == 200:  # four times as fast as at 50 Hz: 6 rad/s and 120 rad/s^2 still are within the limits
        assert firmware.servo_steps == 5
    reports, path = walk(firmware, len(SWING) - 2)
    assert {report.flags for report in reports} == {TickFlag.EXECUTED}
    for joint, parameters in enumerate(bench().joints):
        expected = reference_curve([row[joint] for row in SWING], parameters.resolution, firmware.servo_steps)
        assert np.array_equal(path[:, joint].astype(np.float32), expected)


def test_every_setpoint_is_passed_exactly() -> None:
    firmware = started(SWING)
    reports, path = walk(firmware, 40)
    for step, report in enumerate(reports):
        assert [round(value * 1e4) for value in report.executed] == SWING[step]
        assert list(report.executed) == list(path[step * firmware.servo_steps])


def test_velocity_has_no_step_where_a_chunk_replaces_the_plan() -> None:
    firmware = started([moved(100 * step) for step in range(40)])
    _, before = walk(firmware, 10)
    bent = [moved(100 * step + 2 * max(step - 13, 0) ** 2) for step in range(10, 50)]
    assert firmware.play(firmware.tick_number + 1, bent).result == ChunkResult.ACCEPTED
    reports, after = walk(firmware, 20)
    assert {report.chunk_id for report in reports} == {1, 2}
    velocity = np.diff(np.vstack([before, after])[:, 0])
    # The curves bend by at most 4 counts per tick and tick, three times that between two setpoints.
    assert np.abs(np.diff(velocity))[10:].max() < 3 * 4e-4 / firmware.servo_steps**2 + 1e-6


@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_late_interrupts_do_not_change_the_path(data: st.DataObject) -> None:
    punctual = started(SWING)
    _, expected = walk(punctual, 50)
    late = started(SWING)
    first, steps, position = late.tick_number + 1, late.servo_steps, -1
    while position < 45 * steps:
        position += data.draw(st.integers(1, 4 * steps))
        late.send(Ping(position, 0))
        late.library.host_servo(first + position // steps, position % steps)
        assert positions(late) == list(expected[position])


def test_a_plan_that_ends_in_motion_brakes_from_its_last_setpoint_on() -> None:
    firmware = started([moved(100 * step) for step in range(20)])
    reports, path = walk(firmware, 26)
    assert [report.state for report in reports[18:25]] == [State.RUNNING] * 2 + [State.STARVED] * 4 + [State.SAFE]
    assert np.all(np.diff(path[19 * firmware.servo_steps :, 0]) >= 0)
    assert path[-1, 0] == pytest.approx(0.19 + 0.5**2 / 250 / 2, abs=1e-3)  # v^2 / 2 a


@pytest.mark.parametrize("speed", [700, 900, 1300, 1600])  # 3.5 to 8 rad/s, the limit
@pytest.mark.parametrize("ticks", [3, 5, 14])
def test_an_abrupt_stop_is_not_overshot_between_ticks_either(speed: int, ticks: int) -> None:
    """The plan starts and stops within a tick, beyond the acceleration limit: the joint arrives late, no overshoot."""
    rows = [moved(0)] + [moved(speed * tick) for tick in range(1, ticks + 1)]
    _, path = walk(started(rows + [rows[-1]] * 12), ticks + 10)
    assert path[:, 0].max() == path[-1, 0] == pytest.approx(rows[-1][0] * 1e-4, abs=1e-6)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(-1000, 1000), st.sampled_from([1, 1, 2, 3, 8])), min_size=1, max_size=12))
def test_overshoot_of_any_plan_is_bounded_by_the_acceleration_limit(runs: list[tuple[int, int]]) -> None:
    """Any velocity steps up to 5 rad/s; with equal setpoints, constant acceleration A moves by at most A tick^2 / 8."""
    ways = [way for way, ticks in runs for _ in range(ticks)][:30]
    offsets = [0, 0, *accumulate(ways)]
    _, path = walk(started([moved(offset) for offset in offsets + [offsets[-1]] * 15]), len(offsets) + 13)
    bulge = 250 / 50**2 / 8
    assert path[:, 0].max() <= max(offsets) * 1e-4 + bulge and path[:, 0].min() >= min(offsets) * 1e-4 - bulge
    assert path[-1, 0] == pytest.approx(offsets[-1] * 1e-4, abs=1e-6)


@pytest.mark.parametrize("late", range(2, 26, 3))
def test_a_moving_sinusoidal_plan_is_reached_from_rest_without_overshoot(late: int) -> None:
    """From rest; the plan needs four fifths of the velocity limit, so 25 ticks are little more than the minimum."""
    swing = np.rint(12800 * (1 - np.cos(0.1 * np.arange(late, late + 50)))).astype(int)  # up to 6.4 rad/s, 32 rad/s^2
    reports, _ = walk(started([moved(0), *(moved(offset) for offset in swing.tolist())]), 49)
    reports = reports[1:]  # the first setpoint is where the arm stands: it may not begin out of reach
    behind = swing[:48] - np.array([report.executed[0] for report in reports]) * 1e4
    assert np.abs(behind[25:]).max() < 0.01
    assert behind.min() > -0.01


@pytest.mark.parametrize("step", range(1, 5))
def test_the_estop_pin_acts_at_the_next_servo_step(step: int) -> None:
    firmware = started([moved(150 * step) for step in range(40)])
    walk(firmware, 10)
    firmware.tick()
    for number in range(1, step):
        firmware.servo(number)
    before = firmware.motion()[0].velocity
    firmware.library.host_press_estop(True)
    firmware.servo(step)
    assert firmware.motion()[0].velocity == pytest.approx(max(before - 250 / 250**2, 0.0), abs=1e-6)
    assert firmware.tick().state == State.ESTOP


def test_an_estop_command_acts_at_the_next_servo_step() -> None:
    firmware = started([moved(150 * step) for step in range(40)])
    walk(firmware, 10)
    firmware.tick()
    before = firmware.motion()[0].velocity
    firmware.command(Command.ESTOP)
    firmware.servo(1)
    assert firmware.motion()[0].velocity < before


ACTIONS = st.sampled_from(["chunk", "chunk", "chunk", "quiet", "tick", "arm", "disarm", "clear", "estop", "pin"])


@pytest.mark.parametrize(("control_hz", "servo_hz"), [(50, 250), (10, 200), (200, 1000)])
@settings(max_examples=12, deadline=None)
@given(data=st.data())
def test_no_sequence_of_events_breaks_a_limit_at_any_servo_step(
    control_hz: int, servo_hz: int, data: st.DataObject
) -> None:
    require("make", "gcc")
    table = at_rates(control_hz, servo_hz)
    firmware = HostFirmware(table).armed()
    commands = {"arm": Command.ARM, "disarm": Command.DISARM, "clear": Command.CLEAR, "estop": Command.ESTOP}
    paths = [np.array([positions(firmware)])]
    for action in data.draw(st.lists(ACTIONS, max_size=30)):
        if action == "chunk":
            offsets = data.draw(st.lists(st.integers(-4000, 4000), min_size=1, max_size=20))
            first = firmware.tick_number + data.draw(st.integers(-5, 10))
            firmware.play(max(first, 0), [moved(offset) for offset in offsets])
        elif action in commands:
            firmware.command(commands[action])
        firmware.library.host_press_estop(action == "pin")
        for _ in range(data.draw(st.integers(1, 4))):
            firmware.tick(heartbeat=action != "quiet")
            path = [positions(firmware)]
            for step in range(1, firmware.servo_steps):
                firmware.servo(step)
                path.append(positions(firmware))
            paths.append(np.array(path))
    assert_within_limits(np.vstack(paths), table)


def assert_within_limits(path: np.ndarray, table: JointTable) -> None:
    """Positions [steps, joints]; one unit in the last place of a position is allowed to velocity, two to its change."""
    place = 2.0**-22
    for joint, column in zip(table.joints, path.T, strict=True):
        velocity = np.diff(column)
        assert column.min() >= joint.minimum and column.max() <= joint.maximum
        assert np.abs(velocity).max(initial=0) <= joint.velocity / table.servo_hz + place
        assert np.abs(np.diff(velocity)).max(initial=0) <= joint.acceleration / table.servo_hz**2 + 2 * place


def test_the_bench_starts_at_home() -> None:
    assert SWING[0] == home()
    assert all(abs(b - a) <= 300 for before, after in pairwise(SWING) for a, b in zip(before, after, strict=True))
