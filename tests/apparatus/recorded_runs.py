"""A run without processes, as real as that allows: the firmware's core in lockstep, a policy, the bridge's own schedule.

What is simulated is the time alone: a chunk enters a fixed number of ticks after its observation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from firmware_bridge.bridge.schedule import GUARD_TICKS, check_actions, fragments, schedule
from firmware_bridge.client import Tick
from firmware_bridge.firmware.joint_table import load_joint_table
from firmware_bridge.lockstep.host_firmware import HostFirmware, only
from firmware_bridge.replanning import ChunkScheduler
from firmware_bridge.robot import joints_of
from firmware_bridge.splice import RealTimeChunking, Splice
from pi0_edge.cameras import CameraImage
from pi0_edge.policy import Policy
from pi0_edge.processing import Observation
from pi0_edge.protos.bridge_pb2 import ChunkReport
from pi0_edge.protos.serial_link import ChunkReply, ChunkResult, Command, Fault, State, Telemetry, TickFlag
from pi0_edge.robots import load_robot
from pi0_edge.run.events import Answered, Event, Observed
from pi0_edge.run.recording import RunDescription, RunRecorder
from pi0_edge.serving.messages import describe_policy, read_plan

ROBOT = "aloha_sim"
CAMERA = "top"
PROMPT = "Transfer cube"
TICK_NS = 20_000_000
IMAGE_EVERY = 2
"""Ticks between two images of the camera."""
COUNTER_HZ = 25_000_000


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
        images: How many images the camera has taken.
    """

    policy: Policy
    listener: RunRecorder
    splice: Splice = field(default_factory=RealTimeChunking)
    delay: int = 3
    replan: int = 10
    first_tick: int = 1000
    images: int = 0

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
        self.firmware.tick(elapsed=self.first_tick - 1)

    @property
    def now_ns(self) -> int:
        """A clock that goes with the ticks."""
        return 1_000_000_000 + self.firmware.tick_number * TICK_NS

    def arm(self) -> None:
        """One tick at rest, then ARM."""
        self.step()
        self.firmware.armed()
        self.say("armed")
        self.tick_told()

    def tick_told(self) -> Tick:
        """Runs a tick and tells the listener."""
        return self._tell(self.firmware.tick(heartbeat=self.heartbeat))

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

    def say(self, name: str, text: str = "") -> None:
        """Tells of an event."""
        tick = 0 if self.last is None else self.last.tick
        self.listener.on_event(Event(tick, self.now_ns, name, text))

    def _ask(self, tick: Tick) -> None:
        assert self.image is not None
        continuation = self.scheduler.observe(tick.tick)
        observed = Observed(
            tick=tick.tick,
            time_ns=self.now_ns,
            images={CAMERA: self.image},
            state=tick.executed,
            prompt=PROMPT,
            noise_seed=tick.tick,
            continuation=continuation,
        )
        self.listener.on_observed(observed)
        plan = None if continuation is None else read_plan(continuation, self.robot.count)
        chunk = self.policy.infer(Observation({CAMERA: self.image.pixels}, tick.executed, PROMPT), tick.tick, plan)
        self.pending = tick.tick + self.delay, observed, chunk.actions.astype(np.float32)

    def _bridge(self) -> None:
        """As `ChunkPlayer` does: checks, schedules and sends a chunk that has come."""
        if self.pending is None or self.firmware.tick_number < self.pending[0]:
            return
        _, observed, actions = self.pending
        self.pending = None
        self.chunk_id += 1
        earliest = self.firmware.tick_number + GUARD_TICKS
        chunk = schedule(check_actions(actions, self.robot), observed.tick, earliest, self.robot)
        assert chunk is not None
        replies = only(ChunkReply, self.firmware.send(*fragments(self.chunk_id, chunk)))
        accepted = replies[-1].result == ChunkResult.ACCEPTED
        report = ChunkReport(
            outcome=ChunkReport.ACCEPTED if accepted else ChunkReport.REJECTED,
            chunk_id=self.chunk_id,
            first_tick=chunk.first_tick,
            skipped=chunk.skipped,
        )
        self.listener.on_answered(Answered(observed, self.now_ns, actions, (), 1.0, 60.0, report))
        if accepted:
            self.scheduler.entered(actions, report.first_tick)
        else:
            self.scheduler.lost()

    def _tell(self, telemetry: Telemetry) -> Tick:
        self.last = Tick(
            tick=telemetry.tick,
            counter=telemetry.counter,
            counter_hz=COUNTER_HZ,
            state=State(telemetry.state),
            faults=Fault(telemetry.faults),
            ring_level=telemetry.ring_level,
            chunk_id=telemetry.chunk_id,
            flags=TickFlag(telemetry.flags),
            executed=np.array(telemetry.executed, np.float32),
            observed_tick=telemetry.observed_tick,
            host_time_s=self.now_ns * 1e-9,
        )
        self.listener.on_tick(self.last)
        return self.last


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
    values: dict[str, object] = {"splice": "rtc", "calibration": "zero: 0\n", "cameras": {CAMERA: {"fps": 25}}}
    return RunDescription(load_robot(ROBOT), describe_policy(policy), **{**values, **changes})  # pyright: ignore


def recorded_run(
    path: Path,
    policy: Policy,
    drive: Callable[[LockstepRun], object],
    **options: object,
) -> Path:
    """Records a run that `drive` drives; `options` go to the recorder."""
    with RunRecorder(path, description_of(policy), **options) as recorder:  # pyright: ignore
        drive(LockstepRun(policy, recorder))
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


def chunks_of(data: bytes) -> Iterator[int]:
    """Offsets of the MCAP chunks in a file."""
    offset = 8
    while offset + 9 <= len(data):
        opcode, length = data[offset], int.from_bytes(data[offset + 1 : offset + 9], "little")
        if opcode == 0x06:
            yield offset
        offset += 9 + length
        if opcode == 0x0F:
            return
