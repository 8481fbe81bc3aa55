"""What a policy or a tool uses to talk to the bridge: commands, telemetry and a stream of chunks."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import grpc
import numpy as np
from numpy.typing import NDArray

from firmware_bridge.chunk_stream import ChunkStream
from firmware_bridge.errors import LinkError
from firmware_bridge.listen_address import DEFAULT_LISTEN
from firmware_bridge.rpc_errors import calls, translated
from protos import bridge_pb2, bridge_pb2_grpc
from protos.serial_link import Fault, State, TickFlag

_CALL_LIMIT_S = 5.0
_LOOK_S = 0.02


class Tick(NamedTuple):
    """What the firmware did in one tick.

    `executed` is float32 [joints], physical units; `chunk_id` and `observed_tick` name the chunk and the observation
    behind it, 0 where no setpoint was executed; `host_time_s` is when the tick began on the bridge's monotonic clock,
    0 where that is not known yet.
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


class BridgeClient:
    """One client of the bridge. Commands may come from any thread."""

    def __init__(self, address: str = DEFAULT_LISTEN, name: str = "client") -> None:
        """Prepares a connection; nothing is sent yet.

        Args:
            address: `host:port` of the bridge.
            name: shown to others who want the arm.
        """
        self.address = address
        self.name = name
        self._lease = ""
        self._channel = grpc.insecure_channel(address)
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
            LinkError: not within `timeout_s` seconds.
        """
        deadline = time.monotonic() + timeout_s
        with calls(self.address):
            status = self._bridge.GetStatus(bridge_pb2.StatusRequest(), timeout=timeout_s, wait_for_ready=True)
        while not status.link_up:
            if time.monotonic() > deadline:
                raise LinkError(f"the bridge at {self.address} runs, but its link to the firmware is down")
            time.sleep(_LOOK_S)
            status = self.status()

    def arm(self) -> State:
        """Takes the arm and arms it.

        Raises:
            StateError: another client holds it (named), or its state forbids it.
            LinkError: the bridge or the firmware does not answer.
        """
        with calls(self.address):
            reply = self._bridge.Arm(bridge_pb2.ArmRequest(client=self.name), timeout=_CALL_LIMIT_S)
        self._lease = reply.lease
        return State(reply.state)

    def disarm(self, reason: str = "") -> State:
        """Stops and gives the arm back. Errors as `arm`."""
        with calls(self.address):
            return State(self._bridge.Disarm(self._request(reason), timeout=_CALL_LIMIT_S).state)

    def estop(self, reason: str = "") -> State:
        """Latches the emergency stop, whoever holds the arm. Errors as `arm`."""
        with calls(self.address):
            return State(self._bridge.EStop(self._request(reason), timeout=_CALL_LIMIT_S).state)

    def clear(self, reason: str = "") -> State:
        """Leaves SAFE or ESTOP for DISARMED. Errors as `arm`."""
        with calls(self.address):
            return State(self._bridge.Clear(self._request(reason), timeout=_CALL_LIMIT_S).state)

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
    )
