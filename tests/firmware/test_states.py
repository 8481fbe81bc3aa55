"""The states of the firmware, seen through its messages: what starts, stops and latches the arm."""

from __future__ import annotations

from itertools import accumulate, pairwise

import pytest
from firmware_library import HostFirmware, bench, home, moved
from hypothesis import given, settings
from hypothesis import strategies as st

from firmware_bridge.lockstep.host_firmware import only
from pi0_edge.protos.serial_link import (
    NO_JOINT,
    RING_DEPTH,
    SCHEMA_HASH,
    ChunkResult,
    Command,
    CommandReply,
    CommandRequest,
    CommandResult,
    Fault,
    Hello,
    ResetCause,
    State,
    Telemetry,
    TickFlag,
    Welcome,
)


def sprint(ticks: int) -> list[list[int]]:
    """From home in five ticks to 0.15 rad per tick, 7.5 rad/s."""
    return [moved(offset) for offset in accumulate(min(300 * tick, 1500) for tick in range(ticks))]


SPRINT = sprint(10)
FAST = [moved(150 * k) for k in range(50)]  # 0.015 rad per tick, 0.75 rad/s


def running(rows: list[list[int]] | None = None) -> HostFirmware:
    firmware = HostFirmware().armed()
    assert firmware.play(firmware.tick_number + 2, rows or FAST).result == ChunkResult.ACCEPTED
    firmware.tick()
    assert firmware.tick().state == State.RUNNING
    return firmware


def steps(reports: list[Telemetry]) -> list[float]:
    """How far the first joint moved in each tick."""
    return [b.executed[0] - a.executed[0] for a, b in pairwise(reports)]


def test_welcome_describes_the_firmware() -> None:
    (welcome,) = only(Welcome, HostFirmware(ResetCause.SOFTWARE).send(Hello(SCHEMA_HASH)))
    assert (welcome.schema_hash, welcome.limits_hash) == (SCHEMA_HASH, bench().limits_hash)
    assert (welcome.tick_period_us, welcome.counter_hz, welcome.ring_depth) == (20_000, 25_000_000, RING_DEPTH)
    assert (welcome.joints, welcome.reset_cause) == (14, ResetCause.SOFTWARE)


def test_the_firmware_boots_disarmed_at_home() -> None:
    report = HostFirmware().tick()
    assert (report.state, report.faults, report.flags) == (State.DISARMED, 0, 0)
    assert report.executed == tuple(joint.home for joint in bench().joints)


def test_a_host_of_another_version_cannot_arm() -> None:
    firmware = HostFirmware()
    firmware.send(Hello(SCHEMA_HASH ^ 1))
    firmware.tick()
    assert firmware.command(Command.ARM).result == CommandResult.WRONG_STATE


def test_arming_without_a_heartbeat_is_refused() -> None:
    firmware = HostFirmware()
    firmware.send(Hello(SCHEMA_HASH))
    firmware.tick(heartbeat=False)
    assert firmware.command(Command.ARM).result == CommandResult.NO_HEARTBEAT
    firmware.tick()
    assert firmware.command(Command.ARM) == CommandReply(2, Command.ARM, CommandResult.OK, State.ARMED, NO_JOINT)


def test_chunks_are_refused_unless_armed() -> None:
    firmware = HostFirmware()
    firmware.send(Hello(SCHEMA_HASH))
    assert firmware.play(5, FAST).result == ChunkResult.NOT_ARMED


def test_every_setpoint_is_executed_in_its_tick_and_unchanged() -> None:
    firmware = HostFirmware().armed()
    first = firmware.tick_number + 5
    firmware.play(first, FAST)
    reports = [firmware.tick() for _ in range(4 + len(FAST))]
    assert {report.state for report in reports[:4]} == {State.ARMED}
    for step, report in enumerate(reports[4:]):
        assert (report.tick, report.flags, report.state) == (first + step, TickFlag.EXECUTED, State.RUNNING)
        assert [round(value * 1e4) for value in report.executed] == FAST[step]
        assert (report.chunk_id, report.ring_level) == (1, len(FAST) - 1 - step)


def test_starvation_slows_down_and_latches() -> None:
    firmware = running(SPRINT)
    reports = [firmware.tick() for _ in range(9)]
    reports += [firmware.tick() for _ in range(10)]
    moving = steps(reports)
    assert moving[7] == pytest.approx(0.15, abs=1e-5)
    # 250 rad/s^2 take 0.004 rad off each servo step: 0.026 + 0.022 + 0.018 + 0.014 + 0.01, then 0.006 + 0.002.
    assert moving[8:10] == pytest.approx([0.09, 0.008], abs=1e-5)
    assert moving[10:] == [0.0] * 8
    assert [report.state for report in reports[8:14]] == [State.RUNNING] + [State.STARVED] * 4 + [State.SAFE]
    assert reports[9].flags & TickFlag.STARVED
    assert reports[-1].faults == Fault.STARVATION
    assert firmware.play(firmware.tick_number + 3, FAST).result == ChunkResult.NOT_ARMED


def test_fresh_setpoints_end_starvation() -> None:
    firmware = running(FAST[:3])
    reports = [firmware.tick() for _ in range(4)]
    assert [report.state for report in reports] == [State.RUNNING, State.RUNNING, State.STARVED, State.STARVED]
    firmware.play(firmware.tick_number + 2, [FAST[2]] * 20)
    assert [firmware.tick().state for _ in range(3)] == [State.STARVED, State.RUNNING, State.RUNNING]


@pytest.mark.parametrize("state", [State.ARMED, State.RUNNING])
def test_a_silent_host_stops_the_arm(state: State) -> None:
    firmware = HostFirmware().armed() if state == State.ARMED else running()
    reports = [firmware.tick(heartbeat=False) for _ in range(20)]
    stopped = next(index for index, report in enumerate(reports) if report.state == State.SAFE)
    assert stopped in (9, 10)
    assert {report.state for report in reports[:stopped]} == {state}
    assert reports[-1].faults == Fault.HEARTBEAT
    assert reports[-1].ring_level == 0
    assert steps(reports)[-1] == 0.0
    assert firmware.tick().state == State.SAFE


def test_estop_latches_in_the_next_tick_and_ramps_down() -> None:
    firmware = running(SPRINT)
    reports = [firmware.tick() for _ in range(4)]
    assert firmware.command(Command.ESTOP).state == State.ESTOP
    reports += [firmware.tick() for _ in range(5)]
    assert {report.state for report in reports[4:]} == {State.ESTOP}
    assert steps(reports)[3:] == pytest.approx([0.072, 0.0024, 0.0, 0.0, 0.0], abs=1e-5)
    assert reports[-1].faults == Fault.ESTOP_COMMAND


def test_the_estop_pin_is_seen_within_one_tick() -> None:
    firmware = running()
    firmware.library.host_press_estop(True)
    report = firmware.tick()
    assert (report.state, report.faults) == (State.ESTOP, Fault.ESTOP_PIN)
    assert firmware.command(Command.CLEAR).result == CommandResult.WRONG_STATE
    firmware.library.host_press_estop(False)
    firmware.tick()
    assert firmware.command(Command.CLEAR) == CommandReply(
        2 + 1, Command.CLEAR, CommandResult.OK, State.DISARMED, NO_JOINT
    )


def test_clear_waits_for_rest_and_then_arming_starts_anew() -> None:
    firmware = running(SPRINT)
    for _ in range(4):
        firmware.tick()
    firmware.command(Command.ESTOP)
    assert firmware.command(Command.CLEAR).result == CommandResult.WRONG_STATE
    for _ in range(3):
        firmware.tick()
    assert firmware.command(Command.ARM).result == CommandResult.WRONG_STATE
    assert firmware.command(Command.CLEAR).result == CommandResult.OK
    assert firmware.command(Command.ARM).result == CommandResult.OK
    assert firmware.tick().state == State.ARMED  # nothing of the old plan is left
    firmware.chunk_id = 0  # a new session may count its chunks anew
    assert firmware.play(firmware.tick_number + 2, FAST).result == ChunkResult.ACCEPTED


def test_disarm_slows_down_within_the_limits() -> None:
    firmware = running(SPRINT)
    reports = [firmware.tick() for _ in range(4)]
    assert firmware.command(Command.DISARM).state == State.DISARMED
    reports += [firmware.tick() for _ in range(4)]
    assert steps(reports)[3:] == pytest.approx([0.072, 0.0024, 0.0, 0.0], abs=1e-5)


def test_disarm_discards_the_plan_even_when_armed_again_at_once() -> None:
    firmware = running(SPRINT)
    firmware.tick()
    firmware.command(Command.DISARM)
    assert firmware.command(Command.ARM).result == CommandResult.OK
    assert [firmware.tick().state for _ in range(5)] == [State.ARMED] * 5


def test_a_repeated_command_is_answered_but_not_executed_again() -> None:
    firmware = HostFirmware()
    firmware.send(Hello(SCHEMA_HASH))
    firmware.tick()
    request = CommandRequest(7, Command.ARM)
    first, again = only(CommandReply, firmware.send(request, request))
    assert first == again == CommandReply(7, Command.ARM, CommandResult.OK, State.ARMED, NO_JOINT)
    firmware.send(Hello(SCHEMA_HASH))  # the host lost the link in between
    (across,) = only(CommandReply, firmware.send(request))
    assert across == first
    (fresh,) = only(CommandReply, firmware.send(CommandRequest(8, Command.ARM)))
    assert fresh.result == CommandResult.WRONG_STATE


def test_an_unknown_command_is_named_as_such() -> None:
    assert HostFirmware().command(77).result == CommandResult.UNKNOWN_COMMAND


def test_a_watchdog_reset_boots_disarmed_with_its_fault() -> None:
    firmware = HostFirmware(ResetCause.WATCHDOG)
    firmware.send(Hello(SCHEMA_HASH))
    report = firmware.tick()
    assert (report.state, report.faults) == (State.DISARMED, Fault.WATCHDOG_RESET)
    assert firmware.command(Command.ARM).result == CommandResult.WRONG_STATE
    assert firmware.command(Command.CLEAR).result == CommandResult.OK
    assert firmware.command(Command.ARM).result == CommandResult.OK


LONG_SPRINT = sprint(22)


@pytest.mark.parametrize("missed", [1, 3, 4])
def test_after_missed_ticks_the_setpoint_due_now_is_executed(missed: int) -> None:
    firmware = running(LONG_SPRINT)
    report = firmware.tick(elapsed=1 + missed)
    assert report.flags == TickFlag.EXECUTED | TickFlag.TICKS_MISSED
    assert [round(value * 1e4) for value in report.executed] == LONG_SPRINT[1 + missed]
    assert report.ring_level == len(LONG_SPRINT) - 2 - missed
    assert firmware.tick().flags == TickFlag.EXECUTED


def test_a_long_pause_moves_no_farther_than_five_ticks() -> None:
    firmware = running(LONG_SPRINT)
    before = firmware.tick()
    report = firmware.tick(elapsed=15)
    assert 0.5 < report.executed[0] - before.executed[0] <= 5 * 8.0 / 50
    assert report.state == State.RUNNING


def test_an_abrupt_stop_of_the_plan_is_not_overshot() -> None:
    rows = [moved(900)] + [moved(900 + 1500 * k) for k in range(1, 10)]  # up to 7.5 rad/s
    firmware = running(rows + [rows[-1]] * 20)
    reports = [firmware.tick() for _ in range(20)]
    assert max(report.executed[0] for report in reports) == reports[-1].executed[0] == pytest.approx(1.44)


def test_a_plan_that_cannot_be_followed_latches() -> None:
    firmware = running([moved(0), *(moved(-15000 if k // 8 % 2 else 15000) for k in range(63))])
    reports = [firmware.tick() for _ in range(60)]
    assert (reports[-1].state, reports[-1].faults) == (State.SAFE, Fault.LIMIT_SATURATION)
    assert reports[40].state == State.RUNNING


def test_a_rough_plan_that_is_reached_does_not_latch() -> None:
    """As the chunks of a policy are: rough from tick to tick, so that a limit acts at nearly every tick."""
    firmware = running([moved(40 * k + (250 if k % 2 else 0)) for k in range(64)])
    reports = [firmware.tick() for _ in range(60)]
    limited = [report for report in reports if report.flags & TickFlag.ACCELERATION_LIMITED]
    assert len(limited) > 50
    assert {report.state for report in reports} == {State.RUNNING}


def test_a_pause_beyond_half_a_second_latches() -> None:
    firmware = running()
    report = firmware.tick(elapsed=26)
    assert (report.state, report.faults) == (State.SAFE, Fault.TICK_OVERRUN)


def test_a_second_interrupt_in_the_same_tick_executes_nothing() -> None:
    firmware = running()
    firmware.library.host_tick(firmware.tick_number)
    assert only(Telemetry, firmware.poll()) == []


class InvariantChecker:
    """Checks the invariants of every tick, whatever the host sends."""

    def __init__(self) -> None:
        self.last: Telemetry | None = None
        self.steps: list[float] = []
        self.state = State.ARMED

    def check(self, report: Telemetry, elapsed: int) -> None:
        before = self.last.executed if self.last else report.executed
        steps = [now - then for now, then in zip(report.executed, before, strict=True)]
        for joint, position, step in zip(bench().joints, report.executed, steps, strict=True):
            assert joint.minimum <= position <= joint.maximum
            assert abs(step) <= min(elapsed, 5) * joint.velocity / 50 + 1e-6
        if elapsed == 1 and self.steps:
            for joint, step, earlier in zip(bench().joints, steps, self.steps, strict=True):
                assert abs(step - earlier) <= joint.acceleration / 2500 + 1e-6
        if self.state in (State.SAFE, State.ESTOP):
            assert report.state == self.state
            assert not report.flags & TickFlag.EXECUTED
        # After a pause the last step covers several ticks and says nothing of the velocity.
        self.last, self.steps, self.state = report, steps if elapsed == 1 else [], State(report.state)


ACTIONS = st.sampled_from(["chunk", "chunk", "chunk", "tick", "quiet", "skip", "arm", "disarm", "clear", "estop"])


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_no_sequence_of_events_violates_an_invariant(data: st.DataObject) -> None:
    firmware, checker = HostFirmware().armed(), InvariantChecker()
    commands = {"arm": Command.ARM, "disarm": Command.DISARM, "clear": Command.CLEAR, "estop": Command.ESTOP}
    for action in data.draw(st.lists(ACTIONS, max_size=40)):
        elapsed, ticks = 1, data.draw(st.integers(1, 6))
        if action == "chunk":
            offsets = data.draw(st.lists(st.integers(-4000, 4000), min_size=1, max_size=20))
            first = firmware.tick_number + data.draw(st.integers(-5, 10))
            firmware.play(max(first, 0), [moved(offset) for offset in offsets])
        elif action == "skip":
            elapsed, ticks = data.draw(st.integers(2, 40)), 1
        elif action in commands:
            reply = firmware.command(commands[action])
            checker.state = State(reply.state)
        for _ in range(ticks):
            checker.check(firmware.tick(elapsed, heartbeat=action != "quiet"), elapsed)


def test_home_positions_are_whole_counts() -> None:
    assert [value * 1e-4 for value in home()] == pytest.approx([joint.home for joint in bench().joints], abs=1e-6)
