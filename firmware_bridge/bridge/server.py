"""The bridge process: one serial link and one gRPC server, on loopback or behind mutual TLS.

Where systemd watches, its watchdog is fed as long as both threads of the link and the supervision of the arm go round.
"""

import logging
import threading
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

from prometheus_client import CollectorRegistry

from firmware_bridge.bridge.arm import LEASE_IDLE_S, ArmControl
from firmware_bridge.bridge.metrics import BridgeMetrics
from firmware_bridge.bridge.service import MAX_STREAMS, MAX_WATCHERS, BridgeService
from firmware_bridge.bridge.telemetry import TelemetryFanout
from firmware_bridge.bridge.thread_settings import BRIDGE
from firmware_bridge.bridge.workspace.workspace import Workspace
from firmware_bridge.errors import PortError
from firmware_bridge.link.link import FirmwareLink
from firmware_bridge.robot import load_joints
from firmware_bridge.splice import HoldSwap, chunk_splice
from pi0_edge.errors import EndpointError
from pi0_edge.protos import bridge_pb2_grpc, serial_link
from pi0_edge.protos.rpc.listen import BRIDGE_LISTEN, listen_host
from pi0_edge.protos.rpc.metrics import MetricsServer
from pi0_edge.protos.rpc.server import GuardedServer, stop_signals
from pi0_edge.protos.rpc.service_manager import ServiceManager

SERVICE = "pi0_edge.v1.RobotBridge"
_MESSAGE_LIMIT = 64 << 10  # the largest chunk, 64 steps of 32 joints, has 8 KiB
_WATCH_PERIOD_S = 0.2
_IDLE_LIMIT_S = 5.0  # opening a port that is gone takes two
_STOP_GRACE_S = 0.5

logger = logging.getLogger(__name__)


class BridgeServer:
    """A running bridge: `start`, then `stop`.

    Attributes:
        address: Where it listens, `host:port`, valid once started.
        registry: Its figures for Prometheus.
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
        workspace: Path | None = None,
        tls: Path | None = None,
        on_alive: Callable[[], object] = lambda: None,
    ) -> None:
        """Prepares a bridge.

        Args:
            port: Device path, pseudo-terminal or `socket://host:port`.
            listen: `host:port`, on loopback where `tls` is None; port 0 takes a free one.
            robot: Name of a robot, or the path of its file.
            baud: Bits per second of the serial port.
            lease_idle_s: A client that holds the arm but plays no chunk for so long is disarmed.
            splice: How a chunk enters, a name in `firmware_bridge.splice.CHUNK_SPLICES`.
            workspace: File with the boxes that named frames must keep to (docs/workspace.md); chunks whose path leaves
                them are refused.
            tls: Folder with authority, certificate and key: every client must show a certificate.
            on_alive: Called five times a second by the supervision of the arm, while the link's threads go round.

        Raises:
            ConfigError: The address is not on loopback, robot or splice policy are unknown, or the workspace is wrong.
            MissingDependencyError: A workspace is given, and MuJoCo is not installed.
            EndpointError: Something is wrong with the folder for TLS.
        """
        self._host = listen_host(listen, authenticated=tls is not None, default=BRIDGE_LISTEN)
        self.address = listen
        self._listen = listen
        self._serial_port = port
        joints = load_joints(robot)
        self._workspace = None if workspace is None else Workspace(workspace, joints)
        self._link = FirmwareLink(port, joints, baud=baud, on_telemetry=self._handle_telemetry)
        self._arm = ArmControl(self._link, lease_idle_s)
        self.registry = CollectorRegistry()
        self._metrics = BridgeMetrics(self._link, self.registry)
        self._service = BridgeService(
            self._link, self._arm, TelemetryFanout(), self._metrics, chunk_splice(splice), self._workspace
        )
        self._server = GuardedServer(
            SERVICE,
            tls=tls,
            observing_streams=MAX_WATCHERS,
            commanding=MAX_STREAMS,
            message_limit=_MESSAGE_LIMIT,
            registry=self.registry,
        )
        bridge_pb2_grpc.add_RobotBridgeServicer_to_server(self._service, self._server.grpc_server)
        self._on_alive = on_alive
        self._stopping = threading.Event()
        self._lease_watchdog = threading.Thread(target=self._watch_leases, name="bridge-housekeeping", daemon=True)

    def start(self) -> None:
        """Connects to the firmware, then serves.

        Raises:
            PortError: The serial port cannot be opened, or the address is taken.
            LinkError: The firmware does not answer.
            ProtocolError: It was built for other messages or other joints.
        """
        try:
            self.address = f"{self._host}:{self._server.bind(self._listen)}"
        except EndpointError as error:
            raise PortError(f"{error}: is another bridge running there?") from error
        try:
            self._link.start()
        except BaseException:
            self._server.stop(0)
            raise
        self._lease_watchdog.start()
        self._server.start()
        logger.info("bridge ready: listening on %s, firmware on %s", self.address, self._serial_port)

    def stop(self) -> None:
        """Drains: refuses new calls except `EStop`, disarms, waits for running calls to end, closes the port."""
        self._stopping.set()
        self._server.drain()
        self._arm.give_up("the bridge was stopped")
        self._server.stop(_STOP_GRACE_S)
        if self._lease_watchdog.is_alive():
            self._lease_watchdog.join()
        self._link.close()

    def _handle_telemetry(self, telemetry: serial_link.Telemetry) -> None:
        if self._workspace is not None:
            self._workspace.on_telemetry(telemetry)
        self._arm.on_telemetry(telemetry)
        self._metrics.on_telemetry(telemetry)
        self._service.on_telemetry(telemetry)

    def _watch_leases(self) -> None:
        while not self._stopping.wait(_WATCH_PERIOD_S):
            self._server.set_health(self._link.up)
            self._arm.disarm_overdue()
            self._arm.disarm_ownerless()
            if self._link.idle_s < _IDLE_LIMIT_S:
                self._on_alive()


def serve_bridge(
    port: str,
    listen: str = BRIDGE_LISTEN,
    robot: str = "aloha",
    *,
    baud: int = 921600,
    splice: str = HoldSwap.name,
    workspace: Path | None = None,
    tls: Path | None = None,
    metrics_port: int | None = None,
) -> None:
    """Runs a bridge until SIGINT or SIGTERM, then disarms and returns. Call it from the main thread.

    Args:
        port: Device path, pseudo-terminal or `socket://host:port`.
        listen: `host:port`, on loopback where `tls` is None.
        robot: Name of a robot, or the path of its file.
        baud: Bits per second of the serial port.
        splice: How a chunk enters, a name in `firmware_bridge.splice.CHUNK_SPLICES`.
        workspace: File with the boxes that named frames must keep to.
        tls: Folder with authority, certificate and key.
        metrics_port: Offers figures for Prometheus on this port of loopback.

    Raises:
        BridgeError: See `BridgeServer`.
        EndpointError: Something is wrong with the folder for TLS, or the port for metrics is taken.
    """
    BRIDGE.apply_what_is_allowed()  # for this thread and all that it starts
    manager = ServiceManager()
    server = BridgeServer(
        *(port, listen, robot),
        baud=baud,
        splice=splice,
        workspace=workspace,
        tls=tls,
        on_alive=manager.feed_watchdog,
    )
    metrics = nullcontext() if metrics_port is None else MetricsServer(metrics_port, server.registry)
    with metrics, stop_signals() as asked_to_stop:
        server.start()
        try:
            manager.ready(f"bridge on {server.address}, firmware on {port}")
            asked_to_stop.wait()
            manager.stopping("asked to stop")
        finally:
            server.stop()
