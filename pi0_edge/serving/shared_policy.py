"""One policy that several clients ask, over whatever protocol they speak: queue, budget, figures and recording.

Each way in (gRPC, and whatever else is served beside it) turns its messages into observations and errors into its
answers; everything between is here, once. Requests of several clients share a pass of the network where the engine
takes several: docs/many-robots.md.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from prometheus_client import CollectorRegistry

from pi0_edge.engine import Engine
from pi0_edge.errors import ConfigError, ObservationError
from pi0_edge.policy import Asked, Policy, PolicyChunk
from pi0_edge.processing import Observation, RunningPlan
from pi0_edge.serving.inference_queue import Batching, InferenceQueue
from pi0_edge.serving.latency_budget import LatencyBudget
from pi0_edge.serving.observation_recorder import ObservationRecorder
from pi0_edge.serving.policy_metrics import PolicyMetrics

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Request:
    """What one client asks.

    Attributes:
        observation: Camera images, joint positions and prompt.
        noise_seed: Fixes the initial noise; None draws it.
        plan: What the arm executes meanwhile; None where the chunk is free.
        tick: Firmware tick of the observation; 0 where the client has none.
        capture_time_ns: When it was taken, on the client's monotonic clock; 0 where it does not say.
    """

    observation: Observation
    noise_seed: int | None = None
    plan: RunningPlan | None = None
    tick: int = 0
    capture_time_ns: int = 0


class WayIn(Protocol):
    """A server of another protocol around the same policy.

    Attributes:
        protocol: Its name, for people.
        address: Where it listens, host:port, valid once started.
    """

    protocol: str
    address: str

    def start(self) -> None:
        """Listens, and returns.

        Raises:
            ServingError: If the port is taken or the host is not one of this machine.
        """

    def stop(self) -> None:
        """Refuses new requests, lets a running one finish, and closes the port."""


@dataclass(frozen=True)
class _Question:
    """What waits in the queue."""

    read: Callable[[], Request]
    client: str


class SharedPolicy:
    """A policy with its queue.

    Attributes:
        policy: The policy; whoever serves it asks it for what it is, and makes chunks through `infer` alone.
        batching: How requests are gathered into passes.
        chunks: How many chunks were made.
    """

    def __init__(
        self,
        policy: Policy,
        recorder: ObservationRecorder | None = None,
        registry: CollectorRegistry | None = None,
        on_alive: Callable[[], object] | None = None,
        budget: LatencyBudget | None = None,
        batching: Batching | None = None,
    ) -> None:
        """Takes a policy that is loaded and ready.

        Args:
            policy: The policy.
            recorder: Keeps the observations that are answered; None keeps none.
            registry: Takes the figures for Prometheus.
            on_alive: Called in the thread of the inferences, after each pass and at every `knock`.
            budget: Counts the chunks that are late; None judges no time.
            batching: How requests are gathered into passes; one at a time where None.

        Raises:
            ConfigError: If the engine does not take that many in one pass.
        """
        self.policy = policy
        self.chunks = 0
        self._recorder = recorder
        self.batching = batching or Batching()
        check_batch(self.batching.most, policy.engine)
        self._queue: InferenceQueue[_Question, PolicyChunk] = InferenceQueue(
            self._answer, self.batching, on_alive, on_pass=self._on_pass
        )
        self._client: str | None = None
        self._budget = budget
        budget_ms = None if budget is None else budget.budget_ms
        self._metrics = PolicyMetrics(policy, registry or CollectorRegistry(), budget_ms=budget_ms)

    def infer(
        self,
        read: Callable[[], Request],
        client: str,
        timeout_s: float | None = None,
        on_queued: Callable[[Callable[[], None]], object] = lambda drop: None,
    ) -> PolicyChunk:
        """Waits for its turn and answers one observation.

        Args:
            read: Makes the request, in the thread of the inferences: reading images takes a processor too.
            client: Names the client: clients take turns, and a prefix is never shared between two of them.
            timeout_s: Seconds that the client still waits; None for any time.
            on_queued: Given a function that drops the request as long as it has not started.

        Raises:
            BusyError: If this client, or all together, have as many requests in the queue as they may.
            DeadlineError: If `timeout_s` passed, or the request was dropped.
            StoppingError: If the policy was closed before its turn.
            Pi0EdgeError: As `read` and `Policy.infer`.
        """
        return self._queue.run(_Question(read, client), client, timeout_s, on_queued)

    def knock(self) -> None:
        """Lets the thread of the inferences say that it is alive, see `InferenceQueue.knock`."""
        self._queue.knock()

    def wait_idle(self, timeout_s: float) -> bool:
        """Waits until every request is answered, for so long at most; returns whether that is so."""
        return self._queue.wait_idle(timeout_s)

    def close(self) -> None:
        """Drops the requests that wait."""
        self._queue.close()

    def _on_pass(self, waited_s: Sequence[float]) -> None:
        self._metrics.on_pass(waited_s)

    def _answer(self, questions: Sequence[_Question]) -> list[PolicyChunk | Exception]:
        """One pass: the answer to each question."""
        clients = {question.client for question in questions}
        if clients != {self._client}:
            self.policy.reset_prefix()
            self._client = clients.pop() if len(clients) == 1 else None
        read = [_read(question) for question in questions]
        requests = [request for request in read if isinstance(request, Request)]
        for request in requests:
            self._count_unfit(request.observation)
        asked = [Asked(request.observation, request.noise_seed, request.plan) for request in requests]
        made = iter(self.policy.infer_together(asked))
        answers: list[PolicyChunk | Exception] = []
        for request in read:
            answer = next(made) if isinstance(request, Request) else request
            if isinstance(request, Request) and isinstance(answer, PolicyChunk):
                self._on_chunk(request, answer)
            answers.append(answer)
        return answers

    def _count_unfit(self, observation: Observation) -> None:
        try:
            unfit = self.policy.processor.unfit_state(observation)
        except ObservationError:
            return  # the policy says what is wrong with it
        for joint in () if unfit is None else unfit.joints:
            self._metrics.on_unfit_state(joint.name)

    def _on_chunk(self, request: Request, chunk: PolicyChunk) -> None:
        self.chunks += 1
        self._metrics.on_chunk(chunk)
        if self._budget is not None and self._budget.add(chunk.total_ms):
            self._metrics.on_miss()
        if self._recorder is not None:
            self._recorder.record(request.observation, request.tick, request.capture_time_ns)
        logger.debug(
            "chunk number=%d tick=%d capture_time_ns=%d preprocess_ms=%.2f infer_ms=%.2f postprocess_ms=%.2f "
            "prefix_age_ms=%.2f overrides=%s",
            *(self.chunks, request.tick, request.capture_time_ns),
            *(chunk.preprocess_ms, chunk.infer_ms, chunk.postprocess_ms, chunk.prefix_age_ms),
            ",".join(self.policy.overrides) or "none",
        )


def check_batch(most: int, engine: Engine | type[Engine]) -> None:
    """Returns if an engine takes so many observations in one pass.

    Raises:
        ConfigError: If it does not.
    """
    if not 1 <= most <= engine.max_batch:
        limit = "1" if engine.max_batch == 1 else f"1 to {engine.max_batch}"
        raise ConfigError(
            f'a batch of {most} was asked for, expected {limit} with engine="{engine.name}"; more robots than one pass '
            "takes wait their turn"
        )


def _read(question: _Question) -> Request | Exception:
    try:
        return question.read()
    except Exception as error:
        return error
