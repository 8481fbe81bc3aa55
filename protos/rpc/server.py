"""A gRPC server with authentication, limits, health and reflection: what policy server and bridge have in common."""

import signal
import socket
import threading
from collections.abc import Iterator
from concurrent import futures
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from prometheus_client import CollectorRegistry

from pi0_edge.errors import EndpointError
from pi0_edge.protos.rpc.interceptor import AuthInterceptor
from pi0_edge.protos.rpc.limits import Limits
from pi0_edge.protos.rpc.metrics import CallMetrics
from pi0_edge.protos.rpc.tls import server_credentials
from pi0_edge.protos.rpc.unreadable import ReadableRequests

_SPARE_STREAMS = 4  # of health and reflection, beside those of the service that observe
_SPARE_THREADS = 8  # calls that are no streams never wait for streams
_CALLS_PER_CONNECTION = 64
_STOP_SIGNALS = frozenset({signal.SIGINT, signal.SIGTERM})

_OPTIONS = [
    ("grpc.so_reuseport", 0),
    ("grpc.max_concurrent_streams", _CALLS_PER_CONNECTION),
    # A peer that vanished without a word is noticed, and its streams end, within 15 s.
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
]


class GuardedServer:
    """One service on one port: add the servicer to `grpc_server`, then `bind`, `start`, `stop`.

    Attributes:
        grpc_server: gRPC's own server.
    """

    def __init__(
        self,
        service: str,
        *,
        tls: Path | None,
        observing_streams: int,
        commanding: int,
        message_limit: int,
        registry: CollectorRegistry,
        limits: Limits | None = None,
    ) -> None:
        """Prepares a server; it listens nowhere yet.

        Args:
            service: Full name of the service, for health and reflection.
            tls: Folder with authority, certificate and key; None asks no peer who it is.
            observing_streams: Streams of the service that only observe, open at a time.
            commanding: Streams and long calls that need the role command, open at a time; the service bounds them.
            message_limit: Bytes of the largest request.
            registry: Takes the figures of the calls.
            limits: Of each peer.

        Raises:
            EndpointError: Something is wrong with the folder for TLS.
        """
        self._service = service
        self._credentials = None if tls is None else server_credentials(tls)
        observing_streams += _SPARE_STREAMS
        self._interceptor = AuthInterceptor(
            CallMetrics(registry), authenticated=tls is not None, observing_streams=observing_streams, limits=limits
        )
        threads = observing_streams + commanding + _SPARE_THREADS
        self.grpc_server = grpc.server(
            futures.ThreadPoolExecutor(threads, thread_name_prefix="rpc"),
            interceptors=[self._interceptor, ReadableRequests()],
            options=[*_OPTIONS, ("grpc.max_receive_message_length", message_limit)],
        )
        self._health = health.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self.grpc_server)
        reflection.enable_server_reflection((service, health.SERVICE_NAME, reflection.SERVICE_NAME), self.grpc_server)

    def bind(self, listen: str) -> int:
        """Takes a port, and returns its number.

        Args:
            listen: host:port; port 0 takes a free one.

        Raises:
            EndpointError: The port is taken, or the host is not one of this machine.
        """
        try:
            if self._credentials is None:
                port = self.grpc_server.add_insecure_port(listen)
            else:
                port = self.grpc_server.add_secure_port(listen, self._credentials)
        except RuntimeError as error:
            raise EndpointError(f"cannot listen on {listen}") from error
        if port == 0:
            raise EndpointError(f"cannot listen on {listen}")
        return port

    def start(self) -> None:
        """Serves."""
        self.grpc_server.start()

    def set_health(self, serving: bool) -> None:
        """What the health service answers, for the server as a whole and for its service."""
        status = health_pb2.HealthCheckResponse
        for name in ("", self._service):
            self._health.set(name, status.SERVING if serving else status.NOT_SERVING)

    def drain(self) -> None:
        """Refuses new calls, stops of the arm excepted; calls that run go on."""
        self._health.enter_graceful_shutdown()
        self._interceptor.drain()

    def stop(self, grace_s: float) -> None:
        """Lets running calls finish for up to `grace_s` seconds, then ends them and closes the port."""
        self.drain()
        self.grpc_server.stop(grace_s).wait()
        self._interceptor.close()


@contextmanager
def stop_signals() -> Iterator[threading.Event]:
    """An event that SIGINT and SIGTERM set, while inside. Call it from the main thread.

    A Python handler would not do. It runs in the main thread only, between two instructions: one that set the event
    would wait for ever for the event's lock where the main thread has just taken it to wait; and where the system
    gives the signal to another thread, nothing wakes the main thread and the handler never runs. What the interpreter
    itself does, in whichever thread the signal arrives, is to write its number to the descriptor of
    `signal.set_wakeup_fd`; a thread reads it there.
    """
    asked = threading.Event()
    numbers, written = socket.socketpair()
    written.setblocking(False)

    def listen() -> None:
        while arrived := numbers.recv(64):
            if not _STOP_SIGNALS.isdisjoint(arrived):
                asked.set()

    listener = threading.Thread(target=listen, name="stop-signals", daemon=True)
    listener.start()
    previous_descriptor = signal.set_wakeup_fd(written.fileno(), warn_on_full_buffer=False)
    previous = {number: signal.signal(number, _let_it_be_written) for number in _STOP_SIGNALS}
    try:
        yield asked
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(previous_descriptor)
        written.close()
        listener.join()
        numbers.close()


def _let_it_be_written(_signal: int, _frame: FrameType | None) -> None:
    """A handler, as the interpreter writes the numbers only of signals that have one."""
