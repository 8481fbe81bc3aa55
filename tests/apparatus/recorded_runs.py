"""A run without processes, as real as that allows: firmware core in lockstep, a policy, the bridge's own schedule.

What is simulated is the time alone: a chunk enters a fixed number of ticks after its observation.
"""

from __future__ import annotations

import itertools
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from policy_builders import write_checkpoint

from firmware_bridge.bridge.player import SentChunk, may_follow, report_of
from firmware_bridge.bridge.schedule import (
    ScheduledChunk,
    check_actions,
    chunk_of,
    fragments,
    link_number,
    schedule,
)
from firmware_bridge.client import Tick
from firmware_bridge.firmware.joint_table import load_joint_table
from firmware_bridge.link.measurements import measurements_at
from firmware_bridge.link.transfer import Transfer
from firmware_bridge.lockstep.host_firmware import HostFirmware, only
from firmware_bridge.replanning import ChunkScheduler
from firmware_bridge.robot import joints_of
from firmware_bridge.splice import GUARD_TICKS, NOTHING, HoldSwap, Plan, RealTimeChunking, Splice, chunk_splice
from pi0_edge.cameras import CameraImage
from pi0_edge.policy import Policy
from pi0_edge.processing import Observation
from pi0_edge.protos.bridge_pb2 import ChunkReport
from pi0_edge.protos.serial_link import (
    NO_JOINT,
    ChunkReply,
    Command,
    Fault,
    Measured,
    Ping,
    State,
    Telemetry,
    TickFlag,
)
from pi0_edge.robots import load_robot
from pi0_edge.run.events import Answered, Event, Observed
from pi0_edge.run.interventions import setpoints_text
from pi0_edge.run.recording import RunDescription, RunRecorder
from pi0_edge.run.recording.file_reader import Place
from pi0_edge.serving.messages import describe_policy, read_plan

ROBOT = "aloha_sim"
CAMERA = "top"
PROMPT = "Transfer cube"
TICK_NS = 20_000_000
IMAGE_EVERY = 2
"""Ticks between two images of the camera."""
COUNTER_HZ = 25_000_000
OFF = 0.0005
"""How far from its commanded position a joint is measured, in its unit."""
STD = 0.001
"""Of the actions of `write_calm_policy`, rad."""


@dataclass
class LockstepRun:
    """One run, driven tick by tick.

    Attributes:
        policy: Answers observations.
        listener: Is told everything.
        splice: How chunks continue the plan.
        delay: Ticks from an observation to its chunk.
        replan: Ticks between two observations.
        first_tick: The firmware has executed so many ticks before.
        bridge: How the bridge enters chunks.
        images: How many images the camera has taken.
        late: Of each chunk, the ticks from its first fragment to its last.
        ahead: Setpoints of a chunk that are sent ahead of its rest to an arm that moves.
        cut: The rest of a chunk does not arrive.
        deaf: The bridge does not hear that a chunk was committed.
    """

    policy: Policy
    listener: RunRecorder
    splice: Splice = field(default_factory=RealTimeChunking)
    delay: int = 3
    replan: int = 10
    first_tick: int = 1000
    bridge: Splice = field(default_factory=HoldSwap)
    images: int = 0
    late: Iterator[int] = field(default_factory=lambda: itertools.repeat(0))
    ahead: int = 0
    cut: bool = False
    deaf: bool = False

    def __post_init__(self) -> None:
        self.table = load_joint_table(ROBOT)
        self.robot = joints_of(self.table)
        self.firmware = HostFirmware(self.table)
        self.scheduler = ChunkScheduler(self.splice, self.replan)
        self.pending: tuple[int, Observed, NDArray[np.float32]] | None = None
        self.chunk_id = 0
        self.last: Tick | None = None
        self.image: CameraImage | None = None
        self.heartbeat = True
        self.plan, self.plan_id = NOTHING, 0
        self.on_the_way: tuple[int, Callable[[], None]] | None = None
        self.firmware.tick(elapsed=self.first_tick - 1)

    @property
    def now_ns(self) -> int:
        """A clock that goes with the ticks."""
        return 1_000_000_000 + self.firmware.tick_number * TICK_NS

    def arm(self) -> None:
        """One tick at rest, then ARM."""
        self.step()
        self.firmware.armed()
        self.measure()
        self.say("armed")
        self.tick_told()

    def play_again(self, ticks: int = 20) -> None:
        """Arms an arm that rests disarmed, without a plan, and plays."""
        self.pending = self.on_the_way = None
        self.scheduler = ChunkScheduler(self.splice, self.replan)
        self.arm()
        self.play(ticks)

    def tick_told(self, elapsed: int = 1) -> Tick:
        """Runs a tick, `elapsed` after the last, and tells the listener."""
        firmware = self.firmware
        if self.heartbeat:
            firmware.receive(firmware.frame(Ping(firmware.tick_number, 0)))
            firmware.library.host_poll()
        firmware.tick_number += elapsed
        firmware.library.host_servo(firmware.tick_number, 0)
        sent = firmware.poll()
        (report,), (measured,) = only(Telemetry, sent), only(Measured, sent)
        return self._tell(report, measured)

    def measure(self, **values: Any) -> None:
        """What the servos say from now on: where they are, a little off, and what is given here."""
        for joint in range(self.robot.count):
            self.firmware.measure(joint, OFF, near=True, **values)

    def step(self, act: Callable[[], object] = lambda: None, servo_step: int = 0) -> Tick:
        """One tick, with images, the policy and the bridge; `act` acts after `servo_step` further servo steps."""
        if self.firmware.tick_number % IMAGE_EVERY == 0 or self.image is None:
            self.images += 1
            self.image = CameraImage(picture(self.images), self.now_ns - 5_000_000, self.images)
            self.listener.on_image(CAMERA, self.image)
        self._bridge()
        for step in range(1, servo_step + 1):
            self.firmware.servo(step)
        act()
        return self.tick_told()

    def play(self, ticks: int) -> None:
        """Plays so many ticks with the policy."""
        for _ in range(ticks):
            self.step()
            if self.last is not None and self.pending is None and self.scheduler.due(self.last.tick):
                self._ask(self.last)

    def command(self, command: Command, servo_step: int = 0) -> None:
        """A tick in which a command acts after so many servo steps."""
        self.step(lambda: self.firmware.command(command), servo_step)

    def lead(self, rows: NDArray[np.float64], told: bool = True) -> int:
        """Plays setpoints of a person, [rows, joints], as `pi0-edge run` does; returns their first tick.

        `told`: whether the listener hears of it. A second client of the bridge tells nobody.
        """
        tick = self.firmware.tick_number
        actions = rows.astype(np.float32)

        def say(report: ChunkReport) -> None:
            assert report.outcome == ChunkReport.ACCEPTED
            if told:
                text = setpoints_text(tick, rows, report)
                self.listener.on_event(Event(report.first_tick, self.now_ns, "setpoints", text))

        self._send(actions, tick, say)
        return tick + GUARD_TICKS

    def where(self, rows: int = 30) -> NDArray[np.float64]:
        """Rows that hold the arm where it is."""
        return np.tile([float(motion.position) for motion in self.firmware.motion()], (rows, 1))

    def say(self, name: str, text: str = "", tick: int | None = None) -> None:
        """Tells of an event at a tick, the last one where None."""
        if tick is None:
            tick = 0 if self.last is None else self.last.tick
        self.listener.on_event(Event(tick, self.now_ns, name, text))

    def _ask(self, tick: Tick) -> None:
        assert self.image is not None
        continuation = self.scheduler.observe(tick.tick)
        observed = Observed(
            tick=tick.tick,
            time_ns=self.now_ns,
            images={CAMERA: self.image},
            state=tick.measured,
            prompt=PROMPT,
            noise_seed=tick.tick,
            continuation=continuation,
        )
        self.listener.on_observed(observed)
        plan = None if continuation is None else read_plan(continuation, self.robot.count)
        chunk = self.policy.infer(Observation({CAMERA: self.image.pixels}, tick.measured, PROMPT), tick.tick, plan)
        self.pending = tick.tick + self.delay, observed, chunk.actions.astype(np.float32)

    def _bridge(self) -> None:
        """Sends a chunk that has come, and what of an earlier one is still on its way."""
        if self.on_the_way is not None and self.firmware.tick_number >= self.on_the_way[0]:
            self._arrive()
        if self.pending is None or self.firmware.tick_number < self.pending[0] or self.on_the_way is not None:
            return
        _, observed, actions = self.pending
        self.pending = None

        def answered(report: ChunkReport) -> None:
            self.listener.on_answered(Answered(observed, self.now_ns, actions, (), 1.0, 60.0, report))
            if report.outcome == ChunkReport.ACCEPTED:
                self.scheduler.entered(actions, report.first_tick)
            else:
                self.scheduler.lost()

        self._send(actions, observed.tick, answered)

    def _send(self, actions: NDArray[np.float32], tick: int, answered: Callable[[ChunkReport], None]) -> None:
        """As `ChunkPlayer` does: checks, splices and schedules a chunk; `late` ticks pass until all of it is there.

        Of a chunk whose head goes ahead, `late` ticks pass from its head to its rest.
        """
        self.chunk_id += 1
        earliest = self.firmware.tick_number + GUARD_TICKS
        if self.last is None or self.last.state != State.RUNNING:
            self.plan, self.plan_id = NOTHING, 0
        whole = Plan(tick + 1, check_actions(actions, self.robot))
        spliced = self.bridge.enter(self.plan, whole, max(tick + 1, earliest))
        chunk = schedule(spliced.setpoints, tick, earliest, self.robot)
        if chunk is None:
            answered(ChunkReport(outcome=ChunkReport.LATE, chunk_id=self.chunk_id))
            return
        is_moving = self.last is not None and self.last.state in (State.RUNNING, State.STARVED)
        ahead = self.ahead if is_moving and self.ahead < len(chunk.counts) else 0
        head, rest = (None, chunk) if not ahead else chunk.split(ahead)
        first = None if head is None else self._deliver(link_number(self.chunk_id, is_head=True), head)

        def arrive() -> None:
            if first is not None and not may_follow(first):
                sent = SentChunk(first, head_steps=ahead)
            else:
                is_cut = self.cut and first is not None
                sent = SentChunk(self._deliver(link_number(self.chunk_id), rest, is_cut), first, ahead)
            self._report(chunk, spliced, sent, answered)

        self.on_the_way = self.firmware.tick_number + (late := next(self.late)), arrive
        if not late:
            self._arrive()

    def _arrive(self) -> None:
        assert self.on_the_way is not None
        _, arrive = self.on_the_way
        self.on_the_way = None
        arrive()

    def _deliver(self, number: int, piece: ScheduledChunk, is_cut: bool = False) -> Transfer:
        transfer = Transfer(number, fragments(number, piece))
        if not is_cut:
            transfer.reply = only(ChunkReply, self.firmware.send(*transfer.fragments))[-1]
        return transfer

    def _report(
        self, chunk: ScheduledChunk, spliced: Plan, sent: SentChunk, answered: Callable[[ChunkReport], None]
    ) -> None:
        report = report_of(chunk, sent, self.robot)
        report.follows = self.plan_id
        if self.deaf:
            report.outcome, report.decided_tick, report.head_tick = ChunkReport.LOST, 0, 0
            report.first_tick = chunk.first_tick
        elif report.outcome == ChunkReport.ACCEPTED:
            self.plan, self.plan_id = spliced.since(report.first_tick), self.chunk_id
        elif report.head_tick:
            end = chunk.first_tick + report.head_steps - 1
            self.plan, self.plan_id = spliced.since(report.first_tick).until(end), self.chunk_id
        answered(report)

    def _tell(self, telemetry: Telemetry, message: Measured) -> Tick:
        measured = measurements_at(telemetry, message, self.robot, TICK_NS * 1e-9)
        self.last = Tick(
            tick=telemetry.tick,
            counter=telemetry.counter,
            counter_hz=COUNTER_HZ,
            state=State(telemetry.state),
            faults=Fault(telemetry.faults),
            ring_level=telemetry.ring_level,
            chunk_id=chunk_of(telemetry.chunk_id),
            flags=TickFlag(telemetry.flags),
            executed=np.array(telemetry.executed, np.float32),
            observed_tick=telemetry.observed_tick,
            host_time_s=self.now_ns * 1e-9,
            measured=measured.position,
            measurement_age_s=measured.age_s,
            current=measured.current,
            joint_flags=measured.flags,
            fault_joint="" if telemetry.fault_joint == NO_JOINT else self.robot.names[telemetry.fault_joint],
        )
        self.listener.on_tick(self.last)
        return self.last


def write_calm_policy(folder: Path) -> Path:
    """A checkpoint of random weights that trembles around home, so that the firmware has something to limit."""
    home = np.array([joint.home for joint in load_joint_table(ROBOT).joints])
    return write_checkpoint(folder, ROBOT, {"mean": home, "std": np.full(len(home), STD)})


def picture(number: int, height: int = 112, width: int = 112) -> NDArray[np.uint8]:
    """An image with edges, gradients and noise, other for each number; uint8 [height, width, 3]."""
    rng = np.random.default_rng(number)
    y, x = np.mgrid[:height, :width]
    smooth = np.stack([x + number, y, x + y], -1) % 256
    noisy = smooth + rng.normal(0, 4, smooth.shape)
    noisy[20:40, (number * 3) % 80 : (number * 3) % 80 + 20] = (200, 30, 30)
    return np.clip(noisy, 0, 255).astype(np.uint8)


def description_of(policy: Policy, **changes: object) -> RunDescription:
    """What a run with this policy is made of."""
    values: dict[str, Any] = {"splice": "rtc", "calibration": "zero: 0\n", "cameras": {CAMERA: {"fps": 25}}}
    values |= {"robot": load_robot(ROBOT), "policy": describe_policy(policy)}
    return RunDescription(**{**values, **changes})


def recorded_run(
    path: Path,
    policy: Policy,
    drive: Callable[[LockstepRun], object],
    lossless: bool = True,
    bridge: str = HoldSwap.name,
    **described: object,
) -> Path:
    """Records a run that `drive` drives.

    Args:
        path: The recording.
        policy: Plays.
        drive: Arms, plays, and so on.
        lossless: As for `RunRecorder`.
        bridge: Splice policy of the bridge.
        described: Further fields of the description.
    """
    description = description_of(policy, bridge_splice=bridge, **described)
    with RunRecorder(path, description, lossless=lossless) as recorder:
        drive(LockstepRun(policy, recorder, bridge=chunk_splice(bridge)))
    assert recorder.ended is None
    return path


def ordinary(run: LockstepRun, ticks: int = 120) -> None:
    """Arms, plays, disarms and comes to rest."""
    run.arm()
    run.play(ticks)
    run.say("label", "success")
    run.command(Command.DISARM, servo_step=2)
    run.say("disarmed")
    for _ in range(60):
        run.step()


CHUNK, DATA_END, MESSAGE = 0x06, 0x0F, 0x05
_HEAD = struct.Struct("<BQ")
_CRC_AT = _HEAD.size + 24
"""Of the CRC-32 in the record of a chunk: after two times and the size."""


def change_bit(path: Path, offset: int, bit: int = 0, mend_crc: bool = True) -> None:
    """Changes one bit of a recording; with its CRC-32 made right again, so that only its meaning is wrong."""
    data = bytearray(path.read_bytes())
    data[offset] ^= 1 << bit
    place = 8
    while place < len(data):
        opcode, length = _HEAD.unpack_from(data, place)
        end = place + _HEAD.size + length
        if opcode == CHUNK and place <= offset < end and mend_crc:
            size = int.from_bytes(data[place + _HEAD.size + 16 : place + _CRC_AT], "little")
            data[place + _CRC_AT : place + _CRC_AT + 4] = zlib.crc32(data[end - size : end]).to_bytes(4, "little")
        if opcode == DATA_END:
            if mend_crc:
                data[place + _HEAD.size : place + _HEAD.size + 4] = zlib.crc32(data[:place]).to_bytes(4, "little")
            break
        place = end
    path.write_bytes(data)


def offset_of(path: Path, place: Place, value: bytes) -> int:
    """Where in a record some bytes are, of which there is exactly one."""
    record = path.read_bytes()[place.offset : place.end]
    assert record.count(value) == 1, record.count(value)
    return place.offset + record.index(value)
