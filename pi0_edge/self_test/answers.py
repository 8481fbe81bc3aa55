"""Who answers a self-test: the engine of this process, or a policy server that runs already."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from pi0_edge.bundle import Bundle
from pi0_edge.errors import EngineError, QuantizationError, ServingError
from pi0_edge.policy import Policy
from pi0_edge.processing import Observation, ObservationProcessor
from pi0_edge.serving.policy_client import PolicyClient
from pi0_edge.serving.policy_server import warm_up

READY_S = 60.0
"""How long a server may take until it answers."""
CHUNK_S = 600.0
"""How long a chunk is waited for: whether it comes in time is for the budget to judge, if there is one."""
STALE_PREFIX = "stale-prefix"


class Answers(Protocol):
    """Something that answers observations with chunks.

    Attributes:
        engine: Name of what runs the network.
        processor: Of the policy that answers.
    """

    engine: str
    processor: ObservationProcessor

    def chunk(self, observation: Observation, noise_seed: int) -> NDArray[np.float64]:
        """A normalized chunk, [horizon, action_dim of the robot].

        Raises:
            Pi0EdgeError: If there is none.
        """
        ...


class EngineAnswers:
    """The engine of this process."""

    def __init__(self, policy: Policy) -> None:
        """Makes the engine ready, as a policy server does before it listens."""
        with suppress(EngineError, QuantizationError):  # one that cannot answer says so in place of every chunk
            warm_up(policy)
        self.engine = policy.engine.name
        self.processor = policy.processor
        self._policy = policy

    def chunk(self, observation: Observation, noise_seed: int) -> NDArray[np.float64]:
        """The chunk as the network computed it."""
        chunk = self._policy.infer(observation, noise_seed)
        return chunk.normalized[:, : chunk.actions.shape[1]].astype(np.float64)


class ServerAnswers:
    """A policy server; its latencies are those of its answers, the way over the network included."""

    def __init__(self, client: PolicyClient, bundle: Bundle) -> None:
        """Asks the server what it serves.

        Raises:
            ServingError: If it does not answer, serves something else, or answers from old images.
        """
        client.wait_ready(READY_S)
        found = client.metadata()
        if found.bundle_sha256 != bundle.sha256:
            served = f"the bundle {found.bundle_sha256[:16]}" if found.bundle_sha256 else "a checkpoint"
            raise ServingError(f"the server at {client.address} serves {served}, expected {bundle.sha256[:16]}")
        if STALE_PREFIX in found.overrides:
            raise ServingError(
                f"the server at {client.address} plans from images of earlier observations; start it without "
                "--stale-prefix, or test the bundle without a server"
            )
        self.engine = found.engine
        self.processor = bundle.processor()
        self._client = client

    def chunk(self, observation: Observation, noise_seed: int) -> NDArray[np.float64]:
        """The answer, normalized again."""
        answer = self._client.infer(observation, tick=0, capture_time_ns=time.monotonic_ns(), noise_seed=noise_seed)
        actions = np.array(answer.actions, np.float64).reshape(answer.horizon, answer.action_dim)
        return self.processor.to_normalized(actions, observation)[:, : answer.action_dim].astype(np.float64)


@contextmanager
def server_answers(address: str, tls: Path | None, bundle: Bundle) -> Iterator[ServerAnswers]:
    """A connection to the policy server that serves a bundle.

    Args:
        address: host:port.
        tls: Folder with certificates, where the server asks for one.
        bundle: What it must serve.

    Raises:
        ServingError: If it cannot be reached, or serves something else.
        EndpointError: If something is wrong with the folder.
    """
    with PolicyClient(address, CHUNK_S, tls) as client:
        yield ServerAnswers(client, bundle)
