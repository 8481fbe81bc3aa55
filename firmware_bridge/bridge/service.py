"""gRPC service RobotBridge: converts messages to calls of the arm and back; contains no decisions.

A malformed request ends the call, and a stream of chunks with it (see `rpc_errors`); a chunk whose values cannot
be played is answered by a REJECTED report, and the stream goes on. A stream of
chunks is read ahead, so that a newer chunk is known while an older one is being sent.
"""

import queue
import threading
import time
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

import grpc
import numpy as np

from firmware_bridge.bridge.arm import ArmControl
from firmware_bridge.bridge.metrics import BridgeMetrics
from firmware_bridge.bridge.player import ChunkPlayer
from firmware_bridge.bridge.schedule import chunk_of
from firmware_bridge.bridge.telemetry import AgeOfInformation, AgeWindow, TelemetryFanout
from firmware_bridge.bridge.workspace.workspace import Workspace
from firmware_bridge.errors import ChunkError
from firmware_bridge.link.clock import TickClock
from firmware_bridge.link.link import FirmwareLink
from firmware_bridge.robot import check_joint_names
from firmware_bridge.rpc_errors import refusals
from firmware_bridge.splice import Splice
from pi0_edge.errors import ConfigError
from pi0_edge.protos import bridge_pb2, bridge_pb2_grpc, policy_pb2, serial_link

MAX_WATCHERS = 8
MAX_STREAMS = 4
_WATCH_S = 0.2
_NAME_LIMIT = 64
_REASON_LIMIT = 200  # characters of a client that go into the log


class BridgeService(bridge_pb2_grpc.RobotBridgeServicer):
    """RobotBridge over one link."""

    def __init__(
        self,
        link: FirmwareLink,
        arm: ArmControl,
        fanout: TelemetryFanout,
        metrics: BridgeMetrics,
        splice: Splice | None = None,
        workspace: Workspace | None = None,
    ) -> None:
        self._link = link
        self._arm = arm
        self._fanout = fanout
        self._metrics = metrics
        self._player = ChunkPlayer(link, splice, workspace)
        self._ages = AgeWindow()
        self._streams = threading.BoundedSemaphore(MAX_STREAMS)

    def Arm(self, request: bridge_pb2.ArmRequest, context: grpc.ServicerContext) -> bridge_pb2.ArmReply:
        """Arms for a client."""
        with refusals(context):
            if not 1 <= len(request.client) <= _NAME_LIMIT:
                raise ConfigError(f"client is {request.client[:80]!r}; give a name of 1 to {_NAME_LIMIT} characters")
            check_joint_names(request.joint_names, self._link.robot)
            lease = self._arm.arm(request.client)
        return bridge_pb2.ArmReply(lease=lease.token, state=self._state())

    def Disarm(self, request: bridge_pb2.CommandRequest, context: grpc.ServicerContext) -> bridge_pb2.CommandReply:
        """Disarms and ends the lease."""
        with refusals(context):
            self._arm.disarm(request.lease)
        return bridge_pb2.CommandReply(state=self._state())

    def EStop(self, request: bridge_pb2.CommandRequest, context: grpc.ServicerContext) -> bridge_pb2.CommandReply:
        """Latches the emergency stop for any client."""
        with refusals(context):
            self._arm.estop(request.reason[:_REASON_LIMIT])
        return bridge_pb2.CommandReply(state=self._state())

    def Clear(self, request: bridge_pb2.CommandRequest, context: grpc.ServicerContext) -> bridge_pb2.CommandReply:
        """Leaves SAFE or ESTOP for DISARMED."""
        with refusals(context):
            self._arm.clear(request.lease)
        return bridge_pb2.CommandReply(state=self._state())

    def Release(self, request: bridge_pb2.CommandRequest, context: grpc.ServicerContext) -> bridge_pb2.CommandReply:
        """Takes the torque off the servos of a disarmed arm."""
        with refusals(context):
            self._arm.release(request.lease)
        return bridge_pb2.CommandReply(state=self._state())

    def GetStatus(self, request: bridge_pb2.StatusRequest, context: grpc.ServicerContext) -> bridge_pb2.Status:
        """State of the arm and of the link."""
        with refusals(context):
            clock = self._link.clock
        telemetry = self._link.telemetry
        counters = self._link.counters
        return bridge_pb2.Status(
            state=self._state(),
            link_up=self._link.up,
            owner=self._arm.leases.owner,
            tick=telemetry.tick if telemetry else 0,
            joint_count=self._link.robot.count,
            joint_names=self._link.robot.names,
            limits_hash=self._link.robot.limits_hash,
            protocol_version=serial_link.VERSION,
            problem=self._link.problem,
            tick_period_s=clock.tick_period_s,
            counters=bridge_pb2.LinkCounters(**vars(counters)) if counters else None,
            round_trip_ms=clock.round_trip_s * 1e3,
            clock=_clock_message(clock),
            age=_age_message(self._ages.figure(clock.tick_period_s)),
            joints=self._joint_health(),
            faults=telemetry.faults if telemetry else 0,
            fault_joint=self._link.robot.joint_name(telemetry.fault_joint) if telemetry else "",
            splice=self._player.splice,
        )

    def PlayChunks(
        self, request_iterator: Iterator[bridge_pb2.PlayRequest], context: grpc.ServicerContext
    ) -> Iterator[bridge_pb2.ChunkReport]:
        """Plays chunks in their order; every chunk is answered by one report."""
        if not self._streams.acquire(blocking=False):
            context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, f"{MAX_STREAMS} streams of chunks are open already")
        try:
            with refusals(context):
                arriving = ((request, time.monotonic()) for request in request_iterator)
                for request, arrived_s in ReadAhead(arriving, self._link.chunks.yield_to_newer):
                    yield self._play(request, arrived_s)
        finally:
            self._streams.release()

    def WatchTelemetry(
        self, request: bridge_pb2.TelemetryRequest, context: grpc.ServicerContext
    ) -> Iterator[bridge_pb2.Telemetry]:
        """Every tick, from now on."""
        if self._fanout.watchers >= MAX_WATCHERS:
            context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, f"{MAX_WATCHERS} clients watch telemetry already")
        with self._fanout.watch() as watcher:
            while context.is_active():
                telemetry = watcher.get(_WATCH_S)
                if telemetry is not None:
                    yield telemetry

    def on_telemetry(self, telemetry: serial_link.Telemetry) -> None:
        """Sends one tick to the watchers. Called in the link's reader thread."""
        clock = self._link.clock
        measured = self._link.measurements(telemetry)
        self._ages.add(telemetry.tick, telemetry.observed_tick, telemetry.chunk_id)
        self._fanout.publish(
            bridge_pb2.Telemetry(
                tick=telemetry.tick,
                counter=telemetry.counter,
                counter_hz=self._link.welcome.counter_hz,
                state=telemetry.state,  # pyright: ignore[reportArgumentType]
                faults=telemetry.faults,
                ring_level=telemetry.ring_level,
                chunk_id=chunk_of(telemetry.chunk_id),
                observed_tick=telemetry.observed_tick,
                flags=telemetry.flags,
                executed=telemetry.executed,
                measured=measured.position.tolist(),
                measurement_age_s=measured.age_s.tolist(),
                current=measured.current.tolist(),
                joint_flags=measured.flags.tobytes(),
                fault_joint=self._link.robot.joint_name(telemetry.fault_joint),
                clock=_clock_message(clock),
                host_time_s=clock.host_ns_at(telemetry.tick) * 1e-9 if clock.ready else 0.0,
            )
        )

    def _play(self, request: bridge_pb2.PlayRequest, arrived_s: float) -> bridge_pb2.ChunkReport:
        self._arm.leases.check(request.lease)
        if not request.HasField("chunk"):
            raise ChunkError("chunk is missing", malformed=True)
        report = self._player.play(*read_chunk(request.chunk), arrived_s)
        self._metrics.on_report(report)
        return report

    def _joint_health(self) -> list[bridge_pb2.JointHealth]:
        if (health := self._link.health) is None:
            return []
        joints = zip(self._link.robot.names, health.temperature.tolist(), health.volts.tolist(), strict=True)
        return [bridge_pb2.JointHealth(name=name, temperature=hot, volts=volts) for name, hot, volts in joints]

    def _state(self) -> bridge_pb2.State:
        telemetry = self._link.telemetry
        return telemetry.state if telemetry else serial_link.State.DISARMED  # pyright: ignore[reportReturnType]


def _clock_message(clock: TickClock) -> bridge_pb2.ClockEstimate:
    estimate = clock.estimate(time.monotonic_ns())
    return bridge_pb2.ClockEstimate(
        drift_ppm=estimate.drift_ppm,
        uncertainty_ms=estimate.uncertainty_s * 1e3,
        round_trips=estimate.used,
        rejected=estimate.rejected,
        steps=estimate.steps,
    )


def _age_message(age: AgeOfInformation) -> bridge_pb2.AgeOfInformation:
    return bridge_pb2.AgeOfInformation(
        ticks=age.ticks, p50_ms=age.p50_s * 1e3, p99_ms=age.p99_s * 1e3, max_ms=age.max_s * 1e3
    )


def read_chunk(chunk: policy_pb2.Chunk) -> tuple[np.ndarray, int]:
    """Actions, float32 [horizon, action_dim], and the tick of the observation that they answer.

    Raises:
        ChunkError: The fields contradict each other, or the clock is missing.
    """
    expected = chunk.horizon * chunk.action_dim
    if len(chunk.actions) != expected or not expected:
        raise ChunkError(
            f"chunk.actions holds {len(chunk.actions)} values; horizon {chunk.horizon} and action_dim "
            f"{chunk.action_dim} require {expected or 'at least one'}",
            malformed=True,
        )
    if not chunk.HasField("clock"):
        raise ChunkError("chunk.clock is missing; copy it from the observation that the chunk answers", malformed=True)
    actions = np.array(chunk.actions, dtype=np.float32).reshape(chunk.horizon, chunk.action_dim)
    return actions, chunk.clock.tick


Request = TypeVar("Request")
_POLL_S = 0.05


class ReadAhead(Generic[Request]):
    """Reads one request ahead; further requests remain in the stream."""

    def __init__(self, requests: Iterator[Request], on_waiting: Callable[[], None]) -> None:
        """Prepares reading; iterate to begin.

        Args:
            requests: The stream. It ends, or raises, when its call does.
            on_waiting: Called in the reading thread for each request that comes while another is handled.
        """
        self._requests = requests
        self._on_waiting = on_waiting
        self._waiting: queue.Queue[Request | Exception | None] = queue.Queue(1)
        self._unfinished = 0  # requests that were read and not handled to their end
        self._lock = threading.Lock()
        self._left = threading.Event()

    def __iter__(self) -> Iterator[Request]:
        threading.Thread(target=self._read, name="read-ahead", daemon=True).start()
        try:
            while (request := self._next()) is not None:
                yield request
                self._count(-1)
        finally:
            self._left.set()

    def _next(self) -> Request | None:
        request = self._waiting.get()
        if isinstance(request, Exception):
            raise request
        return request

    def _read(self) -> None:
        try:
            for request in self._requests:
                if self._count(+1) > 1:
                    self._on_waiting()
                if not self._put(request):
                    return
            self._put(None)
        except Exception as error:  # of the stream: whoever iterates has to see it
            self._put(error)

    def _count(self, change: int) -> int:
        with self._lock:
            self._unfinished += change
            return self._unfinished

    def _put(self, request: Request | Exception | None) -> bool:
        """Whether the iteration has not ended."""
        while not self._left.is_set():
            try:
                self._waiting.put(request, timeout=_POLL_S)
                return True
            except queue.Full:
                continue
        return False
