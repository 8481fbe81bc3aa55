"""The policy server: PolicyService on a server of `pi0_edge.protos.rpc`, on loopback or with mutual TLS.

The port opens after a first inference on a black image, so that no client pays for first-time allocations. Where
systemd watches, it is the thread of the inferences that feeds its watchdog.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from prometheus_client import CollectorRegistry

from pi0_edge.errors import EndpointError, ServingError
from pi0_edge.model import join
from pi0_edge.policy import Policy
from pi0_edge.processing import Observation
from pi0_edge.protos import policy_pb2, policy_pb2_grpc
from pi0_edge.protos.rpc.listen import POLICY_LISTEN, listen_host
from pi0_edge.protos.rpc.metrics import MetricsServer
from pi0_edge.protos.rpc.server import GuardedServer, stop_signals
from pi0_edge.protos.rpc.service_manager import ServiceManager
from pi0_edge.serving.inference_queue import Batching
from pi0_edge.serving.latency_budget import LatencyBudget
from pi0_edge.serving.messages import MESSAGE_LIMIT
from pi0_edge.serving.observation_recorder import ObservationRecorder
from pi0_edge.serving.policy_service import PolicyService
from pi0_edge.serving.shared_policy import SharedPolicy, WayIn

SERVICE = policy_pb2.DESCRIPTOR.services_by_name["PolicyService"].full_name
STOP_GRACE_S = 2.0
"""How long requests that wait or run are still answered when the server is asked to stop."""

logger = logging.getLogger(__name__)


class PolicyServer:
    """A server around one policy: `start`, then `stop`, or a context manager.

    Attributes:
        address: Where it listens, host:port, valid once started.
        shared: The policy with its queue, which counts its chunks.
        registry: Its figures for Prometheus.
    """

    def __init__(
        self,
        policy: Policy,
        listen: str = POLICY_LISTEN,
        *,
        allow_remote: bool = False,
        tls: Path | None = None,
        recorder: ObservationRecorder | None = None,
        on_alive: Callable[[], object] | None = None,
        budget: LatencyBudget | None = None,
        batching: Batching | None = None,
        grace_s: float = STOP_GRACE_S,
    ) -> None:
        """Prepares a server.

        Args:
            policy: Loaded and ready.
            listen: host:port; port 0 takes a free one.
            allow_remote: Whether an address beyond loopback is meant although no client shows a certificate.
            tls: Folder with authority, certificate and key: every client must show a certificate.
            recorder: Keeps the observations that are answered; None keeps none.
            on_alive: Called in the thread of the inferences, after each of them and when `shared` is knocked at.
            budget: Counts the chunks that are late; None judges no time.
            batching: How requests are gathered into passes; one at a time where None.
            grace_s: How long `stop` still answers the requests that wait or run.

        Raises:
            ConfigError: If the engine does not take that many in one pass.
            ServingError: If the address is malformed, or not on loopback with neither `tls` nor `allow_remote`.
            EndpointError: If something is wrong with the folder for TLS.
        """
        self._host = listen_host(
            listen, authenticated=tls is not None, default=POLICY_LISTEN, allow_remote=allow_remote
        )
        self.address = listen
        self.registry = CollectorRegistry()
        self.shared = SharedPolicy(policy, recorder, self.registry, on_alive, budget, batching)
        self._policy = policy
        self._grace_s = grace_s
        self._server = GuardedServer(
            SERVICE,
            tls=tls,
            observing_streams=0,
            commanding=self.shared.batching.waiting + self.shared.batching.most,
            message_limit=MESSAGE_LIMIT,
            registry=self.registry,
        )
        policy_pb2_grpc.add_PolicyServiceServicer_to_server(PolicyService(self.shared), self._server.grpc_server)
        if allow_remote and tls is None:
            logger.warning("allow_remote: anyone who reaches %s can use this policy", listen)

    def __enter__(self) -> PolicyServer:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Runs the policy once, then serves.

        Raises:
            ServingError: If the port is taken or the host is not one of this machine.
        """
        warm_up(self._policy, self.shared.batching.most)
        try:
            self.address = f"{self._host}:{self._server.bind(self.address)}"
        except EndpointError as error:
            raise ServingError(f"{error}: not a host of this machine, or taken; `ss -ltnp` names by what") from error
        self._server.set_health(serving=True)
        self._server.start()

    def drain(self) -> None:
        """Tells the health service that this server goes, and refuses new calls; those that wait or run go on."""
        self._server.drain()

    def stop(self) -> None:
        """Drains, answers what waits and runs for up to `grace_s`, and closes the port."""
        self.drain()
        until_s = time.monotonic() + self._grace_s
        self.shared.wait_idle(self._grace_s)  # with the port open: who comes meanwhile is told why it is refused
        self._server.stop(max(0.0, until_s - time.monotonic()))
        self.shared.close()


def warm_up(policy: Policy, batch: int = 1) -> None:
    """Everything ready for the first chunk, and one inference on black images of all cameras.

    Args:
        policy: Loaded.
        batch: Most observations of one pass; a pass of so many is run too, so that the memory for it is there.

    Raises:
        Pi0EdgeError: If the policy cannot answer even that.
    """
    robot, size = policy.processor.robot, policy.engine.config.vision.image_size
    black = np.zeros((size, size, 3), np.uint8)
    prompt = robot.default_prompt or "wait"
    observation = Observation(dict.fromkeys(robot.cameras, black), policy.processor.trained_state(), prompt)
    inputs = policy.processor.to_model_inputs(observation, as_frames=policy.engine.takes_frames)
    policy.engine.warm_up(inputs, policy.noise(seed=0))
    policy.infer(observation, noise_seed=0)
    if batch > 1:
        policy.engine.infer(join([inputs] * batch), policy.noise(seed=0).expand(batch, -1, -1))


@dataclass(frozen=True)
class Served:
    """What a server did.

    Attributes:
        chunks: How many it made.
        late: Why it ended itself; empty where it was asked to stop.
    """

    chunks: int
    late: str


def serve_policy(
    policy: Policy,
    listen: str,
    *,
    allow_remote: bool = False,
    tls: Path | None = None,
    metrics_port: int | None = None,
    recorder: ObservationRecorder | None = None,
    budget_ms: float | None = None,
    batching: Batching | None = None,
    grace_s: float = STOP_GRACE_S,
    manager: ServiceManager | None = None,
    also: Sequence[Callable[[SharedPolicy], WayIn]] = (),
    on_ready: Callable[[str], object] = lambda address: None,
    on_also_ready: Callable[[WayIn], object] = lambda way: None,
) -> Served:
    """Serves until SIGINT, SIGTERM, or too many late chunks. Call it from the main thread.

    Args:
        policy: Loaded and ready.
        listen: As for `PolicyServer`.
        allow_remote: As for `PolicyServer`.
        tls: As for `PolicyServer`.
        metrics_port: Offers figures for Prometheus on this port of loopback.
        recorder: As for `PolicyServer`.
        budget_ms: The server ends itself when too many chunks take longer; None judges no time.
        batching: As for `PolicyServer`.
        grace_s: As for `PolicyServer`.
        manager: Is told what the server does; None where no systemd started this process.
        also: Make the servers of other protocols; they listen once the policy is ready, and end with it.
        on_ready: Called with the address once clients are answered.
        on_also_ready: Called with each of the others when it listens.

    Returns:
        What it did.

    Raises:
        ConfigError: As for `PolicyServer`.
        ServingError: As for `PolicyServer`.
        EndpointError: As for `PolicyServer`, or if the port for metrics is taken.
    """
    manager = manager or ServiceManager({})
    with stop_signals() as asked_to_stop, ExitStack() as stack:
        budget = None if budget_ms is None else LatencyBudget(budget_ms, asked_to_stop.set)
        server = PolicyServer(
            *(policy, listen),
            allow_remote=allow_remote,
            tls=tls,
            recorder=recorder,
            on_alive=manager.feed_watchdog,
            budget=budget,
            batching=batching,
            grace_s=grace_s,
        )
        if metrics_port is not None:
            stack.enter_context(MetricsServer(metrics_port, server.registry))
        with manager.starting("first inference"):
            server.start()
        stack.callback(server.stop)
        for make in also:
            way = make(server.shared)
            way.start()
            stack.callback(way.stop)
            on_also_ready(way)
        manager.ready(f"policy on {server.address}")
        on_ready(server.address)
        while not asked_to_stop.wait(manager.feed_every_s):
            server.shared.knock()
        late = "" if budget is None else budget.exceeded
        manager.stopping(late or "asked to stop")
        server.drain()  # before the other protocols take their time
    return Served(server.shared.chunks, late)
