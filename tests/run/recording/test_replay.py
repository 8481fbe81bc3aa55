"""A recorded run is computed again bit for bit, and one changed bit is found where it is."""

from __future__ import annotations

import itertools
import random
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from recorded_runs import CAMERA, LockstepRun, change_bit, description_of, offset_of, ordinary, recorded_run

from firmware_bridge.client import Tick
from firmware_bridge.robot import ACTIVE_STATES
from pi0_edge.errors import RecordingError
from pi0_edge.policy import Policy
from pi0_edge.protos.bridge_pb2 import ChunkReport
from pi0_edge.protos.serial_link import Command, Fault, JointFlag, State
from pi0_edge.run.recording import RunRecorder, RunRecording
from pi0_edge.run.recording.chunk_replay import replay_chunks
from pi0_edge.run.recording.replay import contradiction, replay
from pi0_edge.run.recording.tick_replay import replay_ticks

pytestmark = pytest.mark.system


@pytest.fixture
def changed(run_file: Path, tmp_path: Path) -> Path:
    """A copy of the ordinary run."""
    return Path(shutil.copy(run_file, tmp_path / "changed.mcap"))


def test_an_ordinary_run_is_the_same_bit_for_bit(run_file: Path, policy: Policy) -> None:
    recording = RunRecording(run_file)
    report = replay(recording, policy)
    assert report.exact, report
    assert report.chunks.computed == report.chunks.chunks == len(recording.answers) >= 15
    limited = [tick for tick in recording.ticks if tick.message.flags > 1]
    assert len(limited) > 20  # the limiter had something to do, so the positions are not just the setpoints
    assert report.ticks.computed + report.ticks.resting == report.ticks.ticks and report.ticks.computed > 100


def test_a_changed_bit_of_a_chunk_is_found_by_both(changed: Path, policy: Policy) -> None:
    answer = RunRecording(changed).answers[7]
    row, joint = 4, 9
    value = struct.pack("<f", answer.message.chunk.actions[row * 14 + joint])
    change_bit(changed, offset_of(changed, answer.place, value) + 2, bit=6)
    report = replay(RunRecording(changed), policy)
    difference = report.chunks.difference
    assert difference is not None and "chunk 8 " in difference.where and f"row {row}, joint" in difference.where
    assert difference.place == answer.place and "1 of its 140 values" in difference.hint
    assert report.ticks.difference is not None and "tick" in report.ticks.difference.where


def test_the_last_bit_of_a_chunk_is_found(changed: Path, policy: Policy) -> None:
    answer = RunRecording(changed).answers[3]
    value = struct.pack("<f", answer.message.chunk.actions[-1])
    change_bit(changed, offset_of(changed, answer.place, value))
    difference = replay_chunks(RunRecording(changed), policy).difference
    assert difference is not None and "chunk 4 " in difference.where and difference.place == answer.place
    assert difference.by is not None and 0 < difference.by < 1e-6


def test_the_last_bit_of_a_tick_is_found(changed: Path) -> None:
    tick = RunRecording(changed).ticks[60]
    change_bit(changed, offset_of(changed, tick.place, struct.pack("<f", tick.message.executed[1])))
    difference = replay_ticks(RunRecording(changed)).difference
    assert difference is not None and difference.place == tick.place
    assert f"tick {tick.message.tick}, joint left_shoulder" in str(difference)


@pytest.mark.parametrize("field", ["ring_level", "chunk_id", "state"])
def test_a_changed_number_of_a_tick_is_found(changed: Path, field: str) -> None:
    tick = RunRecording(changed).ticks[60]
    number = tick.message.DESCRIPTOR.fields_by_name[field].number
    value = bytes([number << 3, getattr(tick.message, field)])
    change_bit(changed, offset_of(changed, tick.place, value) + 1)
    difference = replay_ticks(RunRecording(changed)).difference
    assert difference is not None and difference.place == tick.place, difference


def test_the_last_bit_of_a_state_is_found(changed: Path) -> None:
    asked = RunRecording(changed).observations[5]
    change_bit(changed, offset_of(changed, asked.place, struct.pack("<f", asked.message.state[8])))
    difference = contradiction(RunRecording(changed))
    assert difference is not None and difference.place == asked.place
    assert f"observation of tick {asked.message.tick}, state of joint right_shoulder" in difference.where


def test_a_changed_noise_seed_is_found(changed: Path, policy: Policy) -> None:
    asked = RunRecording(changed).observations[2]
    seed = asked.message.noise_seed
    varint = bytes([6 << 3, (seed & 0x7F) | 0x80, seed >> 7])
    change_bit(changed, offset_of(changed, asked.place, varint) + 1)
    difference = replay_chunks(RunRecording(changed), policy).difference
    assert difference is not None and "chunk 3 " in difference.where
    assert str(asked.place) in difference.hint  # so many values differ that the observation is to blame


def test_a_changed_bit_of_an_image_is_found(changed: Path, policy: Policy) -> None:
    recording = RunRecording(changed)
    wanted = recording.observations[4].message.images[0]
    place = next(
        image.place
        for image in recording.images(CAMERA)
        if image.taken_ns == wanted.taken_ns and image.place.size > 20_000  # the PNG, not the JPEG of the same moment
    )
    change_bit(changed, place.offset + place.size // 2)
    report = replay(RunRecording(changed), policy)
    assert not report.exact
    difference = report.chunks.difference
    assert difference is not None and difference.place == place and "chunk 5" in difference.where, difference


def test_without_the_right_crc_every_change_is_found_on_reading(changed: Path, policy: Policy) -> None:
    tick = RunRecording(changed).ticks[60]
    change_bit(changed, tick.place.offset + 40, mend_crc=False)
    recording = RunRecording(changed)
    assert len(recording.damage) == 1
    damage = recording.damage[0]
    assert damage.place.offset <= tick.place.offset < damage.place.end and "CRC-32" in str(damage)
    assert not replay(recording, policy).exact


def test_another_policy_is_refused_and_named(run_file: Path, checkpoint: Path) -> None:
    other = Policy.load(checkpoint, engine="cpu")
    with pytest.raises(RecordingError, match=r"engine 'cpu'.*'reference'.*--policy"):
        replay_chunks(RunRecording(run_file), other)


def test_jpeg_images_are_not_compared_bit_for_bit_and_say_so(policy: Policy, tmp_path: Path) -> None:
    path = recorded_run(tmp_path / "small.mcap", policy, lambda run: ordinary(run, 30), lossless=False)
    report = replay(RunRecording(path), policy)
    assert "JPEG" in report.chunks.why_not and report.ticks.difference is None and report.ticks.computed > 20
    assert not report.exact and report.same


@pytest.mark.parametrize("bridge", ["linear-blend", "temporal-ensemble"])
def test_what_the_bridge_blends_is_blended_again(policy: Policy, tmp_path: Path, bridge: str) -> None:
    def drive(run: LockstepRun) -> None:
        run.delay, run.replan = 1, 3  # so that up to three chunks have a setpoint for the same tick
        run.play_again(80)

    path = recorded_run(tmp_path / "run.mcap", policy, drive, bridge=bridge)
    report = replay_ticks(RunRecording(path))
    assert report.difference is None and report.computed > 60


@pytest.mark.parametrize("bridge", ["hold-swap", "linear-blend", "temporal-ensemble"])
def test_chunks_of_which_fragments_were_sent_again_are_the_same(policy: Policy, tmp_path: Path, bridge: str) -> None:
    def drive(run: LockstepRun) -> None:
        run.delay, run.replan = 1, 4
        run.late = itertools.cycle([0, 3, 6, 1])
        run.play_again(80)

    recording = RunRecording(recorded_run(tmp_path / "run.mcap", policy, drive, bridge=bridge))
    reports = [answer.message.report for answer in recording.answers]
    overtaken = [report for report in reports if report.first_tick > report.sent_tick > 0]
    assert len(overtaken) > 3 and all(report.decided_tick for report in overtaken)
    report = replay_ticks(recording)
    assert report.difference is None, report.difference
    assert report.unknown == 0 and report.computed > 60


@pytest.mark.parametrize("bridge", ["hold-swap", "linear-blend", "temporal-ensemble"])
def test_chunks_whose_heads_went_ahead_are_the_same(policy: Policy, tmp_path: Path, bridge: str) -> None:
    def drive(run: LockstepRun) -> None:
        run.delay, run.replan, run.ahead = 1, 6, 5
        run.late = itertools.cycle([0, 1, 4, 0, 7])
        run.play_again(90)

    recording = RunRecording(recorded_run(tmp_path / "run.mcap", policy, drive, bridge=bridge))
    reports = [answer.message.report for answer in recording.answers]
    assert sum(report.head_tick > 0 and report.decided_tick > report.head_tick for report in reports) > 4
    report = replay_ticks(recording)
    assert report.difference is None, report.difference
    assert report.unknown == 0 and report.computed > 70


@pytest.mark.parametrize("bridge", ["hold-swap", "linear-blend", "temporal-ensemble"])
def test_a_head_whose_rest_never_came_is_the_same_and_its_plan_is_known(
    policy: Policy, tmp_path: Path, bridge: str
) -> None:
    def drive(run: LockstepRun) -> None:
        run.delay, run.replan, run.ahead = 1, 6, 5
        run.play_again(30)
        run.cut = True
        run.play(7)
        run.cut = False
        run.play(40)

    recording = RunRecording(recorded_run(tmp_path / "run.mcap", policy, drive, bridge=bridge))
    reports = [answer.message.report for answer in recording.answers]
    alone = [report for report in reports if report.head_tick and report.outcome == ChunkReport.LOST]
    assert alone and {report.chunk_id for report in alone} & {report.follows for report in reports}
    report = replay_ticks(recording)
    assert report.difference is None, report.difference
    assert report.unknown == 0 and report.computed > 60


@pytest.mark.parametrize("bridge", ["hold-swap", "linear-blend", "temporal-ensemble"])
@pytest.mark.parametrize("ahead", [0, 5])
def test_a_chunk_that_was_committed_without_the_bridge_hearing_of_it_is_found(
    policy: Policy, tmp_path: Path, bridge: str, ahead: int
) -> None:
    def drive(run: LockstepRun) -> None:
        run.ahead = ahead
        run.play_again(30)
        run.deaf = True
        run.play(14)
        run.deaf = False
        run.play(40)

    recording = RunRecording(recorded_run(tmp_path / "run.mcap", policy, drive, bridge=bridge))
    lost = {a.message.report.chunk_id for a in recording.answers if a.message.report.outcome == ChunkReport.LOST}
    assert lost & {tick.message.chunk_id for tick in recording.ticks}
    report = replay_ticks(recording)
    assert report.difference is None, report.difference
    assert report.unknown == 0 and report.computed > 80


def test_a_chunk_blended_into_a_plan_that_was_not_recorded_is_unknown_and_not_blamed(
    policy: Policy, tmp_path: Path
) -> None:
    def drive(run: LockstepRun) -> None:
        run.play_again(20)
        run.pending = None
        run.lead(run.where(), told=False)
        run.scheduler.lost()
        run.play(20)
        run.command(Command.DISARM)
        _rest(run)
        run.play_again(30)

    recording = RunRecording(recorded_run(tmp_path / "run.mcap", policy, drive, bridge="linear-blend"))
    report = replay_ticks(recording)
    assert report.difference is None, report.difference
    assert report.unknown >= 20 and report.computed > 40


def test_a_bridge_that_does_not_say_how_it_enters_chunks_is_named(policy: Policy, tmp_path: Path) -> None:
    path = tmp_path / "run.mcap"
    with RunRecorder(path, description_of(policy, bridge_splice="")) as recorder:
        ordinary(LockstepRun(policy, recorder), 10)
    with pytest.raises(RecordingError, match=r"did not say how it enters chunks.*update it"):
        replay_ticks(RunRecording(path))


# What happens to an arm.


def _play(run: LockstepRun, ticks: int = 25) -> None:
    run.arm()
    run.play(ticks)


def _rest(run: LockstepRun, ticks: int = 60) -> None:
    for _ in range(ticks):
        run.step()


def _clear(run: LockstepRun) -> None:
    run.command(Command.CLEAR)
    run.step()
    run.scheduler.lost()


def _silent_host(run: LockstepRun) -> None:
    _play(run)
    run.heartbeat = False
    _rest(run, 30)
    run.heartbeat = True
    _rest(run)
    _clear(run)


def _starving(run: LockstepRun) -> None:
    _play(run)
    _rest(run)
    _clear(run)


def _estop(run: LockstepRun, step: int) -> None:
    _play(run)
    run.command(Command.ESTOP, step)
    _rest(run)
    _clear(run)


def _estop_pin(run: LockstepRun, step: int) -> None:
    def press() -> None:
        run.firmware.library.host_press_estop(True)
        if step + 1 < run.firmware.servo_steps:
            run.firmware.servo(step + 1)

    _play(run)
    run.step(press, step)
    run.firmware.library.host_press_estop(False)
    _rest(run)
    _clear(run)


def _contact(run: LockstepRun) -> None:
    _play(run)
    run.measure(current=9.0)
    _rest(run)
    _clear(run)


def _servo_error(run: LockstepRun) -> None:
    _play(run)
    run.measure(flags=JointFlag.MEASURED | JointFlag.TORQUE | JointFlag.OVERLOADED)
    _rest(run)
    _clear(run)


def _silent_bus(run: LockstepRun) -> None:
    _play(run)
    run.measure(age=255)
    _rest(run)
    run.measure()
    _clear(run)


def _late_interrupt(run: LockstepRun) -> None:
    _play(run)
    run.tick_told(elapsed=3)
    run.play(20)
    run.tick_told(elapsed=2)
    run.play(10)


def _lost_telemetry(run: LockstepRun) -> None:
    _play(run)
    for lost in (1, 2):
        run.play(15)
        for _ in range(lost):
            run.firmware.tick()
    run.play(10)


def _twice_armed(run: LockstepRun) -> None:
    ordinary(run, 30)
    run.play_again()
    run.play(30)


def _after(step: int, drive: Callable[[LockstepRun, int], None]) -> Callable[[LockstepRun], None]:
    return lambda run: drive(run, step)


STEPS = range(5)  # of a tick
CASES: dict[str, tuple[Callable[[LockstepRun], None], State, Fault]] = {
    "silent host": (_silent_host, State.SAFE, Fault.HEARTBEAT),
    "no more chunks": (_starving, State.SAFE, Fault.STARVATION),
    **{f"e-stop command after step {n}": (_after(n, _estop), State.ESTOP, Fault.ESTOP_COMMAND) for n in STEPS},
    **{f"e-stop pin after step {n}": (_after(n, _estop_pin), State.ESTOP, Fault.ESTOP_PIN) for n in STEPS},
    "contact": (_contact, State.SAFE, Fault.CONTACT),
    "error of a servo": (_servo_error, State.SAFE, Fault.SERVO_ERROR),
    "silent bus": (_silent_bus, State.SAFE, Fault.BUS_SILENT),
    "late interrupt": (_late_interrupt, State.RUNNING, Fault(0)),
    "lost telemetry": (_lost_telemetry, State.RUNNING, Fault(0)),
    "armed twice": (_twice_armed, State.RUNNING, Fault(0)),
}


@pytest.mark.parametrize("name", CASES)
def test_whatever_happens_to_the_arm_its_ticks_are_the_same(policy: Policy, tmp_path: Path, name: str) -> None:
    drive, state, fault = CASES[name]
    recording = RunRecording(recorded_run(tmp_path / "run.mcap", policy, drive))
    seen = {(State(tick.message.state), Fault(tick.message.faults)) for tick in recording.ticks}
    assert any(found == state and faults & fault == fault for found, faults in seen), seen
    report = replay_ticks(recording)
    assert report.difference is None, report.difference
    assert report.unknown == 0 and report.computed > 30


@pytest.mark.parametrize("seed", range(4))
def test_any_mixture_of_what_can_happen_is_the_same(policy: Policy, tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)

    def act(run: LockstepRun) -> None:
        what = chance.choice(["disarm", "estop", "pin", "late", "lost", "silent", "guard", "person", "play", "play"])
        if what in ("disarm", "estop"):
            run.command(Command.DISARM if what == "disarm" else Command.ESTOP, chance.randrange(5))
        elif what == "pin":
            run.step(lambda: run.firmware.library.host_press_estop(True), chance.randrange(5))
            run.firmware.library.host_press_estop(False)
        elif what == "late":
            run.tick_told(elapsed=chance.choice([2, 3, 4, 6, 12]))
        elif what == "lost":
            for _ in range(chance.randrange(1, 3)):
                run.firmware.tick()
        elif what == "silent":
            run.heartbeat = False
            _rest(run, chance.randrange(1, 15))
            run.heartbeat = True
        elif what == "guard":
            run.measure(**chance.choice([{"current": 9.0}, {"age": 255}, {"temperature": 99}, {"volts": 3.0}]))
            _rest(run, chance.randrange(1, 60))
            run.measure()
        elif what == "person":
            run.pending = None
            run.lead(run.where(chance.randrange(5, 30)))
            _rest(run, chance.randrange(1, 10))
            run.scheduler.lost()
        run.play(chance.randrange(1, 15))

    def drive(run: LockstepRun) -> None:
        for _ in range(6):
            _rest(run, 2)
            run.play_again()
            for _ in range(chance.randrange(1, 4)):
                if run.last is not None and run.last.state in ACTIVE_STATES:
                    act(run)
            run.pending = None
            _rest(run, 70)
            if run.last is not None and run.last.state != State.DISARMED:
                run.command(Command.CLEAR)

    recording = RunRecording(recorded_run(tmp_path / "run.mcap", policy, drive))
    report = replay_ticks(recording)
    assert report.difference is None, report.difference
    assert report.unknown == 0 and report.computed > 100


def test_setpoints_of_somebody_else_are_counted_and_not_blamed(policy: Policy, tmp_path: Path) -> None:
    def drive(run: LockstepRun) -> None:
        _play(run)
        run.pending = None
        run.lead(run.where(), told=False)
        _rest(run, 25)
        run.command(Command.DISARM)
        _rest(run)
        run.scheduler.lost()
        ordinary(run, 30)

    recording = RunRecording(recorded_run(tmp_path / "run.mcap", policy, drive))
    report = replay_ticks(recording)
    assert report.difference is None, report.difference
    assert report.unknown >= 20 and report.computed > 50


@pytest.mark.parametrize("bridge", ["hold-swap", "linear-blend", "temporal-ensemble"])
def test_setpoints_of_a_person_are_computed_again(policy: Policy, tmp_path: Path, bridge: str) -> None:
    def drive(run: LockstepRun) -> None:
        _play(run)
        run.pending = None
        for count in range(12):  # a person who moves a joint
            rows = run.where(15)
            rows[:, 3] += np.linspace(0.002, 0.02, 15) * (1 if count < 6 else -1)
            first = run.lead(rows)
            if count == 0:
                run.say("person", "the ticks are the person's", first)
            for _ in range(5):
                run.step()
        run.scheduler.lost()
        run.play(30)

    recording = RunRecording(recorded_run(tmp_path / "run.mcap", policy, drive, bridge=bridge))
    report = replay_ticks(recording)
    assert report.difference is None, report.difference
    assert report.unknown == 0 and report.computed > 110
    moved = [tick.message.executed[3] for tick in recording.ticks]
    assert max(moved) - min(moved) > 0.02


def test_a_recording_that_begins_in_the_middle_is_computed_from_the_next_arm_on(policy: Policy, tmp_path: Path) -> None:
    told: list[Tick] = []

    def drive(run: LockstepRun) -> None:
        recorder, run.listener.on_tick = run.listener.on_tick, told.append  # type: ignore[method-assign]
        _play(run)
        run.listener.on_tick = recorder  # type: ignore[method-assign]
        run.play(20)
        run.command(Command.DISARM)
        _rest(run)
        ordinary(run, 30)

    report = replay_ticks(RunRecording(recorded_run(tmp_path / "run.mcap", policy, drive)))
    assert report.difference is None and report.unknown >= 20 and report.computed > 30


def test_the_pixels_that_the_policy_saw_are_kept(run_file: Path) -> None:
    from recorded_runs import picture

    recording = RunRecording(run_file)
    for asked in recording.observations:
        (pixels, same) = recording.observed_pixels(asked)[CAMERA]
        assert same
        np.testing.assert_array_equal(pixels, picture(asked.message.images[0].sequence))
