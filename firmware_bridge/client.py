"""The client of the bridge for a policy or a tool: commands, telemetry and a stream of chunks."""

import math
import queue
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import grpc
import numpy as np
from numpy.typing import NDArray

from firmware_bridge.errors import BridgeError, LinkError, StateError
from firmware_bridge.rpc_errors import calls, translated
from pi0_edge.protos import bridge_pb2, bridge_pb2_grpc, policy_pb2
from pi0_edge.protos.rpc.listen import BRIDGE_LISTEN
from pi0_edge.protos.rpc.tls import open_channel
from pi0_edge.protos.serial_link import Fault, State, TickFlag

_CLOSE_LIMIT_S = 1.0


class ChunkStream:
    """A stream of chunks to the bridge; a thread collects the reports."""

    def __init__(self, bridge: bridge_pb2_grpc.RobotBridgeStub, lease: str, address: str) -> None:
        self._lease = lease
        self._address = address
        self._requests: queue.SimpleQueue[bridge_pb2.PlayRequest | None] = queue.SimpleQueue()
        self._reports: queue.SimpleQueue[bridge_pb2.ChunkReport | BridgeError] = queue.SimpleQueue()
        self._call = bridge.PlayChunks(iter(self._requests.get, None))
        self._collector = threading.Thread(target=self._collect, name="chunk-reports", daemon=True)
        self._collector.start()

    def send(self, actions: NDArray[np.floating], observed_tick: int) -> None:
        """Plays a chunk; its report comes from `next_report`.

        Args:
            actions: [horizon, joints], physical units.
            observed_tick: Tick of the observation that the chunk answers; action k is due at that + 1 + k.
        """
        self.send_message(
            policy_pb2.Chunk(
                horizon=actions.shape[0],
                action_dim=actions.shape[1],
                actions=actions.ravel().tolist(),
                clock=policy_pb2.ObservationClock(tick=observed_tick),
            )
        )

    def send_message(self, chunk: policy_pb2.Chunk) -> None:
        """Plays a chunk as the policy service returned it."""
        self._requests.put(bridge_pb2.PlayRequest(lease=self._lease, chunk=chunk))

    def next_report(self, timeout_s: float) -> bridge_pb2.ChunkReport | None:
        """The result of the oldest chunk without a report; None after `timeout_s` seconds.

        Raises:
            BridgeError: The stream has ended; its message names the cause: malformed chunk, lost lease, no bridge.
        """
        try:
            report = self._reports.get(timeout=timeout_s)
        except queue.Empty:
            return None
        if isinstance(report, BridgeError):
            self._reports.put(report)  # every later call returns the same
            raise report
        return report

    def close(self) -> None:
        """Ends the stream; chunks already entered are played to their end."""
        self._requests.put(None)
        self._collector.join(_CLOSE_LIMIT_S)
        self._call.cancel()
        self._collector.join()

    def _collect(self) -> None:
        try:
            for report in self._call:
                self._reports.put(report)
            self._reports.put(StateError("the stream of chunks was closed"))
        except grpc.RpcError as error:
            self._reports.put(translated(error, self._address))


_CALL_LIMIT_S = 5.0
_POLL_S = 0.02


class Tick(NamedTuple):
    """What the firmware did in one tick.

    `executed` is float32 [joints], physical units; `chunk_id` and `observed_tick` name the chunk and the observation
    behind it, 0 where no setpoint was executed; `host_time_s` is when the tick began on the bridge's monotonic clock,
    0 where that is not known yet.

    `measured` is where the joints were, float32 [joints] in physical units: the commanded position where
    `joint_flags`, uint8 [joints] with bits of `JointFlag`, lacks MEASURED. `measurement_age_s`, float32 [joints],
    counts to the begin of the tick and is infinite without a measurement; `current` is float32 [joints], ampere.
    `fault_joint` names the joint that a latched fault is about; `clock_uncertainty_s` bounds
    the error of `host_time_s`.
    """

    tick: int
    counter: int
    counter_hz: int
    state: State
    faults: Fault
    ring_level: int
    chunk_id: int
    flags: TickFlag
    executed: NDArray[np.float32]
    observed_tick: int
    host_time_s: float
    measured: NDArray[np.float32]
    measurement_age_s: NDArray[np.float32]
    current: NDArray[np.float32]
    joint_flags: NDArray[np.uint8]
    fault_joint: str
    clock_uncertainty_s: float = math.inf


class BridgeClient:
    """One client of the bridge. Commands may come from any thread."""

    def __init__(self, address: str = BRIDGE_LISTEN, name: str = "client", tls: Path | None = None) -> None:
        """Prepares a connection; nothing is sent yet.

        Args:
            address: `host:port` of the bridge.
            name: Shown to other clients that try to arm.
            tls: Folder with authority, certificate and key, where the bridge asks for a certificate.

        Raises:
            EndpointError: Something is wrong with that folder.
        """
        self.address = address
        self.name = name
        self._lease = ""
        self._channel = open_channel(address, tls)
        self._bridge = bridge_pb2_grpc.RobotBridgeStub(self._channel)

    def __enter__(self) -> "BridgeClient":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the connection and with it all streams."""
        self._channel.close()

    def wait_ready(self, timeout_s: float = 10.0) -> None:
        """Waits until the bridge answers and its link to the firmware is up.

        Raises:
            LinkError: Not within `timeout_s` seconds.
        """
        deadline = time.monotonic() + timeout_s
        with calls(self.address):
            status = self._bridge.GetStatus(bridge_pb2.StatusRequest(), timeout=timeout_s, wait_for_ready=True)
        while not status.link_up:
            if time.monotonic() > deadline:
                raise LinkError(f"the bridge at {self.address} runs, but its link to the firmware is down")
            time.sleep(_POLL_S)
            status = self.status()

    def arm(self, joint_names: Sequence[str]) -> State:
        """Arms; this client then owns the arm.

        Args:
            joint_names: What each action of the chunks commands, in order: `PolicyMetadata.action_names`, or
                `Robot.action_names`. The bridge compares them with the joints of its robot.

        Raises:
            StateError: Another client holds it (named), its state forbids it, or its joints have other names.
            LinkError: The bridge or the firmware does not answer.
        """
        with calls(self.address):
            reply = self._bridge.Arm(
                bridge_pb2.ArmRequest(client=self.name, joint_names=joint_names), timeout=_CALL_LIMIT_S
            )
        self._lease = reply.lease
        return State(reply.state)

    def disarm(self, reason: str = "") -> State:
        """Disarms and ends the lease. Errors as `arm`."""
        with calls(self.address):
            return State(self._bridge.Disarm(self._request(reason), timeout=_CALL_LIMIT_S).state)

    def estop(self, reason: str = "") -> State:
        """Latches the emergency stop, also while another client owns the arm. Errors as `arm`."""
        with calls(self.address):
            return State(self._bridge.EStop(self._request(reason), timeout=_CALL_LIMIT_S).state)

    def clear(self, reason: str = "") -> State:
        """Leaves SAFE or ESTOP for DISARMED. Errors as `arm`."""
        with calls(self.address):
            return State(self._bridge.Clear(self._request(reason), timeout=_CALL_LIMIT_S).state)

    def release(self, reason: str = "") -> State:
        """Takes the torque off the servos of a DISARMED arm, so that it can be moved by hand. Errors as `arm`."""
        with calls(self.address):
            return State(self._bridge.Release(self._request(reason), timeout=_CALL_LIMIT_S).state)

    def status(self) -> bridge_pb2.Status:
        """State of arm and link, as `protos/bridge.proto` describes it. Errors as `arm`."""
        with calls(self.address):
            return self._bridge.GetStatus(bridge_pb2.StatusRequest(), timeout=_CALL_LIMIT_S)

    @contextmanager
    def telemetry(self) -> Iterator[Iterator[Tick]]:
        """Every tick from now on, while the context lasts."""
        call = self._bridge.WatchTelemetry(bridge_pb2.TelemetryRequest())
        try:
            yield self._ticks(call)
        finally:
            call.cancel()

    @contextmanager
    def play(self) -> Iterator[ChunkStream]:
        """A stream that plays chunks while the context lasts; arm first."""
        stream = ChunkStream(self._bridge, self._lease, self.address)
        try:
            yield stream
        finally:
            stream.close()

    def _ticks(self, call: Iterator[bridge_pb2.Telemetry]) -> Iterator[Tick]:
        try:
            for message in call:
                yield _tick(message)
        except grpc.RpcError as error:
            if error.code() != grpc.StatusCode.CANCELLED:  # pyright: ignore[reportAttributeAccessIssue]
                raise translated(error, self.address) from error

    def _request(self, reason: str) -> bridge_pb2.CommandRequest:
        return bridge_pb2.CommandRequest(lease=self._lease, reason=reason)


def _tick(message: bridge_pb2.Telemetry) -> Tick:
    return Tick(
        tick=message.tick,
        counter=message.counter,
        counter_hz=message.counter_hz,
        state=State(message.state),
        faults=Fault(message.faults),
        ring_level=message.ring_level,
        chunk_id=message.chunk_id,
        flags=TickFlag(message.flags),
        executed=np.array(message.executed, dtype=np.float32),
        observed_tick=message.observed_tick,
        host_time_s=message.host_time_s,
        measured=np.array(message.measured, dtype=np.float32),
        measurement_age_s=np.array(message.measurement_age_s, dtype=np.float32),
        current=np.array(message.current, dtype=np.float32),
        joint_flags=np.frombuffer(message.joint_flags, np.uint8),
        fault_joint=message.fault_joint,
        clock_uncertainty_s=message.clock.uncertainty_ms * 1e-3,
    )
