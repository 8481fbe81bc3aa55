"""The bridge process: one serial link below, one gRPC server above, on this machine's loopback only."""

import logging
import os
import signal
import threading
from collections.abc import Iterator
from concurrent import futures
from contextlib import contextmanager, suppress
from types import FrameType

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from firmware_bridge.arm_control import LEASE_IDLE_S, ArmControl
from firmware_bridge.bridge_service import MAX_STREAMS, MAX_WATCHERS, BridgeService
from firmware_bridge.errors import PortError
from firmware_bridge.joints import load_robot
from firmware_bridge.link import FirmwareLink
from firmware_bridge.listen_address import DEFAULT_LISTEN, loopback_host
from firmware_bridge.splice import HoldSwap, chunk_splice
from firmware_bridge.telemetry_fanout import TelemetryFanout
from protos import bridge_pb2_grpc, serial_link

SERVICE = "pi0_edge.v1.RobotBridge"
_MESSAGE_LIMIT = 1 << 20
_SPARE_THREADS = 8  # commands, e-stop among them, never wait for streams
_HOUSEKEEPING_S = 0.2
_STOP_GRACE_S = 0.5
_URGENT = -10  # niceness: the heartbeat must not wait for a policy that takes all processors

logger = logging.getLogger(__name__)


class BridgeServer:
    """A running bridge: `start`, then `stop`.

    Attributes:
        address: where it listens, `host:port`, valid once started.
    """

    def __init__(
        self,
        port: str,
        listen: str,
        robot: str,
        *,
        baud: int = 921600,
        lease_idle_s: float = LEASE_IDLE_S,
        splice: str = HoldSwap.name,
    ) -> None:
        """Prepares a bridge.

        Args:
            port: device path, pseudo-terminal or `socket://host:port`.
            listen: `host:port` on loopback; port 0 takes a free one.
            robot: name of a joint table of this package.
            baud: bits per second of the serial port.
            lease_idle_s: a client that holds the arm but plays no chunk for so long is disarmed.
            splice: how a chunk enters, a name in `firmware_bridge.splice.CHUNK_SPLICES`.

        Raises:
            ConfigError: the address is not on loopback, or robot or splice policy are unknown.
        """
        self._host = loopback_host(listen)
        self.address = listen
        self._listen = listen
        self._serial_port = port
        self._link = FirmwareLink(port, load_robot(robot), baud=baud, on_telemetry=self._take_telemetry)
        self._arm = ArmControl(self._link, lease_idle_s)
        self._service = BridgeService(self._link, self._arm, TelemetryFanout(), chunk_splice(splice))
        self._health = health.HealthServicer()
        self._server: grpc.Server | None = None
        self._stopping = threading.Event()
        self._housekeeper = threading.Thread(target=self._keep_house, name="bridge-housekeeping", daemon=True)

    def start(self) -> None:
        """Connects to the firmware, then serves.

        Raises:
            PortError: the serial port cannot be opened, or the address is taken.
            LinkError: the firmware does not answer.
            ProtocolError: it was built for other messages or other joints.
        """
        self._server = self._make_server()
        try:
            self._link.start()
        except BaseException:
            self._server.stop(None)
            raise
        self._housekeeper.start()
        self._server.start()
        logger.info("bridge ready: listening on %s, firmware on %s", self.address, self._serial_port)

    def stop(self) -> None:
        """Disarms, ends all calls and closes the port."""
        self._stopping.set()
        self._arm.release("the bridge was stopped")
        if self._server is not None:
            self._server.stop(_STOP_GRACE_S).wait()
        if self._housekeeper.is_alive():
            self._housekeeper.join()
        self._link.close()

    def _make_server(self) -> grpc.Server:
        workers = MAX_STREAMS + MAX_WATCHERS + _SPARE_THREADS
        server = grpc.server(
            futures.ThreadPoolExecutor(workers, thread_name_prefix="bridge"),
            options=[("grpc.so_reuseport", 0), ("grpc.max_receive_message_length", _MESSAGE_LIMIT)],
        )
        bridge_pb2_grpc.add_RobotBridgeServicer_to_server(self._service, server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        try:
            bound = server.add_insecure_port(self._listen)
        except RuntimeError as error:
            raise PortError(f"cannot listen on {self._listen}: is another bridge running there?") from error
        self.address = f"{self._host}:{bound}"
        return server

    def _take_telemetry(self, telemetry: serial_link.Telemetry) -> None:
        self._arm.take_telemetry(telemetry)
        self._service.take_telemetry(telemetry)

    def _keep_house(self) -> None:
        while not self._stopping.wait(_HOUSEKEEPING_S):
            status = health_pb2.HealthCheckResponse
            self._health.set(SERVICE, status.SERVING if self._link.up else status.NOT_SERVING)
            self._arm.disarm_overdue()
            self._arm.disarm_ownerless()


def serve_bridge(
    port: str,
    listen: str = DEFAULT_LISTEN,
    robot: str = "aloha",
    *,
    baud: int = 921600,
    splice: str = HoldSwap.name,
) -> None:
    """Runs a bridge until SIGINT or SIGTERM, then disarms and returns. Call it from the main thread.

    Args:
        port: device path, pseudo-terminal or `socket://host:port`.
        listen: `host:port` on loopback.
        robot: name of a joint table of this package.
        baud: bits per second of the serial port.
        splice: how a chunk enters, a name in `firmware_bridge.splice.CHUNK_SPLICES`.

    Raises:
        BridgeError: see `BridgeServer`.
    """
    with suppress(PermissionError):
        os.setpriority(os.PRIO_PROCESS, 0, _URGENT)  # for this thread and all that it starts
    server = BridgeServer(port, listen, robot, baud=baud, splice=splice)
    with _stop_signals() as asked_to_stop:
        server.start()
        try:
            asked_to_stop.wait()
        finally:
            server.stop()


@contextmanager
def _stop_signals() -> Iterator[threading.Event]:
    asked = threading.Event()

    def ask(_signal: int, _frame: FrameType | None) -> None:
        asked.set()

    previous = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield asked
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
