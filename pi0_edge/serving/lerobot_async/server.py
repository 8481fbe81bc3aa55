"""A server that LeRobot's stock asynchronous client takes for its own, on loopback unless insisted upon."""

from __future__ import annotations

import logging
import math
from concurrent.futures import ThreadPoolExecutor

import grpc

from pi0_edge.errors import ConfigError, EndpointError, ServingError
from pi0_edge.protos.rpc.listen import listen_host
from pi0_edge.protos.rpc.unreadable import ReadableRequests
from pi0_edge.serving.lerobot_async.service import ROBOTS, AsyncInferenceService
from pi0_edge.serving.lerobot_async.wire import PIECE_LIMIT
from pi0_edge.serving.lerobot_joints import check_units
from pi0_edge.serving.shared_policy import SharedPolicy

DEFAULT_LISTEN = "127.0.0.1:8080"
"""Where the stock client looks for its server."""

_STOP_GRACE_S = 3.0
_THREADS = 3 * ROBOTS + 4  # of each robot: one call for actions, one observation, one more call
_OPTIONS = [
    ("grpc.so_reuseport", 0),
    ("grpc.max_receive_message_length", PIECE_LIMIT),
    ("grpc.max_concurrent_streams", 64),
    # A robot that vanished without a word is noticed within 15 s.
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
]

logger = logging.getLogger(__name__)


FPS = 30.0
"""Actions per second of LeRobot's own default, for robots that name no rate."""


class LerobotAsyncServer:
    """A `WayIn`: `start`, then `stop`.

    Attributes:
        protocol: Its name, for people.
        address: Where it listens, host:port, valid once started.
    """

    protocol = "LeRobot's asynchronous inference"

    def __init__(
        self,
        shared: SharedPolicy,
        listen: str = DEFAULT_LISTEN,
        *,
        fps: float = FPS,
        allow_remote: bool = False,
        units: str | None = None,
    ) -> None:
        """Prepares a server.

        Args:
            shared: The policy with its queue.
            listen: host:port, or a port of loopback; port 0 takes a free one.
            fps: Actions per second, as the client's `--fps`.
            allow_remote: Whether an address beyond loopback is meant although nobody is authenticated or encrypted.
            units: What the joints of clients are in, one of `lerobot_joints.Units`; None where that is not known.

        Raises:
            ServingError: If the address is malformed, or not on loopback without `allow_remote`.
            ConfigError: If `fps` or `units` is not possible.
        """
        if not (math.isfinite(fps) and fps > 0):
            raise ConfigError(f"fps is {fps}, expected actions per second above 0")
        self.address = lerobot_listen(listen, allow_remote=allow_remote)
        self._allow_remote = allow_remote
        self._service = AsyncInferenceService(shared, fps=fps, units=check_units(units))
        self._server = grpc.server(
            ThreadPoolExecutor(_THREADS, thread_name_prefix="lerobot"),
            handlers=[self._service.handlers()],
            interceptors=[ReadableRequests()],
            options=_OPTIONS,
            maximum_concurrent_rpcs=_THREADS,
        )

    def start(self) -> None:
        """Listens, and returns.

        Raises:
            ServingError: If the port is taken or the host is not one of this machine.
        """
        host = self.address.rpartition(":")[0]
        try:
            port = self._server.add_insecure_port(self.address)
        except RuntimeError:
            port = 0
        if port == 0:
            raise ServingError(
                f"cannot listen on {self.address}: not a host of this machine, or taken; `ss -ltnp` names by what"
            )
        self.address = f"{host}:{port}"
        if self._allow_remote:
            logger.warning("allow_remote: anyone who reaches %s can use this policy, and nothing is encrypted", host)
        self._server.start()

    def stop(self) -> None:
        """Refuses new calls, lets a running one finish for up to three seconds, and closes the port."""
        stopped = self._server.stop(_STOP_GRACE_S)
        self._service.close()
        stopped.wait()


def lerobot_listen(listen: str, *, allow_remote: bool) -> str:
    """host:port of what a user gives, where a port alone is one of loopback.

    Args:
        listen: host:port or a port.
        allow_remote: Whether an address beyond loopback is meant.

    Raises:
        ServingError: If it is neither, or beyond loopback without `allow_remote`.
    """
    address = f"127.0.0.1:{listen}" if listen.isdigit() else listen
    try:
        listen_host(address, authenticated=False, default=DEFAULT_LISTEN, allow_remote=allow_remote)
    except EndpointError as error:
        raise ServingError(f"{error}. LeRobot's client has no TLS; --insecure-allow-remote opens it without") from error
    return address
