"""The policy server: PolicyService and the standard health service on one port.

Without TLS and without authentication, therefore on loopback unless it is told otherwise by name. The port opens after
a first inference on a black picture, so that no client pays for first-time allocations.
"""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent import futures
from contextlib import contextmanager
from types import FrameType

import grpc
import numpy as np
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from pi0_edge.policy import Policy
from pi0_edge.processing import Observation
from pi0_edge.serving.errors import ServingError
from pi0_edge.serving.inference_queue import WAITING
from pi0_edge.serving.listen_address import DEFAULT_LISTEN, REMOTE_FLAG, checked_listen_address
from pi0_edge.serving.observation_recorder import ObservationRecorder
from pi0_edge.serving.policy_service import PolicyService
from protos import policy_pb2, policy_pb2_grpc

SERVICE = policy_pb2.DESCRIPTOR.services_by_name["PolicyService"].full_name
MESSAGE_LIMIT = 32 << 20
"""Bytes of one observation: three cameras of 1920x1080 are 18 MiB."""

_SPARE_THREADS = 6  # refusals, metadata and health never wait for an inference
_STOP_GRACE_S = 2.0

logger = logging.getLogger(__name__)


class PolicyServer:
    """A server around one policy: `start`, then `stop`.

    Attributes:
        address: Where it listens, host:port, valid once started.
        service: The service, which counts its chunks.
    """

    def __init__(
        self,
        policy: Policy,
        listen: str = DEFAULT_LISTEN,
        *,
        allow_remote: bool = False,
        recorder: ObservationRecorder | None = None,
    ) -> None:
        """Prepares a server.

        Args:
            policy: Loaded and ready.
            listen: host:port; port 0 takes a free one.
            allow_remote: Whether an address that other machines can reach is meant.
            recorder: Keeps the observations that are answered; None keeps none.

        Raises:
            ServingError: If the address is malformed or not on loopback without `allow_remote`.
        """
        self._host = checked_listen_address(listen, allow_remote)
        self.address = listen
        self.service = PolicyService(policy, recorder)
        self._policy = policy
        self._health = health.HealthServicer()
        self._server: grpc.Server | None = None
        if allow_remote:
            logger.warning("%s: anyone who reaches %s can use this policy", REMOTE_FLAG, listen)

    def start(self) -> None:
        """Runs the policy once, then serves.

        Raises:
            ServingError: If the port is taken or the host is not one of this machine.
        """
        warm_up(self._policy)
        self._server = grpc.server(
            futures.ThreadPoolExecutor(WAITING + 1 + _SPARE_THREADS, thread_name_prefix="policy"),
            options=[("grpc.so_reuseport", 0), ("grpc.max_receive_message_length", MESSAGE_LIMIT)],
        )
        policy_pb2_grpc.add_PolicyServiceServicer_to_server(self.service, self._server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        self.address = f"{self._host}:{self._bind(self._server)}"
        self._server.start()
        for name in ("", SERVICE):
            self._health.set(name, health_pb2.HealthCheckResponse.SERVING)

    def stop(self) -> None:
        """Refuses new calls, lets a running one finish for up to two seconds, and closes the port."""
        self._health.enter_graceful_shutdown()
        if self._server is not None:
            self._server.stop(_STOP_GRACE_S).wait()
        self.service.close()

    def _bind(self, server: grpc.Server) -> int:
        try:
            port = server.add_insecure_port(self.address)
        except RuntimeError as error:
            raise ServingError(f"cannot listen on {self.address}; `ss -ltnp` names the program that does") from error
        if port == 0:
            raise ServingError(f"cannot listen on {self.address}; expected a host of this machine and a free port")
        return port


def warm_up(policy: Policy) -> None:
    """One inference on black pictures of all cameras.

    Raises:
        Pi0EdgeError: If the policy cannot answer even that.
    """
    robot, size = policy.processor.robot, policy.engine.config.vision.image_size
    black = np.zeros((size, size, 3), np.uint8)
    prompt = robot.default_prompt or "wait"
    policy.infer(Observation(dict.fromkeys(robot.cameras, black), np.zeros(robot.state_dim), prompt), noise_seed=0)


def serve_policy(
    policy: Policy,
    listen: str,
    *,
    allow_remote: bool = False,
    recorder: ObservationRecorder | None = None,
    on_ready: Callable[[str], object] = lambda address: None,
) -> int:
    """Serves until SIGINT or SIGTERM. Call it from the main thread.

    Args:
        policy: Loaded and ready.
        listen: As for `PolicyServer`.
        allow_remote: As for `PolicyServer`.
        recorder: As for `PolicyServer`.
        on_ready: Told the address once clients are answered.

    Returns:
        How many chunks were made.

    Raises:
        ServingError: As for `PolicyServer`.
    """
    server = PolicyServer(policy, listen, allow_remote=allow_remote, recorder=recorder)
    with _stop_signals() as asked_to_stop:
        server.start()
        try:
            on_ready(server.address)
            asked_to_stop.wait()
        finally:
            server.stop()
    return server.service.chunks


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
